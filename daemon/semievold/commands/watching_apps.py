"""`semievol state` and `semievol drift`: the commands over what is kept, and over how the traffic moves.

Owns arguments and columns; what is shown comes from semievold.api.
"""

from __future__ import annotations

from typing import Annotated

import typer

from semievold.commands import output
from semievold.commands.options import DEFAULT_CONFIG, ConfigPath, Output, opened


def state_app() -> typer.Typer:
    app = typer.Typer(help="What the state holds: size.", no_args_is_help=True)

    @app.command(help="Rows and bytes of each table, and bytes of the files beside them.")
    def size(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (settings, stores, place):
            output.show(operations.state_size(settings, stores, place), output_format)

    return app


def drift_app() -> typer.Typer:
    app = typer.Typer(help="Drift of traffic and answers: list, show, rearm.", no_args_is_help=True)

    @app.command("list", help="What is watched, and the events, newest first; one a shift.")
    def list_(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import drift

        with opened(config) as (settings, stores, _place):
            found = drift.overview(settings, stores)
        if output_format != "table":
            output.show(found, output_format)
            return
        output.show([{"kind": kind, **each} for kind, each in found["kinds"].items()], "table")
        output.show(found["events"], "table", columns=output.DRIFT_COLUMNS)

    @app.command(help="One event: since when, what moved it most, what that has in common.")
    def show(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import drift

        with opened(config) as (_, stores, _place):
            output.show(drift.detail(stores, number), output_format)

    @app.command(help="Close the open event: what comes from now on is the reference.")
    def rearm(
        reason: Annotated[str, typer.Option(help="Kept with the event.")] = "by hand",
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievold.api import drift, operations

        with opened(config) as (_, stores, _place):
            said = operations.said_reason("rearm", {"reason": reason}, drift.MAX_REASON)
            output.show(drift.rearm(stores, said), output_format)

    return app
