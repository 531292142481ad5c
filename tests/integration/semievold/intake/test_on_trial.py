"""A version on trial answers its share of the stream; what it does not answer, what serves does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from semievol.errors import AdapterError, TransientError
from semievol.types import PseudoLabel, Query, Unlabelled
from semievold.config.daemon import RolloutConfig
from semievold.intake.batches import Told
from semievold.rollout.answers import AnswerCounts
from semievold.rollout.stream import StreamTrial
from semievold.serving.alias import Alias
from semievold.store.aliases import AliasState, Canary
from semievold.store.rollout.canaries import Counted, Tally
from tests.stream_world import RuleLabeller, World, run_until

IDS = [f"q{number}" for number in range(24)]


class Labeller(RuleLabeller):
    """Fails with the version on trial."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self._error = error

    async def label(self, queries: Sequence[Query], adapter: str | None, *, told: Told) -> None:
        if adapter == "v2" and self._error is not None:
            raise self._error
        await super().label(queries, adapter, told=told)


@pytest.mark.parametrize("error", [None, AdapterError("v2 is not loaded"), TransientError("the engine is away")])
async def test_each_query_is_answered_once_by_the_version_that_its_id_names(
    tmp_path: Path, error: Exception | None
) -> None:
    world = World(tmp_path)
    alias = Alias(AliasState("v1", None, 1, Canary("v2", 0.5, 0, "5a" * 16)))
    counts = AnswerCounts(RolloutConfig(), alias, world.parser.task, world.stores.canaries)
    trial = StreamTrial(alias, counts)
    tried = {id_ for id_ in IDS if trial.takes({}, id_)}
    assert 4 < len(tried) < 20
    await world.ask(*IDS)
    labeller = Labeller(error)
    intake = world.intake(labeller, bind=alias.bind, trial=trial, on_stored=lambda labels, _: counts.labelled(labels))
    await run_until(intake, lambda: intake.counters.received >= len(IDS) and intake.counters.in_flight == 0)
    by = {str(each["id"]): each["adapter"] for each in await world.predictions()}
    assert by == {id_: "v2" if id_ in tried and error is None else "v1" for id_ in IDS}
    assert sorted(labeller.answered) == sorted(IDS)
    assert intake.counters.retries == 0
    await counts.write()
    told = {each.version: each.tally for each in world.stores.canaries.counted("v2")}
    assert told["incumbent"].answers == sum(version == "v1" for version in by.values())
    if error is None:
        assert told["canary"] == Tally(len(tried), 0, 0, 0, len(tried), 0)
    elif isinstance(error, AdapterError):  # one failure a batch, which has one cause
        assert 0 < told["canary"].failed == told["canary"].answers < len(tried)
    else:
        assert "canary" not in told
    assert all(isinstance(each, Counted) and each.source == "intake" for each in world.stores.canaries.counted("v2"))
    await world.close()


@pytest.mark.parametrize("late", [True, False])
async def test_what_the_version_on_trial_leaves_out_what_serves_answers(tmp_path: Path, late: bool) -> None:
    """A late answer counts against it; a query that it cannot answer does not."""

    class Leaving(RuleLabeller):
        async def label(self, queries: Sequence[Query], adapter: str | None, *, told: Told) -> None:
            def tell(outcome: PseudoLabel | Unlabelled) -> None:
                told(Unlabelled(outcome.query, "scripted", late=late) if adapter == "v2" else outcome)

            await super().label(queries, adapter, told=tell)

    world = World(tmp_path)
    alias = Alias(AliasState("v1", None, 1, Canary("v2", 0.5, 0, "5a" * 16)))
    counts = AnswerCounts(RolloutConfig(), alias, world.parser.task, world.stores.canaries)
    trial = StreamTrial(alias, counts)
    tried = [id_ for id_ in IDS if trial.takes({}, id_)]
    await world.ask(*IDS)
    intake = world.intake(Leaving(), bind=alias.bind, trial=trial, on_stored=lambda labels, _: counts.labelled(labels))
    await run_until(intake, lambda: intake.counters.received >= len(IDS) and intake.counters.in_flight == 0)
    assert {str(each["id"]): each["adapter"] for each in await world.predictions()} == dict.fromkeys(IDS, "v1")
    await counts.write()
    told = {each.version: each.tally for each in world.stores.canaries.counted("v2")}
    assert told.get("canary", Tally()) == (Tally(len(tried), len(tried)) if late else Tally())
    await world.close()
