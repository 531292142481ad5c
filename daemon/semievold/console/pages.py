"""Templates to pages, and the files beside them.

Owns how values are written. Invariant: nothing from outside enters a page unescaped, and nothing in it turns the
direction of the rest, or the end of a line, into something else.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import jinja2
from aiohttp import web

from semievol.plain_lines import plain

TYPES: Mapping[str, str] = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}
A_YEAR = "public, max-age=31536000, immutable"
WORTH_PACKING = 1_000
"""Bytes; a shorter body is sent as it is."""


class Pages:
    """The templates with what all of them show."""

    def __init__(self, workload: str, now: Callable[[], float]) -> None:
        self._now = now
        self.files = StaticFiles()
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("semievold.console"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(workload=workload, file=self.files.address)
        self._environment.filters.update(
            ago=ago, count=count, day=day, id=quoted, nats=nats, percent=percent, seconds=seconds, sig=significant
        )

    def render(self, template: str, **values: Any) -> str:
        return self._environment.get_template(template).render(now=self._now(), **values)

    def response(self, template: str, status: int = 200, **values: Any) -> web.Response:
        return web.Response(
            text=self.render(template, status=status, **values), status=status, content_type="text/html"
        )


class StaticFiles:
    """Style, script and picture of the console: small, read once, packed once."""

    @cached_property
    def _contents(self) -> dict[str, tuple[bytes, bytes, str]]:
        """By name: bytes, the same packed, a hash."""
        found = {}
        for file in (files("semievold.console") / "static").iterdir():
            if file.is_file() and file.name.rpartition(".")[2] in TYPES:
                content = file.read_bytes()
                found[file.name] = (content, gzip.compress(content, mtime=0), hashlib.sha256(content).hexdigest()[:16])
        return found

    def address(self, name: str) -> str:
        """With its hash, so that a browser may keep it for ever."""
        return f"/static/{name}?v={self._contents[name][2]}"

    def response(self, request: web.Request) -> web.Response:
        """Raises web.HTTPNotFound."""
        name = request.match_info["name"]
        if name not in self._contents:
            raise web.HTTPNotFound(text="there is no such file here")
        content, packed, _ = self._contents[name]
        headers = {"Cache-Control": A_YEAR, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            content = packed
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=content, content_type=TYPES[name.rpartition(".")[2]], charset="utf-8", headers=headers)


def packed(request: web.Request, html: str, status: int = 200) -> web.Response:
    """A page as the browser takes it."""
    body, headers = html.encode(), {"Vary": "Accept-Encoding"}
    if len(body) > WORTH_PACKING and "gzip" in request.headers.get("Accept-Encoding", ""):
        body = gzip.compress(body, 5, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=headers)


def _shown(value: object) -> object:
    return plain(value) if type(value) is str else value


def quoted(text: str) -> str:
    """As a value in an address."""
    return quote(text, safe="")


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def nats(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def significant(value: float | None) -> str:
    """Three figures."""
    return "–" if value is None else "∞" if math.isinf(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A duration in its two largest units."""
    if value is None:
        return "–"
    whole = max(0, int(value))
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def ago(at: float | None, now: float) -> str:
    return "never" if at is None else "just now" if now - at < 1 else f"{seconds(now - at)} ago"


def day(at: float | None) -> str:
    """A moment, by the world's clock."""
    return "–" if at is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
