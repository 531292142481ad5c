"""Can this machine and this configuration work? Tries each part in turn and says what is missing and the fix."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from semievol.errors import SemiEvolError
from semievol.http.server_address import ServerAddress
from semievold.commands.answer_room import room_problem
from semievold.config.daemon import DaemonConfig
from semievold.config.fronts import ServerConfig
from semievold.config.generation import GenerationConfig

MIN_FREE_BYTES = 5 * 2**30
HEALTH_S = 5.0
MAX_FILES_LOOKED_AT = 10_000
TRAINING = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Finding:
    """One part, whether it can work, and what was found or is to be done."""

    part: str
    ok: bool
    detail: str

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def examine(config: DaemonConfig) -> list[Finding]:
    """All findings, in the order in which a start would meet the problems."""
    checks: list[tuple[str, Callable[[DaemonConfig], str]]] = [
        ("packages", _packages),
        ("artifacts", _artifacts),
        ("storage", _storage),
        ("files", _files),
        ("state", _state),
        ("stream", _stream),
        ("rounds", _rounds),
        ("training", _training),
        ("model", _model),
        ("replicas", _replicas),
        ("embedding", _embedding),
        ("index", _index),
        ("api", lambda c: _port(c, c.api, "api")),
        ("gateway", lambda c: _port(c, c.gateway, "gateway")),
        ("stop", _stop),
        ("control texts", _control_texts),
    ]
    findings = []
    for part, check in checks:
        try:
            findings.append(Finding(part, True, check(config)))
        except (SemiEvolError, OSError) as problem:
            findings.append(Finding(part, False, str(problem)))
    return findings


def _packages(config: DaemonConfig) -> str:
    generation = config.generation
    wanted = ["sentence_transformers"] if config.embedding.kind == "sentence_transformers" else []
    if generation.kind == "local":
        wanted = [*TRAINING, *wanted]
    missing = _missing(wanted)
    if missing:
        raise SemiEvolError(f"{', '.join(missing)} missing: install semievol[local]")
    if generation.launch and generation.launch_settings.command is None and _missing(["vllm"]):
        raise SemiEvolError("vllm missing: install semievol[vllm], or set generation.launch_settings.command")
    if config.index.url is not None and _missing(["qdrant_client"]):
        raise SemiEvolError("qdrant_client missing: install semievol[qdrant]")
    if config.training.launcher.kind == "kubernetes":
        return "what trains is in the image of the Jobs"
    if absent := _missing(TRAINING):
        return f"{', '.join(absent)} missing: the process with the control role trains, and needs semievol[train]"
    return f"{', '.join(dict.fromkeys((*TRAINING, *wanted)))} are installed"


def _missing(names: Sequence[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def _artifacts(config: DaemonConfig) -> str:
    directory = config.artifacts.directory.resolve()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        raise SemiEvolError(f"artifacts.directory: {existing} is no directory; move it away, or set another one")
    if not os.access(existing, os.W_OK):
        raise SemiEvolError(f"artifacts.directory: {existing} is not writable")
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise SemiEvolError(f"artifacts.directory: {free / 2**30:.1f} GiB free on {existing}; make room")
    return f"{directory}, {free / 2**30:.0f} GiB free"


def _storage(config: DaemonConfig) -> str:
    """Whether it answers; whether it can be written to is known when something is."""
    from semievold.serving.storage.opening import open_storage

    storage = open_storage(config.artifacts.storage)
    if storage is None:
        return "adapters are in artifacts.directory alone"
    return f"{len(storage.names())} adapters are on {storage}"


def _files(config: DaemonConfig) -> str:
    """Who else may read what is there: it holds the texts of clients. What is written now is the owner's alone."""
    directory = config.artifacts.directory.resolve()
    if os.name != "posix" or not directory.exists():
        return "kept from other users, once there are any"
    umask = os.umask(0o077)
    os.umask(umask)
    loose = [
        path
        for path in itertools.islice(itertools.chain([directory], directory.rglob("*")), MAX_FILES_LOOKED_AT)
        if not path.is_symlink() and path.stat().st_mode & 0o077 & umask
    ]
    if not loose:
        return "kept from other users" if umask & 0o077 == 0o077 else f"kept from other users by umask {umask:03o}"
    shown = ", ".join(str(path.relative_to(directory.parent)) for path in loose[:3])
    return (
        f"{len(loose)} can be read or written by other users: {shown}{', ...' if len(loose) > 3 else ''}; "
        f"chmod -R go-rwx {directory} (or set SEMIEVOL_UMASK, when they are meant to)"
    )


def _state(config: DaemonConfig) -> str:
    from semievold.store.database import Database

    database = Database(config.store_url)
    try:
        database.migrate()
    finally:
        database.close()
    return database.description


def _rounds(config: DaemonConfig) -> str:
    """What the next round waits for: nothing is wrong with this machine, and nothing may happen all the same."""
    from semievold.intake.reading import labels_lag
    from semievold.rounds import observing
    from semievold.store.stores import open_stores

    name, alias = config.workload.name, config.workload.served_alias
    stores = open_stores(config.store_url, name, alias, feedback_trusted=config.gateway.feedback.trusted)
    try:
        waits = [f"waits for: {observing.waiting_for(config, stores, labels_lag(config, stores))}"]
        waits += [f"{part}: {reason}" for part, reason in observing.held(config, stores).items()]
    finally:
        stores.database.close()
    return "; ".join(waits)


def _training(config: DaemonConfig) -> str:
    """Where rounds train; of Jobs, whether they can be made."""
    launcher = config.training.launcher
    if launcher.kind == "local" or launcher.template is None:
        return "in a child process of the leader"
    if _missing(["kubernetes"]):
        raise SemiEvolError("kubernetes missing: install semievol[kubernetes]")
    from semievold.rounds.jobs.cluster import Cluster
    from semievold.rounds.jobs.manifest import read_template

    read_template(launcher.template)
    cluster = Cluster.open(launcher)
    try:
        missing = cluster.missing_rights()
    finally:
        cluster.close()
    if missing:
        raise SemiEvolError(
            f"the rights to {', '.join(missing)} in namespace {cluster.namespace} are missing; "
            "k8s/components/training-jobs has the Role"
        )
    return f"as Jobs in namespace {cluster.namespace}, from {launcher.template}"


def _stream(config: DaemonConfig) -> str:
    if config.stream.kind == "local":
        return "topics in the state's SQLite file"
    from semievold.streams.kafka.stream import KafkaStream

    topics = KafkaStream(config.stream).topics
    missing = topics.missing()
    said = [f"Kafka answers at {', '.join(config.stream.kafka.bootstrap_servers)}"]
    said += [f"to be created: {', '.join(missing)}" if missing else "all topics exist"]
    for topic in (config.stream.queries, config.stream.labels):
        if topic not in missing and (open_transaction := topics.open_transaction(topic)) is not None:
            said.append(open_transaction)
    return "; ".join(said)


def _model(config: DaemonConfig) -> str:
    template = config.model.chat_template
    if template is not None and not os.access(template, os.R_OK):
        raise SemiEvolError(f"model.chat_template: {template} cannot be read; give a jinja file, or leave it out")
    name = config.model.name
    if not Path(name).exists():
        if name.startswith(("/", "./", "../")) or name.count("/") > 1:
            raise SemiEvolError(f"model.name: the directory {name} does not exist")
        return f"{name} is not a directory; it will be taken from the hub at the first start"
    if not (Path(name) / "config.json").exists():
        raise SemiEvolError(f"model.name: {name} holds no config.json; give a transformers model directory")
    if problem := room_problem(config.task, Path(name)):
        raise SemiEvolError(f"task.max_answer_tokens: {problem}")
    return name


def _replicas(config: DaemonConfig) -> str:
    generation = config.generation
    if generation.kind == "local":
        return "none: the model runs in the daemon"
    if generation.launch:
        return f"one, which the daemon launches at 127.0.0.1:{generation.launch_settings.port}"
    sleeping = config.training.share_gpu_with if config.training.share_gpu is not None else None
    return asyncio.run(_asked(generation, sleeping))


async def _asked(generation: GenerationConfig, sleeping: Sequence[str] | None) -> str:
    """Ask every replica for its health and its models, and whether it can sleep where it is to.

    sleeping: addresses of those that sleep during trainings (training.share_gpu); empty: all; None: none.
    """
    from semievol.engines.vllm_client import VllmClient
    from semievold.serving.membership import addresses

    client = VllmClient()
    shares = {ServerAddress.at(url, None).name for url in sleeping or ()}

    async def problem(server: ServerAddress) -> str | None:
        try:
            await client.check_health(server)
            names = await client.models(server)
        except SemiEvolError as error:
            return str(error)
        if server.base_model not in names:
            said = ", ".join(sorted(names)) or "nothing"
            return f"{server.name}: serves {said}, not {server.base_model} (generation.base_name)"
        if sleeping is None or (shares and server.name not in shares):
            return None
        try:
            await client.is_sleeping(server)
        except SemiEvolError as error:
            return f"training.share_gpu: {error}"
        return None

    try:
        servers = await addresses(generation)
        problems = [text for text in await asyncio.gather(*map(problem, servers)) if text is not None]
    except OSError as error:
        raise SemiEvolError(f"generation.dns: {generation.dns} cannot be resolved ({error})") from error
    finally:
        await client.close()
    if problems:
        raise SemiEvolError(f"{len(problems)} of {len(servers)} replicas cannot be used: {'; '.join(problems)}")
    return f"{', '.join(server.name for server in servers)} answer"


def _embedding(config: DaemonConfig) -> str:
    from semievol.examples.embedding.opening import build_embedder

    embedder = build_embedder(config.embedding)
    return f"{embedder.name}, {embedder.dimensions} dimensions"


def _index(config: DaemonConfig) -> str:
    from semievold.serving.example_index import UNUSED, unused_directory

    found = _server_index(config.index.url, config.index.api_key) if config.index.url else _resident_index(config)
    if (unused := unused_directory(config)) is not None:
        found += f"; {unused} {UNUSED}"
    return found


def _server_index(url: str, api_key: str | None) -> str:
    from semievol.examples.index import check_server

    return f"Qdrant answers at {url}, {check_server(url, api_key)} collections"


def _resident_index(config: DaemonConfig) -> str:
    from semievold.store.stores import open_stores
    from semievold.store.vectors import count_vectors

    stores = open_stores(config.store_url, config.workload.name, config.workload.served_alias)
    try:
        examples = stores.examples.counts().training
        vectors = count_vectors(stores.database, config.workload.name)
    finally:
        stores.database.close()
    kept = ", ".join(f"{some.vectors} of {some.embedder}" for some in vectors) or "none yet"
    return f"in memory, for {examples} examples; vectors in the state: {kept}"


def _port(config: DaemonConfig, server: ServerConfig, name: str) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_ours(config, server, name):
                return f"{server.host}:{server.port} is in use by a running daemon"
            raise SemiEvolError(
                f"{name}.port: {server.host}:{server.port} cannot be taken ({error.strerror}); free it, or set another"
            ) from error
    return f"{server.host}:{server.port} is free"


def _stop(config: DaemonConfig) -> str:
    """What a role finishes after a stop must fit into what the process gets: no sum, since all stop together."""
    deadline_s = config.stop_deadline_s
    waits = {"gateway.drain_s": config.gateway.drain_s, "intake.stop_timeout_s": config.intake.stop_timeout_s}
    for setting, wait_s in waits.items():
        if wait_s >= deadline_s:
            raise SemiEvolError(
                f"{setting} is {wait_s:g} and stop_deadline_s {deadline_s:g}: what runs at a stop is cut after "
                f"{deadline_s:g} s; set stop_deadline_s above {wait_s:g} where that role runs"
            )
    return f"what runs is finished within {max(waits.values()):g} s of {deadline_s:g}"


def _control_texts(config: DaemonConfig) -> str:
    """Whether somebody writes the tokens of a chat template into what they send: nothing is broken by it."""
    from semievold.commands.running import neutralised

    counts = neutralised(config)
    if counts is None:
        return "no running daemon here says how many texts it kept from becoming control tokens"
    found = ", ".join(f"{place} {count}" for place, count in counts.items() if count)
    return f"kept from becoming control tokens since the start: {found}" if found else "none since the daemon started"


def _is_ours(config: DaemonConfig, server: ServerConfig, name: str) -> bool:
    """Whether a daemon of this configuration wrote down that it listens there, and answers."""
    from semievol.http.client import BlockingHttpClient

    for file in config.artifacts.directory.glob("endpoints*.json"):
        try:
            address = json.loads(file.read_text()).get(name, "")
            if urlsplit(address).port == server.port:
                with BlockingHttpClient(proxies=False) as http:
                    answer = http.ask(ServerAddress.at(address, None), "GET", "/healthz", timeout_s=HEALTH_S)
                return answer.object() == {"status": "ok"}
        except (OSError, ValueError, SemiEvolError):
            continue
    return False
