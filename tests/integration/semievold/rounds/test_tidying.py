"""What ended rounds leave on the disk goes; what an open one needs stays."""

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
    tidy(place, stores.rounds.all(), keep=2)
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
    tidy(place, stores.rounds.all(), keep=2)  # again: nothing more
    stores.database.close()
