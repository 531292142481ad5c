"""What `semievol rounds replay` does and says: a round done again, and whether it came out the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from semievold.config.daemon import DaemonConfig
from semievold.rounds.launch import SubprocessLauncher
from semievold.rounds.places import RoundPlace
from semievold.rounds.planning.replay import again, trained_again
from semievold.store.stores import Stores

SHOWN = 10
"""Ids that a person is shown of each kind."""


class Report(NamedTuple):
    """whole: for programs; short: with few ids. equal None: another rule was asked for, so that nothing is compared."""

    whole: dict[str, Any]
    short: dict[str, Any]
    equal: bool | None


async def replay(
    config: DaemonConfig, stores: Stores, place: RoundPlace, number: int, given: Sequence[str], *, train: bool
) -> Report:
    """Choose again, and train again unless the rows differ, another rule is asked about, or nobody wants to wait.

    Raises:
        ConfigError: a setting is none, or is one that only models could answer.
        StateConflict: there is no such round, or the state does not know any more what it saw.
    """
    replayed = await asyncio.to_thread(again, stores, config, place, number, given)
    found = replayed.report()
    if given:
        kept = {name: found[name] for name in ("round", "examples", "pool", "selected", "threshold")}
        whole = {**kept, "set": list(given), "note": "nothing was changed, and nothing was trained"}
        return Report(whole, _short(whole), None)
    equal = replayed.same_rows
    if train:
        launcher = SubprocessLauncher(config.training.inherit)
        found["adapter"] = await trained_again(replayed, stores, launcher)
        equal = equal and found["adapter"].get("equal", True)
    whole = {"equal": equal, "said": _said(found, equal=equal), **found}
    return Report(whole, _short(whole), equal)


def _said(found: Mapping[str, Any], *, equal: bool) -> str:
    adapter = found.get("adapter")
    if equal:
        weights = "weights were not compared" if not adapter or "equal" not in adapter else "the same weights"
        return f"the same rows; {weights}"
    differs = []
    selected, gone = found["selected"], found["examples"]["gone"]
    if gone:
        differs.append(f"{len(gone)} of its examples are gone")
    if found["pool"]["then"] != found["pool"]["now"]:
        differs.append(f"{found['pool']['then'] - found['pool']['now']} of its pseudo-labels are gone")
    if selected["only_then"] or selected["only_now"]:
        differs.append(
            f"{len(selected['only_then'])} pseudo-labels are not selected any more and "
            f"{len(selected['only_now'])} others are"
        )
    if not found["rows"]["equal"] and not differs:
        differs.append("the rows are others, of the same ids: an example, or the task's words, changed since")
    if adapter and adapter.get("equal") is False:
        differs.append("the same rows gave other weights: another machine, or other versions of torch and peft")
    return "; ".join(differs)


def _short(whole: Mapping[str, Any]) -> dict[str, Any]:
    """With the first ids of long lists."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > SHOWN and not isinstance(next(iter(value.values())), dict):
            some = dict(list(value.items())[:SHOWN])
            return {**some, "and": f"{len(value) - SHOWN} more (--json shows all)"}
        return {key: cut(item) for key, item in value.items()} if isinstance(value, dict) else value

    return {key: cut(value) if isinstance(value, dict) else value for key, value in whole.items()}
