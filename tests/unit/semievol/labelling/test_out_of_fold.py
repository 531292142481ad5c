"""What a fold's views know: the questions of the pool, and nothing that was answered to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semievol.config.method import Configuration, ConsensusConfig, LabellingConfig, TaskConfig
from semievol.labelling.learned import Lesson
from semievol.labelling.out_of_fold import Views, lesson_of
from semievol.protocols import Vectors
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel, Query
from tests.scripted import ScriptedGenerator, pseudo_label

# Each answer has two ways to be asked for that share no word; the pool's questions lead from one to the other.
WAYS = {
    "block": ("block card", "freeze it", ("card block please", "please freeze card", "freeze block it")),
    "limit": ("raise limit", "more today", ("limit raise up", "more up limit", "raise more today")),
}
EXAMPLES = [
    Example(Query(f"{answer}{place}", way), answer)
    for answer, (*ways, _) in WAYS.items()
    for place, way in enumerate(ways)
]


def pool(*, right: bool) -> list[PseudoLabel]:
    asked = [(answer, question) for answer, ways in WAYS.items() for question in ways[2]] * 20
    return [
        pseudo_label(f"q{number}", question, answer if right else "limit", 0.01)
        for number, (answer, question) in enumerate(asked)
    ]


class OnePlace:
    """An Embedder to which all questions are the same: words alone tell them apart."""

    name, dimensions = "one place", 1

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.ones((len(texts), 1), dtype=np.float32)


async def taught(pool: Sequence[PseudoLabel]) -> Lesson:
    """What the examples teach, where the model always says `block`."""
    task = Task(TaskConfig(labels=("block", "limit")))
    labelling = LabellingConfig(
        configurations=(Configuration(name="plain", temperature=0.0, neighbours=0),),
        consensus=ConsensusConfig(votes=0.0, words=1.0, steps=30),
        justify=False,
    )
    generator = ScriptedGenerator(lambda _request: [("block", 0.5)])
    views = Views(generator, task, labelling, AnswerEquality(task), OnePlace(), 0, closed=True)
    return await lesson_of(views, EXAMPLES, 2, None, None, pool)


async def test_a_folds_consensus_hears_the_questions_of_the_pool() -> None:
    alone, beside = await taught([]), await taught(pool(right=True))
    assert alone.right.tolist() == [True, False, True, False]  # nothing is known but what the model says
    assert beside.right.all()


async def test_it_hears_nothing_of_what_was_answered_to_them() -> None:
    one, other = await taught(pool(right=True)), await taught(pool(right=False))
    assert one.evidence.tolist() == other.evidence.tolist()
