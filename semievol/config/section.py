"""What every section of a configuration is built on.

Invariant: no imports beyond pydantic, so that reading a configuration loads no driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, field_validator


def _at_home(name: str) -> str:
    return str(Path(name).expanduser()) if name.startswith("~") else name


NAME_OR_PATH = "name or path"
NameOrPath = Annotated[str, AfterValidator(_at_home), NAME_OR_PATH]
"""A name, or a path where it begins with `./`, `../` or `~`: then it is placed as every path (config.file)."""

MAX_SEED = 2**63 - 1
"""What every engine takes."""


class Section(BaseModel):
    """Base of every section: frozen, unknown keys rejected, no infinite numbers, docstrings become descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _home(cls, value: object) -> object:
        """`~` in a path is the home directory, as a shell would have it."""
        return value.expanduser() if isinstance(value, Path) else value
