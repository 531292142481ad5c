"""Training settings that fit a number of examples, the size of a model, and this machine.

Owns the rule that `semievol init` writes down. Not the settings' defaults, which are the paper's for a model of 8
billion parameters and teach a small one nothing from a hundred examples. The model is only looked at, never loaded.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semievol.engines.cpu import has_bfloat16

LARGEST_RATE, SMALLEST_RATE = 3e-3, 1e-4
RATE_AT, RATE_SIZE = 1e-3, 135e6
"""The rate that SmolLM2-135M learns with; it falls with the root of the size, to the paper's 1e-4 at 8 billion."""
UNKNOWN_RATE = 2e-4
SMALL = 20e6
STEPS, STEPS_OF_A_SMALL_MODEL = 60, 120
"""Steps of the warm round: a model of 2.5 million parameters took 120 to answer half of clinc150's held-out
questions from 80 examples, SmolLM2-135M fewer."""
FEWEST_EPOCHS, MOST_EPOCHS = 3, 12
_NVIDIA = Path("/dev/nvidiactl")
_SIZE_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fitting:
    """Values of the section `training`, and of `model.dtype` where the default would be slow here."""

    warm_epochs: int
    epochs: int
    learning_rate: float
    dtype: Literal["float32"] | None
    why: str


def fitting(model: str, examples: int, *, batch_size: int = 8, bfloat16: bool | None = None) -> Fitting:
    """What trains `model` on `examples` labelled examples, a fifth of which is held out.

    Args:
        model: hub name or directory.
        examples: how many there are.
        batch_size: rows a step.
        bfloat16: whether this machine computes it well. None: looked up.
    """
    size = parameters(model)
    steps = max(1, math.ceil(examples * 0.8 / batch_size))
    wanted = STEPS_OF_A_SMALL_MODEL if size is not None and size < SMALL else STEPS
    warm = min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(wanted / steps)))
    rate = UNKNOWN_RATE
    if size is not None:
        rate = min(LARGEST_RATE, max(SMALLEST_RATE, RATE_AT * math.sqrt(RATE_SIZE / size)))
        rate = float(f"{rate:.0e}")
    well = bfloat16 if bfloat16 is not None else has_bfloat16() or _NVIDIA.exists()
    said = "a model of unknown size" if size is None else f"a model of {_count(size)} parameters"
    return Fitting(
        warm_epochs=warm,
        epochs=max(2, warm // 3),
        learning_rate=rate,
        dtype=None if well else "float32",
        why=f"{said} and {examples} examples",
    )


def parameters(model: str) -> int | None:
    """How many parameters a model has: by the headers of its weights, or by its name ("-1.7B-"). None: unknown."""
    directory = Path(model).expanduser()
    if directory.is_dir():
        files = sorted(directory.glob("*.safetensors"))
        try:
            return sum(map(_in_file, files)) or None
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return None  # what is wrong with it is said by what loads it
    found = _SIZE_IN_NAME.findall(model.rpartition("/")[2].replace("-", " ").replace("_", " "))
    if not found:
        return None
    number, unit = found[-1]
    return int(float(number) * (1e9 if unit.lower() == "b" else 1e6)) or None


def _in_file(path: Path) -> int:
    """Sum of the tensors' sizes that a safetensors file names in its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError(f"{path}: no header")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _count(size: int) -> str:
    return f"{size / 1e9:.2g} billion" if size >= 1e9 else f"{size / 1e6:.3g} million"
