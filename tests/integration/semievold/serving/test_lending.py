"""Which of two real vLLM servers gets a request."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.replica_world import replica_world
from tests.servers.vllm import START_S, VllmServer

pytestmark = pytest.mark.timeout(START_S + 60)


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


async def test_the_least_busy_replica_is_lent_and_a_failed_one_only_after_it_answered_again(
    vllm_pair: list[VllmServer], adapters: Path
) -> None:
    async with replica_world(vllm_pair, adapters, watch_interval_s=60.0) as world:
        await world.replicas.keep(None, None)
        async with world.replicas.lend(None) as one, world.replicas.lend(None) as other:
            assert one.name != other.name
            async with world.replicas.lend(None, avoid={one.name}) as third:
                assert third.name == other.name
        world.replicas.failed(one.name, "said so")
        lent: Counter[str] = Counter()
        for _ in range(10):
            async with world.replicas.lend(None) as each:
                lent[each.name] += 1
        assert lent == {other.name: 10}
        await world.wait_until(lambda: all(view.state == "up" for view in world.replicas.show()))
