"""The engine of this process proves an adapter with the prompts that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from semievol.errors import TooLongError
from semievol.types import Completion, GenerationRequest, Message
from semievold.serving.adapter_servers import HeldAdapter, LocalServers
from semievold.serving.attestation import Answer, FingerprintEntry
from tests.scripted import ScriptedGenerator


class Refusing(ScriptedGenerator):
    """Token 5 under the adapter's name, 6 as the base model; refuses what is in `long`."""

    def __init__(self, *long: str) -> None:
        super().__init__(lambda request: [])
        self.long = long

    def _answer(self, request: GenerationRequest) -> list[Completion]:
        if request.messages[-1].content in self.long:
            raise TooLongError("the prompt has 300 tokens")
        token = 6 if request.adapter is None else 5
        return [Completion("", (token,), (-0.5,), "stop", request.adapter, 1)]


def held() -> HeldAdapter:
    entries = [
        FingerprintEntry((Message("user", text),), Answer((5,), (-0.5,)), Answer((6,), (-0.5,)))
        for text in ("short", "long")
    ]
    return HeldAdapter("w-r0001-00000001", Path("/adapters/w-r0001-00000001"), tuple(entries))


async def test_a_fingerprint_prompt_that_is_refused_is_left_out_and_the_others_prove(
    caplog: pytest.LogCaptureFixture,
) -> None:
    proof = await LocalServers(Refusing("long"), "float32").prove(held())
    assert proof.passed
    assert "fingerprint prompt 1 is left out: the prompt has 300 tokens" in caplog.text


async def test_where_every_prompt_is_refused_nothing_is_proved_and_the_reason_is_said() -> None:
    proof = await LocalServers(Refusing("long", "short"), "float32").prove(held())
    assert not proof.passed
    assert proof.reason == "every prompt of its fingerprint is refused: the prompt has 300 tokens"
