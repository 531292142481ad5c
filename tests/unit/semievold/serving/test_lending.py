"""Which replica gets a request, with servers that answer by script."""

from tests.scripted_replicas import ScriptedServers, adapter, replica_set


async def test_a_follower_does_not_wait_for_a_replica_that_the_leader_could_not_load() -> None:
    servers = ScriptedServers()
    servers.held["a:1"].add(adapter(1).name)
    async with replica_set(servers, loads=False) as follower:
        await follower.keep(None, None)
        await follower.load(adapter(1))
        async with follower.lend(adapter(1).name) as upstream:
            assert upstream.name == "a:1"
