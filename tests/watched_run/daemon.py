"""`semievold` as it is, but for one thing: a training takes four seconds and no model.

What a training leaves is answered by `tests.watched_run.replica`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from semievol.training.job import read_snapshot
from semievol.training.progress import PROGRESS_FILE, ProgressFile, TrainingProgress
from semievold import service
from semievold.commands.cli import main
from semievold.config.daemon import DaemonConfig
from semievold.rounds.launch import PublishingLauncher, Trained, TrainingPlace
from semievold.rounds.launching import Opened
from semievold.serving.storage.opening import open_storage
from tests.control_world import Trainer, Weights
from tests.watched_run.replica import BASE

STEPS, STEP_S = 16, 0.25


class PacedTrainer(Trainer):
    """Tells its progress as the real one does. The first weights know 8 of ten answers, later ones all."""

    def learned(self, place: TrainingPlace, round_number: int) -> Weights:
        return replace(super().learned(place, round_number), right=8 if round_number == 0 else 10)

    async def train(self, place: TrainingPlace) -> Trained:
        job, rows = read_snapshot(place.snapshot)
        place.work.mkdir(parents=True, exist_ok=True)
        progress = ProgressFile(place.work / PROGRESS_FILE, None)
        for step in range(1, STEPS + 1):
            progress.report(TrainingProgress("training", step, STEPS, 2.0 / step, 900.0))
            await asyncio.sleep(STEP_S)
        weights = self.learned(place, job.round_number)
        known = {"rows": len(rows), "right": weights.right, "entropy": weights.entropy}
        return self.publish(place, job.name_prefix, job.round_number, job.fingerprint_prompts, known)


def launcher(config: DaemonConfig, *_: object) -> Opened:
    storage = open_storage(config.artifacts.storage)
    assert storage is not None
    return Opened(PublishingLauncher(PacedTrainer({None: BASE}), storage), None, lambda: None)


vars(service).update(open_launcher=launcher)
main()
