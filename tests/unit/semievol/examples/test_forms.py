"""Every form of file is one content: it gives the records and the ids that our own form gives."""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semievol.config.data import DataConfig, mapped
from semievol.config.file import load_config
from semievol.config.method import MethodConfig, TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.examples import files
from semievol.examples.content_ids import content_id
from semievol.tasks.task import Task
from semievol.types import Example, Message, Query

OPEN = Task(TaskConfig())
ASKED = ("where is my parcel", "refund me")
TOLD = ("delivery", "refund")
OWN = [{"question": question, "answer": answer} for question, answer in zip(ASKED, TOLD, strict=True)]
EXPECTED = [Example(Query(content_id(row), row["question"]), row["answer"]) for row in OWN]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def turns(question: str, answer: str, said: str, spoken: str, names: tuple[str, str]) -> list[dict[str, str]]:
    return [{said: names[0], spoken: question}, {said: names[1], spoken: answer}]


PAIRS = list(zip(ASKED, TOLD, strict=True))
FORMS: dict[str, bytes] = {
    "own.jsonl": as_lines(OWN),
    "own.ndjson": as_lines(OWN),
    "marked.jsonl": b"\xef\xbb\xbf" + as_lines(OWN).replace(b"\n", b"\r\n"),
    "own.jsonl.gz": gzip.compress(as_lines(OWN)),
    "not-named-so.jsonl": gzip.compress(as_lines(OWN)),
    "twice.jsonl.gz.gz": gzip.compress(gzip.compress(as_lines(OWN))),
    "document.json": b"\n".join(json.dumps(row, indent=1).encode() for row in OWN),
    "old-mac.jsonl": as_lines(OWN).replace(b"\n", b"\r"),
    "below.json": json.dumps({"version": 2, "source": "a tool", "data": OWN}, indent=1).encode(),
    "null-ids.jsonl": as_lines([{"id": None, **row} for row in OWN]),
    "capitals.jsonl": as_lines([{"Text": question, " LABEL": answer} for question, answer in PAIRS]),
    "array.json": json.dumps(OWN, indent=1).encode(),
    "array.jsonl": json.dumps(OWN).encode(),
    "lines.json": as_lines(OWN),
    "hf.jsonl": as_lines([{"text": question, "label": answer} for question, answer in PAIRS]),
    "trl.jsonl": as_lines([{"prompt": question, "completion": answer} for question, answer in PAIRS]),
    "alpaca.jsonl": as_lines(
        [{"instruction": question, "input": "", "output": answer, "text": "the whole"} for question, answer in PAIRS]
    ),
    "alpaca-null.jsonl": as_lines(
        [{"instruction": question, "input": None, "output": answer} for question, answer in PAIRS]
    ),
    "pairs.jsonl": as_lines([{"input": question, "output": answer} for question, answer in PAIRS]),
    "openai.jsonl": as_lines([{"messages": turns(*pair, "role", "content", ("user", "assistant"))} for pair in PAIRS]),
    "sharegpt.jsonl": as_lines([{"conversations": turns(*pair, "from", "value", ("human", "gpt"))} for pair in PAIRS]),
    "trl-turns.jsonl": as_lines(
        [
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for question, answer in PAIRS
        ]
    ),
    "parts.jsonl": as_lines(
        [
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": question}]},
                    {"role": "assistant", "content": answer},
                ]
            }
            for question, answer in PAIRS
        ]
    ),
    "roles-in-capitals.jsonl": as_lines(
        [{"messages": turns(*pair, "role", "content", ("User", " Assistant"))} for pair in PAIRS]
    ),
    "hf.csv": b"text,label\nwhere is my parcel,delivery\nrefund me,refund\n",
    "hf.csv.gz": gzip.compress(b"text,label\nwhere is my parcel,delivery\nrefund me,refund\n"),
    "own.tsv": b"question\tanswer\nwhere is my parcel\tdelivery\nrefund me\trefund\n",
    "semicolons.csv": b"question;answer\nwhere is my parcel;delivery\nrefund me;refund\n",
    "hinted.csv": b"sep=;\r\nquestion;answer\r\nwhere is my parcel;delivery\r\nrefund me;refund\r\n;\r\n",
    "padded.csv": b"question, answer \nwhere is my parcel, delivery\nrefund me, refund\n",
    "marked-twice.csv": b"\xef\xbb\xbf\xef\xbb\xbfquestion,answer\nwhere is my parcel,delivery\nrefund me,refund\n",
    "capitals.csv": b"Question,Answer\nwhere is my parcel,delivery\nrefund me,refund\n",
    "excel.csv": b"\xef\xbb\xbfquestion;answer\r\nwhere is my parcel;delivery\r\n\r\nrefund me;refund\r\n",
    "unicode.csv": "question\tanswer\r\nwhere is my parcel\tdelivery\r\nrefund me\trefund\r\n".encode("utf-16"),
    "old-mac.csv": b"question,answer\rwhere is my parcel,delivery\rrefund me,refund\r",
    "index.csv": b",text,label\n0,where is my parcel,delivery\n1,refund me,refund\n",
    "trailing.csv": b"question,answer,,\nwhere is my parcel,delivery,,\nrefund me,refund,,\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_records_of_our_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name])
    assert files.read_examples(path, OPEN) == EXPECTED
    assert files.read_queries(path, OPEN) == [example.query for example in EXPECTED]
    assert files.read_answers(path) == {example.id: (example.answer,) for example in EXPECTED}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own.jsonl", "read as our own form, ids by content"),
        ("hf.jsonl", "read as text and label: question = text, answer = label, ids by content"),
        (
            "openai.jsonl",
            "read as OpenAI messages: question = last user turn, answer = last assistant turn, ids by content",
        ),
        ("alpaca.jsonl", "read as Alpaca: question = instruction and input, answer = output, ids by content"),
        ("semicolons.csv", "read as our own form, ids by content; separated by semicolons"),
        ("index.csv", "label, ids by content; column 1, which has no name, left out"),
    ],
)
def test_what_was_recognised_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    with caplog.at_level(logging.INFO, "semievol.examples.files"):
        files.read_examples(tmp_path / name, OPEN)
    assert [record.getMessage() for record in caplog.records] == [caplog.messages[0]]
    assert caplog.messages[0].startswith(f"{name}: ")
    assert caplog.messages[0].endswith(said)


def test_of_our_own_form_with_ids_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lines_of(tmp_path, {"id": 1, "question": "x", "answer": "y"})
    with caplog.at_level(logging.INFO, "semievol.examples.files"):
        files.read_examples(path, OPEN)
    assert caplog.messages == []


def lines_of(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(as_lines(list(rows)))
    return path


def test_earlier_turns_are_kept_as_context(tmp_path: Path) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "where is my parcel"},
        {"role": "assistant", "content": "delivery"},
    ]
    (example,) = files.read_examples(lines_of(tmp_path, {"messages": messages}), OPEN)
    assert (example.answer, example.query.question) == ("delivery", "where is my parcel")
    assert example.query.messages == (
        Message("system", "be brief"),
        Message("user", "hello"),
        Message("assistant", "hi"),
        Message("user", "where is my parcel"),
    )
    same = {"messages": [{**messages[0], "role": "system"}, *messages[1:4]], "answer": "delivery"}
    assert files.read_examples(lines_of(tmp_path, same), OPEN) == [example]


def test_a_system_turn_that_is_the_tasks_instruction_is_no_context(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Sort."}, *turns(*PAIRS[0], "role", "content", ("user", "assistant"))]
    path = lines_of(tmp_path, {"messages": messages})
    assert files.read_examples(path, Task(TaskConfig(instruction="Sort."))) == EXPECTED[:1]
    assert files.read_examples(path, OPEN)[0].query.messages == (Message("system", "Sort."), Message("user", ASKED[0]))


def test_alpacas_input_stands_below_its_instruction(tmp_path: Path) -> None:
    row = {"instruction": "Classify", "input": "where is my parcel", "output": "delivery", "source": "s"}
    (example,) = files.read_examples(lines_of(tmp_path, row), OPEN)
    assert (example.query.question, example.answer) == ("Classify\n\nwhere is my parcel", "delivery")
    assert (example.source, example.query.metadata) == ("s", {})


def test_alpacas_system_and_history_are_earlier_turns(tmp_path: Path) -> None:
    row = {"instruction": "and now", "input": "", "output": "x", "system": "Be brief", "history": [["hello", "hi"]]}
    (example,) = files.read_examples(lines_of(tmp_path, row), OPEN)
    assert example.query.messages == (
        Message("system", "Be brief"),
        Message("user", "hello"),
        Message("assistant", "hi"),
        Message("user", "and now"),
    )
    assert not example.query.metadata
    with pytest.raises(DataError, match=r"rows.jsonl:1: field 'history\[0\]': expected a pair, question and answer"):
        files.read_examples(lines_of(tmp_path, {**row, "history": ["hello"]}), OPEN)


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["no", "yes"], "answer": 1},  # MMLU
        {"choices": {"text": ["no", "yes"], "label": ["A", "B"]}, "answerKey": "B"},  # ARC
        {"choices": {"text": ["no", "yes"], "label": ["1", "2"]}, "answerKey": "2"},
        {"options": {"A": "no", "B": "yes"}, "answer": "B"},
        {"options": ["no", "yes"], "answer": "B"},
    ],
)
def test_options_are_read_as_others_write_them(tmp_path: Path, row: dict[str, Any]) -> None:
    task = Task(TaskConfig(form="multiple_choice", answer_index=0))
    (example,) = files.read_examples(lines_of(tmp_path, {"question": "is it?", **row}), task)
    assert (example.query.options, example.answer, dict(example.query.metadata)) == (("no", "yes"), "B", {})
    assert example.id == content_id({"question": "is it?", "options": ["no", "yes"]})


def test_options_under_choices_are_said_and_two_of_one_name_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = Task(TaskConfig(form="multiple_choice"))
    row = {"question": "is it?", "choices": ["no", "yes"], "answer": "B"}
    with caplog.at_level(logging.INFO, "semievol.examples.files"):
        files.read_examples(lines_of(tmp_path, row), task)
    assert caplog.messages == ["rows.jsonl: read as our own form, ids by content, options = choices"]
    twice = {**row, "choices": {"text": ["no", "yes"], "label": ["A", "A"]}}
    with pytest.raises(DataError, match="field 'choices': two options have one name"):
        files.read_examples(lines_of(tmp_path, twice), task)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "a", "chosen": "x", "rejected": "y"}, "chosen"),
        ({"text": "a"}, "COLUMN"),
        ({"context": "c", "question": "a", "answers": ["x"]}, "context"),
    ],
)
def test_the_hint_names_neither_the_question_nor_what_was_rejected(
    tmp_path: Path, row: dict[str, Any], column: str
) -> None:
    with pytest.raises(DataError, match=f"'answer': missing; .* as in --columns answer={column}$"):
        files.read_examples(lines_of(tmp_path, row), OPEN)


def test_an_alpaca_instruction_that_is_the_tasks_is_not_said_twice(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "input": question, "output": answer} for question, answer in PAIRS]
    assert files.read_examples(lines_of(tmp_path, *rows), Task(TaskConfig(instruction="Sort."))) == EXPECTED


def test_sharegpts_system_text_is_the_first_turn(tmp_path: Path) -> None:
    said = turns(*PAIRS[0], "from", "value", ("human", "gpt"))
    apart = files.read_examples(lines_of(tmp_path, {"system": "be brief", "conversations": said}), OPEN)
    within = [{"from": "system", "value": "be brief"}, *said]
    assert apart == files.read_examples(lines_of(tmp_path, {"conversations": within}), OPEN)
    assert (apart[0].query.messages or ())[0] == Message("system", "be brief")


def test_an_answer_beside_a_whole_conversation_is_either_as_the_mapping_says(tmp_path: Path) -> None:
    """Both readings that the refusal names can be chosen, as it says."""
    path = lines_of(tmp_path, {"messages": turns(*PAIRS[0], "role", "content", ("user", "assistant")), "answer": "z"})
    with pytest.raises(DataError, match=r"say which with --columns answer=answer or answer=messages, or under"):
        files.read_examples(path, OPEN)
    given = files.read_examples(path, OPEN, mapped(DataConfig(), "answer=answer"))
    spoken = files.read_examples(path, OPEN, mapped(DataConfig(), "answer=messages"))
    assert [(each.query.question, each.answer) for each in given + spoken] == [(ASKED[0], "z"), (ASKED[0], "delivery")]
    assert spoken[0].query.metadata == {"answer": "z"}
    assert files.read_queries(path, OPEN, mapped(DataConfig(), "answer=answer"))[0].question == ASKED[0]


def test_names_are_told_apart_where_both_writings_are_there(tmp_path: Path) -> None:
    (example,) = files.read_examples(lines_of(tmp_path, {"question": "x", "Question": "y", "answer": "z"}), OPEN)
    assert (example.query.question, example.query.metadata) == ("x", {"Question": "y"})
    data = mapped(DataConfig(), "question=Utterance,answer=intent")
    (example,) = files.read_examples(lines_of(tmp_path, {"utterance": "x", "INTENT": "y"}), OPEN, data)
    assert (example.query.question, example.answer) == ("x", "y")


def test_columns_are_mapped_by_name(tmp_path: Path) -> None:
    row = {"uuid": "u1", "utterance": "where is my parcel", "intent": "delivery", "choices": ["a", "b"], "answer": 7}
    data = mapped(DataConfig(), "id=uuid, question=utterance,answer=intent")
    (example,) = files.read_examples(lines_of(tmp_path, row), OPEN, data)
    assert (example.id, example.query.question, example.answer) == ("u1", "where is my parcel", "delivery")
    assert example.query.metadata == {"choices": ["a", "b"], "answer": 7}
    # A file that is in our own form needs no mapping, and is not read through it.
    own = lines_of(tmp_path, {"id": "q", "question": "x"})
    assert files.read_queries(own, OPEN, data) == [Query("q", "x")]


def test_mapped_cells_of_a_table_are_lists_where_ours_are(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("stem,choices,key\nwhich?,no|yes,B\n")
    data = DataConfig(columns={"question": "stem", "options": "choices", "answer": "key"})
    (example,) = files.read_examples(tmp_path / "q.csv", Task(TaskConfig(form="multiple_choice")), data)
    assert (example.query.options, example.answer) == (("no", "yes"), "B")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            "question=zz,answer=yy",
            "question = text, answer = label, ids by content; there is no column 'zz' or 'yy', which is mapped",
        ),
        (
            "question=zz,answer=label",
            "question = text, answer = label, ids by content; there is no column 'zz', which is mapped",
        ),
    ],
)
def test_a_mapped_column_that_is_not_there_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, columns: str, said: str
) -> None:
    path = lines_of(tmp_path, {"text": "where is my parcel", "label": "delivery"})
    with caplog.at_level(logging.INFO, "semievol.examples.files"):
        files.read_examples(path, OPEN, mapped(DataConfig(), columns))
    assert caplog.messages[0].endswith(said)


def test_whole_numbers_are_named_by_a_setting(tmp_path: Path) -> None:
    data = DataConfig(label_names=("refund", "delivery"))
    (tmp_path / "l.csv").write_text("text,label\nwhere is my parcel,1\nrefund me,0\n")
    assert files.read_examples(tmp_path / "l.csv", OPEN, data) == EXPECTED
    path = lines_of(tmp_path, {"text": ASKED[0], "label": 1}, {"text": ASKED[1], "label": "refund"})
    assert files.read_examples(path, OPEN, data) == EXPECTED
    (tmp_path / "l.csv").write_text("text,label\nwhere is my parcel,1.0\nrefund me,0.0\n")  # as beside empty cells
    assert files.read_examples(tmp_path / "l.csv", OPEN, data) == EXPECTED
    with pytest.raises(DataError, match=r"rows.jsonl:1: field 'answer': 2 names none of the 2 data.label_names"):
        files.read_examples(lines_of(tmp_path, {"text": "x", "label": 2}), OPEN, data)
    with pytest.raises(DataError, match=r"'1' is not one of the 2 labels .data.label_names names whole numbers."):
        files.read_examples(lines_of(tmp_path, {"text": "x", "label": 1}), Task(TaskConfig(labels=("a", "b"))))


def test_whole_numbers_without_names_are_taken_as_written_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "semievol.examples.files"):
        (example,) = files.read_examples(lines_of(tmp_path, {"text": "x", "label": 1}), OPEN)
    assert example.answer == "1"
    assert "whole numbers are taken as they are written, unless data.label_names names them" in caplog.text


def test_a_parquet_file_names_its_numbers_itself(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist([{"text": ASKED[0], "label": 1}, {"text": ASKED[1], "label": 0}])
    feature = {"names": ["refund", "delivery"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature, "text": {"dtype": "string"}}}})}
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "l.parquet")
    assert files.read_examples(tmp_path / "l.parquet", OPEN) == EXPECTED


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "x", "prompt": "y", "label": "z"},
            "field 'question': can be read in two ways, question = text or question = prompt; say which with "
            "--columns question=text",
        ),
        (
            {"prompt": "x", "completion": "y", "label": True},  # TRL's KTO: the label judges the completion
            "field 'answer': can be read in two ways, answer = label or answer = completion",
        ),
        (
            {"text": "x", "label": 0, "label_text": "y"},
            "field 'answer': can be read in two ways, answer = label or answer = label_text",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "answer": "z"},
            "field 'answer': can be read in two ways, answer = answer or answer = last assistant turn",
        ),
        (
            {"prompt": "x", "chosen": "y", "rejected": "z"},
            "field 'answer': missing; the columns are prompt, chosen, rejected; say which it is, as in ",
        ),
        (
            {"utterance": "x", "intent": "y"},
            "field 'question': missing; the columns are utterance, intent; say which it is, as in --columns "
            "question=utterance",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": []}]},
            r"field 'messages\[1\].content': expected a string, found null",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "field 'messages': the last turn before the answer must be the user's",
        ),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "field 'answer': missing"),
        (
            {"Text": "x", "TEXT": "y", "label": "z"},
            "field 'text': can be read in two ways, 'Text' or 'TEXT'; keep one of them",
        ),
        (
            {"conversation": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "field 'question': missing; the columns are conversation; say which it is, as in --columns "
            "question=conversation",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused_with_its_readings(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:1: {message}"):
        files.read_examples(lines_of(tmp_path, row), OPEN)


def test_a_later_record_in_another_form_is_named(tmp_path: Path) -> None:
    path = lines_of(tmp_path, {"text": "x", "label": "y"}, {"question": "x", "answer": "y"})
    with pytest.raises(DataError, match=r"rows.jsonl:2: field 'question': missing; it is read from 'text', as in"):
        files.read_examples(path, OPEN)
    path = lines_of(tmp_path, {"question": "x"}, {"id": 7, "question": "y"})
    with pytest.raises(DataError, match=r"rows.jsonl:2: field 'id': given, and records before it have none"):
        files.read_queries(path, OPEN)
    path = lines_of(tmp_path, {"id": None, "question": "x"}, {"id": 7, "question": "y"})
    with pytest.raises(DataError, match=r"rows.jsonl:2: field 'id': given, and records before it have none"):
        files.read_queries(path, OPEN)
    path = lines_of(tmp_path, {"id": 7, "question": "x"}, {"question": "y"})
    with pytest.raises(DataError, match=r"rows.jsonl:2: field 'id': missing"):
        files.read_queries(path, OPEN)


def test_ids_by_content_take_the_same_record_once_and_refuse_another_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "semievol.examples.files"):
        assert files.read_examples(lines_of(tmp_path, *OWN, OWN[0]), OPEN) == EXPECTED
    assert "1 records repeat an earlier one word for word" in caplog.text
    path = lines_of(tmp_path, *OWN, {**OWN[0], "answer": "refund"})
    with pytest.raises(DataError, match=r"rows.jsonl:3: field 'answer': 'refund', and 'delivery' on line 1, which"):
        files.read_examples(path, OPEN)


def test_the_options_are_part_of_the_content() -> None:
    asked = {"question": "which?", "options": ["a", "b"]}
    assert content_id(asked) == content_id({**asked, "answer": "A", "category": "c"})
    assert len({content_id(asked), content_id({"question": "which?"}), content_id({**asked, "options": ["a"]})}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question", "'question' is not FIELD=COLUMN"),
        ("questoin=x", "'questoin' is none of our fields; they are id, question"),
        ("question=x,question=y", "question is given twice"),
        ("question=x,answer=x", "the column 'x' is given twice"),
        ("question=x,messages=y", "question and messages are two ways to ask"),
    ],
)
def test_a_wrong_mapping_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--columns: {message}"):
        mapped(DataConfig(), text)


def test_the_mapping_stands_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: m}\ndata: {columns: {question: utterance}, label_names: [a, b]}\n")
    config = load_config(MethodConfig, path, {"SEMIEVOL__DATA__COLUMNS": "{answer: intent}"})
    assert config.data == DataConfig(columns={"answer": "intent"}, label_names=("a", "b"))
    path.write_text("model: {name: m}\ntask: {labels: [a, c]}\ndata: {label_names: [a, b]}\n")
    with pytest.raises(ConfigError, match=r"data.label_names: 'b' is not one of task.labels"):
        load_config(MethodConfig, path, {})


# --- data sets of the hub -------------------------------------------------------------------------------------------


def test_a_name_of_the_hub_without_datasets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"hub:org/name: needs datasets; .*'semievol\[hub\]'"):
        files.read_queries("hub:org/name", OPEN)


def test_a_data_set_that_datasets_loads_is_read_by_its_split(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write: Callable[[str, str], object] = lambda name, text: (tmp_path / name).write_text(text)  # noqa: E731
    write("train.csv", "text,label\nwhere is my parcel,delivery\nrefund me,refund\n")
    write("test.csv", "text,label\nx,refund\n")
    assert files.read_examples(f"hub:{tmp_path}:train", OPEN) == EXPECTED
    with pytest.raises(DataError, match=r"has 2 splits; name one of hub:.*:train, hub:.*:test"):
        files.read_examples(f"hub:{tmp_path}", OPEN)
    with pytest.raises(DataError, match="cannot be loaded"):
        files.read_examples(f"hub:{tmp_path / 'none'}:train", OPEN)
