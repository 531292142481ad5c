"""The guard that k8s/ ships, before a real vLLM with LoRA at run time: what is refused changes nothing behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from semievol.types import GenerationRequest, Message
from tests.manifests import K8S
from tests.replica_world import held, replica_world
from tests.servers.guard import guarding
from tests.servers.vllm import START_S, VllmServer

pytestmark = pytest.mark.timeout(START_S + 60)

CONFIG = K8S / "components" / "vllm" / "haproxy.cfg"
CONTROL, SERVING = "token-of-control-0123", "token-of-serving-0123"
TOKENS = {"control": CONTROL, "serving": SERVING}


async def test_what_opens_vllm_to_strangers_is_refused_and_control_alone_loads(
    vllm_server: VllmServer, tmp_path: Path
) -> None:
    adapter = await held(vllm_server.model, tmp_path / "adapters", 1)
    load: dict[str, Any] = {"lora_name": "theirs", "lora_path": str(adapter.path)}
    unload = {"lora_name": adapter.name}
    with guarding(CONFIG, vllm_server.port, TOKENS, tmp_path) as guard:
        async with (
            replica_world([guard], tmp_path / "adapters", api_key=CONTROL) as control,  # type: ignore[list-item]
            httpx.AsyncClient(base_url=guard.url, timeout=30.0) as client,
        ):
            await control.replicas.keep(adapter, None)
            assert control.replicas.defect is None  # loaded and attested through the guard
            for token in (None, SERVING, CONTROL):
                client.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                for method, path, body in (
                    ("POST", "/adapters", {"name": "theirs", "path": str(adapter.path)}),
                    ("DELETE", f"/adapters/{adapter.name}", None),
                    ("GET", "/v1/load_lora_adapter", None),
                    ("POST", "/v1/load_lora_adapter/", load),
                    ("POST", "//v1/load_lora_adapter", load),
                    ("POST", "/tokenize", {"prompt": "x"}),
                    ("GET", "/docs", None),
                    ("POST", "/no-such-path", {}),
                ):
                    answer = await client.request(method, path, json=body)
                    assert answer.status_code == 404, (method, path, token)
                if token == CONTROL:
                    continue
                expected = 401 if token is None else 403
                for path, body in (("/v1/load_lora_adapter", load), ("/v1/unload_lora_adapter", unload)):
                    assert (await client.post(path, json=body)).status_code == expected, (path, token)
            assert vllm_server.models() == {"base", adapter.name}
            assert (await client.get(f"{vllm_server.url}/docs")).status_code == 200  # it was the guard that refused

            client.headers = {"Authorization": f"Bearer {SERVING}"}
            asked = {"model": adapter.name, "messages": [{"role": "user", "content": "red 1"}]}
            asked |= {"temperature": 0, "max_tokens": 8}
            through = (await client.post("/v1/chat/completions", json=asked)).raise_for_status().json()
            request = GenerationRequest((Message("user", "red 1"),), adapter.name, max_tokens=8)
            ((same,),) = await control.generator.generate([request])
            assert through["choices"][0]["message"]["content"] == same.text
            async with client.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as stream:
                lines = [line async for line in stream.aiter_lines() if line]
            assert (stream.status_code, lines[-1]) == (200, "data: [DONE]")
            assert (await client.get("/metrics")).text.count("vllm:num_requests_running") > 0
            assert (await client.get("/openapi.json")).json()["paths"]
