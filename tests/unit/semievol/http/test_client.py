"""What a request becomes, and what each way in which it is not answered means: both clients."""

from __future__ import annotations

import asyncio
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from semievol.errors import ConfigError, DataError, SemiEvolError
from semievol.http.answer import Answer
from semievol.http.client import BlockingHttpClient, HttpClient
from semievol.http.errors import (
    BusyError,
    KeyRefusedError,
    OddAnswerError,
    OverloadedError,
    RefusedError,
    ServerDownError,
    TimedOutError,
    UnsendableError,
)
from semievol.http.server_address import ServerAddress

KEY = "known-secret"
AT = ServerAddress.at("http://a/v1/", KEY, name="server a")
Handle = Callable[[httpx.Request], httpx.Response]
Ask = Callable[..., Answer]


def waiting(transport: Any, server: ServerAddress, **asked: Any) -> Answer:
    async def ask() -> Answer:
        async with HttpClient(transport=transport) as http:
            return await http.ask(server, "POST", "/chat", **{"timeout_s": 5.0, **asked})

    return asyncio.run(ask())


def blocking(transport: Any, server: ServerAddress, **asked: Any) -> Answer:
    with BlockingHttpClient(transport=transport) as http:
        return http.ask(server, "POST", "/chat", **{"timeout_s": 5.0, **asked})


@pytest.fixture(params=[waiting, blocking])
def ask(request: pytest.FixtureRequest) -> Ask:
    def asked(handle: Handle | None, server: ServerAddress = AT, **content: Any) -> Answer:
        made: Answer = request.param(handle and httpx.MockTransport(handle), server, **content)
        return made

    return asked


def answer(status: int = 200, **content: Any) -> Answer:
    return blocking(httpx.MockTransport(lambda _: httpx.Response(status, **content)), AT)


def test_a_request_goes_to_the_address_with_the_key_and_its_answer_is_read(ask: Ask) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url) == ("POST", "http://a/v1/chat")
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return httpx.Response(200, json={"echo": request.read().decode()})

    assert ask(handle, json={"a": 1}).object() == {"echo": '{"a":1}'}


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_says_nothing_in_time_is_told_from_one_that_is_not_there(
    ask: Ask, mute: str, closed: str
) -> None:
    with pytest.raises(TimedOutError, match=r"^127\.0\.0\.1:\d+: no answer within 0 s$") as late:
        ask(None, ServerAddress.at(mute, None), timeout_s=0.05)
    with pytest.raises(ServerDownError, match=r"^127\.0\.0\.1:\d+: ConnectError ") as down:
        ask(None, ServerAddress.at(closed, None))
    assert (late.value.status, down.value.status) == (None, None)


def test_what_cannot_be_sent_says_so_at_once_and_shows_no_key(ask: Ask) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'")

    with pytest.raises(
        UnsendableError, match=r"^server a: the request cannot be sent \(LocalProtocolError\)$"
    ) as found:
        ask(handle)
    assert KEY not in "".join(traceback.format_exception(found.value))
    with pytest.raises(DataError, match="half of a surrogate pair"):
        ask(handle, json={"text": "\ud800"})
    with pytest.raises(UnsendableError, match=r"^server a: http://a:port is no address"):
        ask(None, ServerAddress("server a", "http://a:port"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RefusedError),
        (401, KeyRefusedError),
        (403, KeyRefusedError),
        (404, RefusedError),
        (408, BusyError),
        (409, BusyError),
        (425, BusyError),
        (429, OverloadedError),
        (500, ServerDownError),
        (502, ServerDownError),
        (503, OverloadedError),
    ],
)
def test_each_status_is_one_error_with_what_the_server_says(status: int, kind: type[Exception]) -> None:
    error = {"message": "so\n it is", "code": "c", "param": "p"}
    with pytest.raises(SemiEvolError) as found:
        answer(status, json={"error": error}, headers={"Retry-After": "7"}).check()
    assert type(found.value) is kind
    assert str(found.value) == f"server a: HTTP {status}, so it is"
    if isinstance(found.value, BusyError):
        assert (found.value.status, found.value.wait_s) == (status, 7.0)
    elif isinstance(found.value, RefusedError):
        assert (found.value.status, found.value.code, found.value.param) == (status, "c", "p")


def test_a_quota_that_is_used_up_is_not_waited_for() -> None:
    with pytest.raises(RefusedError, match="HTTP 429, pay"):
        answer(429, json={"error": {"message": "pay", "code": "insufficient_quota"}}).check()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error": "busy"}', "busy"),
        (b'{"message": "at the top"}', "at the top"),
        (b'{"detail": "Not Found"}', '{"detail": "Not Found"}'),
        (b'{"error": {"message": null}}', '{"error": {"message": null}}'),
        (b'["odd"]', "['odd']"),
        (b"<html>bad gateway</html>", "<html>bad gateway</html>"),
        (b'{"error": {"message": "half \\ud800"}}', "half \ufffd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, "[" * 400),
        (b"", "no reason given"),
    ],
)
def test_what_a_server_says_is_found_in_any_form(body: bytes, says: str) -> None:
    assert answer(500, content=body).message == says


def test_a_server_that_repeats_the_key_has_it_taken_out() -> None:
    refused = answer(401, json={"error": {"message": f"bad key Bearer {KEY}!"}})
    assert refused.message == "bad key Bearer [key]!"
    assert KEY not in repr(AT)
    odd = answer(307, headers={"Location": f"http://b/?key={KEY}"})
    with pytest.raises(OddAnswerError, match=r"^server a/chat redirects to http://b/\?key=\[key\]$"):
        odd.object()


def test_a_key_that_no_header_takes_names_its_setting_and_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"^index\.api_key: holds characters") as found:
        ServerAddress.at("http://a", f"{KEY}\nX: 1", key_setting="index.api_key")
    assert KEY not in "".join(traceback.format_exception(found.value))


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://a:port", "http://[::1"])
def test_a_url_whose_port_or_host_cannot_be_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(url)} is no address"):
        ServerAddress.at(url, None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>", "does not answer in JSON"),
        (b"", "does not answer in JSON"),
        (b'{"a": 1', "does not answer in JSON"),
        (b'{"a": "\xff"}', "does not answer in JSON"),
        (b'{"a": ' * 100_000, "does not answer in JSON"),
        (b"[1]", "does not answer with a JSON object"),
        (b"null", "does not answer with a JSON object"),
    ],
)
def test_an_answer_that_is_no_json_object_is_odd(body: bytes, says: str) -> None:
    with pytest.raises(OddAnswerError, match=f"^server a/chat {says}$"):
        answer(content=body).object()


def test_halves_of_surrogate_pairs_are_made_whole_wherever_they_stand() -> None:
    body = b'{"a\\ud800": ["x\\udfff", {"b": "\\ud83d\\ude00"}], "raw": "\xed\xa0\x80", "n": 1}'
    assert answer(content=body).object() == {"a\ufffd": ["x\ufffd", {"b": "\U0001f600"}], "raw": "\ufffd", "n": 1}


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ({"message": "no GPU", "code": 503}, OverloadedError, "HTTP 503, no GPU"),
        ({"message": "too long", "code": 400}, RefusedError, "HTTP 400, too long"),
        ({"message": "broke", "code": "x"}, ServerDownError, "HTTP 502, broke"),
        ("broke", ServerDownError, "HTTP 502, broke"),
    ],
)
def test_an_error_inside_a_good_answer_counts_as_one(error: Any, kind: type[Exception], says: str) -> None:
    found = answer(json={"error": error})
    with pytest.raises(kind, match=says):
        found.object("choices")
    assert found.object() == {"error": error}
    assert answer(json={"error": error, "choices": []}).object("choices")["choices"] == []


@pytest.mark.parametrize(
    ("asked", "wait_s"),
    [
        ("2.5", 2.5),
        ("-1", 0.0),
        ("nan", 0.0),
        ("inf", 3600.0),
        ("86400", 3600.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
    ],
)
def test_the_wait_that_a_server_asks_for_is_a_number_that_ends(asked: str, wait_s: float) -> None:
    assert answer(429, headers={"Retry-After": asked}).wait_s == wait_s


def test_a_wait_may_be_asked_for_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55.0 < answer(503, headers={"Retry-After": date}).wait_s <= 60.0
