import asyncio

from semievol.http.server_address import ServerAddress
from semievold.serving.attestation import Attestation
from semievold.serving.replica import Replica

PASSED, FAILED = Attestation(True, "as trained"), Attestation(False, "wrong weights")


def warm_replica() -> Replica:
    replica = Replica(ServerAddress("a:1", "http://a:1"))
    replica.was_seen(frozenset({"base", "x-r0001"}))
    replica.warm = True
    return replica


def test_it_takes_requests_for_what_it_proved_alone() -> None:
    replica = warm_replica()
    assert replica.takes(None)
    assert not replica.takes("x-r0001")
    replica.passed("x-r0001", PASSED)
    assert replica.takes("x-r0001")
    replica.blamed = "x-r0002: wrong weights"
    assert not replica.takes("x-r0001")
    assert not replica.takes(None)


def test_what_it_proved_is_forgotten_when_it_falls_silent_or_loses_the_adapter() -> None:
    replica = warm_replica()
    replica.passed("x-r0001", PASSED)
    replica.was_seen(frozenset({"base"}))
    assert not replica.takes("x-r0001")
    replica.was_seen(frozenset({"base", "x-r0001"}))
    replica.passed("x-r0001", PASSED)
    replica.fell_silent("no answer")
    replica.was_seen(frozenset({"base", "x-r0001"}))
    replica.warm = True
    assert not replica.takes("x-r0001")


def test_a_failed_proof_is_asked_again_later_and_ever_less_often() -> None:
    replica = warm_replica()
    assert replica.needs_proof("x-r0001")
    replica.failed("x-r0001", FAILED)
    first = replica.faults["x-r0001"].retry_at
    assert not replica.needs_proof("x-r0001")
    replica.failed("x-r0001", FAILED)
    assert replica.faults["x-r0001"].retry_at > first
    replica.to_prove_again.add("x-r0001")
    assert replica.needs_proof("x-r0001")
    assert replica.verdict("x-r0001") is None


async def test_its_base_model_is_asked_when_nothing_else_runs_there() -> None:
    replica = warm_replica()
    replica.running["x-r0001"] = 1
    entered = asyncio.Event()

    async def ask() -> None:
        async with replica.alone():
            entered.set()
            assert not replica.takes(None)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    assert not replica.takes(None)
    assert not entered.is_set()
    replica.running["x-r0001"] = 0
    await asking
    assert entered.is_set()
    assert replica.takes(None)
