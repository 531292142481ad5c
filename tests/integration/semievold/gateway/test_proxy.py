"""The gateway over servers that fail on command: what is retried, what is never mixed, and what clients are told."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from semievol.http.server_address import ServerAddress
from tests.openai_double import ALIAS, GATEWAY_TOKEN, REPLICA_TOKEN, WORDS, Double, Front, events, front


async def until(what: Callable[[], Any], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():  # noqa: ASYNC110 - it is not ours to signal
            await asyncio.sleep(0.005)


def text_of(found: list[Any]) -> str:
    return "".join(event["choices"][0]["delta"]["content"] for event in found if event != "[DONE]")


async def test_the_replica_is_asked_for_the_version_and_the_client_is_answered_by_the_alias() -> None:
    async with front([Double("a")]) as it:
        extra = {"tools": [{"model": "kept", "x": "é\n"}], "logprobs": True, "structured_outputs": {"choice": ["a"]}}
        extra["max_tokens"] = 7
        async with it.ask(**extra) as response:
            answer = await response.json()
        assert response.headers["x-semievol-adapter"] == "v1"
        assert response.headers["x-semievol-replica"] == "a"
        assert answer["model"] == ALIAS
        assert answer["echo"] == {"model": "v1", "messages": [{"role": "user", "content": "hello"}], **extra}
        assert "x-internal" not in response.headers
        assert "Set-Cookie" not in response.headers
        path, _, headers = it.doubles[0].asked[0]
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == f"Bearer {REPLICA_TOKEN}"


async def test_without_an_adapter_the_base_model_is_asked() -> None:
    async with front([Double("a")]) as it:
        it.move(None)  # type: ignore[arg-type]
        async with it.ask() as response:
            assert (await response.json())["choices"][0]["message"]["content"].startswith("base@a")
        assert response.headers["x-semievol-adapter"] == "base"


async def test_only_allowed_request_headers_are_forwarded() -> None:
    async with front([Double("a")]) as it:
        sent = {"traceparent": "00-1", "X-Forwarded-For": "1.2.3.4", "Cookie": "a=b", "X-Request-Id": "x"}
        async with it.session.post(
            f"{it.url}/v1/completions", json={"model": ALIAS, "prompt": "x"}, headers=sent
        ) as response:
            assert response.status == 200
        headers = {name.lower() for name in it.doubles[0].asked[0][2]}
        assert "traceparent" in headers
        assert headers.isdisjoint({"x-forwarded-for", "cookie", "x-request-id"})


async def test_a_stream_names_the_alias_in_every_event_and_the_version_in_its_headers() -> None:
    async with front([Double("a")]) as it:
        async with it.ask(stream=True) as response:
            found = events(await response.read())
        assert response.headers["x-semievol-adapter"] == "v1"
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert found[-1] == "[DONE]"
        assert {event["model"] for event in found[:-1]} == {ALIAS}
        assert text_of(found) == "".join(f"v1@a:{number} " for number in range(WORDS))


@pytest.mark.parametrize("fault", ["reset", "500", "503", "401", "302", "error first", "abort"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_byte_is_tried_on_another_replica(fault: str, stream: bool) -> None:
    if fault == "error first" and not stream:
        return
    async with front([Double("a", fault), Double("b")]) as it:
        async with it.ask(stream=stream) as response:
            body = await response.read()
        assert response.status == 200, body
        assert response.headers["x-semievol-replica"] == "b"
        assert b"v1@b:0" in body
        assert b"@a" not in body
        assert it.failures("a") == 1
        assert ("a" in it.pool.down) == (fault not in ("500", "error first", "abort"))


async def test_a_mistake_that_a_stream_begins_with_is_the_clients_and_asked_of_one_replica() -> None:
    """vLLM 0.32 finds a wrong schema, expression or bias of a stream only once it has answered 200."""
    async with front([Double(name, "mistake first") for name in "abc"]) as it:
        async with it.ask(stream=True) as response:
            body = await response.json()
        assert (response.status, body["error"]["message"]) == (400, "Invalid regex")
        assert sum(len(double.asked) for double in it.doubles) == 1
        assert not it.pool.down


@pytest.mark.parametrize(("said", "attempts"), [("the same", 2), ("", 3)])
async def test_what_two_replicas_fail_on_in_the_same_words_is_not_asked_of_a_third(said: str, attempts: int) -> None:
    doubles = [Double(name, "500", error_body={"error": {"message": said or f"of {name}"}}) for name in "abc"]
    async with front(doubles) as it:
        async with it.ask() as response:
            body = await response.json()
        assert response.status == (500 if said else 503)
        assert body["error"]["type"] == "server_error"
        assert sum(len(double.asked) for double in it.doubles) == attempts
        assert not it.pool.down


async def test_what_no_engine_honours_is_refused_before_a_replica_is_asked() -> None:
    async with front([Double("a")]) as it:
        for path, wrong in (
            ("/v1/chat/completions", {"guided_json": {}}),
            ("/v1/chat/completions", {"store": True}),
            ("/v1/chat/completions", {"modalities": ["audio"]}),
            ("/v1/completions", {"best_of": 3}),
            ("/v1/responses", {"previous_response_id": "resp_1"}),
            ("/v1/responses", {"background": True}),
            ("/v1/responses", {"tools": [{"type": "web_search"}]}),
        ):
            async with it.ask(path, **wrong) as response:
                found = (await response.json())["error"]
            assert (response.status, found["code"]) == (400, "unsupported_parameter"), wrong
            assert found["param"].startswith(next(iter(wrong)))
        assert it.doubles[0].asked == []


async def test_a_replica_that_lost_the_adapter_is_left_for_another() -> None:
    async with front([Double("a", adapters={"base"}), Double("b")]) as it:
        async with it.ask() as response:
            assert response.status == 200
        assert response.headers["x-semievol-replica"] == "b"
        assert it.pool.down == {"a": "does not have v1"}


async def test_a_killed_replica_fails_no_request_under_load() -> None:
    async with front([Double("a", pause_s=0.01), Double("b", pause_s=0.01)]) as it:
        answered: list[tuple[int, str]] = []

        async def client(number: int) -> None:
            for turn in range(30):
                async with it.ask(stream=False, turn=turn) as response:
                    await response.read()
                    answered.append((response.status, response.headers["x-semievol-replica"]))

        clients = [asyncio.create_task(client(number)) for number in range(16)]
        await until(lambda: len(answered) > 50)
        await it.doubles[0].stop()
        await asyncio.gather(*clients)
        assert len(answered) == 16 * 30
        assert {status for status, _ in answered} == {200}
        assert {replica for _, replica in answered[-100:]} == {"b"}


@pytest.mark.parametrize("fault", ["die within", "hang within"])
async def test_a_stream_that_breaks_off_ends_with_an_error_event_and_is_never_continued(fault: str) -> None:
    async with front([Double("a", fault), Double("b")], idle_timeout_s=0.2) as it:
        async with it.ask(stream=True) as response:
            found = events(await response.read())
        assert response.status == 200
        assert found[-1]["error"]["code"] == "stream_broken"
        assert text_of(found[:-1]) == "v1@a:0 v1@a:1 v1@a:2 "
        assert it.doubles[1].asked == []
        assert "a" in it.pool.down


async def test_a_stream_that_takes_too_long_is_broken_off_and_its_replica_stays() -> None:
    async with front([Double("a", "hang within")], timeout_s=0.3) as it:
        async with it.ask(stream=True) as response:
            found = events(await response.read())
        assert found[-1]["error"]["code"] == "stream_broken"
        assert text_of(found[:-1]) == "v1@a:0 v1@a:1 v1@a:2 "
        assert "a" not in it.pool.down


async def test_a_stream_that_an_engine_cuts_off_as_it_goes_to_sleep_is_not_taken_for_whole() -> None:
    async with front([Double("a", "abort within"), Double("b")]) as it:
        async with it.ask(stream=True) as response:
            found = events(await response.read())
        assert found[-1]["error"]["code"] == "stream_broken"
        assert text_of(found[:-1]) == "v1@a:0 v1@a:1 v1@a:2 "
        assert it.doubles[1].asked == []
        assert "a" not in it.pool.down


async def test_an_answer_that_the_only_replica_cuts_off_is_to_be_asked_again() -> None:
    async with front([Double("a", "abort")]) as it, it.ask() as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_what_an_answer_says_of_an_abort_cuts_nothing_off() -> None:
    said = '{"finish_reason": "abort"}'
    async with front([Double("a")]) as it, it.ask(note=said) as response:  # echoed, as a text
        assert (response.status, (await response.json())["echo"]["note"]) == (200, said)


async def test_an_error_within_a_stream_is_passed_without_addresses() -> None:
    async with front([Double("a", "error within")]) as it:
        async with it.ask(stream=True) as response:
            body = await response.read()
        assert b"10.0.0.7" not in body
        assert [event["error"]["message"] for event in events(body) if "error" in event] == ["see [address]"]


async def test_a_stuck_replica_does_not_hang_the_client() -> None:
    async with front([Double("a", "hang")], timeout_s=0.3) as it:
        for stream in (False, True):
            it.pool.down.clear()
            async with it.ask(stream=stream) as response:
                assert response.status == 504
                assert (await response.json())["error"]["type"] == "server_error"
            assert response.headers["x-semievol-adapter"] == "v1"
        await until(lambda: it.doubles[0].running == 0)


async def test_a_stream_that_does_not_begin_is_asked_of_another_replica() -> None:
    async with front([Double("a", "hang"), Double("b")], idle_timeout_s=0.2) as it:
        async with it.ask(stream=True) as response:
            assert (await response.read()).endswith(b"[DONE]\n\n")
        assert response.headers["x-semievol-replica"] == "b"


async def test_when_nothing_answers_the_error_says_so_without_addresses() -> None:
    async with front([Double("a", "503"), Double("b", "reset")], replica_wait_s=0.1) as it:
        async with it.ask() as response:
            body = await response.json()
        assert response.status == 503
        assert response.headers["x-semievol-adapter"] == "v1"
        assert "127.0.0.1" not in str(body)


async def test_a_request_waits_a_while_for_a_replica_that_comes_back() -> None:
    async with front([Double("a", "reset")]) as it:
        asking = asyncio.create_task(read(it.ask()))
        await until(lambda: it.pool.down)
        it.doubles[0].fault = ""
        it.pool.down.clear()
        headers, _ = await asking
        assert headers["x-semievol-replica"] == "a"


async def test_a_request_waits_as_long_as_its_replica_is_asked_alone() -> None:
    async with front([Double("a")], replica_wait_s=0.0) as it:
        it.pool.reserved = True
        asking = asyncio.create_task(read(it.ask()))
        await asyncio.sleep(0.3)
        assert not asking.done()
        it.pool.reserved = False
        headers, _ = await asking
        assert headers["x-semievol-replica"] == "a"


async def test_a_replica_that_is_asked_alone_for_ever_is_a_timeout() -> None:
    async with front([Double("a")], replica_wait_s=0.0, timeout_s=0.3) as it:
        it.pool.reserved = True
        async with it.ask() as response:
            assert response.status == 504


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_request(stream: bool) -> None:
    async with front([Double("a", "hang within" if stream else "hang")]) as it:
        asking = asyncio.create_task(it.ask(stream=stream).__aenter__())
        await until(lambda: it.doubles[0].running == 1)
        if stream:
            (await asking).close()
        else:
            asking.cancel()
        await until(lambda: it.doubles[0].gone == 1)
        await until(lambda: it.alias.running("v1") == 0)
        assert it.pool.busy["a"] == 0
        assert it.pool.down == {}


async def test_a_request_finishes_on_the_version_it_was_admitted_for() -> None:
    async with front([Double("a", pause_s=0.2)]) as it:
        early = asyncio.create_task(read(it.ask(stream=True)))
        await until(lambda: it.doubles[0].running == 1)
        it.move("v2")
        late = asyncio.create_task(read(it.ask(stream=True)))
        await until(lambda: it.doubles[0].running == 2)
        assert (it.alias.running("v1"), it.alias.running("v2")) == (1, 1)
        for asked, version in ((early, "v1"), (late, "v2")):
            headers, body = await asked
            assert headers["x-semievol-adapter"] == version
            assert text_of(events(body)) == "".join(f"{version}@a:{number} " for number in range(WORDS))


async def read(asked: Any) -> tuple[Any, bytes]:
    async with asked as response:
        return response.headers, await response.read()


async def test_a_clients_mistake_is_told_in_the_servers_words_without_addresses_or_paths() -> None:
    words = "bad top_p; see https://10.1.2.3:8000/docs and /models/secret/x.py; ask 10.1.2.3:8000 about and/or"
    double = Double("a", "400", error_body={"error": {"message": words, "type": "BadRequestError"}})
    async with front([double]) as it:
        async with it.ask() as response:
            error = (await response.json())["error"]
        assert response.status == 400
        assert error["message"] == "bad top_p; see [address] and [path]; ask [address] about and/or"
        assert error["code"] == "bad_request"
        assert len(it.doubles[0].asked) == 1


async def test_requests_beyond_the_limit_are_told_to_come_back() -> None:
    async with front([Double("a", pause_s=0.3)], max_in_flight=1) as it:
        first = asyncio.create_task(read(it.ask()))
        await until(lambda: it.doubles[0].running == 1)
        async with it.ask() as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
        await first


async def test_at_the_stop_running_requests_finish_and_those_who_kept_a_connection_are_answered_once_more() -> None:
    async with front([Double("a", pause_s=0.3)]) as it:
        async with it.session.get(f"{it.url}/healthz") as response:
            assert response.status == 200
        running = asyncio.create_task(read(it.ask(stream=True)))
        await until(lambda: it.doubles[0].running == 1)
        it.stop.set()
        await asyncio.sleep(0)
        async with it.ask() as response:
            assert response.status == 200
            assert response.headers["Connection"] == "close"
        async with it.ask(stream=True) as response:
            assert response.status == 200
            assert response.headers["Connection"] == "close"
        async with it.session.get(f"{it.url}/healthz") as response:
            assert response.status == 503
        _, body = await running
        assert events(body)[-1] == "[DONE]"


async def test_no_client_fails_for_a_stop_while_another_gateway_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that keep a connection each and try nothing again, as behind a Service: new ones go to the other one."""
    monkeypatch.setattr("semievold.web.server.PARTING_S", 0.3)
    asked: Counter[str] = Counter()
    over = asyncio.Event()

    async def client(old: Front, new: Front, pause_s: float) -> None:
        asking = {"model": ALIAS, "messages": [{"role": "user", "content": "hello"}]}
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, headers=old.session.headers) as session:
            place = old
            while not over.is_set():
                if old.stop.is_set() and not any(connector._conns.values()):
                    place = new
                try:
                    async with session.post(f"{place.url}/v1/chat/completions", json=asking) as response:
                        assert response.status == 200
                except aiohttp.ClientConnectorError:  # what it kept is closed, and a Service would connect it elsewhere
                    assert place is old
                    assert old.stop.is_set()
                    place = new
                    continue
                asked[place.url] += 1
                await asyncio.sleep(pause_s)

    async with front([Double("a", pause_s=0.02)]) as old, front([Double("b", pause_s=0.02)]) as new:
        # Some ask again within the time that they get, and some later.
        clients = [asyncio.create_task(client(old, new, pause_s)) for pause_s in (0.0, 0.01, 0.1, 1.7, 2.3)]
        await until(lambda: asked[old.url] > 50)
        old.stop.set()
        await until(lambda: asked[new.url] > 50)
        await asyncio.sleep(2.5)
        over.set()
        await asyncio.gather(*clients)


async def test_a_stop_does_not_wait_for_ever() -> None:
    async with front([Double("a", "hang")], drain_s=0.1) as it:
        running = asyncio.create_task(read(it.ask()))
        await until(lambda: it.doubles[0].running == 1)
        it.stop.set()
        with pytest.raises(aiohttp.ClientError):
            await running


async def test_embeddings_go_to_their_own_server_untouched() -> None:
    double, other = Double("a"), Double("e", adapters={"minilm"})
    await other.start()
    try:
        server = ServerAddress("embeddings", other.url, {"Authorization": "Bearer other"})
        async with front([double], embeddings=server) as it:
            async with it.ask("/v1/embeddings", model="minilm", input=["x"]) as response:
                assert (await response.json())["model"] == "minilm"
            assert "x-semievol-adapter" not in response.headers
            assert other.asked[0][2]["Authorization"] == "Bearer other"
            await other.stop()
            async with it.ask("/v1/embeddings", model="minilm", input=["x"]) as response:
                assert response.status == 503
        assert double.asked == []
    finally:
        await other.stop()


async def test_embeddings_without_a_server_of_their_own_are_asked_of_the_served_version() -> None:
    async with front([Double("a")]) as it:
        async with it.ask("/v1/embeddings", input=["x"]) as response:
            assert response.status == 200
        assert response.headers["x-semievol-adapter"] == "v1"
        assert it.doubles[0].asked[0][1]["model"] == "v1"


async def test_models_shows_the_alias_alone() -> None:
    async with front([Double("a")]) as it, it.session.get(f"{it.url}/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == [ALIAS]


async def test_an_answer_of_many_megabytes_passes() -> None:
    async with front([Double("a")], max_body_bytes=10_000_000) as it:
        body = json.dumps({"model": ALIAS, "messages": [], "big": "x" * 3_000_000}).encode()
        headers = {"Content-Type": "application/json"}
        url = f"{it.url}/v1/chat/completions"
        async with it.session.post(url, data=io.BytesIO(body), headers=headers) as response:
            assert len((await response.json())["echo"]["big"]) == 3_000_000
        assert GATEWAY_TOKEN not in str(it.doubles[0].asked[0][2])
