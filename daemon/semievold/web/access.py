"""Who may ask a front: its bearer token, and what a handler's errors look like to who may.

Invariant: a request reaches a handler only with the right token, unless its path is one of the front's open paths, or
the handler says that it looks at its requests itself.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from aiohttp import web

from semievol.config.generation import checked_token
from semievol.durable_files import create_durably
from semievol.errors import ConfigError, SemiEvolError, TransientError
from semievold.config.fronts import DEFAULT
from semievold.web.connection import connection_of
from semievold.web.errors import error, http_error, retry_later
from semievold.web.tokens import HOLDER, Tokens

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HandlerOfAny = TypeVar("HandlerOfAny", bound=Handler)
_GUARDS_ITSELF = "_guards_itself"


def ensure_token(configured: str | None, file: Path) -> str:
    """The configured token, or one made once and kept in `file`, readable by its owner alone."""
    if configured is not None:
        return configured
    if file.exists():
        return _read_token(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    # Of several processes that start together one wins, and the others read its token.
    if create_durably(file, token + "\n", mode=0o600):
        return token
    return _read_token(file)


def _read_token(file: Path) -> str:
    try:
        return checked_token(file.read_text(encoding="utf-8")) or ""
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{file}: is no token ({problem}); delete the file, and a new one is made") from None


def holds(request: web.Request) -> bool:
    """Whether the connection stays, now that a request came on it with what opens this front."""
    connection = connection_of(request)
    return connection is None or connection.hold()


def guards_itself(handler: HandlerOfAny) -> HandlerOfAny:
    """Mark a handler that lets nobody in by itself: `guarded` passes its requests on as they come."""
    setattr(handler, _GUARDS_ITSELF, True)
    return handler


def guarded(
    tokens: Tokens | str,
    open_paths: frozenset[str],
    wording: Callable[[str], str] = str,
    own: Mapping[str, Tokens] = MappingProxyType({}),
) -> Any:
    """Middleware: the token check, then errors by meaning, in the words that `wording` leaves.

    own: by path, what alone opens it in place of `tokens`.
    """
    known = tokens if isinstance(tokens, Tokens) else Tokens({DEFAULT: tokens})

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if getattr(request.match_info.handler, _GUARDS_ITSELF, False):
            return await handler(request)
        holder = own.get(request.path, known).holder(request)
        if holder is not None:
            request[HOLDER] = holder
        if request.path not in open_paths:
            if holder is None:
                refused_ = error(401, "unauthorized", "send the header `Authorization: Bearer TOKEN`")
                refused_.force_close()
                return refused_
            if not holds(request):
                busy = error(503, "busy", "all connections of this front are taken; ask again")
                busy.force_close()
                return retry_later(busy)
        try:
            return await handler(request)
        except web.HTTPException as refused:
            return http_error(refused)
        except TransientError as failure:
            return error(503, "unavailable", wording(str(failure)))
        except SemiEvolError as failure:
            return error(400, "bad_request", wording(str(failure)))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return error(500, "internal_error", "an unexpected error; the daemon's log has it")

    return middleware
