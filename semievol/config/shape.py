"""What the annotation of a setting says: its alternatives, the section that it is, the sections that it holds."""

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
