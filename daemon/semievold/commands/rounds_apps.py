"""`semievol rounds` and `semievol adapters`: the commands over what is learned and what is served.

Owns arguments; what the commands do is in semievold.api, and by the controller, which they ask.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from semievol.errors import ConfigError
from semievold.api.limits import LISTED, MOST_LISTED
from semievold.commands import output
from semievold.commands.options import DEFAULT_CONFIG, ConfigPath, Output, ask, opened

Limit = Annotated[int, typer.Option(min=1, max=MOST_LISTED, help="So many at most.")]


def rounds_app() -> typer.Typer:
    app = typer.Typer(help="Rounds: list, show, replay, start, cancel, approve, refuse, advance.", no_args_is_help=True)

    @app.command("list", help="The newest rounds, newest first.")
    def list_(config: ConfigPath = DEFAULT_CONFIG, limit: Limit = LISTED, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (_, stores, place):
            output.show(operations.rounds(stores, place, limit), output_format, columns=output.ROUND_COLUMNS)

    @app.command(help="Everything known of one round.")
    def show(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (_, stores, _place):
            output.show(operations.round_detail(stores, number), output_format)

    @app.command(help="Do a round again from what was kept of it, and compare rows and weights. Changes nothing.")
    def replay(
        number: int,
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", help="What would another rule have chosen? selection.theta=0.3; may be repeated."),
        ] = None,
        train: Annotated[bool, typer.Option(help="Train again, too, and compare the weights.")] = True,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
        as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
    ) -> None:
        from semievold.commands.replaying import replay as do_again

        with opened(config) as (settings, stores, place):
            report = asyncio.run(do_again(settings, stores, place, number, set_ or (), train=train))
        as_json = as_json or output_format == "json"
        output.show(report.whole if as_json else report.short, "json" if as_json else output_format)
        raise SystemExit(0 if report.equal in (True, None) else 1)

    @app.command(help="Start a round now.")
    def start(
        kind: Annotated[str, typer.Option(help="evolve or warm")] = "evolve",
        shuffle_labels: Annotated[
            bool, typer.Option(help="Ruin the labels on purpose, to see the gate refuse.")
        ] = False,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        if kind not in ("evolve", "warm"):
            raise ConfigError(f"--kind: {kind!r} is not a kind of round; use evolve or warm")
        ask(config, output_format, "start_round", {"kind": kind, "shuffle_labels": shuffle_labels})

    @app.command(help="End an open round that has not been promoted.")
    def cancel(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        ask(config, output_format, "cancel_round", {"round": number})

    @app.command(help="A person's word for a round's version; from then on later ones are held against it, too.")
    def approve(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        ask(config, output_format, "approve_round", {"round": number})

    @app.command(help="A person's word against the candidate of a round that is proving.")
    def refuse(
        number: int,
        reason: Annotated[str, typer.Option(help="Kept with the round.")] = "by hand",
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        ask(config, output_format, "refuse_round", {"round": number, "reason": reason})

    @app.command(help="End the present stage of a round's canary now.")
    def advance(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        ask(config, output_format, "advance_round", {"round": number})

    return app


def adapters_app() -> typer.Typer:
    app = typer.Typer(help="Adapter versions: list, show, promote, rollback.", no_args_is_help=True)

    @app.command("list", help="Versions, oldest first: all that are there, and the newest of those that were deleted.")
    def list_(config: ConfigPath = DEFAULT_CONFIG, limit: Limit = LISTED, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (_, stores, place):
            output.show(operations.adapters(stores, place, limit), output_format, columns=output.ADAPTER_COLUMNS)

    @app.command(help="One version and the round that made it.")
    def show(name: str, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (_, stores, place):
            output.show(operations.adapter_detail(stores, place, name), output_format)

    @app.command(help="Serve this version, by hand (it is attested first).")
    def promote(name: str, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        ask(config, output_format, "promote", {"adapter": name})

    @app.command(
        help="Take back what is on trial; else serve the previous version again, or NAME, which served before."
    )
    def rollback(
        name: Annotated[str | None, typer.Argument(help="Which one; base: the model without an adapter.")] = None,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        ask(config, output_format, "rollback", {} if name is None else {"adapter": name})

    return app
