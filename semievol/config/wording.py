"""What is wrong with a configuration, in words: the key and the fix.

Owns the wording of what a configuration's class refuses. Invariant: no secret is ever quoted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from semievol.config.nearest_key import nearest
from semievol.config.secrets import hidden, is_shown_when_wrong
from semievol.config.shape import class_at

_SHOWN_PROBLEMS = 5
_NOT_AUTO = "literal['auto']"
_SHAPES = {
    "tuple_type": "should be a list, as in [a, b]",
    "list_type": "should be a list, as in [a, b]",
    "dict_type": "should be a section, with keys below it",
    "model_type": "should be a section, with keys below it",
    "model_attributes_type": "should be a section, with keys below it",
}


def explain(model_class: type[BaseModel], error: ValidationError, source: str) -> str:
    problems = _of_one_key(error.errors(include_url=False))
    texts = [_explain_one(model_class, problem) for problem in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        texts.append(f"and {len(problems) - _SHOWN_PROBLEMS} more")
    return f"{source}: " + hidden("; ".join(texts))


def _of_one_key(problems: Sequence[Any]) -> list[Any]:
    """A number that may be `auto` is one key, however many things it fails to be."""
    either = {problem["loc"][:-1] for problem in problems if problem["loc"][-1:] == (_NOT_AUTO,)}
    return [
        {**problem, "loc": problem["loc"][:-1], "msg": f"{problem['msg']}, or auto"}
        if problem["loc"][:-1] in either
        else problem
        for problem in problems
        if problem["loc"][-1:] != (_NOT_AUTO,)
    ]


def _explain_one(model_class: type[BaseModel], problem: Any) -> str:
    location = problem["loc"]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    section = class_at(model_class, location) if location else None
    if problem["type"] == "extra_forbidden" and section is not None:
        return f"{where}: unknown key{nearest(str(location[-1]), section.model_fields)}"
    if problem["type"] == "missing":
        return f"{where}: missing; set it"
    message = _SHAPES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    found = problem.get("input")
    field = section.model_fields.get(str(location[-1])) if section is not None and location else None
    if isinstance(found, bool) and "string" in message:
        return f"{where}: {message}; put it in quotes (YAML reads yes, no, on and off as true and false)"
    if isinstance(found, (str, int, float)) and (field is None or field.repr) and is_shown_when_wrong(location):
        return f"{where}: {message} (found {found!r})"
    return f"{where}: {message}" if where else message
