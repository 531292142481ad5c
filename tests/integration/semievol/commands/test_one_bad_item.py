"""`semievol label` and `eval` where one text is late, too long, or refused by the template: it alone is left out."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from semievol.commands.eval import run_eval
from semievol.commands.label import run_label
from semievol.commands.train import run_train
from semievol.config.method import MethodConfig
from semievol.errors import TransientError
from semievol.teaching import no_watcher
from tests.slow_server import SlowServer, completion
from tests.tiny_model import make_tiny_model

STRICT = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BAD_TURNS = [{"role": "user", "content": "hello"}, {"role": "user", "content": "say a"}]
REFUSED = "Conversation roles must alternate"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def examples(directory: Path, *others: dict[str, Any]) -> Path:
    rows = [{"id": f"e{i}", "question": f"say {'ab'[i % 2]} {i}", "answer": "ab"[i % 2]} for i in range(6)]
    return write(directory / "examples.jsonl", [*rows, *others])


# --- over a network -------------------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[SlowServer]:
    made = SlowServer(seconds=0.02, text="a")
    await made.start()
    yield made
    await made.stop()


def remote(server: SlowServer) -> MethodConfig:
    return MethodConfig.model_validate(
        {
            "model": {"name": "m"},
            "task": {"labels": ["a", "b"]},
            "embedding": {"kind": "hashing"},
            "generation": {"kind": "openai", "base_url": f"{server.url}/v1", "model": "m", "timeout_s": 0.3},
            "labelling": {"justify": False, "configurations": [{"name": "g", "temperature": 0, "neighbours": 0}]},
        }
    )


def queries(directory: Path) -> Path:
    return write(directory / "queries.jsonl", [{"id": str(i), "question": f"q{i}"} for i in range(8)])


async def label(server: SlowServer, directory: Path) -> dict[str, Any]:
    out = directory / "out.jsonl"
    return await run_label(remote(server), examples(directory), queries(directory), out, None, no_watcher)


async def test_seven_of_eight_are_labelled_and_the_next_run_asks_for_the_eighth_alone(
    server: SlowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.delays = {"q3": 30.0}
    for _ in range(2):
        summary = await label(server, tmp_path)
        assert summary["labelled"] == 7
        assert [each["id"] for each in summary["left_out"]] == ["3"]
        assert "late 2 times" in summary["left_out"][0]["reason"]
    assert sorted(row["id"] for row in read(tmp_path / "out.jsonl")) == list("0124567")
    assert "query 3 is left out: late 2 times" in caplog.text
    assert sorted(server.asked.values()) == [1] * 7 + [4]
    server.delays = {}
    assert (await label(server, tmp_path))["labelled"] == 8
    assert sorted(server.asked.values()) == [1] * 7 + [5]
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == list("01234567")
    assert sorted(os.listdir(tmp_path)) == ["examples.jsonl", "out.jsonl", "queries.jsonl"]


async def test_what_was_answered_before_the_endpoint_left_is_not_asked_again(
    server: SlowServer, tmp_path: Path
) -> None:
    server.delays = {"q7": 0.2}
    server.odd = {"q7": [{"error": {"message": "away", "code": 429}}]}
    with pytest.raises(TransientError, match=r"HTTP 429, away; what was answered is kept in .*out\.jsonl\.answers"):
        await label(server, tmp_path)
    before = dict(server.asked)
    server.odd = {}
    assert (await label(server, tmp_path))["labelled"] == 8
    again = {key for key, times in server.asked.items() if times > before.get(key, 0)}
    assert len(again) == 1
    assert "q7" in next(iter(again))


async def test_eval_leaves_out_what_is_late_and_asks_for_it_alone_the_next_time(
    server: SlowServer, tmp_path: Path
) -> None:
    server.delays = {"say b 1": 30.0}
    out = tmp_path / "outcomes.jsonl"
    data = examples(tmp_path)
    found = await run_eval(remote(server), data, None, None, 0, out, no_watcher)
    assert (found["count"], list(found["left_out"]), found["accuracy"]) == (5, ["e1"], 0.6)
    server.delays = {}
    found = await run_eval(remote(server), data, None, None, 0, out, no_watcher)
    assert (found["count"], found["left_out"], found["accuracy"]) == (6, {}, 0.5)
    assert sorted(server.asked.values()) == [1] * 5 + [3]


async def test_half_of_a_surrogate_pair_in_an_answer_can_be_written(server: SlowServer, tmp_path: Path) -> None:
    server.odd = {"q2": [completion("a\ud83d")]}
    assert (await label(server, tmp_path))["labelled"] == 8
    (row,) = [row for row in read(tmp_path / "out.jsonl") if row["id"] == "2"]
    assert row["candidates"][0]["text"] == "a\ufffd"


# --- in this process ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    (directory / "strict.jinja").write_text(STRICT)
    return make_tiny_model(directory / "model")


def local(model: Path, *, strict: bool = False) -> MethodConfig:
    template = {"chat_template": str(model.parent / "strict.jinja")} if strict else {}
    return MethodConfig.model_validate(
        {
            "model": {"name": str(model), "dtype": "float32", "device": "cpu", **template},
            "generation": {"threads": 1},
            "task": {"labels": ["a", "b"], "max_answer_tokens": 3},
            "embedding": {"kind": "hashing"},
            "selection": {"min_agreement": 0},
            "labelling": {"configurations": [{"name": "g", "temperature": 0}, {"name": "s", "samples": 2}]},
        }
    )


SHORT = [{"id": f"q{i}", "question": f"say a 0 1 2 3 4 5, {i}"} for i in range(6)]


async def test_short_queries_near_a_long_example_are_asked_without_it(model: Path, tmp_path: Path) -> None:
    long = {"id": "long", "question": "say a 0 1 2 3 4 5 " * 14, "answer": "a"}
    asked = write(tmp_path / "queries.jsonl", SHORT)
    out = tmp_path / "out.jsonl"
    summary = await run_label(local(model), examples(tmp_path, long), asked, out, None, no_watcher)
    assert (summary["labelled"], summary["left_out"]) == (6, [])
    shown = [[example_id for example_id, _ in row["neighbours"]] for row in read(out)]
    assert all("long" not in ids and len(ids) == 2 for ids in shown)


async def test_a_query_and_an_example_that_the_template_refuses_are_left_out_alone(model: Path, tmp_path: Path) -> None:
    known = examples(tmp_path, {"id": "bad-example", "messages": BAD_TURNS, "answer": "a"})
    asked = write(tmp_path / "queries.jsonl", [*SHORT, {"id": "bad-query", "messages": BAD_TURNS}])
    out = tmp_path / "out.jsonl"
    summary = await run_label(local(model, strict=True), known, asked, out, None, no_watcher)
    assert summary["labelled"] == 6
    assert [(each["id"], REFUSED in each["reason"]) for each in summary["left_out"]] == [("bad-query", True)]
    assert all("bad-example" not in [example_id for example_id, _ in row["neighbours"]] for row in read(out))


async def test_eval_leaves_out_an_example_that_the_template_refuses_and_one_that_is_too_long(
    model: Path, tmp_path: Path
) -> None:
    data = examples(
        tmp_path,
        {"id": "bad", "messages": BAD_TURNS, "answer": "a"},
        {"id": "long", "question": "say a " * 60, "answer": "a"},
    )
    found = await run_eval(local(model, strict=True), data, None, data, 2, tmp_path / "outcomes.jsonl", no_watcher)
    assert found["count"] == 6
    assert REFUSED in found["left_out"]["bad"]
    assert "tokens, the limit is 253" in found["left_out"]["long"]


async def test_train_says_which_example_the_template_refuses_and_learns_the_others(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = examples(tmp_path, {"id": "bad", "messages": BAD_TURNS, "answer": "a"})
    config = local(model, strict=True)
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"warm_epochs": 1.0, "threads": 1})}
    )
    trained = await run_train(config, data, None, tmp_path / "out", None, no_watcher)
    assert list(trained["left_out"]) == ["bad"]
    assert REFUSED in trained["left_out"]["bad"]
    assert f"row bad is left out of the training: {trained['left_out']['bad']}" in caplog.messages
