"""Whether the answers of a task fit the tokens that they get, of a model whose files are here.

Owns the two questions: do the model's positions leave room for a prompt, and does each label fit. Loads no model.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from semievol.config.task import TaskConfig
from semievol.tasks.task import Task


def room_problem(task: TaskConfig, model: Path) -> str | None:
    """Why no answer, or none with some label, can ever be read; None: all can, or the files do not tell.

    An answer that takes all its tokens is cut, as far as anybody can see, so that a label has to take fewer.
    """
    most = task.max_answer_tokens
    positions = _positions(model / "config.json")
    if positions is not None and most >= positions:
        return f"{most} leave no room for a question in the {positions} positions of {model}; lower it"
    counted = _counted(model / "tokenizer.json", [Task(task).completion(label) for label in task.labels or ()])
    longest = max(zip(counted, task.labels or (), strict=False), default=None)
    if longest is None or longest[0] < most:
        return None
    long = sum(tokens >= most for tokens in counted)
    return (
        f"{most} are too few for {long} of the {len(counted)} task.labels, of which {longest[1]!r} takes "
        f"{longest[0]} of the model's tokens; set {longest[0] + 1} or more"
    )


def _positions(file: Path) -> int | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def _counted(file: Path, texts: list[str]) -> list[int]:
    """How many tokens each text takes; empty where nobody here can say."""
    if not texts or not file.is_file() or importlib.util.find_spec("tokenizers") is None:
        return []
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the library's own kind, which is no better named; the engine says what is wrong with the file
        return []
    return [len(each.ids) for each in tokenizer.encode_batch(texts, add_special_tokens=False)]
