"""Where the relative paths of a configuration file lie: in the directory of the file, wherever a command is run.

Owns that rule, for every setting that is a path. Invariant: a path that would be looked for in another place than an
earlier version did, and that is there, is refused with both places named.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from semievol.config.section import NAME_OR_PATH, usable_path
from semievol.config.shape import alternatives, entry_class, section_class
from semievol.errors import ConfigError


def directory_of(file: Path) -> Path | None:
    """The directory whose paths the file means; None: those of the working directory.

    A file that is reached by a link is where the link is: mounted configurations are links into hidden directories.
    What is no plain file (a pipe) has no place of its own.
    """
    directory = Path(os.path.abspath(file)).parent
    return directory if file.is_file() and directory != Path.cwd() else None


def place(model_class: type[BaseModel], values: dict[str, Any], base: Path, prefix: str = "") -> None:
    """Make the relative paths in `values`, and those that are defaults, absolute: below `base`.

    Raises:
        ConfigError: below `base` there is nothing, and below the working directory there is.
    """
    for name, field in model_class.model_fields.items():
        key = f"{prefix}{name}"
        given = values.get(name)
        section, entry = section_class(field.annotation), entry_class(field.annotation)
        if section is not None:
            within = given if isinstance(given, dict) else {}
            place(section, within, base, f"{key}.")
            if within and given is None:  # a default within a section that the file does not name
                values[name] = within
        elif entry is not None and isinstance(given, dict):
            for each, within in given.items():
                if isinstance(within, dict):
                    place(entry, within, base, f"{key}.{each}.")
        elif Path in alternatives(field.annotation):
            text = field.default if given is None and name not in values else given
            if isinstance(text, (str, Path)):
                values[name] = _placed(str(text), base, key)
        elif NAME_OR_PATH in field.metadata and isinstance(given, str) and given.startswith(("./", "../")):
            values[name] = _placed(given, base, key)


def _placed(text: str, base: Path, key: str) -> str:
    try:
        path = usable_path(Path(text))
    except ValueError as error:
        raise ConfigError(f"{key}: {text!r} {error}") from None
    if path.is_absolute():
        return str(path)
    here, there = Path(os.path.normpath(base / path)), Path.cwd() / path
    if not here.exists() and there.exists():
        raise ConfigError(
            f"{key}: {text} is taken from the directory of the configuration, and {here} is not there, but {there} is; "
            "write the absolute path of the one that is meant"
        )
    return str(here)
