"""`semievol queries`, `labels` and `offsets`: the commands over the streams, and over the examples that came by them.

Owns arguments; what the commands do is in semievold.commands.importing, exporting, and semievold.intake.reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from semievol.commands.cli import Columns
from semievold.commands import output
from semievold.commands.options import DEFAULT_CONFIG, ConfigPath, Output, load, opened

if TYPE_CHECKING:
    from semievold.intake.bulk import What


def queries_app() -> typer.Typer:
    app = typer.Typer(help="The stream of queries.", no_args_is_help=True)
    app.command("import", help=f"Publish queries to the stream. {IMPORT_HELP}")(_importer("queries"))
    return app


def labels_app() -> typer.Typer:
    app = typer.Typer(
        help="The labelled examples. Without a subcommand: run the labels role.", invoke_without_command=True
    )

    @app.callback()
    def role(context: typer.Context, config: ConfigPath = DEFAULT_CONFIG) -> None:
        if context.invoked_subcommand is None:
            from semievold.service import serve

            raise SystemExit(serve(load(config), ("labels",)))

    app.command("import", help=f"Publish labelled examples to the stream. {IMPORT_HELP}")(_importer("labels"))

    @app.command(help="Write the labelled examples to a file (.jsonl, .json, .csv, .tsv, also with .gz), or to - .")
    def export(
        target: Annotated[str, typer.Argument(metavar="FILE", help="The file, or - for standard output.")],
        form: Annotated[
            str, typer.Option(help="own, text-label, prompt-completion, alpaca, openai or sharegpt")
        ] = "own",
        side: Annotated[str, typer.Option(help="all, training, holdout or calibration")] = "all",
        overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievold.commands.exporting import export_labels

        with opened(config) as (_, stores, _place):
            report = export_labels(stores, target, form=form, side=side, overwrite=overwrite)
        if report is not None:
            output.show(report, output_format)

    @app.command(help="Take labels back, list and mark what descends from them, and ask for a clean round.")
    def retract(
        ids: Annotated[list[str], typer.Argument(help="Ids of the labelled examples.")],
        now: Annotated[bool, typer.Option("--now", help="Serve the last clean version at once.")] = False,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievold.commands.importing import retract_labels

        with opened(config) as (settings, stores, _place):
            report = asyncio.run(retract_labels(settings, stores, ids, now=now))
        output.show(report, output_format)

    return app


IMPORT_HELP = "Reads .jsonl, .json, .csv, .tsv or .parquet, also with .gz, or JSON lines from standard input (-)."


def _importer(what: What) -> Callable[..., None]:
    def import_(
        source: Annotated[str, typer.Argument(help="A file, or - for standard input.")],
        skip_invalid: Annotated[bool, typer.Option(help="Publish what is valid and report the rest.")] = False,
        raw: Annotated[
            bool, typer.Option(help="Publish the lines unchecked; the daemon dead-letters bad ones.")
        ] = False,
        columns: Columns = None,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievol.config.data import mapped
        from semievold.commands.importing import publish_file

        with opened(config, new=True) as (settings, stores, _place):
            settings = settings.model_copy(update={"data": mapped(settings.data, columns)})
            report = asyncio.run(publish_file(settings, stores, what, source, skip_invalid=skip_invalid, raw=raw))
        output.show(report, output_format)

    return import_


def offsets_app() -> typer.Typer:
    app = typer.Typer(help="How far the intakes have read: show, reset.", no_args_is_help=True)

    @app.command(help="Committed and newest offset of every partition, by role.")
    def show(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.intake import reading

        with opened(config) as (settings, stores, _place):
            output.show(reading.offsets(settings, stores), output_format)

    @app.command(
        help="Read again from another place, or skip. The role must not run; known queries stay labelled once."
    )
    def reset(
        role: Annotated[str, typer.Option(help="intake or labels")],
        to: Annotated[
            str, typer.Option(help="earliest, latest, an offset, or a time such as 2026-01-31T12:00:00+00:00")
        ],
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievold.intake import reading

        with opened(config, new=True) as (settings, stores, _place):
            output.show(reading.reset(settings, stores, role, to), output_format)

    return app
