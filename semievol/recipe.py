"""The method on files: `run_round()` is the paper, read top to bottom; `evolve()` iterates it.

Owns the order of the steps. Does not own their files (runs.directory), nor serving, attestation and rollout, which are
the daemon's. Invariants: a held-out example is never retrieved nor trained on; only a promoted adapter becomes
the next incumbent; a run that was killed goes on after its last finished step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from semievol.config.method import MethodConfig
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.labelling.hearing import heard
from semievol.labelling.out_of_fold import sure, uses_serving
from semievol.labelling.panel import decided, with_seats
from semievol.labelling.propagation import training_rows
from semievol.labelling.selection import Selection, judge_calibration, scored, select, select_at_risk
from semievol.proof.evaluation import Evaluation, evaluate, paired
from semievol.proof.gate import GateResult, decide
from semievol.protocols import Generator
from semievol.runs.directory import Kind, RoundDirectory, RoundResult
from semievol.tasks.equality import AnswerEquality
from semievol.teaching import Folds, Run, adapted, make_training_job, round_seed, seated, views_of
from semievol.training.job import write_snapshot
from semievol.types import Example, PseudoLabel, TrainingRow, Unlabelled

logger = logging.getLogger(__name__)


async def evolve(run: Run, rounds: int) -> list[RoundResult]:
    """A warm round on the examples, then up to `rounds` evolve rounds, each labelling with the adapter promoted last.

    An evolve round that is not promoted is the last: its incumbent would only label the same queries again.

    Raises:
        ConfigError: the run directory belongs to another configuration or other data.
    """
    run.directory.claim(run.config, run.examples, run.holdout, run.queries, run.calibration)
    results = [await run_round(run, 1, None)]
    for number in range(2, rounds + 2):
        if number > 2 and not results[-1].promoted:
            break
        results.append(await run_round(run, number, results[-1].serving))
    return results


async def run_round(run: Run, number: int, incumbent: str | None) -> RoundResult:
    """One round: label, select, train, evaluate, decide.

    Args:
        run: what the rounds share.
        number: 1 is the warm round, on the examples alone; later ones also train on selected pseudo-labels.
        incumbent: the adapter that labels and that the candidate must beat; None is the base model.
    """
    files = run.directory.round(number)
    if (finished := files.result()) is not None:
        return finished
    kind: Kind = "warm" if number == 1 else "evolve"
    clock = Clock()
    proposal = await propose(run, number, incumbent, clock)
    candidate = proposal.adapter
    if candidate is None:
        result = _nothing_certified(number, incumbent, proposal, clock)
        files.write_result(result)
        return result
    await run.generator.load_adapter(candidate, run.directory.adapters / candidate)

    # The gate: both models answer the holdout in the form that clients ask, closed book.
    with clock.step("evaluate"):
        old, new = paired(await _evaluate(run, number, incumbent), await _evaluate(run, number, candidate))
    files.write_outcomes(old.outcomes, new.outcomes)
    result = RoundResult(
        number=number,
        kind=kind,
        incumbent=incumbent,
        adapter=candidate,
        labelled=len(proposal.labels),
        selected=len(proposal.selection.kept),
        threshold=proposal.selection.threshold if proposal.labels else None,
        rows=proposal.rows,
        gate=decide(old.outcomes, new.outcomes, run.config.gate),
        seconds=clock.seconds,
        certificate=proposal.selection.certificate,
        theta=proposal.selection.theta if proposal.labels else None,
        training=proposal.training,
    )
    files.write_result(result)
    await _unload_all_but(run.generator, result.serving)
    return result


def _nothing_certified(number: int, incumbent: str | None, proposal: Proposal, clock: Clock) -> RoundResult:
    """A round that says what selection lacks, and has trained nothing."""
    found = proposal.selection.certificate
    return RoundResult(
        number=number,
        kind="evolve",
        incumbent=incumbent,
        adapter=None,
        labelled=len(proposal.labels),
        selected=0,
        threshold=None,
        rows=0,
        gate=GateResult("inconclusive", "no pseudo-label was selected" if found is None else found.reason),
        seconds=clock.seconds,
        certificate=found,
    )


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a round proposes: an adapter, and the pseudo-labels that it was trained on. `rows`: of the training mix;
    `training`: the numbers that it was trained with.

    `adapter` None: nothing could be selected at the stated risk, and nothing was trained.
    """

    adapter: str | None
    labels: list[PseudoLabel]
    selection: Selection
    rows: int
    training: Mapping[str, float] = field(default_factory=dict)


async def propose(run: Run, number: int, incumbent: str | None, clock: Clock) -> Proposal:
    """A round up to its adapter: label, select, train. What is done already is taken from the run's directory.

    Args:
        run: what the rounds share.
        number: 1 is the warm round; see `run_round`.
        incumbent: the adapter that labels; None is the base model.
        clock: is told how long each step took.
    """
    files = run.directory.round(number)
    kind: Kind = "warm" if number == 1 else "evolve"
    if incumbent is not None:
        await run.generator.load_adapter(incumbent, run.directory.adapters / incumbent)

    # Before any answer is taught: what the queries say, as text.
    with clock.step("adapt"):
        start = await adapted(run)

    # In-context propagation and collaborative learning: neighbours and several configurations answer every query.
    with clock.step("label"):
        labelled = kind == "evolve"
        labels, calibration = await _label(run, number, incumbent, files, start) if labelled else ([], [])

    # Adaptive selection: sure (by entropy, unless configured otherwise), enough agreement.
    selection = await asyncio.to_thread(_selected, run, number, labels, calibration)
    if kind == "evolve" and selection.certificate is not None and not selection.kept:
        return Proposal(None, labels, selection, 0)

    # In-weight propagation: the examples (always) and what was selected become a LoRA adapter.
    with clock.step("train"):
        rows = _training_mix(run, number, labels, selection)
        continues = incumbent is not None and run.config.training.start_from == "incumbent"
        parent = run.directory.adapters / str(incumbent) if continues else start
        job = make_training_job(run.config, rows, number=number, kind=kind, parent=parent)
        write_snapshot(files.snapshot, job, rows)
        advance = run.watcher(f"round {number}: train (%)", 100)
        path = await run.trainer(files.snapshot, files.work, run.directory.adapters, advance)
    return Proposal(path.name, labels, selection, len(rows), job.numbers())


def select_labels(labels: list[PseudoLabel], config: MethodConfig, number: int = 2) -> Selection:
    """Adaptive selection of pseudo-labels by the run's settings, for round `number` (2 is the first evolve round).

    With a stated risk: `select_certified`.
    """
    settings = config.selection.of_evolve_round(number - 1)
    return select([scored(label, settings) for label in labels], settings)


def select_certified(
    labels: Sequence[PseudoLabel],
    answered: Sequence[PseudoLabel],
    calibration: Sequence[Example],
    config: MethodConfig,
    equality: AnswerEquality,
) -> Selection:
    """Selection at the stated risk; blocking, where answers are compared by an embedder.

    `answered` are the pseudo-labels of the `calibration` examples, made as all others were.
    """
    truth = {example.id: example for example in calibration}
    judged = judge_calibration(answered, truth, equality, config.selection)
    return select_at_risk([scored(label, config.selection) for label in labels], judged, config.selection)


def _selected(run: Run, number: int, labels: list[PseudoLabel], answered: list[PseudoLabel]) -> Selection:
    if run.config.selection.risk is None or not labels:
        return select_labels(labels, run.config, number)
    equality = run.equality or AnswerEquality(run.task)
    return select_certified(labels, answered, run.calibration, run.config, equality)


async def _label(
    run: Run, number: int, incumbent: str | None, files: RoundDirectory, start: Path | None
) -> tuple[list[PseudoLabel], list[PseudoLabel]]:
    """Pseudo-labels of the queries and of the calibration examples, each in their order.

    A query that is refused, or late each time, is left out by name.
    """
    labels, calibration = files.pseudo_labels(), files.calibration()
    if labels is None:
        config, views = run.config.labelling, views_of(run, number)
        seats, adapters = await seated(run, views, start)
        asking = with_seats(config, adapters) if seats else config
        labeller = CollaborativeLabeller(run.generator, run.index, run.task, asking, views.seed, equality=run.equality)
        advance = run.watcher(f"round {number}: label", len(run.queries))
        outcomes = await labeller.label(run.queries, incumbent, told=lambda _: advance(1))
        left_out = [outcome for outcome in outcomes if isinstance(outcome, Unlabelled)]
        for each in left_out:
            logger.warning("query %s is left out: %s", each.query.id, each.reason)
        files.write_left_out(left_out)
        labels = [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel)]
        asked = await labeller.label([example.query for example in run.calibration], incumbent)
        calibration = [outcome for outcome in asked if isinstance(outcome, PseudoLabel)]
        both = [*labels, *calibration]
        if seats:
            serving = incumbent is not None
            both, vote = await decided(views, run.examples, seats, adapters, both, serving=serving)
            files.write_vote(vote)
            for adapter in adapters:
                await run.generator.unload_adapter(adapter)
        elif run.config.selection.by == "learned":
            folds = Folds.before(run, number, start) if incumbent and uses_serving(config) else None
            both, found = await sure(views, run.examples, both, run.config.selection.learned.folds, folds)
            files.write_learned(found)
        else:
            both = await asyncio.to_thread(heard, both, run.examples, config, run.embedder)
        labels, calibration = both[: len(labels)], both[len(labels) :]
        files.write_calibration(calibration)
        selection = await asyncio.to_thread(_selected, run, number, labels, calibration)
        files.write_pseudo_labels(labels, selection)
    return labels, calibration


def _training_mix(run: Run, number: int, labels: list[PseudoLabel], selection: Selection) -> list[TrainingRow]:
    kept = frozenset(selection.kept)
    return training_rows(
        run.examples,
        [label for label in labels if label.query.id in kept],
        run.task,
        run.config.training,
        round_seed(run.config, number),
        index=run.index,
        holdout=(*run.holdout, *run.calibration),
    )


async def _evaluate(run: Run, number: int, adapter: str | None) -> Evaluation:
    advance = run.watcher(f"round {number}: evaluate {adapter or 'base'}", len(run.holdout))
    return await evaluate(
        run.generator,
        run.task,
        run.holdout,
        adapter,
        seed=round_seed(run.config, number),
        progress=advance,
        equality=run.equality,
    )


async def _unload_all_but(generator: Generator, serving: str | None) -> None:
    for name in await generator.loaded_adapters():
        if name != serving:
            await generator.unload_adapter(name)


class Clock:
    """Seconds spent in each step of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)
