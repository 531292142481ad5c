"""The command line of the service: `semievold` runs roles, and the operating commands are in `semievol` as well.

Owns arguments, output and exit codes (0 done, 1 refused or failed, 2 usage, configuration or data). What a command
does is elsewhere; heavy imports wait until a command needs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semievol.commands.cli import Columns, common_options, run_app
from semievol.errors import ConfigError
from semievold.commands import output

if TYPE_CHECKING:
    from semievold.config.daemon import DaemonConfig
    from semievold.intake.bulk import What
    from semievold.rounds.places import RoundPlace
    from semievold.store.stores import Stores

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="SEMIEVOL_CONFIG", help="The daemon's YAML file.", show_default=True)
]
Output = Annotated[str, typer.Option("--output", "-o", help="table or json")]
DEFAULT_CONFIG = Path("semievol.yaml")


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
    from semievold.commands.review_app import review_app  # it has options and files from here

    _add_views(app)
    app.add_typer(_rounds_app(), name="rounds")
    app.add_typer(_adapters_app(), name="adapters")
    app.add_typer(_queries_app(), name="queries")
    app.add_typer(_labels_app(), name="labels")
    app.add_typer(review_app(), name="review")
    app.add_typer(_offsets_app(), name="offsets")
    app.add_typer(_state_app(), name="state")
    app.add_typer(_drift_app(), name="drift")
    app.add_typer(_config_app(), name="config")


def load(path: Path) -> DaemonConfig:
    """The daemon's configuration from file and environment."""
    from semievol.config.file import load_config
    from semievold.config.daemon import DaemonConfig

    return load_config(DaemonConfig, path)


@contextmanager
def opened(path: Path) -> Iterator[tuple[DaemonConfig, Stores, RoundPlace]]:
    """Configuration and state of the workload."""
    from semievold.service import place_of
    from semievold.store.stores import open_stores

    config = load(path)
    name, alias = config.workload.name, config.workload.served_alias
    stores = open_stores(config.store_url, name, alias, feedback_trusted=config.gateway.feedback.trusted)
    try:
        yield config, stores, place_of(config)
    finally:
        stores.database.close()


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


def _rounds_app() -> typer.Typer:
    app = typer.Typer(help="Rounds: list, show, replay, start, cancel, approve, refuse, advance.", no_args_is_help=True)

    @app.command("list", help="All rounds, newest first.")
    def list_(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (_, stores, place):
            output.show(operations.rounds(stores, place), output_format, columns=output.ROUND_COLUMNS)

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
        _ask(config, output_format, "start_round", {"kind": kind, "shuffle_labels": shuffle_labels})

    @app.command(help="End an open round that has not been promoted.")
    def cancel(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        _ask(config, output_format, "cancel_round", {"round": number})

    @app.command(help="A person's word for a round's version; from then on later ones are held against it, too.")
    def approve(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        _ask(config, output_format, "approve_round", {"round": number})

    @app.command(help="A person's word against the candidate of a round that is proving.")
    def refuse(
        number: int,
        reason: Annotated[str, typer.Option(help="Kept with the round.")] = "by hand",
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        _ask(config, output_format, "refuse_round", {"round": number, "reason": reason})

    @app.command(help="End the present stage of a round's canary now.")
    def advance(number: int, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        _ask(config, output_format, "advance_round", {"round": number})

    return app


def _adapters_app() -> typer.Typer:
    app = typer.Typer(help="Adapter versions: list, show, promote, rollback.", no_args_is_help=True)

    @app.command("list", help="All versions, oldest first.")
    def list_(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (_, stores, place):
            output.show(operations.adapters(stores, place), output_format, columns=output.ADAPTER_COLUMNS)

    @app.command(help="One version and the round that made it.")
    def show(name: str, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (_, stores, place):
            output.show(operations.adapter_detail(stores, place, name), output_format)

    @app.command(help="Serve this version, by hand (it is attested first).")
    def promote(name: str, config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        _ask(config, output_format, "promote", {"adapter": name})

    @app.command(
        help="Take back what is on trial; else serve the previous version again, or NAME, which served before."
    )
    def rollback(
        name: Annotated[str | None, typer.Argument(help="Which one; base: the model without an adapter.")] = None,
        config: ConfigPath = DEFAULT_CONFIG,
        output_format: Output = "table",
    ) -> None:
        _ask(config, output_format, "rollback", {} if name is None else {"adapter": name})

    return app


def _ask(path: Path, output_format: str, kind: Any, payload: dict[str, Any]) -> None:
    """Leave a request for the controller and wait for its answer."""
    from semievold.api.asking import ask

    with opened(path) as (_, stores, _place):
        answer = ask(stores.requests, kind, payload)
    output.show(answer, output_format)
    raise SystemExit({"done": 0, "pending": 0}.get(answer["state"], 1))


def _queries_app() -> typer.Typer:
    app = typer.Typer(help="The stream of queries.", no_args_is_help=True)
    app.command("import", help=f"Publish queries to the stream. {IMPORT_HELP}")(_importer("queries"))
    return app


def _labels_app() -> typer.Typer:
    app = typer.Typer(
        help="The labelled examples. Without a subcommand: run the labels role.", invoke_without_command=True
    )

    @app.callback()
    def role(context: typer.Context, config: ConfigPath = DEFAULT_CONFIG) -> None:
        if context.invoked_subcommand is None:
            _serve(config, ("labels",))

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

        with opened(config) as (settings, stores, _place):
            settings = settings.model_copy(update={"data": mapped(settings.data, columns)})
            report = asyncio.run(publish_file(settings, stores, what, source, skip_invalid=skip_invalid, raw=raw))
        output.show(report, output_format)

    return import_


def _offsets_app() -> typer.Typer:
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

        with opened(config) as (settings, stores, _place):
            output.show(reading.reset(settings, stores, role, to), output_format)

    return app


def _state_app() -> typer.Typer:
    app = typer.Typer(help="What the state holds: size.", no_args_is_help=True)

    @app.command(help="Rows and bytes of each table, and bytes of the files beside them.")
    def size(config: ConfigPath = DEFAULT_CONFIG, output_format: Output = "table") -> None:
        from semievold.api import operations

        with opened(config) as (settings, stores, place):
            output.show(operations.state_size(settings, stores, place), output_format)

    return app


def _drift_app() -> typer.Typer:
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
