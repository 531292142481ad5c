"""What every section of a configuration is built on.

Invariant: no imports beyond pydantic, so that reading a configuration loads no driver.
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

MAX_NAME_BYTES = 255
MAX_WHOLE = 2**63 - 1
"""What databases hold."""
MAX_SECONDS = 3_200_000_000
"""A hundred years; clocks and timers refuse times that are far beyond."""


def usable_path(path: Path) -> Path:
    """The path with `~` as the home directory, as a shell would have it.

    Raises:
        ValueError: no system takes it.
    """
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError(
            f"{path.parts[0]} is no user of this machine; write the directory, or ./{path.parts[0]}"
        ) from None
    if "\0" in str(path):
        raise ValueError("has a NUL character; remove it")
    if any(len(part.encode(errors="surrogateescape")) > MAX_NAME_BYTES for part in path.parts):
        raise ValueError(f"has a name of more than {MAX_NAME_BYTES} bytes; shorten it")
    return path


def _at_home(name: str) -> str:
    if not name.strip():
        raise ValueError("is empty; give a name, or leave the key out")
    return str(usable_path(Path(name))) if name.startswith("~") else name


NAME_OR_PATH = "name or path"
NameOrPath = Annotated[str, AfterValidator(_at_home), NAME_OR_PATH]
"""A name, or a path where it begins with `./`, `../` or `~`: then it is placed as every path (config.file)."""

MAX_SEED = MAX_WHOLE
"""What every engine takes."""

Auto = Literal["auto"]
"""A number that is left to a rule, or to whoever runs it."""


class Section(BaseModel):
    """Base of every section: frozen, unknown keys rejected, numbers that clocks and databases take, docstrings become
    descriptions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def spelled_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`values` as they were written, with what is short for several settings replaced by these."""
        return values

    @field_validator("*")
    @classmethod
    def _home(cls, value: object) -> object:
        return usable_path(value) if isinstance(value, Path) else value

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic takes `yes` and `true` for 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if _has_truth(value) and _names(annotation, (int, float, 0, 1)) and not _names(annotation, (bool,)):
            raise ValueError("is a number, and true or false (YAML's yes, no, on, off) is none; write the number")
        return value

    @field_validator("*")
    @classmethod
    def _measurable(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        name = str(info.field_name)
        for ending, most in (("_s", MAX_SECONDS), ("days", MAX_SECONDS // 86_400)):
            if name.endswith(ending) and abs(value) > most:
                raise ValueError(f"is more than a hundred years; give at most {most}")
        if isinstance(value, int) and abs(value) > MAX_WHOLE:
            raise ValueError(f"should be less than or equal to {MAX_WHOLE}")
        return value


def _has_truth(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(map(_has_truth, value)))


def _names(annotation: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether one of the kinds, which may be values of a Literal, is among what an annotation allows."""
    within = typing.get_args(annotation)
    return any(_names(each, kinds) for each in within) if within else any(annotation is kind for kind in kinds)
