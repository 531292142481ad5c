"""The command line `semievol`: the method on files, and whatever installed packages add to it.

Owns arguments, output and exit codes (0 done, 1 the run failed, 2 usage, configuration or data). What a command does
is in the file of its name. Other packages (the service) register theirs through the entry-point group
`semievol.commands`. Heavy imports wait until a command needs them: `--help` answers at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semievol.commands.printing import neutralised_line, plain_console, say, say_pairs
from semievol.engines.plain.tally import NEUTRALISED
from semievol.errors import ConfigError, DataError, SemiEvolError
from semievol.plain_lines import one_line, plain, warn_plainly

if TYPE_CHECKING:
    from semievol.config.method import MethodConfig
    from semievol.teaching import Watcher

COMMANDS_GROUP = "semievol.commands"


class OutputFormat(StrEnum):
    """How results are printed to standard output."""

    TABLE = "table"
    JSON = "json"


ConfigPath = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file of the method's settings (or SEMIEVOL__SECTION__KEY).")
]
ExamplesPath = Annotated[
    Path, typer.Option("--examples", help="Labelled examples (.jsonl, .json, .csv, .tsv, .parquet, hub:NAME).")
]
QueriesPath = Annotated[
    Path, typer.Option("--queries", help="Unlabeled queries (.jsonl, .json, .csv, .tsv, .parquet, hub:NAME).")
]
AdapterPath = Annotated[
    Path | None, typer.Option("--adapter", resolve_path=True, help="Adapter directory; without it, the base model.")
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="What columns of the files mean: question=text,answer=label (or data.columns)."),
]
Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="table or json")]

app = typer.Typer(
    name="semievol",
    help="Semi-supervised LoRA fine-tuning from few labels and many queries (SemiEvol, arXiv 2410.14745).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"semievol {version('semievol')}")
        raise typer.Exit


def common_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What both programs take before the name of a command."""


app.callback(help=app.info.help)(common_options)


def main() -> None:
    """Entry point of `semievol`."""
    # Read when torch is loaded: by default its threads spin while they wait, and starve whatever shares their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warn_plainly()
    add_installed_commands(app)
    run_app(app)


def run_app(target: typer.Typer, arguments: list[str] | None = None) -> None:
    """Run an app on `arguments` (None: the process's own); our errors become one line and an exit code."""
    keep_to_ourselves()
    reading = logging.getLogger("semievol.examples")
    reading.setLevel(logging.INFO)
    reading.addHandler(_SAID)
    _SAID.neutralised_before = NEUTRALISED.counts()
    try:
        target([_at_home(each) for each in (sys.argv[1:] if arguments is None else arguments)])
    except (ConfigError, DataError) as error:
        _fail(error, 2)
    except OSError as error:
        known = error.filename is not None and error.strerror
        _fail(SemiEvolError(f"{error.filename}: {error.strerror}") if known else error, 1)
    except SemiEvolError as error:
        _fail(error, 1)
    finally:
        reading.removeHandler(_SAID)
        _SAID.lines.clear()


def keep_to_ourselves() -> None:
    """What is written from here on, by children too, is its owner's alone: it holds the texts of clients and people.

    `SEMIEVOL_UMASK=027` lets the group read, 022 everybody.

    Raises:
        SystemExit: the variable is no umask.
    """
    given = os.environ.get("SEMIEVOL_UMASK", "077")
    if len(given) > 4 or not given or set(given) - set("01234567"):
        _fail(ConfigError(f"SEMIEVOL_UMASK: {given[:20]!r} is no umask; give 077, 027 or 022"), 2)
    os.umask(int(given, 8))


@app.command("init")
def init_command(
    source: Annotated[str, typer.Argument(metavar="FILE", help="Labelled examples, or hub:NAME.")],
    out: Annotated[Path, typer.Option(help="The configuration; it is not overwritten.")] = Path("semievol.yaml"),
    model: Annotated[str | None, typer.Option(help="Hub name or directory of the base model.")] = None,
    answer_index: Annotated[int | None, typer.Option(min=0, max=1, help="Number of option A, in numbers.")] = None,
    columns: Columns = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Write a commented configuration that fits a file of examples, and say what comes next."""
    from semievol.commands.init import DEFAULT_MODEL, run_init
    from semievol.config.data import DataConfig, mapped

    data = mapped(DataConfig(), columns)
    made = run_init(source, out, data, model=model or DEFAULT_MODEL, answer_index=answer_index)
    if output is OutputFormat.JSON:
        show(made, output)
        return
    labels = f", {made['labels']} labels" if made["labels"] else ""
    say(f"wrote {made['config']}: {made['form']}{labels}, {made['examples']} examples. Next:")
    for command in made["next"]:
        say(f"  {command}")


@app.command("evolve")
def evolve_command(
    examples: ExamplesPath,
    queries: QueriesPath,
    out: Annotated[Path, typer.Option(help="Run directory; the same command goes on where an earlier one stopped.")],
    config: ConfigPath = None,
    rounds: Annotated[int, typer.Option(min=0, help="Evolve rounds after the warm round.")] = 1,
    holdout: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the examples kept for the gate.")] = 0.2,
    test: Annotated[Path | None, typer.Option(help="Labelled data to score every adapter on, at the end.")] = None,
    answers: Annotated[Path | None, typer.Option(help="True answers of the queries, to score pseudo-labels.")] = None,
    columns: Columns = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Run the whole method: warm round, then label, select, train and prove, round by round."""
    from semievol.commands.evolve import EvolveFiles, run_evolve

    files = EvolveFiles(examples=examples, queries=queries, out=out, test=test, answers=answers)
    settings = _load(config, columns)
    with _progress() as watcher:
        summary = asyncio.run(run_evolve(settings, files, rounds=rounds, holdout_share=holdout, watcher=watcher))
    show(summary, output)


@app.command("compare")
def compare_command(
    examples: ExamplesPath,
    queries: QueriesPath,
    test: Annotated[Path, typer.Option(help="Labelled data that every row is asked.")],
    out: Annotated[Path, typer.Option(help="Directory of the comparison; finished rows are not run again.")],
    config: ConfigPath = None,
    answers: Annotated[Path | None, typer.Option(help="True answers of the queries: the bound and precision.")] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated; each draws examples and order anew.")] = "0",
    rounds: Annotated[int, typer.Option(min=1, help="Evolve rounds after the warm round.")] = 3,
    neighbours: Annotated[int, typer.Option(min=0, help="Neighbours at inference; 0 asks closed book only.")] = 3,
    rows: Annotated[str | None, typer.Option(help="Comma-separated rows; without it, all. See the README.")] = None,
    per_answer: Annotated[int | None, typer.Option(min=1, help="Examples of each answer, drawn by the seed.")] = None,
    max_queries: Annotated[int | None, typer.Option(min=1, help="Take so many of the queries.")] = None,
    max_test: Annotated[int | None, typer.Option(min=1, help="Take so many of the test questions.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="TITLE=NAME: an entry of `models`, or a directory, as a row.")
    ] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="n=1,2,4 or theta=0.3,0.5 or ratio=0.5,1,2: SemiEvol over values.")
    ] = None,
    columns: Columns = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Compare the method with its peers, its ablations and the fully labelled bound, over seeds."""
    from semievol.commands.compare import CompareFiles, run_compare
    from semievol.commands.compare_options import CompareOptions, parsed_options
    from semievol.comparison.table import markdown

    settings = _load(config, columns)
    options: CompareOptions = parsed_options(
        seeds=seeds,
        rounds=rounds,
        neighbours=neighbours,
        rows=rows,
        per_answer=per_answer,
        max_queries=max_queries,
        max_test=max_test,
        models=model or [],
        sweeps=sweep or [],
    )
    files = CompareFiles(examples=examples, queries=queries, test=test, out=out, answers=answers)
    with _progress() as watcher:
        summary = asyncio.run(run_compare(settings, files, options, watcher))
    if output is OutputFormat.JSON:
        show(summary, output)
    else:
        say(markdown(summary).rstrip())


@app.command("label")
def label_command(
    examples: ExamplesPath,
    queries: QueriesPath,
    out: Annotated[Path, typer.Option(help="Pseudo-labels with all that explains them (.jsonl).")],
    config: ConfigPath = None,
    adapter: AdapterPath = None,
    columns: Columns = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Pseudo-label queries with the help of examples, and say which would be trained on."""
    from semievol.commands.label import run_label

    settings = _load(config, columns)
    with _progress() as watcher:
        summary = asyncio.run(run_label(settings, examples, queries, out, adapter, watcher))
    show(summary, output)


@app.command("train")
def train_command(
    examples: ExamplesPath,
    out: Annotated[Path, typer.Option(help="Directory for the snapshot and, under adapters/, the adapter.")],
    config: ConfigPath = None,
    pseudo_labels: Annotated[
        Path | None, typer.Option("--pseudo-labels", help="Output of `semievol label`; selection is applied to it.")
    ] = None,
    parent: Annotated[
        Path | None, typer.Option(help="Adapter directory to continue from; without it, a fresh LoRA.")
    ] = None,
    columns: Columns = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Train one adapter on examples and selected pseudo-labels."""
    from semievol.commands.train import run_train

    settings = _load(config, columns)
    with _progress() as watcher:
        summary = asyncio.run(run_train(settings, examples, pseudo_labels, out, parent, watcher))
    show(summary, output)


@app.command("eval")
def eval_command(
    data: Annotated[Path, typer.Option(help="Labelled data to answer.")],
    config: ConfigPath = None,
    adapter: AdapterPath = None,
    examples: Annotated[Path | None, typer.Option(help="Examples to retrieve neighbours from.")] = None,
    neighbours: Annotated[int, typer.Option(min=0, help="Neighbours in the prompt; 0 is closed book.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write every outcome (.jsonl).")] = None,
    columns: Columns = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Measure the accuracy of the base model or an adapter."""
    from semievol.commands.eval import run_eval

    settings = _load(config, columns)
    with _progress() as watcher:
        summary = asyncio.run(run_eval(settings, data, adapter, examples, neighbours, out, watcher))
    show(summary, output)


@app.command("report")
def report_command(
    run: Annotated[Path, typer.Argument(help="Run directory of `semievol evolve`, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="The page; without it, RUN/report.html.")] = None,
    tables: Annotated[Path | None, typer.Option(help="Directory of the CSV files; without it, RUN/report.")] = None,
    answers: Annotated[Path | None, typer.Option(help="True answers of the queries.")] = None,
    test: Annotated[Path | None, typer.Option(help="The labelled data that the run was tested on.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="Directory with the sweep.json; without it, RUN.")] = None,
    columns: Columns = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Draw a run: one HTML page with the paper's figures, and its numbers as CSV."""
    from semievol.commands.report import ReportFiles, run_report
    from semievol.config.data import DataConfig, mapped

    data = mapped(DataConfig(), columns)
    files = ReportFiles(run=run, out=out, tables=tables, answers=answers, test=test, sweep=sweep, data=data)
    show(run_report(files), output)


# --- parts ----------------------------------------------------------------------------------------------------------


def _load(path: Path | None, columns: str | None = None) -> MethodConfig:
    from semievol.config.data import mapped
    from semievol.config.file import load_config
    from semievol.config.method import SERVICE_SECTIONS, MethodConfig

    config = load_config(MethodConfig, path, foreign=SERVICE_SECTIONS)
    return config.model_copy(update={"data": mapped(config.data, columns)})


@contextmanager
def _progress() -> Iterator[Watcher]:
    """Progress bars on standard error, gone when the command ends."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = plain_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def watch(step: str, total: int) -> Any:
            bar = bars.add_task(plain(step), total=total)
            return lambda count: bars.advance(bar, count)

        yield watch
    if (line := neutralised_line(_SAID.neutralised_before)) is not None:
        say(line, sys.stderr)


def _at_home(argument: str) -> str:
    """`--out=~/x` as `--out ~/x`: a shell takes the second to the home directory alone."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--") and value.startswith("~/"):
        return f"{option}={os.path.expanduser(value)}"
    return argument


class _Said(logging.Handler):
    """What was recognised in files, on standard error, and kept for a result that is printed as JSON; and what had been
    neutralised before the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.neutralised_before = NEUTRALISED.counts()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        say(one_line(self.lines[-1]), sys.stderr)


_SAID = _Said()


def show(summary: dict[str, Any], output: OutputFormat) -> None:
    """Print a result to standard output."""
    if output is OutputFormat.JSON:
        if _SAID.lines:
            summary = {**summary, "read": list(dict.fromkeys(_SAID.lines))}
        if (line := neutralised_line(_SAID.neutralised_before)) is not None:
            summary = {**summary, "neutralised": line}
        say(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    say_pairs(_flat(summary))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as `rounds.1.gate.decision` rows."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for position, part in enumerate(value, start=1):
            yield from _flat(part, f"{key}.{position}")
    else:
        yield key, f"{value:.4g}" if isinstance(value, float) else str(value)


def add_installed_commands(target: typer.Typer) -> None:
    """Let every registered function add its commands; one that cannot be imported costs only its own."""
    for entry in entry_points(group=COMMANDS_GROUP):
        try:
            register = entry.load()
        except ImportError as error:
            say(f"warning: the commands of {entry.name} are not available ({error})", sys.stderr)
            continue
        register(target)


def _fail(error: Exception, code: int) -> None:
    say(one_line("error: " + " ".join(str(error).split())), sys.stderr)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
