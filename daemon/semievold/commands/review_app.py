"""`semievol review`: the commands by which people label what waits for them.

Owns arguments and output formats; what the commands do is in semievold.commands.reviewing and review_files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semievol.errors import ConfigError
from semievold.commands import output
from semievold.commands.options import DEFAULT_CONFIG, ConfigPath, Output, opened

if TYPE_CHECKING:
    from semievold.review.answering import Reviewers, Which

Purpose = Annotated[str | None, typer.Option(help="gate, teach or contradiction; all, if left out")]


def review_app() -> typer.Typer:
    """The commands as one app."""
    app = typer.Typer(help="What waits for a person's label: list, label, export, import.", no_args_is_help=True)

    @app.command("list", help="What waits, what a gate needs first; and of what nothing waits, why.")
    def list_(
        purpose: Purpose = None,
        limit: Annotated[int, typer.Option(min=1, max=500, help="Of so many items at most.")] = 50,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
        as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
    ) -> None:
        from semievold.commands.reviewing import show_items

        with _reviewers(config, purpose) as (reviewers, kind):
            seen = reviewers.waiting(kind, limit)
        if as_json or output_format != "table":
            output.show(seen, "json" if as_json else output_format)
        else:
            show_items(seen)

    @app.command(help="Label what waits, item by item: one key an answer. From a pipe: a line an answer.")
    def label(
        purpose: Purpose = None,
        config: ConfigPath = DEFAULT_CONFIG,
        as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each item and result.")] = False,
    ) -> None:
        from semievold.commands.reviewing import Session, terminal_reads

        with _reviewers(config, purpose) as (reviewers, kind):
            read_key, read_text = terminal_reads()
            session = Session(reviewers, kind, read_key, read_text, as_json=as_json)
            asyncio.run(session.run())

    @app.command(help="Write what waits to a file that a labelling tool reads, or to - .")
    def export(
        target: Annotated[str, typer.Argument(metavar="FILE", help="The file, or - for standard output.")],
        format_: Annotated[str, typer.Option("--format", help="labelstudio, argilla or csv")] = "labelstudio",
        purpose: Purpose = None,
        overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievold.commands.review_files import export_items

        with _reviewers(config, purpose) as (reviewers, kind):
            report = export_items(reviewers, target, format_, kind, overwrite=overwrite)
        if report is not None:
            output.show(report, output_format)

    @app.command("import", help="Take the answers of what Label Studio, Argilla or a table has exported.")
    def import_(
        source: Annotated[str, typer.Argument(metavar="FILE", help="JSON or CSV.")],
        skip_invalid: Annotated[bool, typer.Option(help="Take what is valid and report the rest.")] = False,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievold.commands.review_files import import_answers

        with _reviewers(config, None) as (reviewers, _kind):
            report = asyncio.run(import_answers(reviewers, source, skip_invalid=skip_invalid))
        output.show(report, output_format)

    return app


@contextmanager
def _reviewers(path: Path, purpose: str | None) -> Iterator[tuple[Reviewers, Which | None]]:
    """What people can do with the items that wait, and of which purpose they are wanted."""
    from semievold.review.answering import KINDS, Reviewers
    from semievold.streams.opening import open_stream

    kind = next((each for each in KINDS if each == purpose), None)
    if purpose is not None and kind is None:
        raise ConfigError(f"--purpose: {purpose!r} is none of {', '.join(KINDS)}")
    with opened(path) as (config, stores, _place):
        producer = open_stream(config.stream, stores.database).producer()
        try:
            yield Reviewers(config, stores, producer), kind
        finally:
            asyncio.run(producer.close())
