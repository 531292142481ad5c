"""What is published is fetched, what is torn is refused, and what cannot be done says which place and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from pydantic import ValidationError

from semievol import adapter_directory
from semievol.adapter_directory import MANIFEST_FILE, MARKER_FILE, WEIGHTS_FILE
from semievol.errors import AdapterError, ConfigError, TransientError
from semievold.config.daemon import ArtifactsConfig
from semievold.serving.storage.object_storage import AdapterStorage
from semievold.serving.storage.opening import open_storage
from tests.small_adapter import small_adapter


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}/adapters"


@pytest.fixture
def storage(url: str) -> AdapterStorage:
    return AdapterStorage.open(url)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return small_adapter(tmp_path / "adapters", "w-r0001", b"weights")


def objects(url: str) -> dict[str, Any]:
    """What lies there, by NAME/FILE."""
    files, root = fsspec.url_to_fs(url)
    return {path[len(root) + 1 :]: files.cat_file(path) for path in files.find(root)}


def overwrite(url: str, place: str, content: bytes) -> None:
    files, root = fsspec.url_to_fs(url)
    files.pipe_file(f"{root}/{place}", content)


def test_what_is_published_is_fetched_byte_by_byte(storage: AdapterStorage, adapter: Path, tmp_path: Path) -> None:
    storage.publish(adapter)
    assert storage.names() == {adapter.name}
    fetched = storage.fetch(adapter.name, tmp_path / "here")
    assert fetched == tmp_path / "here" / adapter.name
    assert adapter_directory.verify(fetched) == adapter_directory.verify(adapter)
    assert {file.name: file.read_bytes() for file in fetched.iterdir()} == {
        file.name: file.read_bytes() for file in adapter.iterdir()
    }
    assert [path.name for path in (tmp_path / "here").iterdir()] == [adapter.name]


def test_what_is_published_already_is_not_written_again(
    storage: AdapterStorage, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish(adapter)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", None)
    storage.publish(adapter)


def test_what_lost_a_file_is_published_anew(url: str, storage: AdapterStorage, adapter: Path, tmp_path: Path) -> None:
    storage.publish(adapter)
    files, root = fsspec.url_to_fs(url)
    files.rm_file(f"{root}/{adapter.name}/{WEIGHTS_FILE}")
    storage.publish(adapter)
    storage.fetch(adapter.name, tmp_path / "here")


def test_another_adapter_never_takes_a_name(url: str, storage: AdapterStorage, adapter: Path) -> None:
    overwrite(url, f"{adapter.name}/{MARKER_FILE}", b"0" * 64)
    with pytest.raises(AdapterError, match=f"{adapter.name}: another adapter has this name; its hash is 0000"):
        storage.publish(adapter)


def test_a_directory_that_is_not_whole_is_not_published(url: str, storage: AdapterStorage, adapter: Path) -> None:
    (adapter / WEIGHTS_FILE).write_bytes(b"weight")
    with pytest.raises(AdapterError, match="truncated"):
        storage.publish(adapter)
    assert objects(url) == {}


@pytest.mark.parametrize("content", [b"", b"weight", b"weightS", b"weights and more"])
def test_torn_bytes_are_refused_and_leave_nothing(
    url: str, storage: AdapterStorage, adapter: Path, tmp_path: Path, content: bytes
) -> None:
    storage.publish(adapter)
    overwrite(url, f"{adapter.name}/{WEIGHTS_FILE}", content)
    with pytest.raises(AdapterError, match=rf"{adapter.name}: refused, what came is not what was published"):
        storage.fetch(adapter.name, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_what_has_no_marker_is_not_there(url: str, storage: AdapterStorage, adapter: Path, tmp_path: Path) -> None:
    for file in (adapter_directory.CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE):
        overwrite(url, f"{adapter.name}/{file}", (adapter / file).read_bytes())
    assert storage.names() == frozenset()
    with pytest.raises(AdapterError, match="not published there, there is no STABLE"):
        storage.fetch(adapter.name, tmp_path / "here")


def test_an_adapter_under_the_name_of_another_is_refused(
    url: str, storage: AdapterStorage, adapter: Path, tmp_path: Path
) -> None:
    for file in adapter.iterdir():
        overwrite(url, f"w-r0002-00000000/{file.name}", file.read_bytes())
    with pytest.raises(AdapterError, match=f"w-r0002-00000000: refused, it is the adapter {adapter.name}"):
        storage.fetch("w-r0002-00000000", tmp_path / "here")


def test_what_else_lies_there_is_passed_over(url: str, storage: AdapterStorage, adapter: Path, tmp_path: Path) -> None:
    storage.publish(adapter)
    for place in ("README", f"-w/{MARKER_FILE}", f"w/deeper/{MARKER_FILE}", f"Upper/{MARKER_FILE}", MARKER_FILE):
        overwrite(url, place, b"x")
    assert storage.names() == {adapter.name}
    with pytest.raises(AdapterError, match="not usable"):
        storage.fetch("../outside", tmp_path / "here")


def test_what_is_removed_is_gone_and_may_come_again(url: str, storage: AdapterStorage, adapter: Path) -> None:
    storage.publish(adapter)
    storage.remove(adapter.name)
    assert (storage.names(), objects(url)) == (frozenset(), {})
    storage.remove(adapter.name)
    storage.publish(adapter)
    assert storage.names() == {adapter.name}


def test_a_half_fetched_directory_of_an_earlier_version_gives_way(
    storage: AdapterStorage, adapter: Path, tmp_path: Path
) -> None:
    storage.publish(adapter)
    (tmp_path / "here" / adapter.name).mkdir(parents=True)
    adapter_directory.verify(storage.fetch(adapter.name, tmp_path / "here"))


class Refusing:
    """A file system whose every call ends in the same error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def invalidate_cache(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise self._error

        return call


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError("Access Denied"), "s3://b/a: may not list .Access Denied.; give these credentials the right"),
        (FileNotFoundError("The specified bucket does not exist"), "s3://b/a: cannot list, there is no such place"),
        (TimeoutError(), "s3://b/a: cannot list now .TimeoutError"),
        (RuntimeError("Unable to locate\ncredentials"), "cannot list now .RuntimeError: Unable to locate credentials"),
    ],
)
def test_what_the_storage_says_is_told_with_its_address(error: Exception, text: str) -> None:
    with pytest.raises(TransientError, match=text):
        AdapterStorage(Refusing(error), "b/a", "s3://b/a").names()


def test_an_address_that_nobody_knows_is_an_error_of_the_setting() -> None:
    assert open_storage(None) is None
    with pytest.raises(ConfigError, match=r"nowhere://x: Protocol not known: nowhere; give s3://BUCKET/PATH"):
        open_storage("nowhere://x")


@pytest.mark.parametrize("address", ["bucket/path", "s3://", "s3://key:secret@bucket/path", "s3://b/p?x=1", "s3://b p"])
def test_an_address_that_is_none_is_refused_with_the_field(address: str) -> None:
    with pytest.raises(ValidationError, match=r"artifacts.storage: is no address of object storage; write s3://"):
        ArtifactsConfig(storage=address)


@pytest.mark.parametrize("address", ["s3://bucket/path", "gs://bucket/a/b-c", "s3://bucket"])
def test_an_address_is_taken_as_it_is(address: str) -> None:
    assert ArtifactsConfig(storage=address).storage == address


def test_a_disk_that_takes_nothing_is_told_with_its_place(
    storage: AdapterStorage, adapter: Path, tmp_path: Path
) -> None:
    storage.publish(adapter)
    (tmp_path / "here").write_text("no directory")
    with pytest.raises(TransientError, match=r"here: cannot keep w-r0001-\w+ there .*room and rights on"):
        storage.fetch(adapter.name, tmp_path / "here")
