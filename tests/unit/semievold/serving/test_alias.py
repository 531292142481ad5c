import asyncio

from semievold.serving.alias import Alias
from semievold.store.aliases import AliasState


async def test_a_running_request_stays_on_its_version_when_the_alias_moves() -> None:
    alias = Alias(AliasState("old", None, 1))
    async with alias.bind() as first:
        alias.follow(AliasState("new", "old", 2))
        async with alias.bind() as second:
            assert (first, second) == ("old", "new")
            assert alias.running("old") == 1
    assert alias.running("old") == alias.running("new") == 0


async def test_a_version_is_drained_only_when_its_last_request_ended() -> None:
    alias = Alias(AliasState("old", None, 1))
    async with alias.bind():
        assert not await alias.drained("old", 0.01)
        waiting = asyncio.create_task(alias.drained("old", 5.0))
        await asyncio.sleep(0)
    assert await waiting


async def test_an_older_state_never_replaces_a_newer_one() -> None:
    alias = Alias(AliasState("new", "old", 2))
    alias.follow(AliasState("old", None, 1))
    assert alias.state == AliasState("new", "old", 2)


async def test_a_request_that_fails_is_not_counted_as_running() -> None:
    alias = Alias(AliasState("old", None, 1))
    try:
        async with alias.bind():
            raise ValueError
    except ValueError:
        pass
    assert await alias.drained("old", 0.01)
