"""Every metric and every reason for not being ready, from the part and the state that it names."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from semievol.engines.plain.tally import NEUTRALISED
from semievol.errors import TransientError
from semievold.errors import Reason
from semievold.intake.labels import LabelsIntake
from semievold.intake.role import Intake
from semievold.monitoring.metrics import REPLICA_STATES, WAITING, Metrics
from semievold.monitoring.observer import Observer
from semievold.retry import Health, Pulse
from semievold.rounds.observing import held
from semievold.serving.alias import Alias
from semievold.serving.attestation import Attestation
from semievold.serving.following import StateFollower
from semievold.serving.replica import ReplicaView
from semievold.store.aliases import AliasState, AliasStore
from semievold.store.rollout.rests import Rest
from tests.control_roles import Roles
from tests.control_world import OpenWorld
from tests.scripted import pseudo_label

NOT_WAITED_FOR = dict.fromkeys((f"semievol_waiting{{{what}}}" for what in WAITING), 0.0)


def figures(metrics: Metrics) -> dict[str, float]:
    """`name{label,label}` -> value of what the daemon counts, with the labels other than the workload's."""
    return {
        f"{sample.name}{{{','.join(value for key, value in sorted(sample.labels.items()) if key != 'workload')}}}": (
            sample.value
        )
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("semievol_")
    }


def retried(failures: int, health: object) -> None:
    for _ in range(failures):
        health.failed("stream", TransientError("away"))  # type: ignore[attr-defined]
    health.answered("stream")  # type: ignore[attr-defined]


async def test_each_figure_says_what_its_part_says(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    world.teach()
    world.here.start()
    warm = await world.ended(0)
    world.ask(range(40, 45), agreement=0.5)
    world.ask(range(45, 50), agreement=1.0)
    await world.ended(1)  # inconclusive: nothing is better than the warm round's
    roles = Roles(world)
    seen = roles.intake.counters
    seen.received, seen.labelled, seen.duplicates, seen.in_flight, seen.lag = 11, 12, 13, 14, 15
    seen.dead_letters[Reason.NO_VALUE] = 16
    retried(17, seen.health)
    told = roles.labels.counters
    told.received, told.joined_right, told.joined_wrong, told.lag = 21, 22, 23, 24
    told.dead_letters["no_key"] = 25
    retried(26, told.health)
    proofs = {"a": Attestation(True, "as trained"), "b": Attestation(False, "wrong weights")}
    roles.replicas.seen = [
        ReplicaView("one:1", "up", "", 3, proofs),
        ReplicaView("two:1", "down", "not asked yet", 0, {}),
    ]
    roles.observer.observe()
    # What was neutralised is counted for the process, and other tests of it count along.
    shown = {key: value for key, value in figures(roles.metrics).items() if "neutralised" not in key}
    assert shown == {
        "semievol_intake_received_total{}": 11,
        "semievol_intake_labelled_total{}": 12,
        "semievol_intake_duplicates_total{}": 13,
        "semievol_intake_in_flight{}": 14,
        "semievol_stream_lag{intake}": 15,
        "semievol_stream_held{intake}": 0,
        "semievol_stream_held{labels}": 0,
        "semievol_dead_letters_total{no_value,intake}": 16,
        "semievol_retries_total{intake}": 17,
        "semievol_labels_received_total{}": 21,
        "semievol_labels_joined_total{yes}": 22,
        "semievol_labels_joined_total{no}": 23,
        "semievol_stream_lag{labels}": 24,
        "semievol_dead_letters_total{no_key,labels}": 25,
        "semievol_retries_total{labels}": 26,
        **NOT_WAITED_FOR,
        "semievol_waiting{pseudo_labels}": 1,
        "semievol_leader{}": 1,
        "semievol_alias_generation{}": 1,
        "semievol_alias_followed{}": 1,
        f"semievol_serving_adapter{{{warm.adapter}}}": 1,
        **{f"semievol_replica_state{{one:1,{state}}}": state == "up" for state in REPLICA_STATES},
        **{f"semievol_replica_state{{two:1,{state}}}": state == "down" for state in REPLICA_STATES},
        "semievol_replica_running{one:1}": 3,
        "semievol_replica_running{two:1}": 0,
        "semievol_replica_attested{a,one:1}": 1,
        "semievol_replica_attested{b,one:1}": 0,
    }


async def test_counters_go_on_from_what_was_told_before(open_world: OpenWorld) -> None:
    roles = Roles(open_world())
    for received in (3, 3, 10):
        roles.intake.counters.received = received
        roles.observer.observe()
        assert figures(roles.metrics)["semievol_intake_received_total{}"] == received


async def test_a_process_without_roles_shows_what_serves_and_no_leader(open_world: OpenWorld) -> None:
    metrics = Metrics("w")
    observer = Observer(metrics, Alias(AliasState("elsewhere", None, 4)))
    observer.observe()
    shown = figures(metrics)
    assert observer.missing() == {}
    NEUTRALISED.add("gateway")
    counts = dict(NEUTRALISED.counts())
    assert observer.process() == {"leader": False, "queries_waiting": None, "neutralised": counts}
    assert counts["gateway"] > 0
    assert "semievol_leader{}" not in shown
    assert "semievol_intake_received_total{}" not in shown
    assert (shown["semievol_alias_generation{}"], shown["semievol_serving_adapter{elsewhere}"]) == (4, 1)


async def test_what_serves_no_longer_and_replicas_that_are_gone_vanish(open_world: OpenWorld) -> None:
    world = open_world()
    roles = Roles(world)
    roles.replicas.seen = [ReplicaView("one:1", "up", "", 0, {"a": Attestation(True, "")})]
    roles.observer.observe()
    assert figures(roles.metrics)["semievol_serving_adapter{base}"] == 1
    world.here.alias.follow(AliasState("new", None, 1))
    roles.replicas.seen = [ReplicaView("two:1", "up", "", 0, {})]
    roles.observer.observe()
    shown = figures(roles.metrics)
    assert [name for name in shown if "serving_adapter" in name] == ["semievol_serving_adapter{new}"]
    assert not any("one:1" in name for name in shown)


def test_entropies_of_stored_labels_are_counted_also_where_nothing_parsed() -> None:
    metrics = Metrics("w")
    labels = [pseudo_label("q1", "?", "even", 0.3), pseudo_label("q2", "?", None, math.inf)]
    metrics.stored(labels, [0.5, 70.0])
    shown = figures(metrics)
    assert shown["semievol_intake_unparsed_total{}"] == 1
    assert shown["semievol_intake_delay_seconds_bucket{1.0}"] == 1
    assert shown["semievol_intake_delay_seconds_bucket{60.0}"] == 1
    assert shown["semievol_intake_delay_seconds_bucket{300.0}"] == 2
    assert shown["semievol_pseudo_label_agreement_count{}"] == 2
    assert shown["semievol_pseudo_label_entropy_bucket{0.2}"] == 0
    assert shown["semievol_pseudo_label_entropy_bucket{0.5}"] == 1
    assert shown["semievol_pseudo_label_entropy_bucket{5.0}"] == 1
    assert shown["semievol_pseudo_label_entropy_count{}"] == 2


async def test_a_process_whose_parts_all_work_is_ready_and_so_is_a_standby(open_world: OpenWorld) -> None:
    world = open_world()
    assert Roles(world).observer.missing() == {}
    assert Roles(world).observer.process() == {
        "leader": False,
        "waiting_for": "starting",
        "queries_waiting": 0,
        "neutralised": dict(NEUTRALISED.counts()),
    }
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    assert Roles(world).observer.missing() == {}
    assert Roles(world).observer.process()["leader"]


async def test_each_part_that_does_not_work_is_named_with_its_reason(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    first, second = await world.version(right=7), await world.version()
    world.here.stores.alias.move(first)
    roles = Roles(world)
    missing = roles.observer.missing
    roles.intake.counters.health.failed("store", TransientError("disk full"))
    assert missing() == {"intake": "store: disk full"}
    roles.intake.counters.health.answered("store")
    roles.labels.counters.health.failed("index", TransientError("no route"))
    assert missing() == {"labels": "index: no route"}
    roles.labels.counters.health.answered("index")
    world.here.lease.problem = "the state is away"
    assert missing() == {"lease": "the state is away"}
    world.here.lease.problem = None
    (world.place.adapters / first / "STABLE").unlink()
    await world.here.fleet.follow()
    assert "no STABLE marker" in missing()["adapter"]
    world.here.stores.alias.move(second)
    await world.here.fleet.follow()
    assert missing() == {}


async def test_a_follower_that_cannot_load_what_serves_is_not_ready(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version()
    world.here.stores.alias.move(name)
    (world.place.adapters / name / "STABLE").unlink()
    world.here = world.process(exclusive=False)
    world.here.alias = Alias(AliasState())
    roles = Roles(world)
    await world.here.follower.look()
    assert "no STABLE marker" in roles.observer.missing()["adapter"]


class AwayAlias(AliasStore):
    away = True

    def get(self) -> AliasState:
        if self.away:
            raise TransientError("postgres:5432 is away")
        return super().get()


async def test_a_gateway_goes_on_with_the_version_that_it_knows_while_the_state_and_the_stream_are_away_and_says_so(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version()
    world.here.stores.alias.move(name)
    gateway = world.process(exclusive=False)
    await gateway.follower.look()
    stored = AwayAlias(world.database, "w", "w")
    captured = Health()
    follower = StateFollower(replace(world.stores, alias=stored), gateway.alias, gateway.fleet, lambda: False)
    metrics = Metrics("w")
    observer = Observer(metrics, gateway.alias, follower=follower, fleet=gateway.fleet, captured=captured)
    captured.failed("capture", TransientError("no broker answers"))
    stop = asyncio.Event()
    follows = asyncio.create_task(follower.run(stop))
    await world.until(lambda: follower.away is not None)
    async with gateway.alias.bind() as bound:
        assert bound == name
    assert observer.missing() == {}  # ready
    assert observer.held() == {
        "alias": f"it stands for {name} still, and cannot be followed: postgres:5432 is away",
        "capture": "captured queries wait for the stream: capture: no broker answers",
    }
    observer.observe()
    assert figures(metrics)["semievol_alias_followed{}"] == 0
    stored.away = False
    captured.answered("capture")
    await world.until(lambda: follower.away is None)
    assert observer.held() == {}
    observer.observe()
    assert figures(metrics)["semievol_alias_followed{}"] == 1
    stop.set()
    await follows


async def test_a_process_that_only_follows_names_what_it_cannot_load(open_world: OpenWorld) -> None:
    world = open_world()
    follower = world.here.follower
    observer = Observer(Metrics("w"), world.here.alias, follower=follower)
    assert observer.missing() == {}
    follower.defect = "r0001: no STABLE marker"
    assert observer.missing() == {"adapter": "r0001: no STABLE marker"}


def hanging(what: str) -> Pulse:
    """Of a loop that came around once, too long ago."""
    pulse = Pulse(what, 0.0)
    pulse.beat()
    return pulse


async def test_a_loop_that_hangs_is_named(open_world: OpenWorld) -> None:
    roles = Roles(open_world())
    roles.intake.loop_pulse = hanging("the intake")
    assert roles.observer.missing() == {"intake": "the intake has not moved for 0 s"}
    roles.intake.loop_pulse.rest()
    roles.intake.batch_pulse = hanging("every batch in flight")
    assert roles.observer.missing() == {"intake": "every batch in flight has not moved for 0 s"}
    roles.intake.batch_pulse.rest()
    roles.labels.pulse = hanging("the labels role")
    assert roles.observer.missing() == {"labels": "the labels role has not moved for 0 s"}


async def test_a_controller_that_hangs_or_failed_is_named(open_world: OpenWorld) -> None:
    world = open_world()
    roles = Roles(world)
    world.here.control.pulse = hanging("the controller")
    assert roles.observer.missing() == {"control": "the controller has not moved for 0 s"}
    world.here.control.pulse.rest()
    world.here.control._look_error = "the state is away"
    assert roles.observer.missing() == {"control": "the state is away"}


@pytest.mark.parametrize("waits_for", WAITING)
async def test_rounds_are_held_by_what_does_not_come_by_itself(open_world: OpenWorld, waits_for: str) -> None:
    world = open_world()
    roles = Roles(world)
    world.here.control.waits_for, world.here.control.waiting_for = waits_for, "something"
    comes = waits_for in ("round", "pseudo_labels", "interval", "worth")
    assert roles.observer.held() == ({} if comes else {"rounds": "something"})
    assert Observer(Metrics("w"), world.here.alias).held() == {}


async def test_replicas_that_rest_are_held_and_not_missing(open_world: OpenWorld) -> None:
    world = open_world()
    roles = Roles(world)
    roles.replicas.resting = "a:1 rests"
    assert roles.observer.held() == {"rounds": "starting", "replicas": "a:1 rests"}
    assert "replicas" not in roles.observer.missing()
    world.stores.rests.write(Rest(7, ("a:1",), 0.0))
    said = "a:1 rests while round 7 trains on its GPU (training.share_gpu)"
    assert held(world.config, world.stores)["replicas"] == said
    world.stores.rests.clear()
    assert "replicas" not in held(world.config, world.stores)


async def test_what_an_intake_waits_for_is_held(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = Roles(open_world())
    roles.observer._control.waits_for = "round"  # type: ignore[union-attr]
    for role, kind in (("intake", Intake), ("labels", LabelsIntake)):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "held", property(lambda _: "an open transaction"))
            assert roles.observer.held() == {role: "an open transaction"}
