import asyncio

from semievold.supervisor import Stop, Supervisor


async def eternal(stop: Stop) -> None:
    await stop.wait()


async def test_a_task_that_fails_stops_all_others_with_a_failure_code() -> None:
    supervisor = Supervisor(stop_deadline_s=1.0)
    stopped: list[str] = []

    async def other(stop: Stop) -> None:
        await stop.wait()
        stopped.append("other")

    async def failing(stop: Stop) -> None:
        raise ValueError("broken")

    supervisor.add("other", other, stage=0)
    supervisor.add("failing", failing, stage=1)
    assert await supervisor.run() == 1
    assert stopped == ["other"]
    assert supervisor.failure == "task failing failed: broken"


async def test_a_task_that_ends_by_itself_is_a_failure() -> None:
    supervisor = Supervisor(stop_deadline_s=1.0)

    async def short(stop: Stop) -> None:
        return

    supervisor.add("short", short, stage=0)
    assert await supervisor.run() == 1
    assert supervisor.failure == "task short ended unexpectedly"


async def test_a_task_that_was_cancelled_from_inside_is_a_failure() -> None:
    supervisor = Supervisor(stop_deadline_s=1.0)

    async def waits_for_what_is_cancelled(stop: Stop) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.cancel()
        await answer

    supervisor.add("reader", waits_for_what_is_cancelled, stage=0)
    assert await supervisor.run() == 1
    assert supervisor.failure == "task reader was cancelled"


async def test_stages_stop_one_after_the_other() -> None:
    supervisor = Supervisor(stop_deadline_s=5.0)
    order: list[str] = []

    def recorder(name: str, turns: int) -> None:
        async def run(stop: Stop) -> None:
            await stop.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            order.append(name)

        supervisor.add(name, run, stage={"intake": 0, "control": 1, "api": 2}[name])

    recorder("api", 0)
    recorder("control", 5)
    recorder("intake", 20)
    supervisor.request_stop("test")
    assert await supervisor.run() == 0
    assert order == ["intake", "control", "api"]


async def test_a_task_that_does_not_stop_is_cancelled_at_the_deadline() -> None:
    supervisor = Supervisor(stop_deadline_s=0.05)
    cancelled = asyncio.Event()

    async def stubborn(stop: Stop) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    supervisor.add("stubborn", stubborn, stage=0)
    supervisor.add("good", eternal, stage=1)
    supervisor.request_stop("test")
    assert await supervisor.run() == 0
    assert cancelled.is_set()
