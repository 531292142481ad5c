"""What a model answers to held-out examples, and how many of its pseudo-labels are right.

Owns greedy evaluation of one adapter, closed book or with neighbours. Does not compare or decide: see gate.
Invariants: one outcome per example that could be asked, in order; an answer that does not parse is wrong, one that
means the same as any of the example's true answers is right. An example whose prompt is refused, or whose answer is
late each time, says nothing about the model: it is left out, by name and with the reason, and counts neither way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from semievol.config.method import Configuration
from semievol.engines.shared_calls import SharedCalls, worked_off
from semievol.errors import DataError, LateError
from semievol.labelling.confidence import entropy, mean_entropy
from semievol.labelling.propagation import arrange, retrieve_each
from semievol.labelling.shortening import Shown, asked
from semievol.protocols import ExampleIndex, Generator, Progress, completions
from semievol.seeds import derive
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.tasks.task import Task
from semievol.types import Completion, Example, GenerationRequest, Late, Neighbour, Outcome, PseudoLabel, Refused, Reply

logger = logging.getLogger(__name__)

CHUNK = 128
MOST_LATE = 0.05
"""Beyond this share of late answers, and more than one, the evaluation has failed."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model's outcomes. `adapter` None: the base model. `mean_entropy` in nats per token.

    Without examples the accuracy is 0 and the entropy inf. `left_out`: why, by id, of those that got no answer.
    """

    adapter: str | None
    outcomes: tuple[Outcome, ...]
    accuracy: float
    by_category: Mapping[str, float]
    mean_entropy: float
    left_out: Mapping[str, str] = field(default_factory=dict)


async def evaluate(
    generator: Generator,
    task: Task,
    examples: Sequence[Example],
    adapter: str | None,
    *,
    index: ExampleIndex | None = None,
    neighbours: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    equality: AnswerEquality | None = None,
) -> Evaluation:
    """Answer every example greedily and compare with its true answer; about 128 requests at a time.

    `adapter` None is the base model. `neighbours` turns are retrieved for each prompt, fewer where it would be too
    long; 0 is closed book, the form that clients ask. `progress` is called with the number of examples finished since
    the last call. `equality` None: what the task says by itself, without an embedder.

    Raises:
        AdapterError: `adapter` is not loaded.
        ConfigError: the task wants an embedder.
        TransientError: generator, index or embedder did not answer; also where more than a few examples are late, for
            then it is not for the examples.
    """
    equality = equality or AnswerEquality(task)
    form = Configuration(name="evaluation", temperature=0.0, neighbours=neighbours)
    calls = SharedCalls(generator)
    replies: dict[int, Reply] = {}

    async def one(place: int, neighbours: list[Neighbour] | DataError) -> None:
        query = examples[place].query

        def make(shown: Sequence[Example]) -> GenerationRequest:
            return GenerationRequest(
                messages=task.prompt(query, shown),
                adapter=adapter,
                max_tokens=task.config.max_answer_tokens,
                seed=derive(seed, "evaluate", query.id),
            )

        if isinstance(neighbours, DataError):
            replies[place] = Refused(str(neighbours))
        else:
            shown = arrange(neighbours, form, query, seed)
            (found,) = await asked([Shown(tuple(shown), make)], calls.ask)
            replies[place] = found.reply
        if progress is not None:
            progress(1)

    async def start(places: Sequence[int]) -> list[Coroutine[Any, Any, None]]:
        queries = [examples[place].query for place in places]
        found = await asyncio.to_thread(retrieve_each, index, queries, neighbours)
        return [one(place, row) for place, row in zip(places, found, strict=True)]

    await worked_off(range(len(examples)), CHUNK, start)
    left_out = _left_out(examples, replies)
    answered = [place for place in range(len(examples)) if examples[place].id not in left_out]
    outcomes: list[Outcome] = []
    for first in range(0, len(answered), CHUNK):
        places = answered[first : first + CHUNK]
        chunk = [(examples[place], completions(replies[place])[0]) for place in places]
        outcomes += await _judged(chunk, task, equality)
    return replace(summarise(adapter, outcomes), left_out=left_out)


def _left_out(examples: Sequence[Example], replies: Mapping[int, Reply]) -> dict[str, str]:
    """Why, by id, of those that got no answer; each is named in the log.

    Raises:
        LateError: too many are late.
    """
    late = {place for place, reply in replies.items() if isinstance(reply, Late)}
    if len(late) > max(1, MOST_LATE * len(examples)):
        raise LateError(
            f"{len(late)} of {len(examples)} examples were not answered in time; the engine is too slow now"
        )
    left_out = {}
    for place in sorted(replies):
        reply = replies[place]
        if isinstance(reply, Late | Refused):
            left_out[examples[place].id] = reply.reason
            logger.warning("example %s is left out of the evaluation: %s", examples[place].id, reply.reason)
    return left_out


async def _judged(
    answered: Sequence[tuple[Example, Completion]], task: Task, equality: AnswerEquality
) -> list[Outcome]:
    """The outcomes of examples that were answered."""
    answers = [
        task.parse(completion.text, example.query, truncated=completion.finish_reason == "length")
        for example, completion in answered
    ]
    same = await equality.among_async([*answers, *(gold for example, _ in answered for gold in example.answers)])
    return [
        Outcome(
            id=example.id,
            expected=example.answer,
            answer=answer,
            correct=is_correct(answer, example, same),
            entropy=entropy(completion.logprobs),
            category=example.query.category,
        )
        for (example, completion), answer in zip(answered, answers, strict=True)
    ]


def summarise(adapter: str | None, outcomes: Sequence[Outcome]) -> Evaluation:
    """Outcomes with their accuracy, overall and by category, and mean entropy."""
    by_category: defaultdict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.category is not None:
            by_category[outcome.category].append(outcome.correct)
    return Evaluation(
        adapter=adapter,
        outcomes=tuple(outcomes),
        accuracy=sum(outcome.correct for outcome in outcomes) / len(outcomes) if outcomes else 0.0,
        by_category={name: sum(hits) / len(hits) for name, hits in sorted(by_category.items())},
        mean_entropy=mean_entropy([outcome.entropy for outcome in outcomes]),
    )


def paired(one: Evaluation, other: Evaluation) -> tuple[Evaluation, Evaluation]:
    """Both without the examples that either could not be asked: only pairs can be compared."""
    left_out = {**one.left_out, **other.left_out}
    if not left_out:
        return one, other
    both = []
    for each in (one, other):
        kept = [outcome for outcome in each.outcomes if outcome.id not in left_out]
        both.append(replace(summarise(each.adapter, kept), left_out=left_out))
    return both[0], both[1]


def precision(labels: Sequence[PseudoLabel], truth: Mapping[str, Example], equality: AnswerEquality) -> float | None:
    """The share of pseudo-labels that are right, among those whose truth is known; None where it never is."""
    known = [label for label in labels if label.query.id in truth]
    if not known:
        return None
    examples = [truth[label.query.id] for label in known]
    same = equality.among([*(label.answer for label in known), *(gold for each in examples for gold in each.answers)])
    right = [is_correct(label.answer, example, same) for label, example in zip(known, examples, strict=True)]
    return sum(right) / len(known)
