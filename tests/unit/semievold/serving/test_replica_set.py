"""What the replica set holds, with servers that answer by script; what vLLM does is in tests/integration."""

import pytest

from semievol.errors import AdapterError
from tests.scripted_replicas import ScriptedServers, adapter, replica_set, until


async def test_what_the_alias_names_is_not_unloaded_although_its_directory_could_not_be_verified() -> None:
    servers = ScriptedServers()
    for held in servers.held.values():
        held |= {adapter(1).name, adapter(2).name, "other-r0001-0a1b2c3d"}
    async with replica_set(servers) as leader:
        leader.protect(frozenset({adapter(1).name}))
        await leader.keep(None, None)
        await until(lambda: all(adapter(2).name not in held for held in servers.held.values()))
        assert all({adapter(1).name, "other-r0001-0a1b2c3d"} < held for held in servers.held.values())


async def test_workloads_that_share_servers_have_a_share_each_and_touch_their_own_alone() -> None:
    servers = ScriptedServers()
    async with (
        replica_set(servers, workload="w") as one,
        replica_set(servers, workload="w-r0001") as other,  # its names begin as the first one's do
    ):
        for replicas, workload in ((one, "w"), (other, "w-r0001")):
            await replicas.keep(adapter(1, workload), adapter(2, workload))
            await replicas.load(adapter(3, workload))  # the third of its own, and up to the sixth that a server holds
        assert await one.loaded() == {adapter(number, "w").name for number in (1, 2, 3)}
        assert await other.loaded() == {adapter(number, "w-r0001").name for number in (1, 2, 3)}
        one.protect(frozenset({adapter(3).name}))
        with pytest.raises(
            AdapterError, match=r"no room: generation.max_adapters is 3, and it holds w-r0001-0a1b2c3d,"
        ):
            await one.load(adapter(4))
        await one.unload(adapter(4).name)
        one.protect(frozenset())
        await one.unload(adapter(3).name)
        for _ in range(4):
            await one.looked()
        kept = {adapter(number, "w-r0001").name for number in (1, 2, 3)}
        assert all(held == {"base", adapter(1).name, adapter(2).name} | kept for held in servers.held.values())
        assert (await other.prove(adapter(3, "w-r0001"))).passed


async def test_a_candidate_does_not_push_out_what_the_alias_names() -> None:
    async with replica_set(ScriptedServers()) as leader:
        await leader.keep(adapter(1), adapter(2))
        await leader.load(adapter(3))
        leader.protect(frozenset({adapter(3).name, adapter(1).name}))  # promoted, and `keep` has not been told yet
        with pytest.raises(AdapterError, match="no room"):
            await leader.load(adapter(4))
        async with leader.lend(adapter(3).name):
            pass
