"""One strict loader for configuration: a YAML file, then environment overrides, then the model class.

Owns reading and overriding, for any class built of `config.Section`s; not the wording of errors (config.wording).
Invariants: an unknown key is an error that names the nearest known one, and later sources win.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from semievol.config.nearest_key import nearest
from semievol.config.places import directory_of, place
from semievol.config.section import Section, usable_path
from semievol.config.shape import alternatives, entry_class, section_class
from semievol.config.wording import explain
from semievol.errors import ConfigError

PREFIX = "SEMIEVOL__"
_FILE_SUFFIX = "_FILE"

Model = TypeVar("Model", bound=BaseModel)


def load_config(
    model_class: type[Model],
    path: Path | None,
    env: Mapping[str, str] | None = None,
    *,
    foreign: Collection[str] = (),
) -> Model:
    """Read `path` (None: defaults only), apply the overrides, and validate.

    `SEMIEVOL__SECTION__KEY=value` sets `section.key`; the value is read as YAML unless the key holds text.
    `SEMIEVOL__SECTION__KEY_FILE=path` takes the value from a file, for secrets that are mounted.
    A relative path in the file, or one that is a default, is of the file's directory; in a variable, of the working
    directory.

    Args:
        model_class: the class of the whole configuration.
        path: YAML file; None: only defaults and overrides.
        env: the environment; None: the process's own.
        foreign: sections (`api`) and keys (`generation.dns`) of another program that shares the file; they are passed
            over.

    Raises:
        ConfigError: naming file or variable, key and fix.
    """
    values = _read_yaml(path) if path is not None else {}
    values = _spelled_out(model_class, _own(values, foreign))
    if path is not None and (base := directory_of(path)) is not None:
        place(model_class, values, base)
    variables = os.environ if env is None else env
    for name, text in sorted(variables.items()):
        if name.startswith(PREFIX) and f"{name}{_FILE_SUFFIX}" in variables:
            raise ConfigError(f"{name} and {name}{_FILE_SUFFIX} are both set; keep one of them")
        if name.startswith(PREFIX) and not _is_foreign(_keys(name), foreign):
            _override(model_class, values, name, text)
            values = _spelled_out(model_class, values)
    try:
        return model_class.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(model_class, error, str(path) if path else "configuration")) from None


# --- sources --------------------------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that appears twice is an error instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice; keep one", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not valid UTF-8; save the file as UTF-8") from None
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {getattr(error, 'problem', None) or 'is not valid YAML'}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections (key: value), found {type(values).__name__}")
    return values


def _spelled_out(model_class: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    return model_class.spelled_out(values) if issubclass(model_class, Section) else values


def _keys(name: str) -> list[str]:
    return name.removeprefix(PREFIX).lower().split("__")


def _own(values: dict[str, Any], foreign: Collection[str], prefix: str = "") -> dict[str, Any]:
    """`values` without what belongs to the other program."""
    return {
        key: _own(value, foreign, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in foreign
    }


def _is_foreign(keys: list[str], foreign: Collection[str]) -> bool:
    return any(".".join(keys[:depth]) in foreign for depth in range(1, len(keys) + 1))


def _override(model_class: type[BaseModel], values: dict[str, Any], name: str, text: str) -> None:
    """Set the key that the variable `name` stands for in `values`."""
    keys = _keys(name)
    section: Any = model_class
    target = values
    entries = False  # the key names an entry of a mapping of sections
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if entries:
            if last:
                raise ConfigError(f"{name}: {'.'.join(keys)} is a section, not a setting; name the key in it")
            entries = False
            target = _entered(target, key)
            continue
        fields = section.model_fields
        if last and key not in fields and name.endswith(_FILE_SUFFIX) and key[: -len(_FILE_SUFFIX)] in fields:
            key, text = key[: -len(_FILE_SUFFIX)], _read_secret(name, text)
        if key not in fields:
            raise ConfigError(f"{name}: unknown key {'.'.join(keys[: depth + 1])}{nearest(key, fields)}")
        if last:
            target[key] = _value(fields[key].annotation, name, text)
            return
        section = section_class(fields[key].annotation)
        if section is None:
            section = entry_class(fields[key].annotation)
            entries = section is not None
        if section is None:
            raise ConfigError(f"{name}: {'.'.join(keys[: depth + 1])} is a setting, not a section")
        target = _entered(target, key)


def _entered(target: dict[str, Any], key: str) -> dict[str, Any]:
    """The section `key` in `target`, made when it is not there."""
    if not isinstance(target.get(key), dict):
        target[key] = {}
    found: dict[str, Any] = target[key]
    return found


def _read_secret(name: str, path: str) -> str:
    try:
        return usable_path(Path(path)).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: {path} cannot be read ({error})") from None


def _value(annotation: Any, name: str, text: str) -> Any:
    kinds = alternatives(annotation)
    if type(None) in kinds and text.strip().lower() in ("null", "none", "~"):
        return None
    if str in kinds or Path in kinds:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{name}: the value is not valid YAML; quote it or use JSON") from None
