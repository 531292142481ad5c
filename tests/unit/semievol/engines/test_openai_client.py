"""What the clients of HTTP APIs do with their key: it is sent as it is meant, and stands in no error."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from semievol.engines.openai_client import OpenAIClient
from semievol.engines.vllm_client import VllmClient
from semievol.errors import ConfigError, SemiEvolError
from semievol.http.client import HttpClient
from semievol.http.errors import ServerDownError
from semievol.http.server_address import ServerAddress

KEY = "known-secret"


def answering(handle: Callable[[httpx.Request], httpx.Response]) -> HttpClient:
    return HttpClient(transport=httpx.MockTransport(handle))


def unsendable(request: httpx.Request) -> httpx.Response:
    raise httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'")


@pytest.mark.parametrize(("given", "sent"), [(f" {KEY}\n", f"Bearer {KEY}"), (" ", None), (None, None)])
async def test_a_key_is_sent_without_the_white_space_around_it(given: str | None, sent: str | None) -> None:
    seen: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(200, json={})

    async with OpenAIClient("http://a/v1", given, key_setting="generation.api_key", http=answering(handle)) as client:
        await client.call("GET", "/models", patience_s=0)
    assert seen == [sent]


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}\u00e9", f"{KEY}\x00"])
def test_a_key_that_no_header_takes_names_its_setting_and_is_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"^models\.big\.api_key: holds characters that cannot stand") as caught:
        OpenAIClient("http://a/v1", key, key_setting="models.big.api_key")
    assert KEY not in str(caught.value)


async def test_a_request_that_cannot_be_sent_is_not_tried_again_and_its_headers_are_not_shown() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return unsendable(request)

    async with OpenAIClient("http://a/v1", KEY, key_setting="generation.api_key", http=answering(handle)) as client:
        with pytest.raises(ConfigError, match="LocalProtocolError") as caught:
            await client.call("GET", "/models", patience_s=5.0)
    assert asked == ["/v1/models"]
    assert shown(caught.value) == ""


async def test_what_cannot_be_sent_to_a_vllm_server_shows_no_headers_either() -> None:
    client = VllmClient(answering(unsendable))
    with pytest.raises(ServerDownError, match="LocalProtocolError") as caught:
        await client.check_health(ServerAddress("a", "http://a"))
    assert shown(caught.value) == ""
    await client.close()


def shown(error: SemiEvolError) -> str:
    """Where a traceback of the error would show the key."""
    return "text" if KEY in str(error) else "cause" if KEY in str(error.__cause__) else ""
