"""Bad input to a running daemon: each record is refused or dead-lettered with its reason, and the daemon lives on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from semievold.store.database import Database
from semievold.store.tables import stream_records
from tests.daemon_process import TOKEN, DaemonProcess, example, query, tiny_config

pytestmark = pytest.mark.timeout(180)

BAD_QUERIES: dict[str, bytes] = {
    "malformed_json": b'{"id": "b1", "question": "red',
    "missing_field": b'{"id": "b2"}',
    "question_too_long": json.dumps({"id": "b3", "question": "x" * 1_000_000}).encode(),
    "invalid_utf8": b'{"id": "b4", "question": "\xff\xfe"}',
    "unsupported_schema_version": b'{"schema_version": 2, "id": "b5", "question": "red"}',
    "record_too_large": json.dumps({"id": "b6", "question": "x" * 1_100_000}).encode(),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    # The intake does not wait for the warm round: what is tested here are records, not learning.
    directory = tmp_path_factory.mktemp("bad-input")
    config = tiny_config(directory, rounds={"wait_for_warm": False}, trigger={"min_examples": 999})
    process = DaemonProcess(config)
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def import_(daemon: DaemonProcess, what: str, lines: list[bytes], *options: str) -> subprocess.CompletedProcess[str]:
    file = daemon.data / f"{what}.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    command = [
        sys.executable,
        "-m",
        "semievold.commands.cli",
        what,
        "import",
        str(file),
        "-c",
        str(daemon.config),
        "-o",
        "json",
    ]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def letters(daemon: DaemonProcess) -> list[Any]:
    database = Database(f"sqlite:///{daemon.data.resolve() / 'state.db'}")
    with database.read() as connection:
        rows = connection.execute(sa.select(stream_records).where(stream_records.c.topic == "semievol.dead-letter"))
        found = list(rows.mappings())
    database.close()
    return found


def test_every_bad_query_is_dead_lettered_with_its_reason_and_its_bytes(daemon: DaemonProcess) -> None:
    good = [json.dumps(query(number)).encode() for number in range(4)]
    reused = json.dumps({"id": "q0", "question": "another question"}).encode()
    done = import_(daemon, "queries", [*good, *BAD_QUERIES.values(), good[0], reused], "--raw")
    assert done.returncode == 0, done.stderr
    daemon.wait_until(lambda: len(letters(daemon)) == len(BAD_QUERIES) + 1)
    daemon.wait_until(lambda: daemon.status()["pseudo_labels"]["total"] == 4)
    found = letters(daemon)
    assert Counter(letter["headers"]["reason"] for letter in found) == Counter([*BAD_QUERIES, "duplicate_id"])
    for letter in found:
        reason = letter["headers"]["reason"]
        assert letter["value"] == BAD_QUERIES.get(reason, reused)
        assert letter["headers"]["source_topic"] == "semievol.queries"
    assert daemon.get("/healthz").status_code == 200


def test_an_answer_outside_the_closed_set_never_becomes_an_example(daemon: DaemonProcess) -> None:
    before = len(letters(daemon))
    bad = json.dumps({"id": "e1", "question": "red 1", "answer": "crimson"}).encode()
    assert import_(daemon, "labels", [bad], "--raw").returncode == 0
    daemon.wait_until(lambda: len(letters(daemon)) == before + 1)
    assert letters(daemon)[-1]["headers"]["reason"] == "answer_not_allowed"
    assert daemon.status()["examples"]["training"] + daemon.status()["examples"]["holdout"] == 0


def test_import_names_file_line_and_field_and_publishes_nothing(daemon: DaemonProcess) -> None:
    before = daemon.status()["pseudo_labels"]["total"]
    done = import_(daemon, "queries", [json.dumps(query(50)).encode(), b'{"id": "x"}'])
    assert done.returncode == 2
    assert "queries.jsonl:2: question: missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert daemon.status()["pseudo_labels"]["total"] == before


def test_records_in_bulk_are_all_taken_or_none_unless_the_rest_is_wanted(daemon: DaemonProcess) -> None:
    import httpx

    token = {"Authorization": f"Bearer {TOKEN}"}

    def post(path: str, body: bytes) -> httpx.Response:
        return httpx.post(daemon.url("api") + path, content=body, headers=token, timeout=30)

    rows = [{"text": "red 900"}, {"text": " "}, {"text": "blue 900"}]
    refused = post("/v1/queries", json.dumps(rows).encode())
    assert refused.status_code == 400
    assert [each["record"] for each in refused.json()["error"]["records"]] == [1]
    lines = b"\xef\xbb\xbf" + b"\n".join(json.dumps(row).encode() for row in rows)
    taken = post("/v1/queries?skip_invalid=true", lines)
    assert taken.status_code == 202
    found = taken.json()
    assert (found["published"], [each["record"] for each in found["problems"]]) == (2, [1])
    assert found["form"] == "read as columns: question = text, ids by content"
    assert [each["record"] for each in found["records"]] == [0, 2]
    assert post("/v1/queries", json.dumps([rows[0]]).encode()).json()["records"][0]["id"] == found["records"][0]["id"]
    assert post("/v1/queries?skip_invalid=perhaps", b"{}").status_code == 400
    assert post("/v1/queries", b" " * 1_048_577).status_code == 413


def test_a_null_value_retracts_a_label(daemon: DaemonProcess) -> None:
    daemon.publish("labels", [example(number) for number in range(5)])
    count = lambda: sum(daemon.status()["examples"][side] for side in ("training", "holdout"))  # noqa: E731
    daemon.wait_until(lambda: count() == 5)
    done = subprocess.run(
        [sys.executable, "-m", "semievold.commands.cli", "labels", "retract", "e3", "-c", str(daemon.config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    daemon.wait_until(lambda: count() == 4)


def test_the_api_and_the_gateway_answer_nothing_without_their_token(daemon: DaemonProcess) -> None:
    import httpx

    for front, path in (("api", "/v1/status"), ("api", "/v1/explain/q0"), ("gateway", "/v1/models")):
        assert httpx.get(daemon.url(front) + path).status_code == 401
    assert httpx.get(daemon.url("api") + "/metrics").status_code == 200


def test_bad_gateway_requests_are_refused_by_field(daemon: DaemonProcess) -> None:
    assert daemon.chat("red", temperature=-1).json()["error"]["message"].startswith("temperature")
    assert daemon.post("/v1/chat/completions", {"model": "tiny"}, front="gateway").status_code == 400
    assert daemon.post("/v1/chat/completions", {"model": "tiny", "messages": []}, front="gateway").status_code == 400
    assert daemon.post("/v1/chat/completions", {"model": "gpt", "messages": []}, front="gateway").status_code == 404
    too_long = daemon.chat("x" * 5000)
    assert too_long.status_code == 400
    assert "tokens" in too_long.json()["error"]["message"]
    assert daemon.chat("x" * 2_000_000).status_code == 413


BAD_REQUESTS: tuple[tuple[str, Any], ...] = (
    ("/v1/rounds", {"kind": "sideways"}),
    ("/v1/rounds", {"kind": 5}),
    ("/v1/rounds", {"kind": "warm", "shuffel_labels": True}),
    ("/v1/rounds", {"shuffle_labels": "yes"}),
    ("/v1/rounds", {"reason": "x" * 201}),
    ("/v1/rounds", ["warm"]),
    ("/v1/rounds", "warm"),
    ("/v1/rounds/0/cancel", {"why": "so"}),
    ("/v1/adapters/tiny-r0000-00000000/promote", {"force": True}),
    ("/v1/adapters/%20x/promote", {}),
    ("/v1/rollback", {"to": "tiny-r0000-00000000"}),
)


@pytest.mark.parametrize(("path", "body"), BAD_REQUESTS)
def test_a_request_that_says_what_nobody_can_do_is_refused_and_not_kept(
    daemon: DaemonProcess, path: str, body: Any
) -> None:
    answer = daemon.post(path, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
    assert daemon.rounds() == []


@pytest.mark.parametrize("number", ["99999999999", "9" * 30, "9" * 5000])
def test_a_round_of_an_impossible_number_is_not_found_and_the_daemon_lives_on(
    daemon: DaemonProcess, number: str
) -> None:
    assert daemon.get(f"/v1/rounds/{number}").status_code == 404
    assert daemon.post(f"/v1/rounds/{number}/cancel").status_code == 404
    assert daemon.get("/healthz").status_code == 200


def test_what_is_waited_for_is_said_wherever_somebody_looks(daemon: DaemonProcess) -> None:
    """With 999 examples wanted nothing will ever start by itself, and nothing is broken."""
    wanted = "of 999 examples for the warm round"
    ready = daemon.get("/readyz").json()
    assert ready["ready"]
    assert wanted in ready["held"]["rounds"]
    assert wanted in daemon.status()["waiting_for"]
    metrics = daemon.get("/metrics").text
    assert 'semievol_waiting{what="examples",workload="tiny"} 1.0' in metrics
    assert 'semievol_role{role="control",workload="tiny"} 1.0' in metrics
    assert 'semievol_retries_total{role="intake",workload="tiny"} 0.0' in metrics
    # What the leader reads of the state, by its timer.
    daemon.wait_until(lambda: 'semievol_rounds{state="planned",workload="tiny"} 0.0' in daemon.get("/metrics").text)
    assert f"{wanted}" in daemon.log(1000)


def test_a_mark_of_byte_order_before_a_body_is_passed_over(daemon: DaemonProcess) -> None:
    import httpx

    body = {"model": "tiny", "messages": [{"role": "user", "content": "red"}], "max_tokens": 4}
    marked = b"\xef\xbb\xbf" + json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    url = daemon.url("gateway") + "/v1/chat/completions"
    assert httpx.post(url, content=marked, headers=headers, timeout=60).status_code == 200


def test_a_misspelt_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    settings = yaml.safe_load(config.read_text())
    settings["trigger"]["new_pseudo_label"] = 5
    config.write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, "-m", "semievold.commands.cli", "config", "validate", "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "trigger.new_pseudo_label" in done.stderr
    assert "new_pseudo_labels" in done.stderr


def test_a_second_daemon_on_the_same_directory_is_refused(daemon: DaemonProcess) -> None:
    command = [sys.executable, "-m", "semievold.commands.cli", "run", "-c", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another daemon runs" in done.stderr
