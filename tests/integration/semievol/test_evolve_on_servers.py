"""`semievol evolve` where the model is not in this process: an OpenAI-compatible endpoint, and real vLLM servers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol.adapter_directory import hosted_model, verify
from semievol.commands.eval import run_eval
from semievol.commands.evolve import EvolveFiles, run_evolve
from semievol.commands.label import run_label
from semievol.config.method import MethodConfig
from semievol.teaching import no_watcher
from tests.openai_api import BASE, KEY, OpenAIApi
from tests.servers.vllm import START_S, VllmServer

QUERIES = 12
SAMPLES = 2


def settings(**sections: Any) -> dict[str, Any]:
    return {
        "embedding": {"kind": "hashing", "dimensions": 32},
        "task": {"labels": ["a", "b"], "max_answer_tokens": 3},
        "labelling": {
            "configurations": [
                {"name": "greedy", "temperature": 0, "neighbours": 1},
                {"name": "sampled", "samples": SAMPLES, "neighbours": 1},
            ],
            "batch_size": 4,
        },
        "selection": {"theta": 1.0, "min_agreement": 0},
        "gate": {"min_holdout": 5},
        **sections,
    }


def hosted_settings(api: OpenAIApi, **more: Any) -> dict[str, Any]:
    return settings(
        model={"name": BASE},
        generation={"kind": "openai", "base_url": api.url},
        training={"kind": "openai_api", "openai_api": {"poll_interval_s": 0.01}},
        **more,
    )


def files(directory: Path, out: str = "run") -> EvolveFiles:
    """Two thirds of the examples are of the label that the endpoint's base model never says."""
    rows = [(f"e{i}", "aab"[i % 3]) for i in range(45)]
    write(directory / "labeled.jsonl", [{"id": id_, "question": f"say {x} {id_}", "answer": x} for id_, x in rows])
    write(
        directory / "unlabeled.jsonl", [{"id": f"q{i}", "question": f"say {'ab'[i % 2]} q{i}"} for i in range(QUERIES)]
    )
    return EvolveFiles(directory / "labeled.jsonl", directory / "unlabeled.jsonl", directory / out)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
async def api() -> AsyncIterator[OpenAIApi]:
    made = OpenAIApi()
    await made.start()
    yield made
    await made.stop()


async def start(config: Path, data: EvolveFiles) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "semievol.commands.cli", "evolve", "-c", str(config), "-o", "json", "--holdout", "0.4"),
        *("--examples", str(data.examples), "--queries", str(data.queries), "--out", str(data.out)),
        env={**os.environ, "SEMIEVOL__GENERATION__API_KEY": KEY, "PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_run_on_an_endpoint_that_is_killed_twice_pays_for_nothing_twice(api: OpenAIApi, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(hosted_settings(api)))
    data = files(tmp_path)
    api.hold = True
    process = await start(tmp_path / "c.yaml", data)
    await api.held.wait()  # in the training of the warm round
    process.kill()
    await process.communicate()

    api.hold = False
    answered = len(api.chats)
    holdout = 2 * 18  # both models, at most
    api.stop_after_chats = answered + holdout + 10
    process = await start(tmp_path / "c.yaml", data)
    await api.chat_asked.wait()  # in the labelling of the second round
    process.kill()
    await process.communicate()
    labelled = Counter(body["messages"][-1]["content"] for body in api.chats if " q" in body["messages"][-1]["content"])
    assert labelled

    api.stop_after_chats = None
    process = await start(tmp_path / "c.yaml", data)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    summary = json.loads(output)
    warm, evolved = summary["rounds"]
    assert warm["gate"]["decision"] == "promote"
    assert hosted_model(data.out / "adapters" / warm["adapter"]) == f"ft:{BASE}:ftjob-1"
    assert hosted_model(data.out / "adapters" / evolved["adapter"]) == f"ft:{BASE}:ftjob-2"
    assert (len(api.files), len(api.jobs)) == (2, 2)
    assert evolved["labelled"] == QUERIES
    asked = Counter(body["messages"][-1]["content"] for body in api.chats if " q" in body["messages"][-1]["content"])
    # Two requests a query; only those of the batch in which the process was killed came again.
    assert sum(asked.values()) <= 2 * QUERIES + 2 * 4
    assert KEY not in "".join(path.read_text() for path in data.out.rglob("*.json*"))


async def test_configurations_ask_other_models_and_adapters_of_the_endpoint(api: OpenAIApi, tmp_path: Path) -> None:
    data = files(tmp_path)
    config = MethodConfig.model_validate(
        {
            **hosted_settings(api),
            "generation": {"kind": "openai", "base_url": api.url, "api_key": KEY},
            "models": {"second": {"kind": "openai", "base_url": api.url, "api_key": KEY, "model": BASE}},
        }
    )
    trained = (await run_evolve(config, data, rounds=0, holdout_share=0.4, watcher=no_watcher))["serving"]
    adapter = data.out / "adapters" / trained
    configurations = [
        {"name": "tuned", "temperature": 0, "adapter": str(adapter), "neighbours": 0},
        {"name": "by name", "temperature": 0, "adapter": hosted_model(adapter), "neighbours": 0},
        {"name": "other", "temperature": 0, "model": "second", "neighbours": 0, "template": "please {question}"},
    ]
    labelling = {"configurations": configurations, "justify": False}
    mixed = MethodConfig.model_validate(config.model_dump() | {"labelling": labelling})
    out = tmp_path / "labels.jsonl"
    await run_label(mixed, data.examples, data.queries, out, None, no_watcher)
    first = json.loads(out.read_text().splitlines()[0])  # "say a q0"
    assert [(each["configuration"], each["answer"]) for each in first["candidates"]] == [
        ("tuned", "a"),
        ("by name", "a"),
        ("other", "b"),
    ]
    assert "please say a q0" in [body["messages"][-1]["content"] for body in api.chats]
    evaluated = await run_eval(mixed, data.examples, adapter, None, 0, None, no_watcher)
    assert evaluated["accuracy"] == 1.0


@pytest.mark.timeout(START_S + 300)
async def test_a_run_on_vllm_leaves_the_server_as_it_was(vllm_server: VllmServer, tmp_path: Path) -> None:
    data = files(tmp_path)
    config = MethodConfig.model_validate(
        settings(
            model={"name": str(vllm_server.model), "dtype": "float32", "device": "cpu"},
            generation={"kind": "vllm", "replicas": [vllm_server.url]},
            training={"learning_rate": 0.01, "epochs": 1, "rank": 4, "batch_size": 8, "threads": 1},
        )
    )
    steps: list[str] = []

    def watch(step: str, total: int) -> Any:
        steps.append(step)
        return lambda count: None

    first = await run_evolve(config, data, rounds=0, holdout_share=0.4, watcher=watch)
    assert vllm_server.models() == {"base"}
    summary = await run_evolve(config, data, rounds=1, holdout_share=0.4, watcher=watch)
    assert summary["rounds"][0] == first["rounds"][0]
    assert [each["kind"] for each in summary["rounds"]] == ["warm", "evolve"]
    for each in summary["rounds"]:
        assert verify(data.out / "adapters" / each["adapter"]).round_number == each["number"]
    assert steps.count("round 1: train (%)") == 1
    assert "round 2: label" in steps
    assert vllm_server.models() == {"base"}
