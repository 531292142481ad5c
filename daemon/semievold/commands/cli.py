"""The command line of the service: `semievold` runs roles, and the operating commands are in `semievol` as well.

Owns arguments, output and exit codes (0 done, 1 refused or failed, 2 usage, configuration or data). What a command
does is elsewhere; heavy imports wait until a command needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semievol.commands.cli import common_options, run_app
from semievol.errors import ConfigError
from semievold.commands import output
from semievold.commands.options import DEFAULT_CONFIG, ConfigPath, Output, load, opened


def main() -> None:
    """Entry point of `semievold`."""
    app = typer.Typer(
        name="semievold",
        help="Keeps a served LLM adapting to its own traffic.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback(help=app.info.help)(common_options)
    _add_roles(app)
    register(app)
    run_app(app)


def register(app: typer.Typer) -> None:
    """Add the operating commands to an app (also called by `semievol` through its entry-point group)."""
    from semievold.commands.records_apps import labels_app, offsets_app, queries_app
    from semievold.commands.review_app import review_app
    from semievold.commands.rounds_apps import adapters_app, rounds_app
    from semievold.commands.watching_apps import drift_app, state_app

    _add_views(app)
    app.add_typer(rounds_app(), name="rounds")
    app.add_typer(adapters_app(), name="adapters")
    app.add_typer(queries_app(), name="queries")
    app.add_typer(labels_app(), name="labels")
    app.add_typer(review_app(), name="review")
    app.add_typer(offsets_app(), name="offsets")
    app.add_typer(state_app(), name="state")
    app.add_typer(drift_app(), name="drift")
    app.add_typer(_config_app(), name="config")


def _add_roles(app: typer.Typer) -> None:
    def role(name: str, text: str) -> None:
        @app.command(name, help=text)
        def command(config: ConfigPath = DEFAULT_CONFIG) -> None:
            _serve(config, (name,))

    @app.command(help="Run all roles in this process group (the embedded default).")
    def run(
        config: ConfigPath = DEFAULT_CONFIG,
        exit_when_idle: Annotated[
            bool, typer.Option(help="End by itself once every record is worked off and no round is due.")
        ] = False,
    ) -> None:
        from semievold.config.daemon import ROLES

        _serve(config, ROLES, exit_when_idle=exit_when_idle)

    role("intake", "Queries -> pseudo-labels -> state and predictions topic.")
    role("control", "Triggers, rounds, gate, rollout.")
    role("gateway", "The OpenAI-compatible front.")

    @app.command(help="One training: snapshot in, adapter out.")
    def train(
        snapshot: Annotated[Path, typer.Option(help="Directory with job.json and rows.jsonl.")],
        work: Annotated[Path, typer.Option(help="Checkpoints and progress; kept between attempts.")],
        adapters: Annotated[Path, typer.Option(help="Where the adapter directory is published.")],
        nodes: Annotated[int, typer.Option(min=1, help="Machines that train it together.")] = 1,
        processes: Annotated[int, typer.Option(min=1, help="Of each of several machines, one a GPU.")] = 1,
        rendezvous: Annotated[str, typer.Option(help="HOST:PORT of the first of several machines.")] = "",
        node: Annotated[int | None, typer.Option(help="This machine, from 0 [default: $JOB_COMPLETION_INDEX].")] = None,
    ) -> None:
        from semievol.training.lora import main as train_main
        from semievol.training.nodes import this_machine, train_together

        arguments = ["--snapshot", str(snapshot), "--work", str(work), "--adapters", str(adapters)]
        if nodes == 1:
            raise SystemExit(train_main(arguments))
        raise SystemExit(train_together(arguments, work, this_machine(nodes, processes, rendezvous, node)))

    @app.command(
        "sync-adapters", help="Keep a directory as object storage has the adapters: for engines without a volume."
    )
    def sync_adapters(
        into: Annotated[Path, typer.Option(help="The directory; the engine beside it loads from there.")],
        storage: Annotated[
            str | None, typer.Option(help="Where they are published [default: artifacts.storage].")
        ] = None,
        engine: Annotated[
            str | None, typer.Option(help="http://HOST:PORT of the engine. Without it nothing is ever removed.")
        ] = None,
        every: Annotated[float, typer.Option(min=0.1, help="How often is looked, seconds.")] = 5.0,
        host: Annotated[str, typer.Option(help="Of /healthz, /readyz and /metrics.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65535, help="Of the same.")] = 8322,
        config: ConfigPath = DEFAULT_CONFIG,
    ) -> None:
        from semievol.config.file import load_config
        from semievold.commands.syncing import sync_adapters as run_sidecar
        from semievold.config.daemon import ArtifactsAlone, ArtifactsConfig

        if storage is None:  # a variable may name it, beside an engine that has no configuration of the daemon's
            found = load_config(ArtifactsAlone, config if config.exists() else None).artifacts.storage
        else:
            try:
                found = ArtifactsConfig(storage=storage).storage
            except ValueError as error:
                raise ConfigError(
                    "--storage: is no address of object storage; write s3://BUCKET/PATH or gs://BUCKET/PATH, without "
                    "credentials"
                ) from error
        if found is None:
            raise ConfigError(
                "artifacts.storage: missing; set it in the configuration, or give --storage s3://BUCKET/PATH"
            )
        raise SystemExit(run_sidecar(found, into, engine, every, host, port))

    @app.command(help="The whole loop on embedded defaults and a small pretrained model; ends with a summary.")
    def demo(
        seed: Annotated[int, typer.Option(help="Of data, sampling and training.")] = 0,
        directory: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path(".cache/demo"),
        models: Annotated[Path, typer.Option(help="Where the demo's model is.")] = Path(".cache/models"),
        keep_running: Annotated[bool, typer.Option(help="Leave the daemon running afterwards.")] = False,
        output: Output = "table",
    ) -> None:
        from semievold.demo.show import run_demo

        raise SystemExit(run_demo(seed, directory, models, keep_running=keep_running, as_json=output == "json"))


def _serve(path: Path, roles: tuple[str, ...], *, exit_when_idle: bool = False) -> None:
    from semievold.service import serve

    raise SystemExit(serve(load(path), roles, exit_when_idle=exit_when_idle))


def _add_views(app: typer.Typer) -> None:
    @app.command(help="The workload in a dozen numbers.")
    def status(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations
        from semievold.commands.running import neutralised
        from semievold.intake.reading import labels_lag, waiting

        with opened(config) as (settings, stores, place):
            seen = operations.status(settings, stores, place, labels_lag(settings, stores))
            more = {"queries_waiting": waiting(settings, stores), "neutralised": neutralised(settings)}
            output.show({**seen, **more}, output_format)

    @app.command(help="What was made from what: a query's pseudo-label, a round, an adapter, a label; both ways.")
    def explain(
        query_id: Annotated[str | None, typer.Argument(help="Id of a query: why it got its pseudo-label.")] = None,
        round_: Annotated[int | None, typer.Option("--round", help="Number of a round.")] = None,
        adapter: Annotated[str | None, typer.Option(help="Name of an adapter version.")] = None,
        label: Annotated[str | None, typer.Option(help="Id of a labelled example.")] = None,
        descendants: Annotated[
            bool, typer.Option("--descendants", help="Of a query too all that descends from it: slow on a large state.")
        ] = False,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
        as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
    ) -> None:
        from semievold.commands.explaining import explained

        with opened(config) as (_, stores, _place):
            found = explained(stores, query_id, round_, adapter, label, descendants=descendants)
        output.show(found, "json" if as_json else output_format)

    @app.command(help="Stop learning at once: no round starts, goes on or promotes until `thaw`. Serving goes on.")
    def freeze(
        reason: Annotated[str, typer.Option(help="Shown wherever somebody looks.")] = "by hand",
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        from semievold.api.operations import freeze_reason

        with opened(config) as (_, stores, _place):
            output.show({"frozen": stores.freezes.freeze(freeze_reason({"reason": reason}))._asdict()}, output_format)

    @app.command(help="End a freeze: rounds go on where they stood.")
    def thaw(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        with opened(config) as (_, stores, _place):
            was = stores.freezes.thaw()
        output.show({"frozen": None, "was": None if was is None else was._asdict()}, output_format)

    @app.command(help="Check that this machine and configuration can work, and say what is missing.")
    def doctor(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.commands.doctor import examine

        findings = examine(load(config))
        output.show([finding.as_row() for finding in findings], output_format)
        raise SystemExit(0 if all(finding.ok for finding in findings) else 1)


def _config_app() -> typer.Typer:
    app = typer.Typer(help="The configuration: validate, show.", no_args_is_help=True)

    @app.command(help="Check the file and the environment.")
    def validate(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.store.database import checked_url

        settings = load(config)
        checked_url(settings.store_url)
        output.show({"valid": True, "workload": settings.workload.name, "hash": settings.hash()}, output_format)

    @app.command(help="The effective configuration, defaults included, secrets hidden.")
    def show(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "yaml") -> None:
        output.show(load(config).public(), output_format)

    return app


if __name__ == "__main__":
    main()
