"""What `semievol label` does: pseudo-labels of a file of queries, and which of them selection would keep."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semievol.commands.kept_answers import beside, kept_answers
from semievol.commands.retrieval import embedder_of, embeds, index_over, wants_neighbours
from semievol.commands.trainer import trainer_of
from semievol.config.method import MethodConfig
from semievol.engines.opening import load_adapter, open_generator
from semievol.examples.choices import settled
from semievol.examples.files import read_examples, read_queries, write_jsonl
from semievol.examples.split import split_calibration
from semievol.labelling.hearing import heard
from semievol.labelling.learned import check_enough, said_of
from semievol.labelling.out_of_fold import Views, sure, uses_serving
from semievol.labelling.panel import decided, with_seats
from semievol.labelling.vote import told
from semievol.recipe import select_certified, select_labels
from semievol.runs.directory import labelled_rows, left_out_row
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.teaching import Folds, Watcher, adapted_before, taught_seats
from semievol.types import Example, PseudoLabel, Unlabelled

logger = logging.getLogger(__name__)


async def run_label(
    config: MethodConfig, examples: Path, queries: Path, out: Path, adapter: Path | None, watcher: Watcher
) -> dict[str, Any]:
    """`semievol label`: pseudo-labels of `queries`, with `selected` and reasons, in `out` (.jsonl).

    While one is missing, the answers of all stay beside `out`: the next run asks for the missing one alone.
    """
    from semievol.labelling.collaboration import CollaborativeLabeller

    config = settled(config, examples)
    task = Task(config.task)
    labelled: Sequence[Example] = read_examples(examples, task, config.data)
    calibration: tuple[Example, ...] = ()
    if config.selection.risk is not None:
        labelled, calibration = split_calibration(labelled, config.selection.risk.calibration_share)
    check_enough(config, len(labelled))
    unlabeled = read_queries(queries, task, config.data)
    # Now: an output that cannot be written must not be noticed at the end.
    out.parent.mkdir(parents=True, exist_ok=True)
    async with open_generator(config) as engine, kept_answers(engine, config, beside(out)) as kept:
        name = await load_adapter(kept.generator, adapter)
        at = out.with_name(f"{out.name}.folds")
        embedder = embedder_of(config) if embeds(config, task) else None
        index = index_over(embedder, labelled) if embedder and wants_neighbours(config) else None
        equality = AnswerEquality(task, embedder)
        views = Views(kept.generator, task, config.labelling, equality, embedder, config.seed, config.task.closed)
        by_folds = config.selection.by == "learned" and uses_serving(config.labelling)
        teaches = config.labelling.panel is not None or by_folds  # else nothing starts where the adapter did
        start = adapted_before(adapter) if adapter is not None and config.training.adapt_epochs and teaches else None
        seats, adapters = await taught_seats(
            config,
            views,
            labelled,
            trainer_of(config),
            held_out=calibration,
            start=start,
            at=at,
            adapters=at / "adapters",
            watcher=watcher,
        )
        asking = with_seats(config.labelling, adapters) if seats else config.labelling
        labeller = CollaborativeLabeller(kept.generator, index, task, asking, config.seed, equality=equality)
        advance = watcher("label", len(unlabeled))
        outcomes = await labeller.label(unlabeled, name, told=lambda _: advance(1))
        asked = await labeller.label([example.query for example in calibration], name)
        own = [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel)]
        left_out = [outcome for outcome in outcomes if isinstance(outcome, Unlabelled)]
        known = [outcome for outcome in asked if isinstance(outcome, PseudoLabel)]
        heard_all, learned, vote = [*own, *known], None, None
        if seats:
            heard_all, vote = await decided(views, labelled, seats, adapters, heard_all, serving=name is not None)
        elif config.selection.by == "learned":
            folds = None
            if name is not None and by_folds:
                folds = Folds(
                    config,
                    views,
                    trainer_of(config),
                    watcher,
                    at,
                    at / "adapters",
                    held_out=calibration,
                    start=start,
                )
            heard_all, learned = await sure(views, labelled, heard_all, config.selection.learned.folds, folds)
        else:
            heard_all = await asyncio.to_thread(heard, heard_all, labelled, config.labelling, embedder)
        labels, answered = heard_all[: len(own)], heard_all[len(own) :]
        if config.selection.risk is None:
            selection = select_labels(labels, config)
        else:
            selection = await asyncio.to_thread(select_certified, labels, answered, calibration, config, equality)
        write_jsonl(out, labelled_rows(labels, selection))
        for each in left_out:
            logger.warning("query %s is left out: %s", each.query.id, each.reason)
        if not left_out:
            kept.no_longer_needed()
            shutil.rmtree(at, ignore_errors=True)
    return {
        "out": str(out),
        "adapter": name,
        "labelled": len(labels),
        "left_out": [left_out_row(outcome) for outcome in left_out],
        "selected": len(selection.kept),
        "threshold": selection.threshold,
        "theta": selection.theta,
        **({} if selection.certificate is None else {"certificate": asdict(selection.certificate)}),
        **({} if learned is None else {"learned": said_of(learned, labels, selection.kept)}),
        **({} if vote is None else {"panel": told(vote, labels, selection.kept)}),
        "unparseable": sum(label.answer is None for label in labels),
        "justified": sum(label.justified for label in labels),
        "prompt_tokens": sum(label.prompt_tokens for label in labels),
        "generated_tokens": sum(label.generated_tokens for label in labels),
    }
