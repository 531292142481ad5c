"""Who takes a wrong replica out: the judgement alone, and with servers that answer by script."""

from __future__ import annotations

from semievol.http.server_address import ServerAddress
from semievold.serving.attestation import Attestation
from semievold.serving.quarantine import joint_proof, take_out_wrong
from semievold.serving.replica import Replica
from tests.scripted_replicas import ScriptedServers, adapter, replica_set

PASSED, FAILED = Attestation(True, "as trained"), Attestation(False, "wrong weights")
NEW, OLD = "w-r0002-0a1b2c3d", "w-r0001-0a1b2c3d"


def replica(name: str, **attested: Attestation) -> Replica:
    """A warm replica that holds both versions; `attested` says how it did with `new` and `old`."""
    made = Replica(ServerAddress(name, f"http://{name}"))
    made.was_seen(frozenset({"base", OLD, NEW}))
    made.warm = True
    for version, attestation in attested.items():
        (made.passed if attestation.passed else made.failed)({"new": NEW, "old": OLD}[version], attestation)
    return made


def test_who_fails_where_another_passes_is_taken_out_and_comes_back_when_it_passes() -> None:
    good, wrong = replica("a:1", new=PASSED), replica("b:1", new=FAILED)
    take_out_wrong([good, wrong], serving=OLD)
    assert (good.blamed, wrong.blamed) == (None, f"{NEW}: wrong weights")
    wrong.passed(NEW, PASSED)
    take_out_wrong([good, wrong], serving=OLD)
    assert wrong.blamed is None


def test_where_all_fail_the_adapter_is_at_fault_unless_it_is_what_serves() -> None:
    both = [replica("a:1", new=FAILED), replica("b:1", new=FAILED)]
    take_out_wrong(both, serving=OLD)
    assert [each.blamed for each in both] == [None, None]
    take_out_wrong(both, serving=NEW)
    assert all(each.blamed for each in both)


def test_a_replica_without_room_is_not_at_fault() -> None:
    good, full = replica("a:1", new=PASSED), replica("b:1")
    full.failed(NEW, Attestation(False, "no room"), of_replica=False)
    take_out_wrong([good, full], serving=OLD)
    assert full.blamed is None


def test_a_version_is_proved_when_nobody_is_open_and_enough_passed() -> None:
    good, wrong, late = replica("a:1", new=PASSED), replica("b:1", new=FAILED), replica("c:1")
    late.fell_silent("no answer")
    everyone = [good, wrong, late]
    assert not joint_proof(everyone, NEW, min_share=0.5, leads=True).passed  # b:1 is still open
    take_out_wrong(everyone, serving=OLD)
    assert joint_proof(everyone, NEW, min_share=0.5, leads=True).passed
    assert not joint_proof(everyone, NEW, min_share=0.51, leads=True).passed


def test_what_is_not_proved_says_of_each_replica_why() -> None:
    proof = joint_proof([replica("a:1", new=FAILED), replica("b:1")], NEW, min_share=0.5, leads=True)
    assert not proof.passed
    assert proof.reason.endswith("a:1: wrong weights; b:1: not attested yet")
    assert joint_proof([], NEW, min_share=0.5, leads=True).reason.endswith("there are none")


def test_who_does_not_lead_asks_only_the_replicas_that_hold_the_version() -> None:
    holds, lacks = replica("a:1", new=PASSED), replica("b:1")
    lacks.was_seen(frozenset({"base"}))
    assert joint_proof([holds, lacks], NEW, min_share=1.0, leads=False).passed
    assert not joint_proof([holds, lacks], NEW, min_share=1.0, leads=True).passed


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
