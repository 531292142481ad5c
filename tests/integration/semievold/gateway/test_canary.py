"""A version on trial at the gateway: each client has one version, and no request fails for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from semievol.tasks.task import Task
from semievold.config.daemon import DaemonConfig
from semievold.rollout.answers import AnswerCounts
from semievold.serving.alias import Alias
from semievold.store.aliases import AliasState, Canary
from semievold.store.rollout.canaries import Counted, Tally
from semievold.store.stores import Stores, open_stores
from tests.openai_double import Double, Front, front

CONFIG = DaemonConfig.model_validate(
    {"workload": "tests", "model": {"name": "none"}, "rollout": {"canary": [0.3], "slow_answer_s": 30.0}}
)
CLIENTS = 120
SALT = "5a" * 16


@pytest.fixture
def stores(tmp_path: Path) -> Any:
    opened = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "tests", "support")
    yield opened
    opened.database.close()


class Counting:
    """Makes the gateway's counts, and keeps them."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def __call__(self, alias: Alias) -> AnswerCounts:
        self.made = AnswerCounts(CONFIG.rollout, alias, Task(CONFIG.task), self._stores.canaries)
        return self.made

    async def told(self) -> dict[tuple[str, int], Tally]:
        await self.made.write()
        found: list[Counted] = self._stores.canaries.counted("v2")
        return {(each.version, each.stage): each.tally for each in found}


def try_v2(it: Front, share: float, stage: int = 0) -> None:
    state = it.alias.state
    it.alias.follow(AliasState(state.adapter, None, state.generation + 1, Canary("v2", share, stage, SALT)))


async def version_of(it: Front, **body: Any) -> str:
    async with it.ask(**body) as response:
        assert response.status == 200
        answered: str = response.headers["x-semievol-adapter"]
        if body.get("stream"):
            assert b"[DONE]" in await response.read()
        else:
            text = (await response.json())["choices"][0]["message"]["content"]
            assert {part.partition("@")[0] for part in text.split()} == {answered}
        return answered


async def test_each_client_keeps_its_version_and_larger_shares_keep_whom_they_had(stores: Stores) -> None:
    counting = Counting(stores)
    async with front([Double("one")], counts=counting) as it:
        asked = 0
        seen: list[set[str]] = []
        for stage, share in enumerate((0.3, 0.7)):
            try_v2(it, share, stage)
            on_trial = set()
            for client in range(CLIENTS):
                versions = {await version_of(it, user=f"u{client}", seed=turn, stream=bool(turn)) for turn in range(2)}
                assert len(versions) == 1
                asked += 2
                if versions == {"v2"}:
                    on_trial.add(f"u{client}")
            seen.append(on_trial)
        assert seen[0] < seen[1]
        assert len(seen[0]) == pytest.approx(0.3 * CLIENTS, abs=15)
        told = await counting.told()
        assert told["canary", 0].answers == 2 * len(seen[0])
        assert told["canary", 1].answers == 2 * len(seen[1])
        assert sum(tally.answers for tally in told.values()) == asked
        assert told["canary", 0].read == 2 * len(seen[0])  # streams too
        assert all(tally.failed == tally.slow == 0 for tally in told.values())


async def test_what_a_version_on_trial_does_not_answer_is_answered_by_what_serves(stores: Stores) -> None:
    counting = Counting(stores)
    async with front([FailsFor("one", "v2", "500")], counts=counting, retries=0) as it:
        try_v2(it, 1)
        for _ in range(5):
            assert await version_of(it, user="u1") == "v1"
        told = await counting.told()
        assert (told["canary", 0].answers, told["canary", 0].failed) == (5, 5)
        assert (told["incumbent", 0].answers, told["incumbent", 0].failed) == (5, 0)


async def test_a_version_that_nobody_has_loaded_fails_no_request(stores: Stores) -> None:
    double = Double("one", adapters={"base", "v1"})
    async with front([double], counts=Counting(stores), retries=0, replica_wait_s=30.0) as it:
        try_v2(it, 1)
        looking = asyncio.create_task(looked_at_again(it))
        assert await version_of(it, user="u1") == "v1"
        looking.cancel()


async def test_a_stream_that_breaks_off_counts_as_failed(stores: Stores) -> None:
    counting = Counting(stores)
    async with front([Double("one", fault="die within")], counts=counting) as it:
        try_v2(it, 1)
        async with it.ask(stream=True) as response:
            assert response.headers["x-semievol-adapter"] == "v2"
            assert b"error" in await response.read()
        told = await counting.told()
        assert (told["canary", 0].answers, told["canary", 0].failed) == (1, 1)


async def test_a_clients_own_mistake_counts_for_no_version(stores: Stores) -> None:
    counting = Counting(stores)
    async with front([Double("one", fault="400", error_body={"error": {"message": "no"}})], counts=counting) as it:
        try_v2(it, 1)
        async with it.ask() as response:
            assert response.status == 400
        assert await counting.told() == {}


async def test_a_running_request_ends_on_its_version_when_that_is_taken_back(stores: Stores) -> None:
    async with front([Double("one", pause_s=0.3)], counts=Counting(stores)) as it:
        try_v2(it, 1)
        async with it.ask(stream=True) as response:
            it.alias.follow(AliasState("v1", None, it.alias.state.generation + 1))
            assert response.headers["x-semievol-adapter"] == "v2"
            body = await response.read()
            assert b"[DONE]" in body
            assert body.count(b"v2@one") == 6
        assert await version_of(it) == "v1"


async def looked_at_again(it: Front) -> None:
    """As the watch of real replicas does every second."""
    while True:
        await asyncio.sleep(0.05)
        it.pool.down.clear()


class FailsFor(Double):
    """A server on which one version fails."""

    def __init__(self, name: str, version: str, how: str) -> None:
        super().__init__(name)
        self._version = version
        self._how = how

    async def _answer(self, request: Any, body: dict[str, Any]) -> Any:
        self.fault = self._how if body.get("model") == self._version else ""
        return await super()._answer(request, body)
