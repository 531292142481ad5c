"""`review label` at a terminal and in a pipe, `review list`, `export` and `import`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from semievol.errors import ConfigError, DataError
from semievold.commands.review_files import export_items, import_answers
from semievold.commands.reviewing import KEYS, Session, keyed, meant, show_items, terminal_reads
from tests.control_world import OpenWorld
from tests.reviewers import ReviewDesk
from tests.unit.semievold.review.test_answering import stored, teaching


async def labelled(desk: ReviewDesk, text: str, **options: Any) -> Session:
    """A session whose input is this text."""
    read_key, read_text = terminal_reads(io.StringIO(text))
    session = Session(desk.reviewers, None, read_key, read_text, **options)
    await session.run()
    return session


async def test_a_line_an_answer_labels_item_by_item(open_world: OpenWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world, desk = await teaching(open_world, *range(5))
    first, second, third, fourth, fifth = (item["id"] for item in desk.waiting())
    session = await labelled(desk, "1\nodd\n\n=even\nt\nOdd\ns\n1\n")
    await desk.settled()
    found = {query_id: stored(world, query_id) for query_id in (first, second, third, fourth)}
    assert [each[0] for each in found.values()] == ["even", "odd", "even", "odd"]
    assert stored(world, fifth) is None
    assert (session.done.labelled, session.done.skipped) == (4, 1)
    shown = capsys.readouterr().out
    assert "[teach]" in shown
    assert "1  even" in shown
    assert "nothing waits" in shown
    assert shown.endswith("4 labelled, 1 skipped\n")


async def test_a_wrong_key_is_asked_again_and_the_last_answer_can_be_undone(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1, 2)
    first, second = (item["id"] for item in desk.waiting())
    session = await labelled(desk, "9\nblue\nu\n1\nu\n2\n1\nu\nu\nq\n")
    assert [refused.partition(":")[0] for refused in session.done.refused] == ["'9'", "field 'answer'"]
    assert {item["id"] for item in desk.waiting()} == {first, second}
    session = await labelled(desk, "2\n1\n")
    await desk.settled()
    answers = [stored(world, query_id)[0] for query_id in (first, second)]
    assert answers == ["odd", "even"]


async def test_a_program_reads_and_writes_lines_of_json(
    open_world: OpenWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    _, desk = await teaching(open_world, 1)
    (item,) = desk.waiting()
    await labelled(desk, "blue\nodd\n", as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"item": item}
    assert "'blue'" in lines[1]["error"]
    assert lines[3] == {"review": item["review"], "id": "q1", "state": "given", "answer": "odd"}
    assert lines[4] == {"item": None}
    assert lines[5] == {"labelled": 1, "skipped": 0, "undone": 0}


def test_a_key_means_what_stands_beside_it() -> None:
    item = {"purpose": "teach", "answers": ["even", "odd"], "candidates": [{"answer": "odd"}]}
    assert keyed(item) == {"1": "even", "2": "odd"}
    assert [meant(item, said) for said in ("2", "3", "Odd", "=2")] == ["odd", None, "Odd", "2"]
    assert keyed({**item, "purpose": "gate"}) == {"1": "odd", "2": "even"}
    many = {"purpose": "teach", "answers": [str(number) for number in range(99)], "candidates": [{"answer": "7"}]}
    assert keyed(many) == {"1": "7"}
    assert not set(KEYS) & set("tsuq")


async def test_the_list_says_what_waits_and_why_nothing_does(
    open_world: OpenWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    _, desk = await teaching(open_world, 1)
    show_items(desk.reviewers.waiting())
    shown = capsys.readouterr().out
    assert "is 1 even?" in shown
    assert "gate: nothing waits: no gate waits for labels\n" in shown
    await desk.reviewers.skip(desk.waiting()[0]["review"])
    show_items(desk.reviewers.waiting())
    assert "teach: nothing waits: none of the queries" in capsys.readouterr().out


def answer(path: Path, value: str) -> None:
    """A tool answers every item of the file."""
    if path.suffix == ".csv":
        path.write_bytes(path.read_bytes().replace(b",\r\n", b",%b\r\n" % value.encode()))
        return
    rows = json.loads(path.read_text("utf-8"))
    for row in rows:
        if "data" in row:
            row["annotations"] = [{"result": [{"from_name": "answer", "value": {"choices": [value]}}]}]
        else:
            row["responses"] = {"answer": [{"value": value, "user_id": "u", "status": "submitted"}]}
    path.write_text(json.dumps(rows), "utf-8")


@pytest.mark.parametrize("form", ["labelstudio", "argilla", "csv"])
async def test_what_a_tool_has_answered_becomes_labels_once(open_world: OpenWorld, tmp_path: Path, form: str) -> None:
    world, desk = await teaching(open_world, 1, 2, 3)
    path = tmp_path / f"items.{'csv' if form == 'csv' else 'json'}"
    report = export_items(desk.reviewers, str(path), form, None, overwrite=False)
    assert report is not None
    assert report["items"] == 3
    with pytest.raises(ConfigError, match="--overwrite"):
        export_items(desk.reviewers, str(path), form, None, overwrite=False)
    unanswered = await import_answers(desk.reviewers, str(path), skip_invalid=False)
    assert (unanswered["labels"], unanswered["unanswered"]) == (0, 3)
    answer(path, "odd")
    before = await import_answers(desk.reviewers, str(path), skip_invalid=False)
    await desk.settled()
    after = await import_answers(desk.reviewers, str(path), skip_invalid=False)
    assert [(each["labels"], each["already_labelled"]) for each in (before, after)] == [(3, 0), (0, 3)]
    assert {stored(world, f"q{number}") for number in (1, 2, 3)} == {("odd", "review", False)}
    assert desk.closed == 3


async def test_of_a_file_with_a_wrong_answer_nothing_is_taken_unless_it_is_wanted(
    open_world: OpenWorld, tmp_path: Path
) -> None:
    _, desk = await teaching(open_world, 1, 2)
    first, second = desk.waiting()
    rows = [
        {"review": first["review"], "answer": "odd"},
        {"id": second["id"], "answer": "blue"},
        {"review": "0" * 32, "answer": "odd"},
    ]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"answers\.json.*2: field 'answer': 'blue'.*--skip-invalid"):
        await import_answers(desk.reviewers, str(path), skip_invalid=False)
    assert len(desk.waiting()) == 2
    report = await import_answers(desk.reviewers, str(path), skip_invalid=True)
    assert (report["labels"], report["invalid"]) == (1, 2)
    assert "there is no item" in report["problems"][1]
    path.write_text("[{")
    with pytest.raises(DataError, match=r"answers\.json"):
        await import_answers(desk.reviewers, str(path), skip_invalid=True)
