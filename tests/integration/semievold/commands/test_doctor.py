"""The doctor asks the servers that the configuration names, and wants no more than it needs."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from semievol.examples.embedding import opening
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.types import Example, Query
from semievold.commands import doctor
from semievold.commands.doctor import Finding, examine
from semievold.config.daemon import DaemonConfig
from semievold.store.database import Database
from semievold.store.examples import ExampleStore
from semievold.store.vectors import ExampleVectors
from tests.servers import free_port
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")

KEY = "key-of-the-tests"
Serve = Callable[[Mapping[str, object]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that answer each path with its JSON value, those under /v1 and /collections to the key alone."""
    with ExitStack() as stack:

        def started(answers: Mapping[str, object]) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    given = self.headers.get("Authorization", self.headers.get("api-key", ""))
                    closed = self.path.startswith(("/v1", "/collections")) and not given.endswith(KEY)
                    status = 401 if closed else 200 if self.path in answers else 404
                    body = json.dumps(answers.get(self.path, {})).encode()
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, format: str, *args: object) -> None:
                    pass

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield started


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """The findings by part, for these sections."""
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 0)

    def found(**sections: Any) -> dict[str, Finding]:
        config = DaemonConfig.model_validate(
            {
                "workload": "w",
                "model": {"name": "m"},
                "artifacts": {"directory": tmp_path},
                "embedding": {"kind": "hashing"},
                "api": {"port": 0},
                "gateway": {"port": 0},
                **sections,
            }
        )
        return {finding.part: finding for finding in examine(config)}

    return found


def replica(*names: str) -> dict[str, object]:
    return {"/health": {}, "/v1/models": {"data": [{"id": name} for name in names]}}


def vllm(*addresses: str, key: str = KEY) -> dict[str, object]:
    return {"kind": "vllm", "replicas": list(addresses), "api_key": key}


def test_everything_answers(found: Callable[..., dict[str, Finding]], serve: Serve) -> None:
    index = {"url": serve({"/collections": {"result": {"collections": []}, "status": "ok", "time": 0}}), "api_key": KEY}
    findings = found(generation=vllm(serve(replica("base")), serve(replica("base", "w-v1"))), index=index)
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert findings["replicas"].detail.endswith(" answer")
    assert "Qdrant answers" in findings["index"].detail


def test_the_replicas_that_cannot_be_used_are_named(found: Callable[..., dict[str, Finding]], serve: Serve) -> None:
    good, other, silent = serve(replica("base")), serve(replica("llama")), f"127.0.0.1:{free_port()}"
    finding = found(generation=vllm(good, other, f"http://{silent}"))["replicas"]
    assert not finding.ok
    assert finding.detail.startswith("2 of 3 replicas")
    assert silent in finding.detail
    assert f"{other.removeprefix('http://')}: serves llama, not base (generation.base_name)" in finding.detail
    assert good.removeprefix("http://") not in finding.detail


def test_a_replica_that_cannot_sleep_is_named_where_it_is_to(
    found: Callable[..., dict[str, Finding]], serve: Serve
) -> None:
    able, unable = serve({**replica("base"), "/is_sleeping": {"is_sleeping": False}}), serve(replica("base"))
    shared = {"share_gpu": "sleep"}
    assert found(generation=vllm(able), training=shared)["replicas"].ok
    assert found(generation=vllm(able, unable), training={**shared, "share_gpu_with": [able]})["replicas"].ok
    assert found(generation=vllm(able, unable))["replicas"].ok
    finding = found(generation=vllm(able, unable), training=shared)["replicas"]
    assert not finding.ok
    assert finding.detail.startswith("1 of 2 replicas cannot be used: training.share_gpu: ")
    assert "start it with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1" in finding.detail
    assert unable.removeprefix("http://") in finding.detail


def test_keys_that_are_refused_are_told_and_not_shown(found: Callable[..., dict[str, Finding]], serve: Serve) -> None:
    findings = found(
        generation=vllm(serve(replica("base")), key="not-the-key"),
        index={"url": serve({"/collections": {}}), "api_key": "not-the-key"},
    )
    assert not findings["replicas"].ok
    assert not findings["index"].ok
    assert "API key" in findings["index"].detail
    assert "not-the-key" not in str(findings)


def test_an_index_server_that_is_away_is_told(found: Callable[..., dict[str, Finding]]) -> None:
    finding = found(index={"url": f"http://127.0.0.1:{free_port()}"})["index"]
    assert not finding.ok
    assert "does not answer" in finding.detail


def test_the_index_in_memory_says_which_vectors_the_state_has_and_what_is_left_of_an_earlier_version(
    found: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    assert found()["index"] == Finding("index", True, "in memory, for 0 examples; vectors in the state: none yet")
    with contextlib.closing(Database(f"sqlite:///{tmp_path / 'state.db'}")) as database:
        example, embedder = Example(Query("a", "?"), "x"), HashingEmbedder()
        ExampleStore(database, "w").upsert([(example, False), (Example(Query("b", "?"), "x"), False)])
        ExampleVectors(database, "w", embedder).keep([example], embedder.embed(["?"]))
    (tmp_path / "index" / "collection").mkdir(parents=True)
    finding = found()["index"]
    assert finding.ok
    assert finding.detail.startswith("in memory, for 2 examples; vectors in the state: 1 of hashing-1:256; ")
    assert finding.detail.endswith(
        f"{tmp_path.resolve()}/index holds the embedded Qdrant of an earlier version, is not used any more and may be "
        "deleted"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "meta.json").write_text("{}")
    assert str(tmp_path / "elsewhere") in found(index={"path": tmp_path / "elsewhere"})["index"].detail
    assert (tmp_path / "index" / "collection").is_dir()


def test_a_qdrant_client_that_is_missing_is_named_with_its_extra(
    found: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_missing", lambda names: [name for name in names if name == "qdrant_client"])
    assert found()["packages"].ok
    finding = found(index={"url": "http://qdrant:6333"})["packages"]
    assert (finding.ok, finding.detail) == (False, "qdrant_client missing: install semievol[qdrant]")


def test_only_the_packages_that_the_configuration_needs_are_wanted(
    found: Callable[..., dict[str, Finding]], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"torch", "peft", "sentence_transformers"}
    monkeypatch.setattr(doctor, "_missing", lambda names: [name for name in names if name in absent])
    monkeypatch.setattr(opening, "build_embedder", lambda _: HashingEmbedder())  # loads no model
    assert not found()["packages"].ok
    servers = vllm(serve(replica("base")))
    remote = found(generation=servers)["packages"]
    assert remote.ok
    assert "torch, peft missing: the process with the control role" in remote.detail
    local = found(generation=servers, embedding={"kind": "sentence_transformers"})["packages"]
    assert not local.ok
    assert local.detail.startswith("sentence_transformers missing")


def test_a_port_that_a_running_daemon_holds_is_no_problem_and_another_program_is(
    found: Callable[..., dict[str, Finding]], serve: Serve, tmp_path: Path
) -> None:
    address = serve({"/healthz": {"status": "ok"}})
    port = int(address.rpartition(":")[2])
    foreign = found(api={"port": port})["api"]
    assert not foreign.ok
    assert "cannot be taken" in foreign.detail
    (tmp_path / "endpoints.json").write_text(json.dumps({"api": address}))
    findings = found(api={"port": port}, gateway={"port": 0})
    assert findings["api"] == Finding("api", True, f"127.0.0.1:{port} is in use by a running daemon")


@pytest.mark.parametrize("roles", [("",), ("-gateway", "-intake")], ids=["one process", "roles apart"])
def test_texts_that_were_kept_from_becoming_control_tokens_are_told_with_where(
    found: Callable[..., dict[str, Finding]], serve: Serve, tmp_path: Path, roles: tuple[str, ...]
) -> None:
    assert "no running daemon" in found()["control texts"].detail
    (tmp_path / "endpoints-gone.json").write_text(json.dumps({"api": "http://127.0.0.1:9"}))
    (tmp_path / "endpoints-broken.json").write_text("[")
    for role in roles:
        status = {"neutralised": {"gateway": 3, "prompt": 0, "training": 2}}
        (tmp_path / f"endpoints{role}.json").write_text(json.dumps({"api": serve({"/v1/status": status})}))
    detail = found(api={"token": KEY + KEY})["control texts"].detail
    assert detail.endswith(f": gateway {3 * len(roles)}, training {2 * len(roles)}")


def test_what_the_first_round_waits_for_is_told_although_nothing_is_wrong(
    found: Callable[..., dict[str, Finding]],
) -> None:
    finding = found()["rounds"]
    assert finding.ok
    assert "waits for: 0 of 16 examples for the warm round" in finding.detail
    assert "no process leads" in finding.detail


def test_files_that_other_users_may_read_are_named(found: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for name, mode in (("state.db", 0o644), ("fine.db", 0o600), ("answers.jsonl", 0o660)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    before = os.umask(0o077)  # as the command line sets it
    try:
        detail = found()["files"].detail
    finally:
        os.umask(before)
    assert "state.db" in detail
    assert "answers.jsonl" in detail
    assert "fine.db" not in detail
    assert f"chmod -R go-rwx {tmp_path}" in detail


def test_a_model_directory_that_is_not_there_is_not_taken_for_a_name_of_the_hub(
    found: Callable[..., dict[str, Finding]],
) -> None:
    seen = found(model={"name": "/no/such/model"})["model"]
    assert (seen.ok, seen.detail) == (False, "model.name: the directory /no/such/model does not exist")
    assert found(model={"name": "owner/model"})["model"].ok


def test_answers_that_never_fit_are_named(found: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    """Tokens of the tiny model are bytes."""
    model = {"name": str(make_tiny_model(tmp_path / "tiny", positions=64))}
    labels = ["paid", "sent back to the shop"]
    assert found(model=model, task={"labels": labels, "max_answer_tokens": 22})["model"].ok
    seen = found(model=model, task={"labels": labels, "max_answer_tokens": 21})["model"]
    assert not seen.ok
    assert "21 are too few for 1 of the 2 task.labels, of which 'sent back to the shop' takes 21" in seen.detail
    assert "set 22 or more" in seen.detail
    seen = found(model=model, task={"max_answer_tokens": 64})["model"]
    assert not seen.ok
    assert "64 leave no room for a question in the 64 positions" in seen.detail


def test_a_file_in_place_of_the_directory_is_named(found: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    for directory in (tmp_path / "data", tmp_path / "data" / "below"):
        seen = found(artifacts={"directory": directory})["artifacts"]
        assert (seen.ok, f"{tmp_path / 'data'} is no directory" in seen.detail) == (False, True)


@pytest.mark.parametrize("setting", ["gateway.drain_s", "intake.stop_timeout_s"])
def test_a_stop_that_cuts_what_it_waits_for_is_named(found: Callable[..., dict[str, Finding]], setting: str) -> None:
    section, name = setting.split(".")
    kept = found(stop_deadline_s=40, **{section: {name: 39}})["stop"]
    assert kept == Finding("stop", True, "what runs is finished within 39 s of 40")
    cut = found(stop_deadline_s=40, **{section: {name: 40}})["stop"]
    assert not cut.ok
    assert cut.detail.startswith(f"{setting} is 40 and stop_deadline_s 40: ")
    assert cut.detail.endswith("set stop_deadline_s above 40 where that role runs")
