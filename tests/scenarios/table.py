"""What became of the stories, as a table, and whether a refusal can be read by somebody who did not write the code."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.scenarios.stories import Told

_SETTING = re.compile(r"\b[a-z]+\.[a-z_]+\b")
_COMMAND = re.compile(r"`semievol [^`]+`")
_CODE = re.compile(
    r"Traceback|Error\b|\bNone\b|\bnan\b|\binf\b|0x[0-9a-f]{4}|[{}<>]|\w+\(\)|\b[a-z]+_[a-z_]+\b|\b[A-Z]\w+[A-Z]\w+"
)


def table(told: Iterable[Told]) -> str:
    """One row a story and seed, then every reason that was given, in the daemon's words."""
    rows = sorted(told, key=lambda each: (each.story, each.seed))
    lines = ["| story | seed | began | ended | promoted | refused |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {each.story.replace('_', ' ')} | {each.seed} | {each.began:.1%} | {each.ended:.1%} | {each.promoted} | "
        f"{len(each.refused)} |"
        for each in rows
    ]
    for each in rows:
        lines += ["", f"{each.story.replace('_', ' ')}, seed {each.seed}"]
        lines += [f"- round {refused.round} {refused.state}: {refused.reason}" for refused in each.refused]
        lines += [f"- {name}: {value}" for name, value in each.notes.items()]
    return "\n".join(lines) + "\n"


def unreadable(reason: str) -> str | None:
    """What in a reason is the code's and not its reader's; None: nothing.

    A reason is a sentence with the figure that decided, in words; names of settings and commands of the documentation
    may stand in it, no other names of the code.
    """
    said = _COMMAND.sub("", _SETTING.sub("", reason))
    if found := _CODE.search(said):
        return f"{found[0]!r} is a word of the code"
    if not re.search(r"\d", reason):
        return "no figure"
    if len(re.findall(r"[a-z]{2,}", said)) < 5:
        return "no sentence"
    return None
