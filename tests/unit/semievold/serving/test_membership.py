"""Who the replicas are: lists, names, and names that stand for nobody."""

import asyncio

from tests.scripted_replicas import ScriptedServers, replica_set


async def test_a_name_that_stands_for_nobody_yet_does_not_end_the_watch() -> None:
    stop = asyncio.Event()
    async with replica_set(ScriptedServers(), dns="http://nobody.invalid:8000") as replicas:
        running = asyncio.create_task(replicas.run(stop))
        await asyncio.sleep(0.05)
        assert not running.done()
        stop.set()
        await running
