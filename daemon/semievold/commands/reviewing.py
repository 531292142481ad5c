"""The review at the terminal: item by item, one key an answer; by lines and as JSON for programs.

Owns what is shown and which key means what; what becomes of an answer is semievold.review.answering's. Invariant: each
answer is published before the next item is shown, so that nothing is lost with the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from semievol.commands.printing import say, say_table
from semievol.errors import DataError
from semievol.plain_lines import one_line
from semievold.errors import StateConflict
from semievold.review.answering import Reviewers, Which
from semievold.review.exchange import question_of

TYPE, SKIP, UNDO, QUIT = "t", "s", "u", "q"
KEYS = "".join(key for key in "123456789abcdefghijklmnoprvwxyz" if key not in (TYPE, SKIP, UNDO, QUIT))
"""For answers."""
AT_ONCE = 50
ENDS = ("", "\x03", "\x04", "\x1a")
"""The end of the input, and what a terminal sends for an interrupt or an end."""
Read = Callable[[], str]


@dataclass(slots=True)
class Done:
    """What a session did: labels given, items skipped, answers taken back, and what was refused."""

    labelled: int = 0
    skipped: int = 0
    undone: int = 0
    refused: list[str] = field(default_factory=list)


def show_items(seen: Mapping[str, Any]) -> None:
    """What waits, one line an item; and of what nothing waits, why."""
    rows = [
        {
            "purpose": item["purpose"],
            "asked": str(item.get("times", 1)),
            "id": item["id"],
            "question": question_of(item),
        }
        for item in seen["items"]
    ]
    if rows:
        say_table(rows, ["purpose", "asked", "id", "question"], ["question"])
    show_nothing(seen)


def show_nothing(seen: Mapping[str, Any]) -> None:
    for kind, why in seen["nothing"].items():
        say(f"{kind}: nothing waits: {why}")


class Session:
    """One person at one terminal.

    Args:
        kind: of items; None: all that wait.
        read_key: what was said: a key, or a line that is not empty; "" at the end of the input.
        read_text: a line.
        as_json: each item and what became of it as a line of JSON.
    """

    def __init__(
        self, reviewers: Reviewers, kind: Which | None, read_key: Read, read_text: Read, *, as_json: bool = False
    ) -> None:
        self._reviewers = reviewers
        self._kind = kind
        self._read_key = read_key
        self._read_text = read_text
        self._as_json = as_json
        self._given: list[dict[str, Any]] = []  # what can be undone, the newest last
        self._passed: set[str] = set()  # contradictions that were left for others
        self.done = Done()

    async def run(self) -> None:
        """Until nothing waits, or somebody quits."""
        queue: list[dict[str, Any]] = []
        while True:
            if not queue:
                seen = self._reviewers.waiting(self._kind, AT_ONCE + len(self._passed))
                queue = [item for item in seen["items"] if item["review"] not in self._passed]
                if not queue:
                    before = await self._last_word(seen)
                    if before is None:
                        return
                    queue = [before]
            item = queue[0]
            said = self._ask(item)
            if said == QUIT or said in ENDS:
                self._end(None)
                return
            if said == UNDO:
                if (before := await self._undo()) is not None:
                    queue.insert(0, before)
                continue
            if await self._answered(item, said):
                queue.pop(0)

    async def _last_word(self, seen: Mapping[str, Any]) -> dict[str, Any] | None:
        """Nothing waits any more; the item whose answer is taken back nevertheless."""
        if self._given:
            self._tell(f"nothing waits any more; {UNDO} undoes, everything else ends", {"item": None})
            if self._read_key() == UNDO and (before := await self._undo()) is not None:
                return before
        self._end(seen)
        return None

    def _ask(self, item: Mapping[str, Any]) -> str:
        if self._as_json:
            _say_json({"item": item})
        else:
            self._show(item)
        return self._read_key()

    async def _answered(self, item: dict[str, Any], said: str) -> bool:
        """Whether the item is through."""
        try:
            if said == SKIP:
                if item["purpose"] == "contradiction":
                    self._passed.add(item["review"])
                else:
                    await self._reviewers.skip(item["review"])
                    self._given.append(item)
                self.done.skipped += 1
                self._tell("skipped", {"review": item["review"], "state": "skipped"})
                return True
            if said == TYPE:
                if not self._as_json:
                    say("the right answer:")
                said = f"={self._read_text()}"
            answer = meant(item, said)
            if answer is None:
                raise DataError(f"{said[:40]!r}: no such key; type the answer after {TYPE}")
            given = await self._reviewers.give(item["review"], answer, "terminal")
        except (DataError, StateConflict) as refused:
            self.done.refused.append(str(refused))
            self._tell(str(refused), {"review": item["review"], "error": str(refused)})
            return isinstance(refused, StateConflict)  # somebody else was faster; a wrong key may be put right
        self.done.labelled += 1
        self._given.append(item)
        self._tell(f"-> {given['answer']}", given)
        return True

    async def _undo(self) -> dict[str, Any] | None:
        """The item whose answer was taken back."""
        if not self._given:
            self._tell("nothing to undo", {"error": "nothing to undo"})
            return None
        item = self._given.pop()
        try:
            told = await self._reviewers.undo(item["review"])
        except StateConflict as refused:
            self._tell(str(refused), {"review": item["review"], "error": str(refused)})
            return None
        self.done.undone += 1
        self._tell("taken back", told)
        return item

    def _show(self, item: Mapping[str, Any]) -> None:
        times = item.get("times", 1)
        say("")
        say(f"[{item['purpose']}]" + (f" asked {times} times" if times > 1 else ""))
        for line in question_of(item).split("\n"):
            say(f"  {one_line(line)}")
        if item.get("options"):
            for letter, option in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", item["options"], strict=False):
                say(f"  {letter}. {one_line(option)}")
        if item["purpose"] == "contradiction":
            for each in item["candidates"]:
                right, wrong = (len(each.get(name, ())) for name in ("right", "wrong"))
                say(f"    said of {one_line(each['answer'])}: right {right} times, wrong {wrong} times")
        keys = keyed(item)
        for key, answer in keys.items():
            say(f"  {key}  {one_line(answer)}")
        say(f"  {TYPE} type another answer   {SKIP} skip   {UNDO} undo   {QUIT} quit")

    def _tell(self, text: str, value: Mapping[str, Any]) -> None:
        if self._as_json:
            _say_json(value)
        else:
            say(one_line(text))

    def _end(self, seen: Mapping[str, Any] | None) -> None:
        done = self.done
        if self._as_json:
            _say_json({"labelled": done.labelled, "skipped": done.skipped, "undone": done.undone})
            return
        if seen is not None:
            show_nothing(seen)
        say(f"{done.labelled - done.undone} labelled, {done.skipped} skipped")


def keyed(item: Mapping[str, Any]) -> dict[str, str]:
    """{key: answer}: all that there are, where there are keys enough; else those that may be right.

    At a gate the two that differ stand first, in the order that says nothing of them: whoever always takes the first
    then tosses a coin. Else all stand in the order of the task.
    """
    answers, said = item["answers"], [each["answer"] for each in item["candidates"]]
    if answers is None or len(answers) > len(KEYS):
        answers = said
    elif item["purpose"] == "gate":
        answers = said + [answer for answer in answers if answer not in said]
    return dict(zip(KEYS, answers, strict=False))


def meant(item: Mapping[str, Any], said: str) -> str | None:
    """The answer that a key or a line means: `=` before it makes every text one. None: none."""
    keys = keyed(item)
    if said.startswith("="):
        return said[1:].strip()
    if said in keys:
        return keys[said]
    return None if len(said) == 1 else said


def terminal_reads(stream: Any = None) -> tuple[Read, Read]:
    """How keys and lines are read: a key at a time from a terminal, else whole lines."""
    source = sys.stdin if stream is None else stream

    def line() -> str:
        return str(source.readline())

    def text() -> str:
        return line().strip()

    def said() -> str:
        while (found := line()) and not found.strip():
            pass
        return found.strip()

    if not source.isatty():
        return said, text

    def key() -> str:
        import typer

        try:
            return typer.getchar()
        except (KeyboardInterrupt, EOFError):
            return ""

    return key, text


def _say_json(value: Mapping[str, Any]) -> None:
    say(json.dumps(value, ensure_ascii=False, default=str))
