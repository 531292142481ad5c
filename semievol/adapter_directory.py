"""An adapter version on disk: one immutable directory, published whole or not at all.

Owns the layout (`adapter_config.json` and `adapter_model.safetensors`, or `fine_tuned_model.json` alone; then
`manifest.json` and `STABLE`), the content hash and the order of writes. Owns not what the weights mean (lora,
engines.local) nor which version serves.
Invariant: a directory with the marker `STABLE` holds exactly the bytes that were trained; every reader trusts the
marker alone, so that a process killed anywhere leaves nothing that could be mistaken for an adapter.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from semievol.durable_files import publish_directory, write_durably
from semievol.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
HOSTED_FILE = "fine_tuned_model.json"
"""Instead of weights: the name of a fine-tuned model that its endpoint keeps."""
MANIFEST_FILE = "manifest.json"
MARKER_FILE = "STABLE"

CONTENT_FILES = (CONFIG_FILE, WEIGHTS_FILE)
"""Of an adapter whose weights are here."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an adapter is and how it came to be.

    `content_hash` (sha256, hex) covers the weights and the LoRA configuration, not this manifest: equal training gives
    equal hashes whenever it ran. `files` holds their sizes in bytes. `fingerprint` is what the trained weights answer
    to the fingerprint prompts: `{"messages", "token_ids", "logprobs", "margins", "base"}` each, where `margins` says
    how far the second best token was behind and `base` holds the same three of the untrained weights. `created_at` is
    seconds since the epoch.
    """

    name: str
    content_hash: str
    base_model: str
    parent: str | None
    round_number: int
    seed: int
    training: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    created_at: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest; fields that this version does not know are ignored.

        Raises:
            ValueError: not JSON, or a field is missing or of the wrong type.
        """
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        for key, kind in (("name", str), ("content_hash", str), ("base_model", str), ("files", dict)):
            if not isinstance(record.get(key), kind):
                raise ValueError(f"{key} is missing or of the wrong type")
        if not isinstance(record.setdefault("fingerprint", []), list):
            raise ValueError("fingerprint is not a list")
        record["fingerprint"] = tuple(record["fingerprint"])
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{key: value for key, value in record.items() if key in known})
        except TypeError as error:
            raise ValueError(str(error)) from error


def is_name(name: str) -> bool:
    """Whether it can be an adapter's: a-z 0-9 . _ -, of which the last three do not begin it, at most 200."""
    return _NAME.fullmatch(name) is not None and len(name) <= 200


def check_name(name: str) -> str:
    """Return `name` if it can be an adapter's.

    Raises:
        AdapterError: it cannot.
    """
    if not is_name(name):
        raise AdapterError(
            f"adapter name {name!r} is not usable: start with a-z or 0-9, go on with a-z 0-9 . _ - (at most 200)"
        )
    return name


def is_version_of(name: str, workload: str) -> bool:
    """Whether `name` is `<workload>-rNNNN-<8 hex digits>`: the names of another workload may begin alike."""
    return re.fullmatch(rf"{re.escape(workload)}-r\d{{4,}}-[0-9a-f]{{8}}", name) is not None


def is_version(name: str) -> bool:
    """Whether `name` is a version of some workload."""
    return re.fullmatch(r".+-r\d{4,}-[0-9a-f]{8}", name) is not None


def content_files(directory: Path) -> tuple[str, ...]:
    """The names of the files that make an adapter; its hash is over them."""
    return (HOSTED_FILE,) if (directory / HOSTED_FILE).is_file() else CONTENT_FILES


def adapter_hash(directory: Path) -> str:
    """sha256 (hex) over the names, sizes and bytes of the content files, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(content_files(directory)):
        path = directory / name
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def publish(
    work_dir: Path,
    adapters_dir: Path,
    name_prefix: str,
    *,
    base_model: str,
    parent: str | None,
    round_number: int,
    seed: int,
    training: Mapping[str, Any],
    fingerprint: tuple[Mapping[str, Any], ...] = (),
) -> Path:
    """Publish the adapter files in `work_dir` as `adapters_dir/<name_prefix>-<first 8 hex of the content hash>`.

    1. Copy the content files and write the manifest in a directory of an unfinished name.
    2. Sync all of it, rename it to its final name, sync `adapters_dir`.
    3. Write the marker into it the same way (unfinished name, sync, rename, sync).

    Publishing the same content again returns the existing directory; one that lacks its marker is replaced.

    Raises:
        AdapterError: a content file is missing, the name is not usable, or another adapter has the same name.
    """
    contents = content_files(work_dir)
    for name in contents:
        if not (work_dir / name).is_file():
            raise AdapterError(f"{work_dir}: {name} is missing, nothing to publish")
    digest = adapter_hash(work_dir)
    name = check_name(f"{name_prefix}-{digest[:8]}")
    final = adapters_dir / name
    if (final / MARKER_FILE).exists():
        found = verify(final)
        if found.content_hash != digest:
            raise AdapterError(f"{final}: another adapter has this name; its hash is {found.content_hash}")
        return final

    adapters_dir.mkdir(parents=True, exist_ok=True)
    unfinished = adapters_dir / f"{_UNFINISHED}{name}"
    _remove(unfinished)
    unfinished.mkdir()
    for content in contents:
        shutil.copyfile(work_dir / content, unfinished / content)
    manifest = Manifest(
        name=name,
        content_hash=digest,
        base_model=base_model,
        parent=parent,
        round_number=round_number,
        seed=seed,
        training=training,
        fingerprint=fingerprint,
        files={content: (work_dir / content).stat().st_size for content in contents},
        created_at=time.time(),
    )
    write_durably(unfinished / MANIFEST_FILE, manifest.to_json())
    _remove(final)
    publish_directory(unfinished, final)
    write_durably(final / MARKER_FILE, digest + "\n")
    return final


def verify(path: Path) -> Manifest:
    """Read the manifest of a published adapter and compare every byte with the marker.

    Raises:
        AdapterError: the text names the path and the defect.
    """
    if not path.is_dir():
        raise AdapterError(f"{path}: no such adapter directory")
    try:
        marked = (path / MARKER_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise AdapterError(f"{path}: no {MARKER_FILE} marker, so its publication was not finished") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path}: unreadable {MARKER_FILE} marker ({error})") from error
    try:
        manifest = Manifest.from_json((path / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: unreadable {MANIFEST_FILE} ({error})") from error
    for name in content_files(path):
        file = path / name
        if not file.is_file():
            raise AdapterError(f"{path}: {name} is missing")
        size, expected = file.stat().st_size, manifest.files.get(name)
        if expected is not None and size < expected:
            raise AdapterError(f"{path}: {name} is truncated, {size} of {expected} bytes")
    try:
        digest = adapter_hash(path)
    except OSError as error:
        raise AdapterError(f"{path}: unreadable ({error})") from error
    if digest != marked or manifest.content_hash != marked:
        raise AdapterError(
            f"{path}: content hash mismatch, {MARKER_FILE} says {marked[:12]}, {MANIFEST_FILE} "
            f"{manifest.content_hash[:12]}, the files {digest[:12]}"
        )
    return manifest


def verify_weights(path: Path) -> Manifest:
    """`verify` an adapter whose weights are in its directory.

    Raises:
        AdapterError: as `verify`, or the directory names a model that an endpoint keeps.
    """
    manifest = verify(path)
    if (path / HOSTED_FILE).is_file():
        raise AdapterError(
            f"{path}: names a fine-tuned model, whose weights its endpoint keeps; set generation.kind: openai to ask it"
        )
    return manifest


def hosted_model(path: Path) -> str:
    """The name of the fine-tuned model that an adapter directory stands for.

    Raises:
        AdapterError: as `verify`, or the directory holds weights.
    """
    verify(path)
    if not (path / HOSTED_FILE).is_file():
        raise AdapterError(
            f"{path}: holds a LoRA adapter, which an endpoint of generation.kind openai cannot load; use vllm or local"
        )
    try:
        return str(json.loads((path / HOSTED_FILE).read_text(encoding="utf-8"))["fine_tuned_model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{path}: unreadable {HOSTED_FILE} ({error!r})") from error


def remove_unfinished(adapters_dir: Path, workload: str, keep: Collection[str] = ()) -> list[str]:
    """Delete what killed publications of `workload` left behind; returns the names of the removed directories.

    Call it only while nothing publishes for that workload. `keep` are versions that were published: one that lost its
    marker since is damaged, and for a person to look at.
    """
    if not adapters_dir.is_dir():
        return []
    removed = []
    for path in sorted(adapters_dir.iterdir()):
        unfinished = path.name.startswith(_UNFINISHED) or not (path / MARKER_FILE).exists()
        named = path.name not in keep and is_version_of(path.name.removeprefix(_UNFINISHED), workload)
        if path.is_dir() and unfinished and named:
            _remove(path)
            removed.append(path.name)
    return removed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
