"""The comparison of clients' calls: shapes and verdicts, and the table in the documentation that comes of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.clients import table
from tests.clients.calls import Call, all_calls
from tests.clients.shapes import differences, shape_of
from tests.clients.verdicts import Kind, verdict

CALL = Call("curl", "chat", lambda _at: None)
ANSWER = {"kind": "answer", "shape": {"id": "text"}}
ERROR = {"kind": "error", "class": "BadRequestError", "status": 400, "code": "invalid_value", "type": "x", "param": "n"}


def error(**other: Any) -> dict[str, Any]:
    return {**ERROR, "message": "n: no good", **other}


def test_the_table_has_every_call_once_and_no_other() -> None:
    rows = table.rows(table.PAGE.read_text("utf-8"))
    assert [(row.client, row.what) for row in rows] == [(call.client, call.what) for call in all_calls()]


def test_the_table_says_of_every_call_what_both_engines_do() -> None:
    by_name = {call.name: call for call in all_calls()}
    for row in table.rows(table.PAGE.read_text("utf-8")):
        call = by_name[f"{row.client}: {row.what}"]
        if call.refused is None:
            assert row.here == row.there, row
        else:
            assert row.here.split()[-1] == re.split(r"[.[]", call.refused)[0], row
            assert row.there == "answers", row


def test_every_call_has_a_name_of_its_own() -> None:
    calls = all_calls()
    assert len({call.name for call in calls}) == len(calls) >= 60


@pytest.mark.parametrize(
    "page",
    [
        "no table",
        table.BEGIN + table.END,
        f"{table.BEGIN}\n| a | b | c | d |\n|---|---|---|---|\n{table.END}",
        f"{table.BEGIN}\n| {' | '.join(table.HEAD)} |\n|---|---|---|---|\n| curl | chat | answers |\n{table.END}",
        f"{table.BEGIN}\n| {' | '.join(table.HEAD)} |\n|---|---|---|---|\n| curl | chat |  | answers |\n{table.END}",
    ],
)
def test_a_table_of_another_form_is_found_out(page: str) -> None:
    with pytest.raises(ValueError, match=r"begin|cells|no <"):
        table.rows(page)


def test_a_written_table_is_read_back_and_the_page_around_it_stays() -> None:
    calls = [CALL, replace(CALL, what="tools", refused="tools")]
    outcomes = {
        "embedded": {"curl: chat": ANSWER, "curl: tools": error(param="tools")},
        "vllm": {"curl: chat": ANSWER, "curl: tools": ANSWER},
    }
    verdicts = {call.name: verdict(call, *(outcomes[each][call.name] for each in outcomes)) for call in calls}
    page = table.written(f"before {table.BEGIN} old {table.END} after", calls, verdicts, outcomes)
    assert page.startswith("before ")
    assert page.endswith(" after")
    assert "old" not in page
    assert table.rows(page) == [
        ("curl", "chat", "answers", "answers"),
        ("curl", "tools", "400 tools", "answers"),
    ]
    assert table.written(page, calls, verdicts, outcomes) == page


@pytest.mark.parametrize(
    ("refused", "here", "there", "kind"),
    [
        (None, ANSWER, ANSWER, Kind.ALIKE),
        (None, ANSWER, {**ANSWER, "shape": {"id": "integer"}}, Kind.DIFFERS),
        (None, ANSWER, {**ANSWER, "shape": {}}, Kind.DIFFERS),
        (None, ANSWER, error(), Kind.DIFFERS),
        (None, error(), ANSWER, Kind.DIFFERS),
        (None, error(), error(message="in other words"), Kind.REFUSED_ALIKE),
        (None, error(), error(code="bad_request"), Kind.DIFFERS),
        (None, error(), error(param=None), Kind.DIFFERS),
        (None, error(param="stop"), error(param="stop[0]"), Kind.REFUSED_ALIKE),
        (None, error(), error(**{"class": "InternalServerError"}), Kind.DIFFERS),
        ("n", error(), ANSWER, Kind.REFUSED_HERE),
        ("n", error(), error(), Kind.DIFFERS),
        ("tools", error(), ANSWER, Kind.DIFFERS),
        ("n", error(status=500), ANSWER, Kind.DIFFERS),
        ("n", ANSWER, ANSWER, Kind.DIFFERS),
        (None, ANSWER, {"kind": "fault", "message": "stop is ignored", "trace": ""}, Kind.DIFFERS),
    ],
)
def test_alike_is_what_programs_cannot_tell_apart(
    refused: str | None, here: dict[str, Any], there: dict[str, Any], kind: Kind
) -> None:
    assert verdict(replace(CALL, refused=refused), here, there).kind is kind


def test_a_shape_is_fields_and_types_and_null_is_as_missing() -> None:
    one = shape_of({"a": 1, "b": None, "c": [{"x": "1"}, {"x": "2", "y": 0.5}], "d": True})
    assert one == {"a": "integer", "c": [{"x": "text", "y?": "number"}], "d": "boolean"}
    other = shape_of({"a": "1", "c": [{"x": "3"}], "d": False, "e": "x"})
    assert differences(one, other) == [".a: integer / text", ".c[].y?: number / missing", ".e: missing / text"]
    assert differences(one, shape_of({"d": True, "c": [{"x": "", "y": 0.0}, {"x": ""}], "a": -5})) == []
