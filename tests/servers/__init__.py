"""Real servers for tests: each module starts one on free loopback ports, waits a bounded time, and stops it."""

from __future__ import annotations

import os
import socket
from typing import NoReturn

import pytest


def unavailable(what: str) -> NoReturn:
    """Skip the test and say what is missing; in CI a missing server is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI every server must be there: {what}")
    pytest.skip(what)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
