"""Propagation: how the few labels reach the many queries.

In-context: the nearest examples become turns of the prompt. In-weight: examples and selected pseudo-labels become
training rows, and queries become texts. Owns which examples are shown, in which order, and what is trained on; neither
generates nor trains. Invariants: a query is never shown its own answer, examples are in every training mix, and nothing
that asks what a held-out example asks is in any.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from semievol.config.method import Configuration, TrainingConfig
from semievol.errors import ConfigError, DataError
from semievol.examples.split import asked_key, in_share
from semievol.halving import each_or_refusal
from semievol.protocols import ExampleIndex
from semievol.seeds import derive
from semievol.tasks.task import Task
from semievol.types import Example, Neighbour, PseudoLabel, Query, TrainingRow

# --- in-context -----------------------------------------------------------------------------------------------------


def retrieve(index: ExampleIndex | None, queries: Sequence[Query], k: int) -> list[list[Neighbour]]:
    """The k nearest examples of each query, nearest first, without the query itself.

    Raises:
        ConfigError: k > 0 and there is no index.
        DataError: the index refuses one of the questions.
    """
    if k == 0:
        return [[] for _ in queries]
    if index is None:
        raise ConfigError("labelling.configurations: neighbours above 0 need an example index")
    # One more than asked: a query may itself have become an example (its label arrived later).
    found = index.neighbours([query.question for query in queries], k + 1)
    return [
        [neighbour for neighbour in row if neighbour.example.id != query.id][:k]
        for query, row in zip(queries, found, strict=True)
    ]


def retrieve_each(index: ExampleIndex | None, queries: Sequence[Query], k: int) -> list[list[Neighbour] | DataError]:
    """As `retrieve`; a query whose question the index refuses has the refusal in place of its neighbours."""
    return each_or_refusal(queries, lambda some: retrieve(index, some, k))


def arrange(neighbours: Sequence[Neighbour], configuration: Configuration, query: Query, seed: int) -> list[Example]:
    """The examples that one configuration shows for `query`, in the order of the prompt.

    `neighbours` are nearest first and may be more than are shown. A shuffled order is drawn from the run's `seed`, the
    query's id and the configuration's name.
    """
    others = [neighbour.example for neighbour in neighbours if neighbour.example.query.id != query.id]
    shown = others[: configuration.neighbours]
    if configuration.order == "nearest_last":
        shown.reverse()
    elif configuration.order == "shuffled":
        random.Random(derive(seed, "order", query.id, configuration.name)).shuffle(shown)
    return shown


# --- in-weight ------------------------------------------------------------------------------------------------------


def training_rows(
    examples: Sequence[Example],
    pseudo_labels: Sequence[PseudoLabel],
    task: Task,
    config: TrainingConfig,
    seed: int,
    *,
    index: ExampleIndex | None = None,
    holdout: Collection[Example] = (),
) -> list[TrainingRow]:
    """The training mix: every example (`example_repeats` times when there are pseudo-labels) and every pseudo-label.

    All rows ask closed book, as clients do; `open_book_share` of them have a copy that shows neighbours, as labelling
    does, so that training for the one does not unlearn the other.

    Args:
        examples: the labelled ones, at least one.
        pseudo_labels: the selected ones; one whose true label is among `examples` gives way to it.
        task: renders prompts and completions.
        config: repeats, and neighbours in prompts.
        seed: the run's seed; open-book copies and the order of the rows are drawn from it.
        index: needed when `config.neighbours_in_prompt` > 0.
        holdout: what must not be trained on, as example or as pseudo-label, under its own id or another: a label that
            arrived late may have put a pseudo-labelled query into the holdout, and a query may ask what one asks there.

    Raises:
        ConfigError: `neighbours_in_prompt` > 0 and there is no index.
        ValueError: a pseudo-label without an answer, or no example at all.
    """
    held_out = frozenset(example.id for example in holdout)
    held_questions = frozenset(asked_key(example.query) for example in holdout)

    def may_be_learned(query: Query) -> bool:
        return query.id not in held_out and not (held_questions and asked_key(query) in held_questions)

    labelled = [example for example in examples if may_be_learned(example.query)]
    if not labelled:
        raise ValueError("training_rows: no example to train on; examples are always in the mix")
    taken = {example.id for example in labelled}
    trusted = [each for each in pseudo_labels if each.query.id not in taken and may_be_learned(each.query)]
    repeats = config.example_repeats if trusted else 1

    rows: list[TrainingRow] = []
    learned: list[tuple[Query, TrainingRow]] = []
    for example in labelled:
        row = TrainingRow(example.id, task.prompt(example.query), task.completion(example.answer), "example")
        rows += [row] + [replace(row, id=f"{row.id}#{repeat}") for repeat in range(2, repeats + 1)]
        learned.append((example.query, row))
    for label in trusted:
        if label.answer is None:
            raise ValueError(f"training_rows: the pseudo-label of {label.query.id!r} has no answer")
        row = TrainingRow(label.query.id, task.prompt(label.query), task.completion(label.answer), "pseudo-label")
        rows.append(row)
        learned.append((label.query, row))
    rows += _open_book_copies(learned, taken, task, config, seed, index)
    random.Random(derive(seed, "training-rows")).shuffle(rows)
    return rows


def text_rows(queries: Sequence[Query], task: Task, holdout: Collection[Example] = ()) -> list[TrainingRow]:
    """What the queries say, as rows without an answer: each as clients ask it, in the order of the queries.

    Nothing that asks what one of the `holdout` asks is among them.

    Raises:
        DataError: there is none.
    """
    held_out = frozenset(example.id for example in holdout)
    held_questions = frozenset(asked_key(example.query) for example in holdout)
    rows = [
        TrainingRow(query.id, task.prompt(query), "", "query")
        for query in queries
        if query.id not in held_out and not (held_questions and asked_key(query) in held_questions)
    ]
    if not rows:
        raise DataError("training.adapt_epochs: there is no query to read; give queries, or set 0")
    return rows


def _open_book_copies(
    learned: Sequence[tuple[Query, TrainingRow]],
    known: Collection[str],
    task: Task,
    config: TrainingConfig,
    seed: int,
    index: ExampleIndex | None,
) -> list[TrainingRow]:
    if config.neighbours_in_prompt == 0:
        return []
    if index is None:
        raise ConfigError("training.neighbours_in_prompt: above 0 needs an example index")
    form = Configuration(name="training", temperature=0.0, neighbours=config.neighbours_in_prompt)
    salt = str(derive(seed, "open-book"))
    drawn = [(query, row) for query, row in learned if in_share(query.id, config.open_book_share, salt)]
    found = retrieve_each(index, [query for query, _ in drawn], config.neighbours_in_prompt)
    copies = []
    for (query, row), shown in zip(drawn, found, strict=True):
        if isinstance(shown, DataError):  # it is learned without
            continue
        # The index may hold for a moment what was taken back; what is shown is always among the examples.
        present = [neighbour for neighbour in shown if neighbour.example.id in known]
        prompt = task.prompt(query, arrange(present, form, query, seed))
        copies.append(replace(row, id=f"{row.id}@neighbours", messages=prompt))
    return copies
