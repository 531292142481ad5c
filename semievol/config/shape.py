"""The shape of a configuration: which section, entry or setting a key stands for.

Owns the reading of annotations, for any class built of `config.Section`s; reads no file and holds no values.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel


def alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def section_class(annotation: Any) -> type[BaseModel] | None:
    for kind in alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def entry_class(annotation: Any) -> type[BaseModel] | None:
    """The class of the values of a mapping `dict[str, Section]`."""
    return section_class(typing.get_args(annotation)[1]) if typing.get_origin(annotation) is dict else None


def class_at(model_class: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The section class in which the last part of `location` is a key."""
    section: type[BaseModel] | None = model_class
    for part in location[:-1]:
        if section is None:
            return None
        if not isinstance(part, str) or part not in section.model_fields:
            continue
        annotation = section.model_fields[part].annotation
        section = section_class(annotation) or next(
            (found for kind in typing.get_args(annotation) if (found := section_class(kind))), None
        )
    return section
