"""What a model answers to held-out examples, and how many of its pseudo-labels are right.

Owns greedy evaluation of one adapter, closed book or with neighbours. Does not compare or decide: see gate.
Invariant: one outcome per example, in order; an answer that does not parse is wrong, one that means the same as any of
the example's true answers is right.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semievol.config.method import Configuration
from semievol.labelling.confidence import entropy, mean_entropy
from semievol.labelling.propagation import arrange, retrieve
from semievol.protocols import ExampleIndex, Generator, Progress
from semievol.seeds import derive
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.tasks.task import Task
from semievol.types import Example, GenerationRequest, Outcome, PseudoLabel

CHUNK = 128


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model's outcomes. `adapter` None: the base model. `mean_entropy` in nats per token.

    Without examples the accuracy is 0 and the entropy inf.
    """

    adapter: str | None
    outcomes: tuple[Outcome, ...]
    accuracy: float
    by_category: Mapping[str, float]
    mean_entropy: float


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
    """Answer every example greedily and compare with its true answer; 128 requests at a time.

    `adapter` None is the base model. `neighbours` turns are retrieved for each prompt; 0 is closed book, the form that
    clients ask. `progress` is called with the number of examples finished since the last call. `equality` None: what
    the task says by itself, without an embedder.

    Raises:
        AdapterError: `adapter` is not loaded.
        ConfigError: the task wants an embedder.
        TransientError: generator, index or embedder did not answer.
    """
    equality = equality or AnswerEquality(task)
    form = Configuration(name="evaluation", temperature=0.0, neighbours=neighbours)
    outcomes: list[Outcome] = []
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        queries = [example.query for example in chunk]
        found = await asyncio.to_thread(retrieve, index, queries, neighbours)
        requests = [
            GenerationRequest(
                messages=task.prompt(query, arrange(row, form, query, seed)),
                adapter=adapter,
                max_tokens=task.config.max_answer_tokens,
                seed=derive(seed, "evaluate", query.id),
            )
            for query, row in zip(queries, found, strict=True)
        ]
        completions = [samples[0] for samples in await generator.generate(requests)]
        answers = [
            task.parse(completion.text, query, truncated=completion.finish_reason == "length")
            for query, completion in zip(queries, completions, strict=True)
        ]
        same = await equality.among_async([*answers, *(gold for example in chunk for gold in example.answers)])
        outcomes += [
            Outcome(
                id=example.id,
                expected=example.answer,
                answer=answer,
                correct=is_correct(answer, example, same),
                entropy=entropy(completion.logprobs),
                category=example.query.category,
            )
            for example, answer, completion in zip(chunk, answers, completions, strict=True)
        ]
        if progress is not None:
            progress(len(chunk))
    return summarise(adapter, outcomes)


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


def precision(labels: Sequence[PseudoLabel], truth: Mapping[str, Example], equality: AnswerEquality) -> float | None:
    """The share of pseudo-labels that are right, among those whose truth is known; None where it never is."""
    known = [label for label in labels if label.query.id in truth]
    if not known:
        return None
    examples = [truth[label.query.id] for label in known]
    same = equality.among([*(label.answer for label in known), *(gold for each in examples for gold in each.answers)])
    right = [is_correct(label.answer, example, same) for label, example in zip(known, examples, strict=True)]
    return sum(right) / len(known)
