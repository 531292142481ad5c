"""Nothing answers without its token, nothing reaches a replica but what is forwarded, and no secret is shown."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import httpx
import pytest
from aiohttp import web
from pydantic import BaseModel

from semievol.config.secrets import is_secret_name
from semievold.api.api import OPEN_PATHS as API_OPEN_PATHS
from semievold.api.api import Api
from semievold.config.daemon import DaemonConfig
from semievold.config.fronts import ServerConfig
from semievold.gateway.front import OPEN_PATHS as GATEWAY_OPEN_PATHS
from semievold.gateway.front import Gateway
from semievold.monitoring.metrics import Metrics
from semievold.serving.alias import Alias
from semievold.store.aliases import AliasState
from semievold.web.server import serve
from tests.daemon_process import DaemonProcess, tiny_config
from tests.openai_double import ALIAS, GATEWAY_TOKEN, REPLICA_TOKEN, Double, Front, front

pytestmark = pytest.mark.timeout(180)

API_TOKEN = "token-of-the-admin-api"
CONFIG = DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}})


def apps() -> dict[str, web.Application]:
    """Both fronts with nothing behind them: a request that gets past the token fails, and is seen."""
    alias = Alias(AliasState(None, None, 1))
    gateway = Gateway(CONFIG.gateway, ALIAS, None, alias, Metrics("w"), GATEWAY_TOKEN)  # type: ignore[arg-type]
    return {"gateway": gateway.app(), "api": Api(CONFIG, Mock(), API_TOKEN).app()}


def routes(app: web.Application) -> list[tuple[str, str]]:
    """(method, path) of every route, a 1 in the place of each variable."""
    found = []
    for route in app.router.routes():
        assert route.resource is not None
        canonical = route.resource.canonical
        while "{" in canonical:
            canonical = canonical[: canonical.index("{")] + "1" + canonical[canonical.index("}") + 1 :]
        found.append((route.method, canonical))
    return found


@pytest.mark.parametrize("name", ["gateway", "api"])
async def test_every_route_but_health_and_metrics_wants_the_token_of_its_front(name: str) -> None:
    app = apps()[name]
    urls: list[str] = []
    runner = await serve(app, ServerConfig(port=0), name, lambda host, port: urls.append(f"http://{host}:{port}"))
    token, other = (GATEWAY_TOKEN, API_TOKEN) if name == "gateway" else (API_TOKEN, GATEWAY_TOKEN)
    wrong = [None, "", "Bearer", "Bearer ", f"Bearer {other}", f"Bearer {token}x", f"Bearer {token[:-1]}", token]
    wrong += [f"Basic {token}", f"bearer  {token}", "Bearer ü", f"Bearer {token}, Bearer {other}"]
    open_paths = GATEWAY_OPEN_PATHS if name == "gateway" else API_OPEN_PATHS
    assert open_paths <= {"/healthz", "/readyz", "/metrics"}
    guarded = [(method, path) for method, path in routes(app) if path not in open_paths]
    assert len(guarded) >= 5
    try:
        async with aiohttp.ClientSession(urls[0]) as session:
            for method, path in [*guarded, ("GET", "/unknown"), ("DELETE", "/v1/models"), ("OPTIONS", "/v1/models")]:
                for value in wrong:
                    headers = {} if value is None else {"Authorization": value}
                    async with session.request(method, path, headers=headers) as response:
                        assert response.status == 401, (method, path, value)
                        body = await response.read()
                        assert method == "HEAD" or json.loads(body)["error"]["code"] == "unauthorized"
    finally:
        await runner.cleanup()


ADMINISTRATIVE = [
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/adapters/v1",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/server_info",
    "/start_profile",
    "/metrics",
    "/health",
    "/ping",
    "/version",
    "/tokenize",
    "/detokenize",
    "/invocations",
    "/pooling",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/audio/transcriptions",
    "/docs",
    "/openapi.json",
]


async def test_no_other_path_of_a_replica_can_be_reached() -> None:
    async with front([Double("a")]) as it:
        for path in ADMINISTRATIVE:
            for method in ("GET", "POST", "DELETE"):
                async with it.session.request(method, it.url + path, json={"model": ALIAS}) as response:
                    assert response.status == 404, path
                    assert (await response.json())["error"]["type"] == "invalid_request_error"
        assert it.doubles[0].asked == []


async def raw(it: Front, target: str, extra: str = "", method: str = "POST") -> int:
    """The status of a request line that no client library would send."""
    host, port = it.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": ALIAS, "messages": [{"role": "user", "content": "x"}]})
    head = f"{method} {target} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {GATEWAY_TOKEN}\r\n{extra}"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write((head + body).encode("latin-1"))
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


async def test_path_tricks_do_not_reach_a_replica() -> None:
    async with front([Double("a")]) as it:
        upstream = it.doubles[0].url
        tricks = [
            "//v1/load_lora_adapter",
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/chat%2fcompletions",
            "/v1/chat/completions/",
            "/v1/chat/completions/../../load_lora_adapter",
            "/v1/chat/completions/..%2f..%2fload_lora_adapter",
            "/v1/chat/completions%00",
            "/v1/chat/completions;/../x",
            "/v1/%2e%2e/metrics",
            "/../v1/load_lora_adapter",
            "/healthz/../v1/load_lora_adapter",
            "/v1/chat/completions\\..\\metrics",
            "/v1/load_lora_adapter?/healthz",
            f"{upstream}/v1/load_lora_adapter",
            f"{upstream}/metrics",
            "*",
        ]
        for target in tricks:
            assert await raw(it, target) in (400, 404, 405), target
        assert it.doubles[0].asked == []
        # Forms of the chat path itself: the replica's address and path come from the gateway alone.
        for target in (
            "/v1/chat/completions?next=/metrics",
            "/v1/chat/completions#x",
            f"{upstream}/v1/chat/completions",
        ):
            assert await raw(it, target) == 200
        for header in ("X-Original-URL: /metrics", "X-Rewrite-URL: /metrics", "X-HTTP-Method-Override: DELETE"):
            assert await raw(it, "/v1/chat/completions", f"{header}\r\n") == 200
        assert set(it.doubles[0].paths) == {"/v1/chat/completions"}


async def test_another_model_cannot_be_smuggled_past_the_alias() -> None:
    async with front([Double("a")]) as it:
        headers = {"Content-Type": "application/json"}
        for body in (
            b'{"model": "support", "model": "v2", "messages": []}',
            b'{"\\u006dodel": "v2", "messages": []}',
            b'{"model": "v1", "messages": []}',
            b'{"model": "base", "messages": []}',
            b'{"model": ["support"], "messages": []}',
            b'{"messages": []}',
        ):
            async with it.session.post(f"{it.url}/v1/chat/completions", data=body, headers=headers) as response:
                assert response.status == 404, body
        assert it.doubles[0].asked == []
        body = b'{"model": "v2", "\\u006dodel": "support", "messages": []}'
        async with it.session.post(f"{it.url}/v1/chat/completions", data=body, headers=headers) as response:
            assert response.status == 200
        assert it.doubles[0].asked[0][1] == {"model": "v1", "messages": [], "max_completion_tokens": 4096}


DEEP = b'{"model": "support", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_bad_bodies_are_the_clients_mistake_and_never_ours(path: str) -> None:
    good = {"model": ALIAS, "messages": [{"role": "user", "content": "x"}]}
    bad: list[tuple[int, bytes]] = [
        (400, b""),
        (400, b"{"),
        (400, b'{"model": "support"'),
        (400, b"\xff\xfe{}"),
        (400, b'{"model": "support", "x": "\xff"}'),
        (400, json.dumps(good).encode("utf-16")),
        (400, b'{"model": "support", "x": "\\ud800"}'),
        (400, b'{"model": "support", "temperature": NaN}'),
        (400, b'{"model": "support", "temperature": 1e999}'),
        (400, b'{"model": "support", "seed": ' + b"9" * 10_000 + b"}"),
        (400, b"[]"),
        (400, b"null"),
        (400, b'"support"'),
        (400, DEEP),
        (413, json.dumps({**good, "x": "y" * 300_000}).encode()),
        *(
            (400, json.dumps({**good, name: value}).encode())
            for name in ("n", "best_of", "max_tokens", "max_completion_tokens")
            for value in (0, -1, 10**9, 10**40, 1.5, "2", [1], True, {})
        ),
        *((400, json.dumps({**good, "stream": value}).encode()) for value in ("true", 1, [], {})),
    ]
    async with front([Double("a")], max_body_bytes=262_144) as it:
        url, headers = it.url + path, {"Content-Type": "application/json"}
        for status, body in bad:
            async with it.session.post(url, data=body, headers=headers) as response:
                error = (await response.json())["error"]
                assert (response.status, error["type"]) == (status, "invalid_request_error"), body[:80]
                assert error["message"]
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"):
            async with it.session.post(url, data=b"{}", headers={"Content-Type": content_type}) as response:
                assert response.status == 415
        bomb = gzip.compress(b" " * 50_000_000)
        packed = {**headers, "Content-Encoding": "gzip"}
        async with it.session.post(url, data=bomb, headers=packed) as response:
            assert response.status in (400, 413)
        assert it.doubles[0].asked == []


async def test_a_client_that_does_not_finish_its_request_is_not_waited_for() -> None:
    async with front([Double("a")], idle_timeout_s=0.2) as it:
        host, port = it.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {GATEWAY_TOKEN}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await writer.wait_closed()


# --- secrets ----------------------------------------------------------------------------------------------------------


SHOWN_WITHOUT = {("store", "url"), ("training", "mlflow_uri")}


def secret_settings(section: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """(path, hidden from repr) of every setting whose name or field says that it is a secret.

    Not addresses that may hold one: they are shown without it, or refused with it.
    """
    for name, field in section.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is not None:
            yield from secret_settings(inner, (*prefix, name))
        elif is_secret_name(name) or (not field.repr and (*prefix, name) not in SHOWN_WITHOUT):
            yield (*prefix, name), not field.repr


# Not of `models`, which the daemon refuses.
SECRETS = {
    path: f"known-secret-number-{number}"
    for number, (path, _) in enumerate(secret_settings(DaemonConfig))
    if path[0] != "models" and path[:2] != ("gateway", "tokens")  # by name
}


def test_every_secret_setting_is_hidden_and_redacted() -> None:
    found = dict(secret_settings(DaemonConfig))
    assert {("gateway", "token"), ("api", "token"), ("gateway", "embeddings_token"), ("index", "api_key")} <= set(found)
    assert [path for path, hidden in found.items() if not hidden or not is_secret_name(path[-1])] == []


def test_secrets_inside_other_settings_are_not_shown() -> None:
    config = DaemonConfig.model_validate(
        {
            "workload": "w",
            "model": {"name": "m"},
            "store": {"url": "postgresql+psycopg://me:known-secret@db/state"},
            "stream": {"kind": "kafka", "kafka": {"bootstrap_servers": ["kafka:9092"]}},
            "generation": {"launch_settings": {"environment": {"HF_TOKEN": "known-secret"}}},
        }
    )
    assert "known-secret" not in str(config.public()) + repr(config.store)
    assert config.public()["store"]["url"] == "postgresql+psycopg://***@db/state"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("secrets")
    config = tiny_config(
        directory,
        trigger={"min_examples": 999},
        gateway={"port": 0, "embeddings_url": "http://127.0.0.1:9"},
        stream={"kafka": {"security_protocol": "SASL_SSL", "sasl_username": "me"}},  # set, and not used
    )
    environment = {"__".join(("SEMIEVOL", *path)).upper(): value for path, value in SECRETS.items()}
    process = DaemonProcess(config, environment=environment)
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def ask(daemon: DaemonProcess, name: str, path: str, token: str, body: Any = None) -> httpx.Response:
    method, headers = "GET" if body is None else "POST", {"Authorization": f"Bearer {token}"}
    return httpx.request(method, daemon.url(name) + path, json=body, headers=headers, timeout=30.0)


def test_a_token_opens_its_own_front_alone(daemon: DaemonProcess) -> None:
    tokens = {name: SECRETS[name, "token"] for name in ("api", "gateway")}
    for name, path in (("api", "/v1/status"), ("gateway", "/v1/models")):
        for owner, token in tokens.items():
            assert ask(daemon, name, path, token).status_code == (200 if owner == name else 401)


def test_no_secret_is_in_logs_configuration_status_or_errors(daemon: DaemonProcess) -> None:
    shown: list[str] = []
    api, gateway = SECRETS["api", "token"], SECRETS["gateway", "token"]
    feedback = SECRETS["gateway", "feedback", "token"]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "red"}], "max_tokens": 4}
    asked = [
        ("api", "/v1/status", api, None, 200),
        ("api", "/v1/status", gateway, None, 401),
        ("api", "/metrics", api, None, 200),
        ("api", "/v1/adapters/none", api, None, 404),
        ("api", "/v1/queries", api, {"records": [{"id": ""}]}, 400),
        ("gateway", "/v1/models", gateway, None, 200),
        ("gateway", "/v1/models", api, None, 401),
        ("gateway", "/v1/chat/completions", gateway, chat, 200),
        ("gateway", "/v1/chat/completions", gateway, {**chat, "stream": True}, 200),
        ("gateway", "/v1/chat/completions", gateway, {**chat, "model": "x"}, 404),
        ("gateway", "/v1/completions", gateway, {"model": "tiny", "prompt": "x", "max_tokens": 2}, 200),
        ("gateway", "/v1/completions", gateway, {**chat, "prompt": "x"}, 400),
        ("gateway", "/v1/embeddings", gateway, {"model": "x", "input": "y"}, 503),
        ("gateway", "/v1/feedback", gateway, {"id": "q", "answer": "red"}, 401),
        ("gateway", "/v1/feedback", feedback, {"id": "q", "answer": "red"}, 404),
        ("gateway", "/metrics", gateway, None, 404),
    ]
    for name, path, token, body, status in asked:
        response = ask(daemon, name, path, token, body)
        assert response.status_code == status, (path, response.text)
        shown.append(response.text + str(response.headers))
    environment = {**daemon._environment}
    for arguments in (["config", "show"], ["config", "show", "-o", "json"], ["config", "validate"], ["doctor"]):
        command = [sys.executable, "-m", "semievold.commands.cli", *arguments, "-c", str(daemon.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        shown.append(done.stdout + done.stderr)
    assert "***" in shown[-4]
    shown.append((daemon.data / "daemon.log").read_text())
    shown.append((daemon.data / "endpoints.json").read_text())
    for text in shown:
        assert "known-secret" not in text, text[max(0, text.index("known-secret") - 300) :][:700]


def test_what_the_daemon_writes_is_its_owners_alone(daemon: DaemonProcess) -> None:
    made_here = {daemon.data, daemon.data / "daemon.log"}
    paths = [path for path in daemon.data.rglob("*") if path not in made_here]
    assert {"state.db", "state.db-wal", "state.db-shm", "endpoints.json"} <= {path.name for path in paths}
    assert [(path, oct(path.stat().st_mode)) for path in paths if path.stat().st_mode & 0o077] == []


def test_readiness_says_why_to_who_has_the_token_alone(daemon: DaemonProcess) -> None:
    token = SECRETS["api", "token"]
    known, stranger = ask(daemon, "api", "/readyz", token).json(), httpx.get(daemon.url("api") + "/readyz").json()
    assert known["held"]["rounds"] == "0 of 999 examples for the warm round"
    assert stranger.keys() == known.keys()
    assert stranger["held"].keys() == known["held"].keys()
    assert set(stranger["held"].values()) == {"ask with the token to see why"}


def test_an_error_about_a_secret_does_not_show_it(tmp_path: Path) -> None:
    url = "http://me:hunter2@embed:8000"
    config = tiny_config(
        tmp_path, gateway={"token": "hunter2-short", "embeddings_url": url}, api={"token": ["hunter2"]}
    )
    command = [sys.executable, "-m", "semievold.commands.cli", "config", "validate", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gateway.token" in done.stderr
    assert "gateway.embeddings_url" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


async def test_what_a_replica_says_of_its_secrets_does_not_reach_the_client() -> None:
    words = {"error": {"message": f"bad key {REPLICA_TOKEN} at http://10.0.0.1:8000 in /srv/models/v1"}}
    for status in ("400", "401", "403", "404", "422", "500", "503"):
        async with front([Double("a", status, error_body=words)], retries=0) as it:
            async with it.ask() as response:
                text = await response.text() + str(response.headers)
            for secret in (REPLICA_TOKEN, "10.0.0.1", "/srv/models", it.doubles[0].url):
                assert secret not in text, (status, text)
