"""What the demo shows while it runs: bars, accuracy, entropy and the pool on a terminal; plain lines elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from semievol.commands.printing import plain_console
from semievol.plain_lines import plain
from semievold.demo.client import Memory
from semievold.demo.scenario import Story
from semievold.demo.settings import Scale

BAR = 28
STATES = {
    "planned": "taking stock",
    "snapshotted": "snapshot taken",
    "training": "training",
    "trained": "trained",
    "loaded": "proving itself on the holdout",
    "evaluated": "attesting",
    "attested": "promoting",
    "proving": "waiting for labels that prove it",
    "canary": "on trial",
    "promoted": "watched",
}


class Screen:
    """A live panel with a log of milestones above it."""

    def __init__(self, scale: Scale, memory: Memory) -> None:
        self._scale = scale
        self._memory = memory
        # Standard error, so that `-o json` leaves standard output to the program that reads it.
        self.console = plain_console(stderr=True)
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """One milestone, above the panel."""
        self.console.print(Text("• ", style="bold cyan") + Text(plain(text)))

    def watch(self, status: dict[str, Any], rounds: list[dict[str, Any]], story: Story) -> None:
        """Draw the present."""
        if self.console.is_terminal:
            self._live.update(Panel(self._body(status, rounds, story), title="SemiEvol", border_style="cyan"))

    def _body(self, status: dict[str, Any], rounds: list[dict[str, Any]], story: Story) -> Group:
        lines = Table.grid(padding=(0, 2))
        lines.add_column(justify="right", style="dim")
        lines.add_column()
        total = status["pseudo_labels"]["total"]
        lines.add_row("queries", _bar(total, self._scale.queries, f"{total} of {self._scale.queries} labelled"))
        open_round = status["round"]
        if open_round is None:
            lines.add_row("round", Text(f"none open; {status['waiting_for']}"))
        else:
            lines.add_row("round", _round_bar(open_round))
        recent = status["recent"]
        if recent["labels"]:
            entropy = "-" if recent["entropy"] is None else f"{recent['entropy']:.3f} nats"
            pool = f"entropy {entropy}, agreement {recent['agreement']:.0%} (last {recent['labels']})"
            lines.add_row("pool", Text(pool))
        examples = status["examples"]
        lines.add_row("examples", Text(f"{examples['training']} to learn from, {examples['holdout']} held out"))
        lines.add_row("serving", Text(status["serving"] or "the base model"))
        drift = (status["drift"] or {}).get("event")
        if drift is not None:
            lines.add_row("drift", Text(plain(drift["said"])))
        asked = story.customers
        lines.add_row("customers", Text(f"{asked.answered} answered, {asked.failed} failed, {len(story.swaps)} swaps"))
        lines.add_row("memory", Text(f"{self._memory.now / 2**30:.2f} GiB; {story.elapsed():.0f} s"))
        return Group(lines, Text(), _scores(story, rounds))


def _bar(done: float, total: float, text: str) -> Table:
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=max(total, 1), completed=done, width=BAR), Text(text))
    return row


def _round_bar(open_round: dict[str, Any]) -> Table | Text:
    name = f"{open_round['number']} ({open_round['kind']})"
    training = open_round.get("training")
    if open_round["state"] == "training" and training and training.get("total_steps"):
        loss = training.get("loss")
        shown = "" if loss is None else f", loss {loss:.3f}"
        text = f"{name}: training, step {training['step']} of {training['total_steps']}{shown}"
        return _bar(training["step"], training["total_steps"], text)
    return Text(f"{name}: {STATES.get(open_round['state'], open_round['state'])}")


def _scores(story: Story, rounds: list[dict[str, Any]]) -> Table:
    """Test accuracy of every version that served, as bars."""
    by_adapter = {round_["adapter"]: round_ for round_ in rounds if round_["adapter"]}
    table = Table.grid(padding=(0, 2))
    for adapter, measured in story.measurements.items():
        round_ = by_adapter.get(adapter)
        name = "base" if round_ is None else "warm" if round_["kind"] == "warm" else f"round {round_['number']}"
        accuracy = measured.score.accuracy
        table.add_row(
            Text(f"test accuracy, {name}", style="dim"),
            ProgressBar(total=1.0, completed=accuracy, width=BAR),
            Text(f"{accuracy:.1%}", style="bold"),
        )
    return table
