"""Somebody at a browser without scripts: logs in, opens pages, sends their forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from tests.control_roles import TOKEN

PAGES = ("/", "/rounds", "/review", "/drift", "/queries", "/labels", "/adapters", "/replicas")


@dataclass(slots=True)
class Browser:
    client: TestClient[Any, Any]
    word: str

    @classmethod
    async def logged_in(cls, client: TestClient[Any, Any]) -> Browser:
        """The cookie is in the client's jar from then on."""
        answer = await client.post("/login", data={"token": TOKEN})
        text = await answer.text()
        assert answer.status == 200, text
        found = re.search(r'name="word" value="([0-9a-f]{64})"', text)
        assert found is not None
        return cls(client, found[1])

    async def opens(self, path: str) -> str:
        """The page."""
        answer = await self.client.get(path)
        text = await answer.text()
        assert answer.status == 200, text
        return text

    async def reads(self, path: str) -> str:
        """The words of the page."""
        return words(await self.opens(path))

    async def sends(self, path: str, headers: Mapping[str, str] | None = None, **fields: object) -> ClientResponse:
        """A form of a page."""
        data = {"word": self.word, **{name: str(value) for name, value in fields.items()}}
        return await self.client.post(path, data=data, headers=headers, allow_redirects=False)

    async def follows(self, path: str, **fields: object) -> str:
        """Sends a form; the words of the page that comes then."""
        answer = await self.sends(path, **fields)
        assert answer.status == 303, await answer.text()
        return await self.reads(answer.headers["Location"])


def words(html: str) -> str:
    """A page without its tags, on one line."""
    body = html.partition("<main")[2]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))
