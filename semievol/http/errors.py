"""What it means when a server does not answer, or refuses: every client of one raises these.

Owns the types. Invariant: a text names the server, and holds no key.
"""

from __future__ import annotations

from semievol.errors import ConfigError, SemiEvolError, TransientError


class BusyError(TransientError):
    """No answer now.

    `wait_s`: for how long the server asks to be left alone, seconds. `status` None: it said nothing at all.
    """

    def __init__(self, text: str, *, wait_s: float = 0.0, status: int | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s
        self.status = status


class OverloadedError(BusyError):
    """The server has too much to do (429, 503)."""


class ServerDownError(BusyError):
    """The server refuses connections, breaks them, or fails by itself (5xx): another one may answer."""


class UnreachedError(ServerDownError):
    """It did not take the connection in time: its queue may be full, or nothing is there."""


class TimedOutError(BusyError):
    """The server took the request, or had no place for it, and the time is up: it may be slow or dead."""


class OddAnswerError(TransientError):
    """An answer that is not in the shape of one, whatever its status says."""


class UnsendableError(ConfigError):
    """The request cannot be sent as it is, however often it is tried."""


class RefusedError(SemiEvolError):
    """The server refuses the request itself (4xx); `message`, `code` and `param` are its own."""

    def __init__(self, server: str, status: int, message: str, code: str = "", param: str = "") -> None:
        super().__init__(f"{server}: HTTP {status}, {message}")
        self.status = status
        self.message = message
        self.code = code
        self.param = param


class KeyRefusedError(RefusedError):
    """It wants another key (401, 403)."""
