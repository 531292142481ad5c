"""What is a secret in a configuration, and what is shown in its place: in settings, addresses, arguments and messages.

Owns the names that secrets have. No I/O. Invariant: what comes out of here may be printed, logged, and kept beside a
training.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

_NAME = r"(?:(?:api|access|secret|private)[_-]?key|token|passw(?:or)?d|pwd|secret|credentials?|sig|signature)"
_SECRET_NAME = re.compile(rf"(?:^|.*[_\-.]){_NAME}$", re.I)
_ALL_HIDDEN = frozenset({"environment", "headers"})
"""Sections whose every value is hidden: they are the place for tokens of programs that are not ours."""

_USER = re.compile(r"(?<=://)[^\s'\"]*@")
_WITHOUT_SCHEME = re.compile(r"^(?![\w+.\-]+://)[^\s/@]+:\S*@")
_PARAMETER = re.compile(
    rf"(?P<name>(?:^|(?<=[?&;,\s'\"{{(]))[\w.\-]*{_NAME}|(?<=[?&])key)(?P<is>\s*=\s*)(?!\*\*\*)[^\s&;,'\"#]+", re.I
)
_OPTION = re.compile(rf"(?P<name>--?[\w\-]*{_NAME})(?P<is>[\s=]+)(?!\*\*\*)(?:'[^']*'|\"[^\"]*\"|[^\s'\"]+)", re.I)
_JSON = re.compile(rf"(?P<name>[\"'][\w\-]*{_NAME}[\"'])(?P<is>\s*:\s*)(?:\"[^\"]*\"|'[^']*'|[^\s,}}]+)", re.I)
_SASL = re.compile(rf"(?P<name>\b\w*{_NAME})(?P<is>\s*=\s*)(?:\"[^\"]*\"|'[^']*')", re.I)
_BEARER = re.compile(r"(?P<name>\b(?:bearer|basic))(?P<is>\s+)(?!\*\*\*|token\b)[\w.~+/\-]{8,}=*", re.I)
_FLAG = re.compile(rf"--?(?:[\w\-.]*[\-_.])?{_NAME}", re.I)
_URL_KEYS = ("url", "uri")


def is_secret_name(name: str) -> bool:
    """Whether a setting, a flag or a parameter of this name holds a secret (`max_tokens` does not)."""
    return _SECRET_NAME.match(name) is not None


def hidden(text: str) -> str:
    """A text without the secrets in it: users of addresses, parameters, flags and their values, bearer tokens."""
    text = _USER.sub(f"{HIDDEN}@", text)
    for found in (_SASL, _OPTION, _PARAMETER, _JSON, _BEARER):
        text = found.sub(rf"\g<name>\g<is>{HIDDEN}", text)
    return text


def shown(value: Any, name: str = "") -> Any:
    """A setting as it may be shown: the same value with its secrets replaced, however deep they stand."""
    if isinstance(value, dict):
        if name in _ALL_HIDDEN:
            return dict.fromkeys(value, HIDDEN)
        return {key: shown(item, str(key)) for key, item in value.items()}
    if value is not None and is_secret_name(name) and not isinstance(value, bool):
        return HIDDEN
    if isinstance(value, (list, tuple)):
        return _items(value)
    if isinstance(value, str):
        if name.endswith(_URL_KEYS) and _WITHOUT_SCHEME.match(value):
            value = _WITHOUT_SCHEME.sub(f"{HIDDEN}@", value)
        return hidden(value)
    return value


def is_shown_when_wrong(location: tuple[object, ...]) -> bool:
    """Whether an error about a setting may quote what was found there."""
    names = [part for part in location if isinstance(part, str)]
    return not any(name in _ALL_HIDDEN | {"arguments", "command"} or is_secret_name(name) for name in names)


def _items(values: Any) -> list[Any]:
    """Items one by one; the value of a flag is the item after it."""
    out: list[Any] = []
    of_secret = False
    for value in values:
        follows = of_secret and not (isinstance(value, str) and value.startswith("--"))
        out.append(HIDDEN if follows else shown(value))
        of_secret = isinstance(value, str) and _FLAG.fullmatch(value) is not None
    return out
