"""The test server itself: what the other tests take for granted of it."""

import httpx
import pytest

from tests.servers.vllm import START_S, VllmServer

pytestmark = pytest.mark.timeout(START_S + 60)


def test_it_answers_under_the_base_name_and_keeps_no_adapter(vllm_server: VllmServer) -> None:
    assert vllm_server.models() == {"base"}
    body = {"model": "base", "messages": [{"role": "user", "content": "red 3"}], "max_tokens": 4, "temperature": 0}
    answered = httpx.post(f"{vllm_server.url}/v1/chat/completions", json=body, timeout=60.0)
    assert answered.status_code == 200, answered.text
    assert answered.json()["usage"]["completion_tokens"] <= 4
