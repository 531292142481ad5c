import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.protocols import Vectors
from semievol.tasks.equality import AnswerEquality, clustered, is_correct
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Example, Query

NUMERIC = Task(TaskConfig(form="numeric"))
SHORT = Task(TaskConfig(form="short_answer"))
FREE = Task(TaskConfig(form="free_form", similarity=0.9))


class Directions:
    """Embeds a text as the direction that its first number names, in degrees."""

    name = "directions"
    dimensions = 2

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(list(texts))
        angles = [math.radians(float(text.split()[0])) for text in texts]
        return np.array([(math.cos(a), math.sin(a)) for a in angles], dtype=np.float32).reshape(-1, 2)


def candidate(answer: str | None, entropy: float = 0.5) -> CandidateAnswer:
    return CandidateAnswer("c", f"said {answer}", answer, entropy)


def answers(candidates: Sequence[CandidateAnswer]) -> list[str | None]:
    return [each.answer for each in candidates]


def test_free_form_answers_need_an_embedder_and_no_others_do() -> None:
    with pytest.raises(ConfigError, match=r"task.form: free_form compares answers by embedding"):
        AnswerEquality(FREE)
    AnswerEquality(NUMERIC)
    unused = Directions()
    assert AnswerEquality(NUMERIC, unused).among(["x"])("12.5%", "0.125")
    assert unused.asked == []


def test_free_form_answers_mean_the_same_from_the_similarity_on() -> None:
    embedder = Directions()
    same = AnswerEquality(FREE, embedder).among(["0 here", "25 near", "26 there", None, "0 here"])
    assert embedder.asked == [["0 here", "25 near", "26 there"]]
    assert same("0 here", "25 near")  # cos 25 = 0.906
    assert not same("0 here", "26 there")  # cos 26 = 0.899
    assert same("25 near", "26 there")


async def test_the_relation_is_the_same_without_blocking() -> None:
    same = await AnswerEquality(FREE, Directions()).among_async(answer for answer in ("0 a", "10 b", "90 c"))
    assert (same("0 a", "10 b"), same("0 a", "90 c")) == (True, False)


def test_a_cluster_is_named_by_its_surest_answer_and_texts_stay() -> None:
    given_ = [
        candidate("0.125", 0.3),
        candidate("12.5%", 0.1),
        candidate("7", 0.2),
        candidate(None),
        candidate("7.01", 9),
    ]
    found = clustered(given_, NUMERIC.same)
    assert answers(found) == ["12.5%", "12.5%", "7", None, "7"]
    assert [each.text for each in found] == [each.text for each in given_]
    assert [each.entropy for each in found] == [each.entropy for each in given_]


def test_what_is_the_same_as_two_answers_that_differ_joins_the_surer_one() -> None:
    # 0.125 is 12.5 %, which is 12.5, which is not 0.125.
    assert answers(clustered([candidate("12.5%", 3), candidate("12.5", 2), candidate("0.125", 1)], NUMERIC.same)) == [
        "0.125",
        "12.5",
        "0.125",
    ]


def test_short_answers_cluster_by_their_normal_form() -> None:
    found = clustered([candidate("The Patriots", 2), candidate("patriots.", 1), candidate("Jets", 0)], SHORT.same)
    assert answers(found) == ["patriots.", "patriots.", "Jets"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "1", "1.01", "1.02", "1%", "100%", "0.01", "2"]),
            st.sampled_from([0.0, 0.5, 1.0, math.inf, math.nan]),
        ),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_clusters_do_not_depend_on_the_order_and_name_one_of_their_own(
    rows: list[tuple[str | None, float]], rng
) -> None:  # type: ignore[no-untyped-def]
    pool = [candidate(*row) for row in rows]
    found = clustered(pool, NUMERIC.same)
    for before, after in zip(pool, found, strict=True):
        assert (before.answer is None) is (after.answer is None)
        if before.answer is not None and after.answer is not None:
            assert NUMERIC.same(before.answer, after.answer)
    assert set(answers(found)) <= set(answers(pool))
    assert answers(clustered(found, NUMERIC.same)) == answers(found)
    order = list(range(len(pool)))
    rng.shuffle(order)
    assert answers(clustered([pool[i] for i in order], NUMERIC.same)) == [found[i].answer for i in order]


@given(st.lists(st.sampled_from([None, "a", "b", "A"]), max_size=6))
def test_clusters_of_a_closed_form_are_its_equal_strings(given_: list[str | None]) -> None:
    pool = [candidate(answer) for answer in given_]
    assert clustered(pool, Task(TaskConfig(labels=("a", "b"))).same) == tuple(pool)


def test_any_of_the_true_answers_is_right_and_what_did_not_parse_is_wrong() -> None:
    example = Example(Query("q", "how many?"), "three touchdowns", alternatives=("3",))
    assert is_correct("three", example, SHORT.same)
    assert is_correct("Three touchdowns!", example, SHORT.same)
    assert not is_correct("four", example, SHORT.same)
    assert not is_correct(None, example, SHORT.same)


def test_an_answer_that_the_embedder_refuses_is_the_same_as_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Short(Directions):
        def embed(self, texts: Sequence[str]) -> Vectors:
            if any(len(text) > 9 for text in texts):
                raise DataError("embedding: refuses a text")
            return super().embed(texts)

    same = AnswerEquality(FREE, Short()).among(["0", "1", "90", "1 and much more", "2"])
    assert same("0", "1")
    assert not same("0", "90")
    assert same("1 and much more", "1 and much more")
    assert not same("1 and much more", "1")
    assert "compared by its spelling alone: embedding: refuses a text" in caplog.text
