"""Who the replicas are: lists, names, and names that stand for nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from semievol.http.server_address import ServerAddress
from semievold.serving import membership
from semievold.serving.replicas import ReplicaSet
from tests.scripted_replicas import SERVERS, ScriptedServers, adapter, replica_set, until


async def test_a_name_that_stands_for_nobody_yet_does_not_end_the_watch() -> None:
    stop = asyncio.Event()
    async with replica_set(ScriptedServers(), dns="http://nobody.invalid:8000") as replicas:
        running = asyncio.create_task(replicas.run(stop))
        await asyncio.sleep(0.05)
        assert not running.done()
        stop.set()
        await running


class Name:
    """A DNS name, and what it stands for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: tuple[str, ...] = SERVERS
        monkeypatch.setattr(membership, "addresses", self.addresses)

    async def addresses(self, _config: object) -> list[ServerAddress]:
        return [ServerAddress.at(f"http://{host}", None, "base") for host in self.hosts]


@asynccontextmanager
async def named(name: Name, servers: ScriptedServers) -> AsyncIterator[ReplicaSet]:
    async with replica_set(servers, dns="http://vllm:1") as replicas:
        await replicas.keep(adapter(1), None)
        await until(lambda: states(replicas) == {"a:1": "up", "b:1": "up"})
        yield replicas


def states(replicas: ReplicaSet) -> dict[str, str]:
    return {view.name: view.state for view in replicas.show()}


async def lent(replicas: ReplicaSet, *avoid: str) -> str:
    async with replicas.lend(adapter(1).name, avoid=avoid) as address:
        return address.name


async def test_one_that_its_name_stands_for_no_more_is_asked_what_no_other_can_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, servers = Name(monkeypatch), ScriptedServers()
    async with named(name, servers) as replicas:
        appeared = replicas.appearances()
        # As when a node's agent is restarted: one is gone, then the other in its place, then both are there.
        name.hosts = ("b:1",)
        await until(lambda: states(replicas)["a:1"] == "leaving")
        assert set(replicas.names) == set(SERVERS)  # who sleeps for a training does so while it leaves, too
        assert {await lent(replicas) for _ in range(20)} == {"b:1"}
        assert await lent(replicas, "b:1") == "a:1"  # b has just failed this request
        servers.silent.add("b:1")
        await until(lambda: states(replicas)["b:1"] == "down")
        assert await lent(replicas) == "a:1"
        assert replicas.defect is None
        servers.silent.discard("b:1")
        await until(lambda: states(replicas)["b:1"] == "up")
        name.hosts = ("a:1",)
        await until(lambda: states(replicas) == {"a:1": "up", "b:1": "leaving"})
        name.hosts = SERVERS
        await until(lambda: states(replicas) == {"a:1": "up", "b:1": "up"})
        assert replicas.appearances()["a:1"] == appeared["a:1"]  # nothing that it proved was asked again


async def test_one_that_leaves_goes_when_it_answers_no_more_or_a_minute_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, servers = Name(monkeypatch), ScriptedServers()
    async with named(name, servers) as replicas:
        name.hosts = ("b:1",)
        await until(lambda: states(replicas)["a:1"] == "leaving")
        servers.silent.add("a:1")
        await until(lambda: "a:1" not in states(replicas))
        monkeypatch.setattr(membership, "LEAVING_S", 0.05)
        name.hosts = ()
        await until(lambda: states(replicas) == {})


async def test_one_that_leaves_keeps_up_with_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    name, servers = Name(monkeypatch), ScriptedServers()
    async with named(name, servers) as replicas:
        name.hosts = ("b:1",)
        await until(lambda: states(replicas)["a:1"] == "leaving")
        await replicas.load(adapter(2))
        await until(lambda: adapter(2).name in servers.held["a:1"])
        await replicas.unload(adapter(2).name)
        await until(lambda: adapter(2).name not in servers.held["a:1"])
