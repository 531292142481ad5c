import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.errors import DataError
from semievol.examples import records
from semievol.examples.json_values import id_problem
from semievol.types import CandidateAnswer, Example, Message, PseudoLabel, Query

# What a JSON file can hold: no NUL, no half surrogates.
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
SOME_TEXT = TEXT.filter(lambda text: bool(text.strip()))
MESSAGES = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
QUERIES = st.builds(
    Query,
    id=SOME_TEXT.map(str.strip).map(lambda text: text[:500].strip()).filter(lambda text: id_problem(text) is None),
    question=TEXT,
    options=st.none() | st.lists(TEXT, max_size=4).map(tuple),
    messages=st.none() | st.lists(MESSAGES, min_size=1, max_size=3).map(tuple),
    category=st.none() | TEXT,
    metadata=st.dictionaries(TEXT, JSON, max_size=3),
)


@given(QUERIES)
def test_a_query_survives_the_round_trip_through_json(query: Query) -> None:
    assert records.query_from_json(json.loads(json.dumps(records.query_to_json(query)))) == query


@given(QUERIES, st.lists(TEXT, min_size=1, max_size=4, unique=True), st.none() | TEXT)
def test_an_example_survives_the_round_trip_through_json(query: Query, answers: list[str], source: str | None) -> None:
    example = Example(query, answers[0], source, tuple(answers[1:]))
    assert records.example_from_json(json.loads(json.dumps(records.example_to_json(example)))) == example


@given(QUERIES, st.none() | TEXT, st.sampled_from([0.5, math.inf]))
def test_a_pseudo_label_survives_the_round_trip_through_json(query: Query, answer: str | None, entropy: float) -> None:
    label = PseudoLabel(
        query=query,
        answer=answer,
        entropy=entropy,
        agreement=0.75,
        confidence=0.25,
        justified=True,
        adapter="r0001-abc",
        neighbours=(("e1", 0.5), ("e2", -0.25)),
        candidates=(CandidateAnswer("greedy", "text", answer, entropy),),
        prompt_tokens=3,
        generated_tokens=4,
    )
    assert records.pseudo_label_from_json(json.loads(json.dumps(records.pseudo_label_to_json(label)))) == label


def test_the_question_of_a_conversation_is_its_last_user_turn() -> None:
    messages = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "x"}]
    query = records.query_from_json({"id": "q", "messages": [*messages, {"role": "user", "content": "last"}]})
    assert query.question == "last"
    assert query.messages is not None
    assert [message.content for message in query.messages] == ["first", "x", "last"]


def test_unknown_fields_are_kept_as_metadata_and_the_answer_is_not() -> None:
    row = {"id": "q", "question": "x", "customer": 7, "answer": "secret", "source": "s", "timestamp": 1.5}
    assert records.query_from_json(row).metadata == {"customer": 7}
    assert records.query_from_json({**row, "metadata": {"customer": 8}}).metadata == {"customer": 8}


def test_a_whole_number_as_id_or_answer_is_taken_as_text() -> None:
    example = records.example_from_json({"id": 7, "question": "x", "answer": 1})
    assert (example.id, example.answer) == ("7", "1")


def test_a_decimal_number_is_an_answer_and_an_option_and_no_id() -> None:
    row = {"id": "7", "question": "x", "answer": 0.125, "answers": [12.5], "options": [0.1, 1e-7]}
    example = records.example_from_json(row)
    assert (example.answers, example.query.options) == (("0.125", "12.5"), ("0.1", "1e-07"))
    for field in ({"id": 7.5}, {"options": [math.inf]}, {"answer": math.nan}, {"answer": True}):
        with pytest.raises(DataError, match=f"field '{next(iter(field))}': expected a string"):
            records.example_from_json({**row, **field})


def test_an_option_that_a_table_lost_is_the_word_that_tables_lose() -> None:
    assert records.query_from_json({"id": "q", "question": "x", "options": ["a", math.nan]}).options == ("a", "None")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "x"}, "field 'id': missing"),
        ({"id": " ", "question": "x"}, "field 'id': is empty"),
        ({"id": "x" * 513, "question": "x"}, "field 'id': has 513 characters"),
        ({"id": True, "question": "x"}, "field 'id': expected a string, found true or false"),
        ({"id": "q"}, "field 'question': missing"),
        ({"id": "q", "question": ["x"]}, "field 'question': expected a string, found a list"),
        ({"id": "q", "question": "a\x00b"}, "field 'question': contains a NUL"),
        ({"id": "q", "question": "a\ud800b"}, "field 'question': contains half of a surrogate pair"),
        ({"id": "q", "question": "x", "options": "a|b"}, "field 'options': expected a list of strings, found a string"),
        ({"id": "q", "question": "x", "options": ["a", None]}, "field 'options': expected a string, found null"),
        ({"id": "q", "messages": []}, "field 'messages': expected a non-empty list"),
        ({"id": "q", "messages": [{"role": "tool", "content": "x"}]}, r"field 'messages\[0\].role': must be one of"),
        ({"id": "q", "messages": ["x"]}, r"field 'messages\[0\].role': must be one of"),
        ({"id": "q", "messages": [{"role": "user"}]}, r"field 'messages\[0\].content': expected a string, found null"),
        ({"id": "q", "messages": [{"role": "assistant", "content": "x"}]}, "give 'messages' with a user turn"),
        ({"id": "q", "question": "x", "metadata": "y"}, "field 'metadata': expected an object, found a string"),
        ({"id": "q", "question": "x", "score": math.nan}, "field 'score': is no finite number"),
        ({"id": "q", "question": "x", "category": 1.5}, "field 'category': expected a string, found a decimal number"),
    ],
)
def test_a_faulty_record_is_refused_by_field(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        records.query_from_json(row)


def test_what_is_no_pseudo_label_is_refused() -> None:
    with pytest.raises(DataError, match=r"is not a pseudo-label .*'answer'.*write it with `semievol label`"):
        records.pseudo_label_from_json({"id": "q", "question": "x", "candidates": []})
