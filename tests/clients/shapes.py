"""The shape of what a client library returns: which fields are there, and of which types; values do not count.

A field that is null or empty is as one that is missing: how much there is of something is a value. Of a library's own
object those fields count that it declares: what a server adds beyond them, a user of the library does not look for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Shape = Any
"""A word for a plain value; an object of shapes; a list with the shapes of its elements joined to one."""


def shape_of(value: Any) -> Shape:
    """The shape; of a list, one shape that covers all its elements."""
    if value is None:
        return "null"
    for kind, word in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "text"), (bytes, "bytes")):
        if isinstance(value, kind):
            return word
    if isinstance(value, Mapping):
        return _record(value)
    if isinstance(value, (list, tuple)):
        joined: Shape = None
        for element in value:
            joined = shape_of(element) if joined is None else join(joined, shape_of(element))
        return [] if joined is None else [joined]
    if (fields := getattr(type(value), "model_fields", None)) is not None:
        return _record({name: getattr(value, name, None) for name in fields})
    if dataclasses.is_dataclass(value):
        return _record({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return type(value).__name__


def join(one: Shape, other: Shape) -> Shape:
    """A shape that covers both: a field that one of them lacks is marked by a question mark."""
    if one == other:
        return one
    if isinstance(one, dict) and isinstance(other, dict):
        joined = {}
        for name in sorted({key.rstrip("?") for key in (*one, *other)}):
            in_one, in_other = _member(one, name), _member(other, name)
            sure = name in one and name in other
            both = [each for each in (in_one, in_other) if each is not None]
            joined[name if sure else f"{name}?"] = both[0] if len(both) == 1 else join(both[0], both[1])
        return joined
    if isinstance(one, list) and isinstance(other, list):
        return [join(one[0], other[0])] if one and other else one or other
    return " or ".join(sorted({*_words(one), *_words(other)}))


def differences(one: Shape, other: Shape, where: str = "") -> list[str]:
    """Where two shapes differ, a line each."""
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for name in sorted({*one, *other})
            for line in differences(one.get(name, "missing"), other.get(name, "missing"), f"{where}.{name}")
        ]
    if isinstance(one, list) and isinstance(other, list) and one and other:
        return differences(one[0], other[0], f"{where}[]")
    return [f"{where or 'the answer'}: {one} / {other}"]


def _record(fields: Mapping[str, Any]) -> Shape:
    shapes = {str(name): shape_of(value) for name, value in sorted(fields.items())}
    return {name: shape for name, shape in shapes.items() if shape not in ("null", [], {})}


def _member(shape: dict[str, Shape], name: str) -> Shape:
    return shape.get(name, shape.get(f"{name}?"))


def _words(shape: Shape) -> list[str]:
    return shape.split(" or ") if isinstance(shape, str) else [str(shape)]
