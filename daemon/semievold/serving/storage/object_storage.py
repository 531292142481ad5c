"""Adapters on object storage (`s3://`, `gs://`), by fsspec: published whole or not at all, fetched whole or not at all.

Owns the objects' names, the order in which they are written and deleted, and the translation of the drivers' errors.
Owns not an adapter's layout (semievol.adapter_directory), nor who publishes, fetches and removes when.
Invariants: the marker is written after everything else was read back, and is deleted first; what is fetched has its
name only when its bytes have the hash that the marker says.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from semievol import adapter_directory
from semievol.adapter_directory import MANIFEST_FILE, MARKER_FILE
from semievol.durable_files import publish_directory
from semievol.errors import AdapterError, ConfigError, SemiEvolError, TransientError
from semievol.plain_lines import one_line
from semievold.errors import DamagedAdapter

READABLE_S = 60.0
"""So long what was written may take to be read back; then the publication is given up, and begun anew later."""
LOOK_S = 0.5
_LEFT_BEHIND_S = 3600.0
_FETCHING = ".fetching-"
_FILES = (*adapter_directory.CONTENT_FILES, adapter_directory.HOSTED_FILE, MANIFEST_FILE)
_DRIVERS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""By protocol, the extra of this project that brings its driver."""


class AdapterStorage:
    """The adapters under one address: an object `NAME/FILE` for each file of a version. Blocking.

    Raises from every call:
        TransientError: the storage does not answer, or refuses; the text names the address and what was asked.

    Args:
        files: fsspec's file system.
        root: the path in it.
        url: how people call it.
        sleep: waits, seconds.
    """

    def __init__(self, files: Any, root: str, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._url = url.rstrip("/")
        self._sleep = sleep

    @classmethod
    def open(cls, url: str) -> AdapterStorage:
        """Find the driver; nothing is asked of the storage yet.

        Raises:
            ConfigError: there is no driver, or it takes no such address.
        """
        protocol = url.partition("://")[0]
        try:
            files, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            extra = _DRIVERS.get(protocol)
            advice = "install fsspec's driver for it" if extra is None else f"install semievol[{extra}]"
            raise ConfigError(f"adapters on {url}: {one_line(str(error))}; {advice}") from error
        except ValueError as error:
            raise ConfigError(
                f"adapters on {url}: {one_line(str(error))}; give s3://BUCKET/PATH or gs://..."
            ) from error
        return cls(files, root, url)

    def __str__(self) -> str:
        return self._url

    def names(self) -> frozenset[str]:
        """The versions that are published. Objects that are no adapter's are passed over."""
        return frozenset(name for name, file in self._found() if file == MARKER_FILE)

    def begun_names(self) -> frozenset[str]:
        """The versions of which any file is there: also what is being published, or was removed half-way."""
        return frozenset(name for name, file in self._found() if file in _FILES or file == MARKER_FILE)

    def _found(self) -> list[tuple[str, str]]:
        """Names and files of all that may be an adapter's."""
        with self._asked("list"):
            self._files.invalidate_cache()
            found = [path[len(self._root) + 1 :].split("/") for path in self._files.find(self._root)]
        return [(parts[0], parts[1]) for parts in found if len(parts) == 2 and adapter_directory.is_name(parts[0])]

    def publish(self, directory: Path) -> None:
        """Publish an adapter directory; one that is there whole is left alone.

        1. Verify the directory; write its content files, then the manifest, which has their hash.
        2. Read all of it back, until it has that hash: some storages show a write late, and not in order.
        3. Write the marker.

        Raises:
            AdapterError: the directory is unusable, or another adapter has its name there.
        """
        manifest = adapter_directory.verify(directory)
        name, digest = manifest.name, manifest.content_hash
        names = [*adapter_directory.content_files(directory), MANIFEST_FILE]
        with self._asked(f"publish {name}"):
            marked = self._marked(name)
            if marked is not None and marked != digest:
                raise AdapterError(f"{self._place(name)}: another adapter has this name; its hash is {marked}")
            if marked is not None and self._is_whole(name, directory, names):
                return
            if marked is not None:
                self._delete(name, (MARKER_FILE,))
            for each in names:
                self._files.put_file(str(directory / each), self._place(name, each))
            self._read_back(name, directory, names)
            self._files.pipe_file(self._place(name, MARKER_FILE), f"{digest}\n".encode())

    def fetch(self, name: str, into: Path) -> Path:
        """Bring a published version to `into/NAME`: it is there whole, or not at all.

        Returns:
            Its directory, marker included. One that is there with its marker is left alone.

        Raises:
            AdapterError: it is not published.
            DamagedAdapter: its bytes have not the hash that the marker says.
        """
        adapter_directory.check_name(name)
        final = into / name
        if (final / MARKER_FILE).exists():
            return final
        try:
            return self._fetched(name, into, final)
        except OSError as error:  # of the storage's own none comes so far
            raise TransientError(
                f"{into}: cannot keep {name} there ({error.strerror or error}); see to room and rights on this disk"
            ) from error

    def _fetched(self, name: str, into: Path, final: Path) -> Path:
        into.mkdir(parents=True, exist_ok=True)
        _forget_left_behind(into)
        # A name of its own: processes that share the directory may fetch the same version.
        unfinished = into / f"{_FETCHING}{name}-{uuid.uuid4().hex}"
        try:
            with self._asked(f"fetch {name}"):
                marked = self._marked(name)
                if marked is None:
                    raise AdapterError(f"{self._place(name)}: not published there, there is no {MARKER_FILE}")
                unfinished.mkdir()
                for each in _FILES:
                    if self._files.exists(self._place(name, each)):
                        self._files.get_file(self._place(name, each), str(unfinished / each))
            (unfinished / MARKER_FILE).write_text(marked + "\n", encoding="ascii")
            _check(unfinished, name, self._place(name))
            if final.exists() and not (final / MARKER_FILE).exists():
                shutil.rmtree(final)
            try:
                publish_directory(unfinished, final)
            except OSError:  # another process was first
                adapter_directory.verify(final)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return final

    def remove(self, name: str) -> None:
        """Delete a version's objects, the marker first; what is not there is passed over."""
        adapter_directory.check_name(name)
        with self._asked(f"remove {name}"):
            self._delete(name, (MARKER_FILE,))
            self._delete(name, _FILES)

    def _place(self, name: str, file: str | None = None) -> str:
        return "/".join(part for part in (self._root, name, file) if part is not None)

    def _marked(self, name: str) -> str | None:
        """What the marker says; None: there is none."""
        try:
            self._files.invalidate_cache()
            return str(self._files.cat_file(self._place(name, MARKER_FILE)).decode("ascii", "replace")).strip()
        except FileNotFoundError:
            return None

    def _delete(self, name: str, files: Sequence[str]) -> None:
        """Delete objects, and wait until they are seen no more."""
        there = [place for file in files if self._files.exists(place := self._place(name, file))]
        for place in there:
            self._files.rm_file(place)
        if there:
            self._wait_until(lambda: not any(map(self._files.exists, there)), f"{name} was deleted, and is still there")

    def _read_back(self, name: str, directory: Path, names: Sequence[str]) -> None:
        self._wait_until(
            lambda: self._is_whole(name, directory, names), f"{name} was written, and does not read back as it was"
        )

    def _wait_until(self, seen: Callable[[], bool], problem: str) -> None:
        """Until what was done is seen.

        Raises:
            TransientError: it is not within READABLE_S.
        """
        waited_s = 0.0
        self._files.invalidate_cache()
        while not seen():
            if waited_s >= READABLE_S:
                raise TransientError(f"{self._url}: {problem} after {READABLE_S:.0f} s")
            self._sleep(LOOK_S)
            waited_s += LOOK_S
            self._files.invalidate_cache()

    def _is_whole(self, name: str, directory: Path, names: Sequence[str]) -> bool:
        """Whether every file reads as it does in `directory`."""
        try:
            for each in names:
                path = self._place(name, each)
                if self._files.info(path)["size"] != (directory / each).stat().st_size:
                    return False
                with self._files.open(path, "rb") as there, (directory / each).open("rb") as here:
                    if hashlib.file_digest(there, "sha256").digest() != hashlib.file_digest(here, "sha256").digest():
                        return False
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """The errors of a block as ours. Each driver has its own, of no common kind, and nobody here can mend them."""
        try:
            yield
        except SemiEvolError:
            raise
        except PermissionError as error:
            raise TransientError(
                f"{self._url}: may not {what} ({_said(error)}); give these credentials the right to"
            ) from error
        except FileNotFoundError as error:
            raise TransientError(f"{self._url}: cannot {what}, there is no such place ({_said(error)})") from error
        except Exception as error:
            raise TransientError(f"{self._url}: cannot {what} now ({type(error).__name__}: {_said(error)})") from error


def _check(directory: Path, name: str, place: str) -> None:
    try:
        manifest = adapter_directory.verify(directory)
    except AdapterError as error:
        raise DamagedAdapter(f"{place}: refused, what came is not what was published ({error})") from error
    if manifest.name != name:
        raise DamagedAdapter(f"{place}: refused, it is the adapter {manifest.name}")


def _forget_left_behind(directory: Path) -> None:
    """Delete what killed downloads left; one that goes on is younger."""
    for path in directory.glob(f"{_FETCHING}*"):
        with suppress(FileNotFoundError):  # another process has finished it meanwhile
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND_S:
                shutil.rmtree(path, ignore_errors=True)


def _said(error: Exception) -> str:
    return one_line(" ".join(str(error).split()))[:300]
