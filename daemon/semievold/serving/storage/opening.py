"""Opens the object storage that the configuration names, where it names one.

Owns the choice alone; without one, nothing of fsspec is imported, nor need it be installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semievol.errors import ConfigError

if TYPE_CHECKING:
    from semievold.serving.storage.object_storage import AdapterStorage


def open_storage(url: str | None) -> AdapterStorage | None:
    """The storage at `url`, of which nothing is asked yet; None: there is none.

    Raises:
        ConfigError: a package is missing, or nobody knows such an address.
    """
    if url is None:
        return None
    try:
        from semievold.serving.storage.object_storage import AdapterStorage
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} missing: artifacts.storage needs semievol[s3] or semievol[gcs], whichever {url} is of"
        ) from error
    return AdapterStorage.open(url)
