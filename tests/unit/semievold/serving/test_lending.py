"""Which replica gets a request, with servers that answer by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from semievol.errors import AdapterError, TransientError
from semievold.serving import replica as replica_module
from semievold.serving.lending import ReservedError, RestingError
from semievold.serving.replicas import ReplicaSet
from tests.scripted_replicas import SERVERS, ScriptedServers, adapter, replica_set, until


async def test_the_least_busy_replica_is_lent_and_one_that_just_failed_a_request_last() -> None:
    async with replica_set(ScriptedServers()) as replicas:
        await replicas.keep(None, None)
        async with replicas.lend(None) as one, replicas.lend(None) as other:
            assert {one.name, other.name} == {"a:1", "b:1"}
            async with replicas.lend(None, avoid={one.name}) as third:
                assert third.name == other.name


async def test_a_replica_that_failed_is_lent_to_nobody_until_it_was_looked_at() -> None:
    async with replica_set(ScriptedServers()) as replicas:
        await replicas.keep(None, None)
        replicas.failed("a:1", "said so")
        for _ in range(8):  # none of these gives way to a look
            async with replicas.lend(None) as lent:
                assert lent.name == "b:1"
        await replicas.looked()
        lent_names = set()
        for _ in range(64):
            async with replicas.lend(None) as lent:
                lent_names.add(lent.name)
        assert lent_names == {"a:1", "b:1"}


async def test_a_version_that_nobody_is_to_have_is_refused_and_one_that_is_not_proved_yet_is_a_matter_of_time() -> None:
    async with replica_set(ScriptedServers(), loads=False) as follower:
        await follower.keep(adapter(1), None)
        with pytest.raises(TransientError, match=r"now: a:1 up; b:1 up"):
            async with follower.lend(adapter(1).name):
                pass
        with pytest.raises(AdapterError, match="is not loaded"):
            async with follower.lend(adapter(2).name):
                pass


async def test_a_follower_does_not_wait_for_a_replica_that_the_leader_could_not_load() -> None:
    servers = ScriptedServers()
    servers.held["a:1"].add(adapter(1).name)
    async with replica_set(servers, loads=False) as follower:
        await follower.keep(None, None)
        await follower.load(adapter(1))
        async with follower.lend(adapter(1).name) as upstream:
            assert upstream.name == "a:1"


async def test_between_a_rest_and_the_proofs_nobody_has_failed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    servers, name = ScriptedServers(), adapter(1).name
    async with replica_set(servers, loads=False) as follower:
        for server in SERVERS:
            servers.held[server].add(name)
        await follower.keep(adapter(1), None)
        await until(lambda: all(view.adapters for view in follower.show()))
        for server in SERVERS:
            servers.held[server].discard(name)  # the leader unloads it, and has it loaded anew only later
        follower.rest(SERVERS, "a test", 30)
        follower.rest(())
        await until(lambda: all(view.state == "up" for view in follower.show()))
        assert (follower.defect, follower.resting) == (None, None)
        with pytest.raises(RestingError, match="prove what they hold anew") as told:
            async with follower.lend(name):
                pass
        assert (told.value.returns, told.value.again_s) == (True, 1)
        monkeypatch.setattr(replica_module, "RETURN_S", 0.0)  # it takes for ever
        with pytest.raises(TransientError, match=r"now: a:1 up; b:1 up") as failed:
            async with follower.lend(name):
                pass
        assert not isinstance(failed.value, RestingError)
        assert "no replica can answer" in str(follower.defect)


async def test_one_that_fails_its_proof_after_a_rest_has_failed() -> None:
    servers = ScriptedServers()
    async with replica_set(servers) as replicas:
        await replicas.keep(adapter(1), None)
        servers.cannot_load = set(SERVERS)
        for server in SERVERS:
            servers.held[server].discard(adapter(1).name)
        replicas.rest(SERVERS, "a test")
        replicas.rest(())
        await until(lambda: replicas.defect is not None)
        with pytest.raises(TransientError) as failed:
            async with replicas.lend(adapter(1).name):
                pass
        assert not isinstance(failed.value, RestingError)


@asynccontextmanager
async def proving_another(*, after_a_rest: bool = False) -> AsyncIterator[tuple[ReplicaSet, asyncio.Event]]:
    """One replica, proved for the first version, that is asked alone for the second until the event is set."""
    servers, go_on = ScriptedServers(), asyncio.Event()
    servers.held["a:1"] |= {adapter(1).name, adapter(2).name}
    async with replica_set(servers, loads=False, replicas=["http://a:1"]) as follower:
        await follower.keep(adapter(1), None)
        if after_a_rest:
            follower.rest(["a:1"], "a test", 30)
            follower.rest(())
            await until(lambda: all(view.adapters for view in follower.show()))
        servers.before_answer["a:1"] = go_on.wait
        proving = asyncio.create_task(follower.load(adapter(2)))
        await until(lambda: follower.show()[0].state == "up")
        for _ in range(100):
            await asyncio.sleep(0)
        yield follower, go_on
        go_on.set()
        await proving


async def lent(replicas: ReplicaSet) -> str:
    async with replicas.lend(adapter(1).name) as found:
        return found.name


@pytest.mark.parametrize("after_a_rest", [False, True])
async def test_while_who_holds_it_is_asked_alone_a_request_is_to_wait_and_nobody_has_failed(after_a_rest: bool) -> None:
    async with proving_another(after_a_rest=after_a_rest) as (follower, go_on):
        with pytest.raises(ReservedError, match="alone for a moment"):
            await lent(follower)
        assert follower.defect is None  # or it would be taken out of its Service
        go_on.set()
        await until(lambda: len(follower.show()[0].adapters) == 2)
        assert await lent(follower) == "a:1"


async def test_one_that_is_asked_alone_for_ever_counts_as_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proving_another() as (follower, _):
        monkeypatch.setattr(replica_module, "RESERVED_S", 0.0)
        with pytest.raises(TransientError, match="no replica can answer") as told:
            await lent(follower)
        assert not isinstance(told.value, ReservedError)
        assert "no replica can answer" in str(follower.defect)
