"""An upload to S3 that is killed at any moment leaves nothing that could be loaded, and the next one ends it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from semievol import adapter_directory
from semievol.adapter_directory import CONFIG_FILE, MANIFEST_FILE, MARKER_FILE, WEIGHTS_FILE
from semievol.errors import AdapterError
from semievold.serving.storage.object_storage import AdapterStorage
from semievold.serving.storage.sync import AdapterSync
from tests.servers.s3 import files_at, new_bucket, s3_server
from tests.small_adapter import small_adapter

PUBLISH = """
import sys
from pathlib import Path
from semievold.serving.storage.object_storage import AdapterStorage
AdapterStorage.open(sys.argv[1]).publish(Path(sys.argv[2]))
"""
WEIGHTS = 16 * 2**20


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as address:
        yield address


def seen(url: str, name: str) -> set[str]:
    files, root = files_at(url)
    return {path.rpartition("/")[2] for path in files.find(f"{root}/{name}")}


async def none_held() -> frozenset[str]:
    return frozenset()


@pytest.mark.parametrize("last", [CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE])
def test_a_killed_upload_leaves_nothing_to_load(s3: str, tmp_path: Path, last: str) -> None:
    adapter = small_adapter(tmp_path / "adapters", "w-r0001", b"w" * WEIGHTS)
    url = new_bucket()
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, url, str(adapter)])
    try:
        deadline = time.monotonic() + 60
        while last not in seen(url, adapter.name):
            assert process.poll() is None
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = seen(url, adapter.name)
    assert MARKER_FILE not in left, "it was too late to kill it"
    assert last in left

    storage, here = AdapterStorage.open(url), tmp_path / "here"
    sync = AdapterSync(storage, here, none_held)
    assert storage.names() == frozenset()
    with pytest.raises(AdapterError, match="not published there"):
        storage.fetch(adapter.name, here)
    assert asyncio.run(sync.look()).here == frozenset()
    assert list(here.iterdir()) == []
    storage.publish(adapter)
    assert asyncio.run(sync.look()).fetched == (adapter.name,)
    adapter_directory.verify(here / adapter.name)


def test_a_killed_download_leaves_nothing_under_the_name(s3: str, tmp_path: Path) -> None:
    adapter = small_adapter(tmp_path / "adapters", "w-r0001", b"w" * WEIGHTS)
    url, here = new_bucket(), tmp_path / "here"
    storage = AdapterStorage.open(url)
    storage.publish(adapter)
    program = [sys.executable, "-c", "from semievold.commands.cli import main; main()", "sync-adapters"]
    process = subprocess.Popen([*program, "--storage", url, "--into", str(here), "--port", "0"])
    try:
        deadline = time.monotonic() + 60
        while not list(here.glob(f".fetching-*/{CONFIG_FILE}")) and not (here / adapter.name).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    if (here / adapter.name).exists():  # it was done already: then it is whole
        adapter_directory.verify(here / adapter.name)
    assert asyncio.run(AdapterSync(storage, here, none_held).look()).here == {adapter.name}
    adapter_directory.verify(here / adapter.name)
