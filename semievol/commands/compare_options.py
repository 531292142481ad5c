"""What `semievol compare` is asked for: how much is compared, and how that is written on a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semievol.errors import ConfigError

SWEEPS = ("n", "theta", "ratio")


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How much is compared.

    seeds: each draws examples, order and samples anew. rounds: evolve rounds. neighbours: shown at inference, 0: closed
    book only. rows: None: all that can run. per_answer, max_queries, max_test: cut the data (None: whole).
    models: further models as rows of their own, by title. sweeps: values of n, theta and ratio for SemiEvol.
    """

    seeds: tuple[int, ...] = (0,)
    rounds: int = 3
    neighbours: int = 3
    rows: tuple[str, ...] | None = None
    per_answer: int | None = None
    max_queries: int | None = None
    max_test: int | None = None
    models: Mapping[str, str] | None = None
    sweeps: Mapping[str, tuple[float, ...]] | None = None


def parsed_options(
    *, seeds: str, rows: str | None, models: Sequence[str], sweeps: Sequence[str], **others: Any
) -> CompareOptions:
    """Options as they are written on a command line.

    Raises:
        ConfigError: names the option and the fix.
    """
    numbers = _numbers("--seeds", seeds)
    whole = tuple(int(value) for value in numbers)
    if any(value != int(value) for value in numbers):
        raise ConfigError(f"--seeds: {seeds} has one that is not whole")
    if len(set(whole)) != len(whole):
        raise ConfigError(f"--seeds: {seeds} has one of them twice")
    titled = {}
    for each in models:
        title, equals, path = each.partition("=")
        if not equals or not title or not path:
            raise ConfigError(f"--model: {each!r} is not TITLE=NAME")
        titled[title] = path
    values: dict[str, tuple[float, ...]] = {}
    for each in sweeps:
        parameter, _, text = each.partition("=")
        if parameter not in SWEEPS:
            raise ConfigError(f"--sweep: {each!r} is not one of {', '.join(SWEEPS)}, followed by = and values")
        values[parameter] = tuple(_numbers(f"--sweep {parameter}", text))
    wanted = None if rows is None else tuple(name.strip() for name in rows.split(",") if name.strip())
    return CompareOptions(seeds=whole, rows=wanted, models=titled, sweeps=values, **others)


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a list of numbers like 1,2,4") from None
    if not all(value >= 0 for value in found):
        raise ConfigError(f"{option}: {text!r} has a number below 0")
    return found
