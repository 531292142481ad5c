"""curl: what no library sends, and the headers of answers."""

from __future__ import annotations

import gzip
import json
import subprocess
from typing import Any

from tests.clients.calls import PATIENCE_S, Gateway, call

NAME = "curl"
CHAT = "/chat/completions"
ORIGIN = "https://app.example.org"


class CurlError(Exception):
    """The server refused."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {str(body)[:300]}")
        self.status = status
        self.body = body


@call(NAME, "chat")
def chat(at: Gateway) -> object:
    return _record(_sent(at, _body(at)))


@call(NAME, "chat, `bearer` in lower case")
def lower_case(at: Gateway) -> object:
    return _record(_sent(at, _body(at), headers=[f"authorization: bearer {at.token}"]))


@call(NAME, "chat, no token")
def no_token(at: Gateway) -> object:
    return _sent(at, _body(at), headers=[])


@call(NAME, "chat, GET: 405 with Allow")
def wrong_method(at: Gateway) -> object:
    status, headers, body = curl(at, CHAT, "-X", "GET", headers=_token(at))
    assert status == 405
    assert "POST" in headers["allow"]
    return body


@call(NAME, "chat, HEAD: 405 with Allow")
def head(at: Gateway) -> object:
    status, headers, _ = curl(at, CHAT, "--head", headers=_token(at))
    assert status == 405
    assert "POST" in headers["allow"]
    return status


@call(NAME, "models, HEAD")
def head_of_models(at: Gateway) -> object:
    status, headers, _ = curl(at, "/models", "--head", headers=_token(at))
    return {"status": status, "type": headers.get("content-type")}


@call(NAME, "preflight of a page that may ask (CORS)")
def preflight(at: Gateway) -> object:
    asked = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, content-type"]
    status, headers, _ = curl(at, CHAT, "-X", "OPTIONS", headers=[f"Origin: {ORIGIN}", *asked])
    assert status == 204
    assert headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in headers["access-control-allow-headers"]
    return {name: value for name, value in headers.items() if name.startswith("access-control")}


@call(NAME, "preflight of a page that may not")
def foreign_preflight(at: Gateway) -> object:
    asked = ["Origin: https://elsewhere.example", "Access-Control-Request-Method: POST"]
    status, headers, _ = curl(at, CHAT, "-X", "OPTIONS", headers=asked)
    assert status == 401
    assert "access-control-allow-origin" not in headers
    return status


@call(NAME, "chat of a page: its answer may be read")
def of_a_page(at: Gateway) -> object:
    status, headers, _ = curl(
        at, CHAT, "-d", json.dumps(_body(at)), headers=[*_token(at), *_json(), f"Origin: {ORIGIN}"]
    )
    assert status == 200
    assert headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in headers["access-control-expose-headers"]
    return status


@call(NAME, "chat, a request id comes back, one out of bounds does not")
def request_id(at: Gateway) -> object:
    given = _head(at, "x-request-id: abc-1:2")["x-request-id"]
    other = _head(at, f"x-request-id: {'a' * 200}")["x-request-id"]
    assert (given, len(other) < 60) == ("abc-1:2", True)
    return given


@call(NAME, "chat, no Content-Type for JSON")
def no_content_type(at: Gateway) -> object:
    return _sent(at, _body(at), headers=[*_token(at), "Content-Type:"])


@call(NAME, "chat, another Content-Type")
def form(at: Gateway) -> object:
    return _sent(at, _body(at), headers=[*_token(at), "Content-Type: text/plain"])


@call(NAME, "chat, no JSON")
def no_json(at: Gateway) -> object:
    return _sent(at, b'{"model": ')


@call(NAME, "chat, a list")
def a_list(at: Gateway) -> object:
    return _sent(at, b"[]")


@call(NAME, "chat, nothing")
def nothing(at: Gateway) -> object:
    return _sent(at, b"")


@call(NAME, "chat, stream as a text")
def stream_as_text(at: Gateway) -> object:
    return _sent(at, {**_body(at), "stream": "true"})


@call(NAME, "chat, a field twice: the last counts, for both")
def twice(at: Gateway) -> object:
    text = json.dumps(_body(at)).replace('"max_tokens": 8', '"max_tokens": 100000000, "max_tokens": 3')
    answer = _sent(at, text.encode())
    assert answer["usage"]["completion_tokens"] == 3
    return _record(answer)


@call(NAME, "chat, deep nesting")
def deep(at: Gateway) -> object:
    return _sent(at, b'{"model": "' + at.model.encode() + b'", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@call(NAME, "chat, a number beyond all bounds")
def endless(at: Gateway) -> object:
    return _sent(at, json.dumps(_body(at)).replace('"temperature": 0', '"temperature": 1e999').encode())


@call(NAME, "chat, half a surrogate pair")
def surrogate(at: Gateway) -> object:
    return _sent(at, json.dumps(_body(at)).replace("Hello", "Hello \\ud800").encode())


@call(NAME, "chat, packed with gzip")
def packed(at: Gateway) -> object:
    body = gzip.compress(json.dumps(_body(at)).encode())
    return _record(_sent(at, body, headers=[*_token(at), *_json(), "Content-Encoding: gzip"]))


@call(NAME, "chat, a body beyond the limit")
def large(at: Gateway) -> object:
    return _sent(at, {**_body(at), "user": "x" * 2_000_000})


@call(NAME, "chat, stream: lines of data, [DONE] last")
def stream(at: Gateway) -> object:
    asked = json.dumps({**_body(at), "stream": True})
    _, headers, text = curl(at, CHAT, "-N", "-d", asked, headers=[*_token(at), *_json()], parse=False)
    assert headers["content-type"].startswith("text/event-stream")
    events = [event for event in text.split("\n\n") if event]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    first = json.loads(events[0].removeprefix("data: "))
    return {name: first[name] for name in ("id", "object", "created", "model")}


@call(NAME, "an address that is not there")
def no_address(at: Gateway) -> object:
    return _sent(at, _body(at), path="/chat")


@call(NAME, "responses, stream: named events")
def named_events(at: Gateway) -> object:
    asked = json.dumps({"model": at.model, "input": "Hello", "max_output_tokens": 8, "temperature": 0, "stream": True})
    _, _, text = curl(at, "/responses", "-N", "-d", asked, headers=[*_token(at), *_json()], parse=False)
    events = [event.split("\n") for event in text.split("\n\n") if event]
    for name, data in events:
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")
    return {name: data[:7] for name, data in events}


def curl(
    at: Gateway, path: str, *arguments: str, headers: list[str], data: bytes | None = None, parse: bool = True
) -> tuple[int, dict[str, str], Any]:
    """(status, headers, body) of one request."""
    given = [part for header in headers for part in ("-H", header)]
    sent = [] if data is None else ["--data-binary", "@-"]
    command = ["curl", "-s", "-S", "-i", "--max-time", str(PATIENCE_S), "-H", "Expect:", *given, *sent, *arguments]
    done = subprocess.run([*command, at.url + path], input=data, capture_output=True, check=False)
    assert done.returncode == 0, f"curl ended with {done.returncode}: {done.stderr.decode()}"
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    text = body.decode()
    return int(first.split()[1]), found, json.loads(text) if parse and text else text


def _sent(at: Gateway, body: Any, *, headers: list[str] | None = None, path: str = CHAT) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = [*_token(at), *_json()] if headers is None else headers
    if not any(header.lower().startswith("content-type") for header in given):
        given = [*given, *_json()]
    status, _, answer = curl(at, path, headers=given, data=data)
    if status != 200:
        raise CurlError(status, answer)
    return answer


def _head(at: Gateway, header: str) -> dict[str, str]:
    return curl(at, "/models", headers=[*_token(at), header])[1]


def _token(at: Gateway) -> list[str]:
    return [f"Authorization: Bearer {at.token}"]


def _json() -> list[str]:
    return ["Content-Type: application/json"]


def _body(at: Gateway) -> dict[str, Any]:
    return {"model": at.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}


def _record(answer: dict[str, Any]) -> dict[str, Any]:
    """The members that OpenAI's chat has; servers add others."""
    choices = [
        {
            "index": each["index"],
            "finish_reason": each["finish_reason"],
            "message": {"role": each["message"]["role"], "content": each["message"]["content"]},
        }
        for each in answer["choices"]
    ]
    usage = {name: answer["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    told = {name: answer[name] for name in ("id", "object", "created", "model")}
    return {**told, "choices": choices, "usage": usage}
