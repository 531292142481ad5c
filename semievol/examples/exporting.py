"""Examples out again, in the forms that are read: what people labelled is never locked in.

Owns the inverse of semievol.examples.forms, and the writing of JSON lines, JSON, CSV and TSV. Invariant: a file that
was written here is read back to equal examples with equal ids, or its writing is refused.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from semievol.durable_files import named
from semievol.errors import ConfigError, DataError
from semievol.examples.records import example_to_json
from semievol.examples.sources import kind_suffix
from semievol.types import Example, Message

ExportForm = Literal["own", "text-label", "prompt-completion", "alpaca", "openai", "sharegpt"]
FORMS: tuple[ExportForm, ...] = get_args(ExportForm)
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_PLAIN = {
    "text-label": ("text", "label"),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def exported(example: Example, form: ExportForm) -> dict[str, Any]:
    """The example in a form; what the form has no place for (id, options, category...) stays under our own names.

    Raises:
        DataError: the example is a conversation, and the form holds none.
    """
    record = example_to_json(example)
    if form == "own":
        return record
    question, answer, turns = record.pop("question"), record.pop("answer"), record.pop("messages", None)
    if form in _PLAIN:
        if turns is not None:
            raise DataError(f"id {example.id!r}: is a conversation, which {form} cannot hold; use openai or own")
        names = _PLAIN[form]
        return {"id": example.id, names[0]: question, names[1]: answer, **record}
    asked = example.query.messages or (Message("user", example.query.question),)
    spoken = (*asked, Message("assistant", answer))
    if form == "openai":
        return {"messages": [{"role": turn.role, "content": turn.content} for turn in spoken], **record}
    return {"conversations": [{"from": _SHAREGPT[turn.role], "value": turn.content} for turn in spoken], **record}


def write_examples(path: Path, examples: Iterable[Example], form: ExportForm) -> int:
    """Write a file whole or not at all; its name says how. Returns how many examples it holds.

    Raises:
        ConfigError: the name says nothing that is known.
        DataError: an example does not fit the form.
    """
    suffix = kind_suffix(path)
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: unknown file type {suffix!r}; use {', '.join(SUFFIXES)}, each also with .gz")
    rows = [exported(example, form) for example in examples]
    text = io.StringIO(newline="")
    if suffix == ".json":
        json.dump(rows, text, ensure_ascii=False, indent=1)
        text.write("\n")
    elif suffix in (".csv", ".tsv"):
        _write_table(text, rows, "\t" if suffix == ".tsv" else ",")
    else:
        write_lines(text, rows)
    content = text.getvalue().encode()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise named(error, temporary, path) from None
    return len(rows)


def write_lines(file: TextIO, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _write_table(file: TextIO, rows: Sequence[dict[str, Any]], separator: str) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["id", "question", "answer"]
    writer = csv.writer(file, delimiter=separator, lineterminator="\r\n")  # so that a lone \r is quoted, too
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: object) -> str:
    """Lists and objects as JSON, as they are read."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
