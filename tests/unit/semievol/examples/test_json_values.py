import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.examples.json_values import (
    MAX_DEPTH,
    MAX_VALUES,
    depth_fault,
    fault_of,
    fault_of_json,
    id_problem,
    mended,
    number_fault,
    timestamp_problem,
)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (b'{"a": [{"b": 1e999}]}', "a[0].b", "no finite number"),
        (b'{"a": -1e999}', "a", "no finite number"),
        (b'{"a": NaN}', "a", "no finite number"),
        (b'{"a": 9223372036854775808}', "a", "beyond 64 bits"),
        (b'{"a": -9223372036854775809}', "a", "beyond 64 bits"),
        (b'{"a": ' + b"7" * 5_000 + b"}", "a", "beyond 64 bits"),
        (b'{"a": "x\\u0000"}', "a", "NUL"),
        (b'{"a": {"\\u0000": 1}}', "a", "NUL"),
        (b'{"a": ["\\ud83d"]}', "a[0]", "half of a surrogate pair"),
        (b'{"\\ude00": 1}', "", "half of a surrogate pair"),
        (b'{"a b": {"' + b"k" * 90 + b'": 1e999}}', "'a b'." + "k" * 39 + "…", "no finite number"),
        (b"[" * 100_000 + b"]" * 100_000, "", "flatten"),
        (json.dumps(nested(MAX_DEPTH + 1)).encode(), "[0]" * MAX_DEPTH, "flatten"),
        (json.dumps([0] * MAX_VALUES).encode(), "", "10,000 values"),
    ],
)
def test_what_some_store_refuses_is_named_by_its_path(text: bytes, field: str, words: str) -> None:
    fault = fault_of_json(text)
    assert fault is not None
    assert fault.field == field
    assert words in fault.problem


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": [-0.0, 1e-400, 1.7e308, 9223372036854775807, -9223372036854775808]}',
        '{"": "\uffff\u202e", "a": "\\ud83d\\ude00", "d": "2026-01-31", "b": true}'.encode(),
        json.dumps(nested(MAX_DEPTH)).encode(),
        json.dumps([0] * (MAX_VALUES - 1)).encode(),
        b"no JSON",
        b'{"a": "\xff"}',
    ],
)
def test_what_every_store_takes_has_no_fault(text: bytes) -> None:
    assert fault_of_json(text) is None


def test_a_key_or_a_value_that_json_has_not_is_named() -> None:
    assert "no text" in str(fault_of({"a": {1: 2}}))
    assert "of type bytes" in str(fault_of({"a": b"x"}))


def test_of_a_table_only_the_depth_is_looked_at() -> None:
    assert depth_fault({"a": math.nan, "b": b"x"}) is None
    assert depth_fault(nested(MAX_DEPTH + 1)) is not None


def test_of_a_request_only_the_numbers_are_looked_at_whatever_the_depth() -> None:
    assert number_fault({"messages": [{"content": "\0"}], "input": [1, 2], "schema": nested(100)}) is None
    assert str(number_fault({"seed": 2**64})).startswith("seed: is a whole number beyond 64 bits")
    assert str(number_fault({"a": [[1], ["x", math.inf]]})).startswith("a[1][1]: is no finite")


def test_the_last_of_equal_keys_counts() -> None:
    assert fault_of_json(b'{"a": 1e999, "a": 1}') is None
    assert fault_of_json(b'{"a": 1, "a": 1e999}') is not None


@pytest.mark.parametrize("identity", ["", "a\n", "a\x1b[1mb", "a\x7f", "\x9b", "a\u2028b", "\0", "\ud800", "x" * 513])
def test_what_can_be_no_id_says_why(identity: str) -> None:
    assert id_problem(identity)


@pytest.mark.parametrize("identity", ["a", "é", "e\u0301", "\uffff", "x" * 512, "a b/c?d"])
def test_any_other_text_is_an_id_as_it_is(identity: str) -> None:
    assert id_problem(identity) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1_700_000_000_000, "milliseconds"),
        (1_700_000_000_000_000, "microseconds"),
        (1_700_000_000_000_000_000, "nanoseconds"),
        (-1e300, "years 1 to 9999"),
        (math.nan, "years 1 to 9999"),
        (True, "no time"),
        ([1], "no time"),
    ],
)
def test_a_time_out_of_range_names_the_unit_that_it_looks_like(value: object, words: str) -> None:
    assert words in str(timestamp_problem(value))


@pytest.mark.parametrize("value", [None, 0, 1_700_000_000.5, -62_135_596_800, 253_402_300_799, "2026-01-31"])
def test_a_time_of_the_years_1_to_9999_is_none_of_them(value: object) -> None:
    assert timestamp_problem(value) is None


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, 10**400, -1, sys.maxsize])
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(ANYTHING | st.integers(0, 100).map(nested))
def test_whatever_was_kept_is_mended_to_what_every_store_takes(value: object) -> None:
    once = mended(value)
    assert fault_of(once) is None
    assert mended(once) == once
    json.dumps(once, allow_nan=False, ensure_ascii=False).encode()


@given(ANYTHING)
def test_what_has_no_fault_is_left_as_it_is(value: object) -> None:
    if fault_of(value) is None:
        assert mended(value) == value
