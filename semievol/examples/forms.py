"""The forms in which people hold their data, and how each becomes a record of ours.

Owns the recognition, the choice of ids where there are none, and the words that say what was recognised; not files, and
not what a valid record is (semievol.examples.records). Pure. Invariants: the form is decided by the first record of a
source and holds for all of it; what can be read in two ways is refused with both named; equal content has equal ids,
whatever its form, and however its names are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semievol.config.data import DataConfig
from semievol.errors import DataError
from semievol.examples.column_names import ANSWERS, QUESTIONS, KnownNames
from semievol.examples.content_ids import content_id
from semievol.examples.conversations import asking, earlier_turns, ends_with_answer, plain_turns, text_of
from semievol.examples.json_values import depth_fault
from semievol.examples.options import CHOICES, put_options
from semievol.examples.records import KNOWN_FIELDS, Row

Wanted = Literal["query", "example", "answer"]
"""answer: the true answers of known queries, by id; the question is needed only for an id."""

CONVERSATIONS = {"messages": "OpenAI messages", "conversations": "ShareGPT conversations"}
NAMES = {
    ("text", "label"): "text and label",
    ("prompt", "completion"): "prompt and completion (TRL, OpenAI)",
    ("instruction", "output"): "Alpaca",
}
LAST_TURN = "last assistant turn"
_WHOLE = re.compile(r"-?[0-9]{1,15}(\.0+)?")
_PARSED_CELLS = ("options", "answers", "messages", "conversations", "metadata")


@dataclass(frozen=True, slots=True)
class Form:
    """Where question, answer and id are. `answer` LAST_TURN: the conversation ends with it; None: there is none."""

    question: str | None
    answer: str | None
    id: str | None
    mapped: Mapping[str, str]  # our field: the column that a setting names
    spoken: bool = False  # the conversation ends with a turn of the assistant, which is not asked

    def said(self, wanted: Wanted) -> str | None:
        """What was recognised, for people; None where the source is in our own form, ids included."""
        ids = "" if self.id is not None else "ids by content"
        if self.own and not self.mapped and self.answer in ("answer", None):
            return f"read as our own form, {ids}" if ids else None
        parts = []
        if self.question is not None:
            parts.append(f"question = {self._asked()}")
        if self.answer is not None and wanted != "query":
            parts.append(f"answer = {self.answer}")
        parts += [f"{field} = {column}" for field, column in self.mapped.items() if field not in _SIDES]
        return f"read as {self._name()}: {', '.join(parts + [ids] * bool(ids))}"

    @property
    def own(self) -> bool:
        """Whether what is asked stands under our own names, `question` or `messages`, and is taken as it comes."""
        named = self.question in ("question", "messages", None)
        return named and not self.spoken and "question" not in self.mapped and "messages" not in self.mapped

    def _asked(self) -> str:
        if self.question in CONVERSATIONS:
            return "last user turn"
        return "instruction and input" if self.question == "instruction" else str(self.question)

    def _name(self) -> str:
        if any(field in self.mapped for field in _SIDES):
            return "mapped columns"
        if self.question in CONVERSATIONS:
            return CONVERSATIONS[self.question]
        return NAMES.get((str(self.question), str(self.answer)), "columns")


_SIDES = ("question", "messages", "answer")


def recognise(row: Row, data: DataConfig, wanted: Wanted) -> Form:
    """The form of the source whose first record is `row`.

    Raises:
        DataError: there is no question or no answer in it that is known, or there are two.
    """
    present = {name for name, value in row.items() if value is not None}
    mapped = {field: column for field, column in data.columns.items() if column in row}
    if row.get(mapped.get("id", "")) is None:
        mapped.pop("id", None)
    question = mapped.get("question") or mapped.get("messages") or _question(row, present, data, wanted, mapped)
    answer = mapped.get("answer") or _answer(row, present, data, wanted, question)
    spoken = question is not None and _is_spoken(row.get(question))
    if spoken and answer == question:
        answer = LAST_TURN
    identity = mapped.get("id") or ("id" if row.get("id") is not None else None)
    return Form(question, answer, identity, mapped, spoken and (answer == LAST_TURN or "answer" in mapped))


def _question(row: Row, present: set[str], data: DataConfig, wanted: Wanted, mapped: Mapping[str, str]) -> str | None:
    if "question" in row:
        return "question"
    if _is_conversation(row.get("messages")) and not ends_with_answer(row["messages"]):
        return "messages"
    free = present - {
        column for field, column in mapped.items() if field != "answer" or not _is_conversation(row[column])
    }
    found = [name for name in QUESTIONS if name in free]
    if "instruction" in found:
        found = [name for name in found if name != "input"]
        if "output" in row:  # Alpaca's own files also hold the whole prompt as `text`
            found = [name for name in found if name != "text"]
    if len(found) > 1:
        raise DataError(_two_readings("question", found, data))
    if found:
        return found[0]
    if "messages" in row:  # whatever is in it, it is to be complained about
        return "messages"
    if wanted == "answer" and ("id" in present or "id" in mapped):
        return None
    if "answer" in free | set(mapped) or present <= KNOWN_FIELDS:
        raise DataError("field 'question': missing (or give 'messages' with a user turn)" + _missing("question", data))
    raise DataError(f"field 'question': missing; {_hint('question', row, data)}")


def _answer(row: Row, present: set[str], data: DataConfig, wanted: Wanted, asked: str | None) -> str | None:
    """`asked`: the column of the question."""
    spoken = [LAST_TURN] if asked is not None and _is_spoken(row.get(asked)) else []
    free = present - set(data.columns.values())
    found = [name for name in ANSWERS if name in free]
    if "answer" in found:
        found = ["answer"]
    if wanted == "query":  # it is left out, and which it is does not matter
        return next(iter([*spoken, *found]), None)
    found += spoken
    if len(found) > 1:
        raise DataError(_two_readings("answer", found, data, asked))
    if found:
        return found[0]
    if set(row) <= KNOWN_FIELDS:
        raise DataError("field 'answer': missing" + _missing("answer", data))
    raise DataError(f"field 'answer': missing; {_hint('answer', row, data, asked)}")


def _two_readings(field: str, found: Sequence[str], data: DataConfig, turns: str | None = None) -> str:
    """`turns`: the column of the conversation whose last turn is one of the readings."""
    readings = " or ".join(f"{field} = {each}" for each in found)
    columns = " or ".join(f"{field}={turns if each == LAST_TURN else each}" for each in found)
    return (
        f"field {field!r}: can be read in {'two' if len(found) == 2 else len(found)} ways, {readings}; say which with "
        f"--columns {columns}, or under data.columns" + _missing(field, data)
    )


def _missing(field: str, data: DataConfig) -> str:
    """That a mapped column was not there; nothing where none is mapped."""
    return f" (data.columns maps it to {data.columns[field]!r}, which is not there)" if field in data.columns else ""


def _hint(field: str, row: Row, data: DataConfig, taken: str | None = None) -> str:
    """`taken`: the column of the other one."""
    names = [str(name) for name in row if name != "id"]
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    if field in data.columns:
        return f"data.columns maps it to {data.columns[field]!r}, and the columns are {shown}"
    texts = [name for name in names if isinstance(row[name], str) or _is_conversation(row[name])]
    texts = [name for name in texts if name not in (taken, "rejected")] or ["COLUMN"]  # DPO's worse answer
    example = texts[0 if field == "question" else -1]
    return f"the columns are {shown or 'none'}; say which it is, as in --columns {field}={example}"


def _is_conversation(value: object) -> bool:
    """Also as a table's cell, in JSON."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def _is_spoken(value: object) -> bool:
    """Whether it is a conversation that ends with a turn of the assistant."""
    return _is_conversation(value) and ends_with_answer(value)


# --- record by record -----------------------------------------------------------------------------------------------


class Recogniser:
    """Turns the rows of one source, one after the other, into records of our own form.

    Args:
        data: the settings.
        wanted: what is read.
        instruction: task.instruction; a conversation that begins with it is no other than one without it.
        cells: values are texts, as in a table: lists and objects in them are parsed.
    """

    def __init__(
        self, data: DataConfig, wanted: Wanted, instruction: str | None = None, *, cells: bool = False
    ) -> None:
        self._data = data
        self._wanted = wanted
        self._instruction = instruction
        self._cells = cells
        self._form: Form | None = None
        self._names = KnownNames(data)
        self._numbered = False  # an answer that is no word of ours was a whole number
        self._chosen = False  # options stood under `choices`
        self._absent: list[str] = []  # mapped columns of question and answer that the first record has not

    @property
    def said(self) -> str | None:
        """What was recognised; None: nothing to say, or no record yet."""
        said = None if self._form is None else self._form.said(self._wanted)
        if self._absent:
            said = f"{said or 'read as our own form'}; there is no column {' or '.join(self._absent)}, which is mapped"
        if self._chosen:
            said = f"{said or 'read as our own form'}, options = {CHOICES}"
        if said is None or not self._numbered:
            return said
        return f"{said}; its whole numbers are taken as they are written, unless data.label_names names them"

    @property
    def ids_by_content(self) -> bool:
        return self._form is not None and self._form.id is None

    def record(self, row: Row) -> dict[str, Any]:
        """A record of our own form, with an id; what is in it is not yet checked.

        Raises:
            DataError: naming the field.
        """
        row = self._names.of(row)
        if self._cells:
            row = self._parsed(row)
        if (fault := depth_fault(row)) is not None:
            raise DataError(str(fault))
        form = self._form
        if form is None:
            form = recognise(row, self._data, self._wanted)
            sides = _SIDES if self._wanted == "example" else ("question", "messages")
            mapped = ((field, self._data.columns.get(field)) for field in sides)
            self._absent = [repr(column) for _, column in mapped if column is not None and column not in row]
        record = self._rest(row, form)
        self._put_question(record, row, form)
        if form.answer is not None and self._wanted != "query" and form.answer != LAST_TURN:
            answer = row.get(form.answer)
            if answer is None and form.answer != "answer":
                raise DataError(_lacks("answer", form.answer))
            record["answer"] = self._named(self._spoken(answer, form.answer))
        self._chosen |= put_options(record, known=not form.mapped)
        self._put_id(record, row, form)
        self._form = form
        return record

    def _rest(self, row: Row, form: Form) -> dict[str, Any]:
        """What is neither question nor answer nor id, mapped; a column that is in the way of one of ours is kept."""
        used = {form.question, form.answer, form.id, *form.mapped.values()}
        if form.question == "instruction":
            used |= {"input", "system", "history"}
            used |= {"text"} if form.answer == "output" else set()  # all three in one
        if form.question == "conversations":
            used |= {"system"}  # ShareGPT's own place for it
        ours = {"question", "messages", "answer", *form.mapped}
        record: dict[str, Any] = {}
        hidden: dict[str, Any] = {}
        for name, value in row.items():
            if name in used or (name == "answer" and self._wanted == "query"):
                continue
            (hidden if name in ours else record)[name] = value
        if form.own:
            record.update({name: hidden.pop(name) for name in ("question", "messages") if name in hidden})
        for field, column in form.mapped.items():
            if field not in ("question", "messages", "answer", "id"):
                record[field] = row.get(column)
        if hidden:
            record["metadata"] = {**hidden, **(record.get("metadata") or {})}
        return record

    def _put_question(self, record: dict[str, Any], row: Row, form: Form) -> None:
        column = form.question
        if column is None or form.own:
            record.update({name: row[name] for name in ("question", "messages") if name in row and column is not None})
            if _is_conversation(record.get("messages")):
                record["messages"] = plain_turns(record["messages"], "messages")
            return
        value = row.get(column)
        if value is None:
            raise DataError(_lacks("question", column))
        if column == "instruction" and row.get("input"):
            told, given = text_of(value, column), text_of(row["input"], "input")
            value = given if told == self._instruction else f"{told}\n\n{given}"
        if column == "instruction" and (earlier := earlier_turns(row)):
            record.update(
                asking([*earlier, {"role": "user", "content": text_of(value, column)}], column, self._instruction)
            )
            return
        if column not in CONVERSATIONS and not _is_conversation(value):
            record["question"] = value
            return
        turns = plain_turns(value, column)
        if column == "conversations" and row.get("system") and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": text_of(row["system"], "system")})
        is_answer = form.answer == LAST_TURN and self._wanted != "query"
        if form.spoken and turns[-1]["role"] == "assistant":
            *turns, last = turns
            if is_answer:
                record["answer"] = self._named(last["content"])
        elif is_answer:
            raise DataError(f"field {column!r}: the last turn must be the assistant's, which is the answer")
        record.update(asking(turns, column, self._instruction))

    def _spoken(self, value: object, column: str) -> object:
        """The text of a completion that is given as a conversation of one turn."""
        if not _is_conversation(value):
            return value
        turns = plain_turns(value, column)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise DataError(f"field {column!r}: must be one turn of the assistant, found {len(turns)} turns")
        return turns[0]["content"]

    def _named(self, answer: object) -> object:
        names = self._data.label_names
        number = _whole(answer)
        if number is None:
            return answer
        if names is None:
            self._numbered = True
            return answer
        if not 0 <= number < len(names):
            raise DataError(
                f"field 'answer': {number} names none of the {len(names)} data.label_names, which count from 0"
            )
        return names[number]

    def _put_id(self, record: dict[str, Any], row: Row, form: Form) -> None:
        if form.id is not None:
            if row.get(form.id) is not None:
                record["id"] = row[form.id]
            return
        if self._wanted != "answer" and record.get("question") is None and record.get("messages") is None:
            raise DataError(
                f"field 'question': missing, and the first record has one; here the columns are {', '.join(row)}"
            )
        if row.get(self._data.columns.get("id", "id")) is not None:
            raise DataError("field 'id': given, and records before it have none; give every record an id, or none")
        record.pop("id", None)
        record["id"] = content_id(record)

    def _parsed(self, row: Row) -> Row:
        """`options` and `answers` are JSON lists or `|`-separated, `messages` and `metadata` are JSON."""
        parsed = dict(row)
        for field in _PARSED_CELLS:
            name = self._data.columns.get(field, field)
            cell = row.get(name)
            if not isinstance(cell, str):
                continue
            if field in ("options", "answers") and not cell.lstrip().startswith("["):
                parsed[name] = [each.strip() for each in cell.split("|")]
                continue
            try:
                parsed[name] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                raise DataError(f"field {name!r}: is not valid JSON ({error})") from None
        return parsed


def _whole(answer: object) -> int | None:
    """The whole number that an answer is, also as tables write one beside empty cells (1.0); None: it is none."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
        return None
    return int(float(answer)) if _WHOLE.fullmatch(str(answer).strip()) else None


def _lacks(field: str, column: str) -> str:
    if field == column:
        return f"field {field!r}: missing"
    return f"field {field!r}: missing; it is read from {column!r}, as in the first record"
