"""`semievold demo`: builds the pieces of the demo, runs the story, prints the summary, writes the report."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semievol.commands.printing import plain_console
from semievol.config.file import load_config
from semievol.plain_lines import plain
from semievol.report import page as report
from semievol.report.data import ReportData, headline
from semievol.tasks.task import Task
from semievold.config.daemon import DaemonConfig
from semievold.demo import model as demo_model
from semievold.demo.client import DaemonClient
from semievold.demo.scenario import Scenario
from semievold.demo.screen import Screen
from semievold.demo.settings import ALIAS, Scale, write_config
from semievold.demo.summary import figures, report_data
from semievold.demo.support_desk import Dataset, generate
from semievold.demo.telling import Told, tell
from semievold.service import place_of
from semievold.store.stores import open_stores


def run_demo(seed: int, directory: Path, models: Path, *, keep_running: bool, as_json: bool) -> int:
    """Run the demo in `directory` (its data of an earlier run is replaced); returns the exit code.

    Raises:
        SemiEvolError: the model could not be had, or the daemon failed.
    """
    scale = Scale()
    model = demo_model.provide(models, lambda line: print(line, file=sys.stderr))
    directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory / "data", ignore_errors=True)
    config_path = write_config(directory, model, seed, scale)
    config = load_config(DaemonConfig, config_path, {})
    dataset = generate(
        seed, scale.labelled_per_intent, scale.queries, scale.test, mail=scale.mail, out_of_scope=scale.out_of_scope
    )
    return asyncio.run(_until_signalled(_show(config_path, config, dataset, scale, keep_running, as_json)))


async def _until_signalled(show: Coroutine[Any, Any, int]) -> int:
    """Run to the end, or until SIGTERM or SIGINT: then the daemon is stopped before this process ends."""
    task = asyncio.ensure_future(show)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return 130


async def _show(
    path: Path, config: DaemonConfig, dataset: Dataset, scale: Scale, keep_running: bool, as_json: bool
) -> int:
    data = config.artifacts.directory
    client = DaemonClient(path, data)
    with Screen(scale, client.memory) as screen:
        screen.say(f"starting the daemon: semievold run --config {path}")
        async with client:
            scenario = Scenario(client, Task(config.task), dataset, scale, screen.watch, screen.say)
            story = await scenario.run()
            stores = open_stores(config.store_url, ALIAS, ALIAS, migrate=False)
            console = _console(client, data, keep_running)
            try:
                facts: dict[str, str | int | float] = {
                    "model": Path(config.model.name).name,
                    "seed": config.seed,
                    "labelled examples": len(dataset.examples),
                    "queries": len(dataset.queries),
                    "test questions": len(dataset.test),
                    "configuration": config.hash(),
                    "console": console,
                }
                told = tell(stores, story)
                found = report_data(
                    story, stores, place_of(config), config.selection, dataset, client.memory, told, facts
                )
            finally:
                stores.database.close()
            page = path.parent / "report.html"
            report.write(found, page)
            summary = {**figures(found, story, told, client.memory), "console": console}
            (path.parent / "summary.json").write_text(json.dumps(summary, indent=1))
            if as_json:
                typer.echo(json.dumps(summary, indent=1))
            else:
                print_summary(found, summary, told, plain_console(width=None if sys.stdout.isatty() else WIDTH))
                typer.echo(f"\nreport: {page}\nexplain a query: semievol explain {dataset.queries[0].id} -c {path}")
                typer.echo(f"console: {console}")
            if keep_running:
                screen.say(f"the daemon goes on (Ctrl-C ends it): {client.endpoints}, tokens in {data}")
                await client.wait_for_exit()
    return 0


def _console(client: DaemonClient, data: Path, keep_running: bool) -> str:
    """Where it is, and what opens it."""
    if keep_running:
        at = client.endpoints["api"]
        return f"{at}/ (rounds: {at}/rounds, drift: {at}/drift; its token is in {data / 'api.token'})"
    return "`make run` tells the story again and leaves it running, with the console"


WIDTH = 132  # of the summary where no terminal says how wide it is
COLUMNS = ("round", "ended as", "test before", "test after", "holdout", "p", "pool", "selected", "precision", "s")


def print_summary(data: ReportData, summary: dict[str, object], told: Told, console: Console) -> None:
    """The table a person reads, and what the daemon did by itself."""
    table = Table(title="Closed-book accuracy on a test set never used", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("round", "ended as") else "right")
    for round_ in data.rounds:
        holdout = "-"
        if round_.holdout_before is not None and round_.holdout_after is not None:
            holdout = f"{round_.holdout_before.accuracy:.1%} → {round_.holdout_after.accuracy:.1%}"
        table.add_row(
            f"{round_.number} {round_.kind}",
            round_.state,
            _share(None if round_.test_before is None else round_.test_before.accuracy),
            _share(None if round_.test_after is None else round_.test_after.accuracy),
            holdout,
            "-" if round_.p_better is None else f"{round_.p_better:.2g}",
            str(round_.pool or "-"),
            str(round_.selected or "-"),
            _share(round_.selected_precision),
            "-" if round_.training_s is None else f"{round_.training_s:.0f}",
        )
    console.print(table)
    for sentence in told.sentences():
        console.print(Text("• ", style="bold cyan") + Text(plain(sentence)))
    console.print(
        f"{summary['swaps']} swaps under {summary['client_requests']} client requests, "
        f"{summary['client_failures']} failed; {summary['seconds']} s; "
        f"peak memory of all processes {summary['peak_memory_gib']} GiB"
    )
    head = headline(data)
    if head is not None:
        start = "warm adapter" if head.warm else "base model"
        console.print(f"from the {start} to the last promoted adapter: {100 * head.gain:+.1f} points", style="bold")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
