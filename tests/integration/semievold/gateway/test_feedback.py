"""A client's query is captured and answered by the loop; its feedback becomes a label of that query. And streaming from
the embedded generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.daemon_process import DaemonProcess, tiny_config
from tests.openai_double import events

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("feedback")
    config = tiny_config(
        directory,
        rounds={"wait_for_warm": False},
        trigger={"min_examples": 999},
        labels={"holdout_share": 0.0001},  # else feedback under some ids is withheld
        gateway={"port": 0, "token": "token-of-the-tests", "capture": {"share": 1.0}},
    )
    process = DaemonProcess(config)
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def feedback(daemon: DaemonProcess, **body: Any) -> httpx.Response:
    return daemon.post("/v1/feedback", body, front="gateway")


def examples(daemon: DaemonProcess) -> int:
    return sum(daemon.status()["examples"][side] for side in ("training", "holdout"))


def explained(daemon: DaemonProcess, query_id: str) -> Any:
    response = daemon.get(f"/v1/explain/{query_id}")
    return response.json() if response.status_code == 200 else None


def test_feedback_joins_the_answer_to_the_captured_query_once(daemon: DaemonProcess) -> None:
    answer = daemon.chat("red 5", max_tokens=4)
    query_id = answer.headers["x-semievol-query-id"]
    assert query_id == answer.json()["id"]
    at_once = feedback(daemon, id=query_id, answer="Red")
    assert (at_once.status_code, at_once.json()["answer"]) == (202, "red")
    seen = daemon.wait_until(lambda: explained(daemon, query_id))
    assert seen["question"] == "red 5"
    for _ in range(2):  # idempotent
        done = feedback(daemon, id=query_id, answer=" RED ")
        assert (done.status_code, done.json()) == (202, {"id": query_id, "answer": "red", "status": "joined"})
    daemon.wait_until(lambda: explained(daemon, query_id)["truth"] == "red")
    assert examples(daemon) == 1
    told = httpx.get(
        daemon.url("gateway") + "/v1/feedback",
        params={"id": query_id},
        headers={"Authorization": "Bearer token-of-the-tests"},
    )
    assert told.json() == {"id": query_id, "answer": "red", "status": "joined", "outcome": "used"}
    seen = explained(daemon, query_id)
    assert seen["truth_source"] == "feedback"
    assert [(each["answer"], each["outcome"]) for each in seen["feedback"]] == [("red", "used")]
    daemon.wait_until(lambda: 'feedback_total{outcome="used",workload="tiny"}' in daemon.get("/metrics").text)


def test_feedback_that_cannot_be_a_label_is_refused_by_field(daemon: DaemonProcess) -> None:
    for more in ({}, {"question": "blue 1"}):
        unknown = feedback(daemon, id="nobody", answer="red", **more)
        assert unknown.status_code == 404
        assert "x-semievol-query-id" in unknown.json()["error"]["message"]
    query_id = daemon.chat("green 2", max_tokens=4).headers["x-semievol-query-id"]
    daemon.wait_until(lambda: explained(daemon, query_id))
    for body, status, says in (
        ({"id": query_id, "answer": "crimson"}, 400, "'answer'"),
        ({"id": query_id}, 400, "answer: missing"),
        ({"id": query_id, "answer": ["red"]}, 400, "answer"),
        ({"id": query_id, "answer": "red", "rating": 5}, 400, "rating"),
        ({"id": query_id, "answer": "red", "source": "operator"}, 400, "source"),
        ({"id": query_id, "answer": "red", "answers": ["blue"]}, 400, "answers"),
        ({"id": query_id, "answer": "red", "question": "another"}, 409, "id"),
        ({"answer": "red", "question": "x"}, 400, "id: missing"),
        ({"id": {"a": 1}, "answer": "red", "question": "x"}, 400, "id: not a text"),
        ({"id": "x" * 600, "answer": "red", "question": "x"}, 404, "id"),
        ({"id": query_id, "answer": "red", "messages": []}, 400, "messages"),
    ):
        refused = feedback(daemon, **body)
        assert refused.status_code == status, refused.text
        assert says in refused.json()["error"]["message"], refused.text
    assert daemon.post("/v1/feedback", [], front="gateway").status_code == 400


def test_an_opted_out_query_is_answered_and_not_kept(daemon: DaemonProcess) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "blue"}], "max_tokens": 2}
    headers = {"Authorization": "Bearer token-of-the-tests", "x-semievol-no-capture": "1"}
    url = daemon.url("gateway") + "/v1/chat/completions"
    answer = httpx.post(url, json=body, headers=headers, timeout=30.0)
    assert answer.status_code == 200
    assert "x-semievol-query-id" not in answer.headers
    assert 'gateway_capture_dropped_total{reason="opted_out",workload="tiny"} 1.0' in daemon.get("/metrics").text


def test_the_embedded_generator_streams_its_whole_answer_in_the_right_shape(daemon: DaemonProcess) -> None:
    whole = daemon.chat("red", max_tokens=6).json()
    streamed = daemon.chat("red", max_tokens=6, stream=True, stream_options={"include_usage": True}, logprobs=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["x-semievol-adapter"] == "base"
    *chunks, usage, done = events(streamed.content)
    assert done == "[DONE]"
    assert usage["usage"] == whole["usage"]
    assert usage["choices"] == []
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"tiny"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert content == whole["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert len(chunks[0]["choices"][0]["logprobs"]["content"]) == whole["usage"]["completion_tokens"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
