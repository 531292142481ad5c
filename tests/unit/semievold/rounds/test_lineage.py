"""What a round writes down of what it was made from, and how it is read in both directions."""

from __future__ import annotations

import pytest

from semievol.errors import ConfigError
from semievold.api import lineage, operations
from semievold.commands.explaining import explained
from semievold.errors import StateConflict
from semievold.round_states import RoundState as S
from tests.control_world import ControlWorld, OpenWorld, Weights


async def evolved(world: ControlWorld) -> ControlWorld:
    """A warm round and an evolve round whose pool an older adapter had labelled."""
    world.teach()
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    world.weights["older"] = Weights(4, 0.2)
    world.ask(range(2000, 2020), adapter="older")
    await world.advance(await world.plan("evolve"), S.LOADED)
    return world


async def test_a_round_keeps_which_revision_of_each_pseudo_label_it_saw_and_its_examples(
    open_world: OpenWorld,
) -> None:
    world = await evolved(open_world())
    stores = world.stores
    warm, candidate = world.round(0).adapter, world.round(1).adapter
    (use,) = stores.rounds.memberships("q2000")
    assert (use["revision"], use["depth"]) == (2, 1)
    assert stores.lineage.examples_of(1) == {f"e{number}": "training" for number in sorted(range(10), key=str)}
    assert {row["labelled_by"] for row in stores.lineage.learned(1)} == {warm}
    assert stores.lineage.depths() == {warm: 0, candidate: 1}
    (earlier,) = stores.pseudo_labels.history("q2000")
    assert (earlier["revision"], earlier["adapter"], earlier["neighbours"]) == (1, "older", [])


async def test_label_round_adapter_and_pseudo_label_are_explained_both_ways(open_world: OpenWorld) -> None:
    world = await evolved(open_world())
    stores, candidate = world.stores, str(world.round(1).adapter)
    label = lineage.explain_label(stores, "e3")
    assert label["descendants"]["rounds"] == [0, 1]
    assert label["descendants"]["adapters"] == [world.round(0).adapter, candidate]
    assert label["descendants"]["pseudo_labels"] == 20
    assert lineage.explain_label(stores, "e1000")["descendants"]["rounds"] == []  # held out: it taught nothing
    round_ = lineage.explain_round(stores, 0)
    assert round_["made_from"]["examples"] == 10
    assert (round_["descendants"]["rounds"], round_["descendants"]["adapters"]) == ([1], [candidate])
    adapter = lineage.explain_adapter(stores, candidate)
    assert (adapter["depth"], adapter["made_from"]["pseudo_labels"]) == (1, 20)
    assert adapter["made_from"]["labelled_by"] == [world.round(0).adapter]
    assert adapter["descendants"]["rounds"] == []
    plain = operations.explain(stores, "q2000")
    assert (plain["taught"], "descendants" in plain) == ({"rounds": 1, "adapters": 1}, False)
    query = explained(stores, "q2000", None, None, None, descendants=True)
    assert (query["depth"], query["descendants"]["adapters"]) == (1, [candidate])


async def test_explain_asks_for_one_thing_that_is_known(open_world: OpenWorld) -> None:
    stores = (await evolved(open_world())).stores
    assert explained(stores, None, 1, None, None)["round"] == 1
    assert explained(stores, None, None, None, "e3")["side"] == "training"
    for given in ((None, None, None, None), ("q2000", 1, None, None)):
        with pytest.raises(ConfigError, match="give one of"):
            explained(stores, *given)
    unknown = (
        (None, 7, None, None),
        (None, None, "nobody", None),
        (None, None, None, "nothing"),
        ("nothing", None, None, None),
    )
    for given in unknown:
        with pytest.raises(StateConflict):
            explained(stores, *given)
