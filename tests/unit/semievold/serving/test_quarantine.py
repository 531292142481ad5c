"""Who takes a wrong replica out: the judgement alone, and with servers that answer by script."""

from tests.scripted_replicas import ScriptedServers, adapter, replica_set


async def test_a_replica_that_refuses_the_fingerprints_prompts_is_quarantined_and_the_others_serve() -> None:
    servers = ScriptedServers()
    servers.refuses_prompts.add("b:1")
    async with replica_set(servers) as leader:
        await leader.keep(None, None)
        await leader.load(adapter(1))
        views = {view.name: view for view in leader.show()}
        assert views["b:1"].state == "quarantined"
        assert "the prompt is too long" in views["b:1"].reason
        async with leader.lend(adapter(1).name) as upstream:
            assert upstream.name == "a:1"


async def test_a_replica_that_cannot_load_is_quarantined_and_named() -> None:
    servers = ScriptedServers()
    servers.cannot_load.add("b:1")
    async with replica_set(servers) as leader:
        await leader.keep(None, None)
        await leader.load(adapter(1))
        views = {view.name: view for view in leader.show()}
        assert (views["a:1"].state, views["b:1"].state) == ("up", "quarantined")
        assert "b:1: cannot load" in views["b:1"].reason
