"""How a command prints to people: plain lines, tables that fit the terminal, times that say how long ago.

Owns the one way in which text comes to a terminal. Invariant: text is shown as it is. Nothing in it is markup, and a
character that would steer the terminal is shown by its escape.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from semievol.engines.plain.tally import NEUTRALISED, Where
from semievol.plain_lines import escaped, one_line, plain

if TYPE_CHECKING:
    from rich.console import Console

GAP = "  "
ROOM = 40  # columns that a long text needs beside the others; with less it stands below them


def say(text: object, file: TextIO | None = None) -> None:
    """One line, or several, as they are; to standard output unless told otherwise."""
    stream = file or sys.stdout
    shown = plain(text)
    try:
        shown.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal without these letters
        shown = re.sub("[^\x00-\x7f]", lambda found: escaped(found.group()), shown)
    print(shown, file=stream)


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """rich, for bars and panels, with all that it would read in a text turned off."""
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def neutralised_line(before: Mapping[Where, int]) -> str | None:
    """What a run says once, at its end, where text in its files would have become control tokens of the model.

    `before`: the tally when the run began; a process may have run others.
    """
    parts = {"prompt": "prompts", "training": "training rows"}
    counts = {where: count - before[where] for where, count in NEUTRALISED.counts().items()}
    told = [f"{count} {parts[where]}" for where, count in counts.items() if count and where in parts]
    if not told:
        return None
    return f"control texts of the model's chat template stood in {' and '.join(told)}; they were read as plain text"


def ago(seconds: float) -> str:
    """`3 min ago`; of a time to come, `in 3 min`."""
    units = (("d", 86_400), ("h", 3_600), ("min", 60))
    unit, length = next((each for each in units if abs(seconds) >= each[1]), ("s", 1))
    count = int(abs(seconds) // length)
    return f"{count} {unit} ago" if seconds >= 0 or count == 0 else f"in {count} {unit}"


def when(at: float, *, short: bool) -> str:
    """A time, UTC seconds: how long ago, and unless `short` the local time as well."""
    passed = ago(time.time() - at)
    return passed if short else f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))} ({passed})"


def say_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """`key  value` lines; a value is never broken, so that it can be copied."""
    shown = [(one_line(key), one_line(value)) for key, value in pairs]
    widest = max((_width(key) for key, _ in shown), default=0)
    for key, value in shown:
        say(f"{_padded(key, widest)}{GAP}{value}".rstrip())


def say_table(rows: Sequence[Mapping[str, str]], columns: Sequence[str], long: Sequence[str] = ()) -> None:
    """A table no wider than the terminal.

    Columns named in `long` hold texts. One of them stands beside the others where there is room, else they are lines
    below each row. Where the others alone are too wide, each row is a block of lines.
    """
    width = shutil.get_terminal_size((80, 24)).columns
    brief = [name for name in columns if name not in long]
    texts = [name for name in columns if name in long]
    cells = [{name: one_line(row.get(name, "-")) for name in columns} for row in rows]
    widths = {name: max(_width(text) for text in (name, *(row[name] for row in cells))) for name in brief}
    taken = sum(widths.values()) + len(GAP) * max(len(brief) - 1, 0)
    if taken > width:
        for row in cells:
            say("- " + "\n  ".join(_wrapped(f"{name}: {row[name]}", width - 2, 2) for name in columns))
        return
    beside = texts if len(texts) == 1 and width - taken - len(GAP) >= ROOM else []
    header = {name: name for name in columns}
    for row in (header, *cells):
        line = GAP.join(_padded(row[name], widths[name]) for name in brief)
        for name in beside:
            line += GAP + _wrapped(row[name], width - taken - len(GAP), taken + len(GAP))
        say(line.rstrip())
        if beside or row is header:
            continue
        for name in texts:
            if row[name] != "-":
                say("    " + _wrapped(f"{name}: {row[name]}", width - 4, 8))


def _wrapped(text: str, width: int, indent: int) -> str:
    """Lines of at most `width` columns but for longer words; those after the first are indented by spaces."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and _width(lines[-1]) + 1 + _width(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return ("\n" + " " * indent).join(lines)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Columns of a terminal that the text takes: wide characters take two."""
    from rich.cells import cell_len

    return cell_len(text)
