"""S3 on a loopback port, by moto: what `s3://` addresses of tests are answered by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from tests.servers import unavailable


@contextmanager
def s3_server() -> Iterator[str]:
    """Runs in this process for the block; its address. The environment names it and credentials, also to children."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        unavailable(f"{error.name} is missing; `make setup` brings moto, S3 for tests")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield settings["AWS_ENDPOINT_URL"]
    finally:
        server.stop()
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def new_bucket() -> str:
    """The address of a place in a bucket of its own."""
    import s3fs

    bucket = f"bucket-{uuid4().hex}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/adapters"


def files_at(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Of its own: fsspec would hand out the one that an earlier test opened, which asks a server that has gone.
    """
    import fsspec

    files, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return files, root
