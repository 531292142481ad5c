"""What ended rounds leave on the disk goes; what an open one needs stays."""

from itertools import pairwise
from pathlib import Path

from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.rounds.tidying import tidy
from semievold.store.stores import open_stores

S = RoundState


def test_an_ended_round_keeps_its_snapshot_and_log_for_a_while_and_an_open_one_everything(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    for number in range(4):
        stores.rounds.plan("warm", "test", 1, None, {})
        if number < 3:
            stores.rounds.leave(number, S.PLANNED, S.FAILED, "died")
    place = RoundPlace(tmp_path / "rounds", tmp_path / "adapters")
    for round_ in stores.rounds.all():
        training = place.training(round_)
        for directory in (training.snapshot, training.work / "checkpoints" / "checkpoint-1", training.work / "adapter"):
            directory.mkdir(parents=True)
        (training.work / "trainer.log").write_text("last words")
    tidy(place, stores, keep=2)
    assert sorted(str(path.relative_to(place.rounds)) for path in place.rounds.rglob("*")) == [
        "r0002",
        "r0002/snapshot",
        "r0002/work",
        "r0002/work/trainer.log",
        "r0003",
        "r0003/snapshot",
        "r0003/work",
        "r0003/work/adapter",
        "r0003/work/checkpoints",
        "r0003/work/checkpoints/checkpoint-1",
        "r0003/work/trainer.log",
    ]
    tidy(place, stores, keep=2)  # again: nothing more
    stores.database.close()


def test_the_rounds_of_what_serves_and_served_before_are_spared(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    place = RoundPlace(tmp_path / "rounds", tmp_path / "adapters")
    for number in range(4):
        stores.rounds.plan("warm", "test", 1, None, {})
        for current, following in pairwise((S.PLANNED, S.SNAPSHOTTED, S.TRAINING)):
            stores.rounds.transition(number, current, following)
        adapter = {"name": f"v{number}", "path": str(tmp_path), "content_hash": "x", "parent": None}
        stores.rounds.trained(number, {}, adapter)
        stores.rounds.leave(number, S.TRAINED, S.CANCELLED, "test")
    for round_ in stores.rounds.all():
        place.training(round_).snapshot.mkdir(parents=True)
        (place.training(round_).work / "adapter").mkdir(parents=True)
    for name in ("v0", "v2", "v1"):
        stores.alias.move(name)
    tidy(place, stores, keep=1)
    assert sorted(path.name for path in place.rounds.iterdir()) == ["r0001", "r0002", "r0003"]
    assert not list(place.rounds.rglob("adapter"))
    stores.database.close()
