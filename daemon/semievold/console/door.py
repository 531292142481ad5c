"""The way in: whose login a request brings, whether a form came from one of our pages, and what browsers may do.

Owns cookies, headers and what errors look like. Invariants: no page but the login is shown without a login, and nothing
is done without a login and the word of its forms; a request that another site caused does nothing; no page runs, loads
or asks anything that is not this console's own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import web

from semievol.errors import SemiEvolError, TransientError
from semievol.plain_lines import one_line
from semievold.console.pages import Pages
from semievold.console.sessions import LASTS_S, Sessions
from semievold.errors import StateConflict
from semievold.web.access import Handler, guards_itself, holds
from semievold.web.body_limits import read_body

log = logging.getLogger(__name__)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would send our own forms with `Origin: null`
    "X-Content-Type-Options": "nosniff",
}
WORD = "word"
"""The field of every form that holds the word of its login."""
MAX_FIELDS = 50
FOREIGN = "this form was not sent by a page of this console; open the console and try again"
OLD = "this form is of an earlier login; go back, load the page again and try once more"


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is logged in. `word`: for its forms; `form`: what was sent, without the word."""

    request: web.Request
    word: str
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query


Answer = Callable[[Visit], Awaitable[web.Response]]


class Door:
    """Lets requests in."""

    def __init__(self, sessions: Sessions, pages: Pages) -> None:
        self._sessions = sessions
        self._pages = pages

    def page(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler for whoever is logged in; everybody else is asked for the token first."""

        async def handler(request: web.Request) -> web.StreamResponse:
            cookie = self._login_of(request)
            if cookie is None:
                return self._ask_for_the_token(request)
            if not holds(request):
                return self._error(503, "all connections of this front are taken; try again")
            return await answer(Visit(request, self._sessions.word(cookie)))

        return guards_itself(self._framed(handler))

    def form(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler for a form of whoever is logged in."""

        async def handler(request: web.Request) -> web.StreamResponse:
            if not _ours(request):
                return self._error(403, FOREIGN)
            cookie = self._login_of(request)
            if cookie is None:
                return self._ask_for_the_token(request)
            if not holds(request):
                return self._error(503, "all connections of this front are taken; try again")
            fields = await _fields(request)
            if not self._sessions.said(cookie, fields.pop(WORD, "")):
                return self._error(403, OLD)
            return await answer(Visit(request, self._sessions.word(cookie), fields))

        return guards_itself(self._framed(handler))

    def open(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler for everybody."""
        return guards_itself(self._framed(handler))

    @web.middleware
    async def nowhere(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A page for whoever is logged in and asks for what there is not; the API's words are for programs."""
        missing = request.match_info.http_exception
        programs = request.headers.get("Authorization") or request.path.startswith("/v1/")
        if missing is None or request.method != "GET" or programs:
            return await handler(request)
        if self._login_of(request) is None:
            return await handler(request)

        async def told(_request: web.Request) -> web.StreamResponse:
            return self._error(404, "there is no such page here")

        return await self._framed(told)(request)

    async def show_login(self, request: web.Request) -> web.Response:
        if self._login_of(request) is not None:
            return see(_next(request.query))
        return self._pages.response("login.html.jinja", next=_next(request.query), wrong=False)

    async def log_in(self, request: web.Request) -> web.Response:
        if not _ours(request):
            return self._error(403, FOREIGN)
        fields = await _fields(request)
        if not self._sessions.opens(fields.get("token", "").strip()):
            log.warning("console: somebody at %s gave a wrong token", one_line(request.remote or "?"))
            return self._pages.response("login.html.jinja", status=401, next=_next(fields), wrong=True)
        holds(request)
        answer = see(_next(fields))
        answer.set_cookie(
            self._sessions.cookie,
            self._sessions.begin(),
            max_age=int(LASTS_S),
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https",
        )
        return answer

    async def log_out(self, _visit: Visit) -> web.Response:
        answer = see("/login")
        answer.del_cookie(self._sessions.cookie, httponly=True, samesite="Strict")
        return answer

    def _login_of(self, request: web.Request) -> str | None:
        cookie = request.cookies.get(self._sessions.cookie)
        return cookie if self._sessions.valid(cookie) else None

    def _ask_for_the_token(self, request: web.Request) -> web.Response:
        address = "/login"
        if request.method == "GET" and request.path_qs != "/":
            address += "?" + urlencode({"next": request.path_qs})
        if "HX-Request" in request.headers:  # a part of a page would not show a login
            return web.Response(status=401, headers={"HX-Redirect": "/login"})
        return see(address)

    def _error(self, status: int, message: str) -> web.Response:
        return self._pages.response("error.html.jinja", status=status, name=HTTPStatus(status).phrase, message=message)

    def _framed(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def framed(request: web.Request) -> web.StreamResponse:
            answer = await self._answered(request, handler)
            for name, value in HEADERS.items():
                answer.headers[name] = value
            answer.headers.setdefault("Cache-Control", "no-store")
            return answer

        return framed

    async def _answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as refused:
            return self._error(refused.status, (refused.text or "").removeprefix(f"{refused.status}: "))
        except StateConflict as missing:
            return self._error(404 if request.method == "GET" else 409, str(missing))
        except TransientError as failure:
            return self._error(503, str(failure))
        except SemiEvolError as failure:
            return self._error(400, str(failure))
        except Exception:
            log.exception("console: %s %s failed", request.method, one_line(request.path))
            return self._error(500, "an unexpected error; the daemon's log has it")


def see(address: str) -> web.Response:
    """Look there; a browser asks for it by GET."""
    return web.Response(status=303, headers={"Location": address})


def _ours(request: web.Request) -> bool:
    """Whether no other site caused the request: browsers say where it comes from, and no page can forge that."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()


def _next(given: Mapping[str, str]) -> str:
    """Where to go after the login: a page of this console, whatever was asked for."""
    address = given.get("next", "/")
    inside = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if inside and "\\" not in address else "/"


async def _fields(request: web.Request) -> dict[str, str]:
    """The fields of a form; of one that comes twice the last.

    Raises:
        web.HTTPException: it is no form.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="body: send a form (application/x-www-form-urlencoded)")
    body = await read_body(request)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError as failure:
        raise web.HTTPBadRequest(text=f"body: no form: {failure}") from failure
