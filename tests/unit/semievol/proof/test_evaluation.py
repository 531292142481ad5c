import math

import pytest

from semievol.config.method import TaskConfig
from semievol.errors import AdapterError, ConfigError, DataError, LateError, TooLongError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.proof.evaluation import CHUNK, evaluate, paired
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import Example, GenerationRequest, Query
from tests.scripted import ListIndex, ScriptedGenerator

TASK = Task(TaskConfig(labels=("a", "b")))


def examples(count: int) -> list[Example]:
    return [
        Example(Query(str(i), f"say {'ab'[i % 2]}", category="odd" if i % 2 else "even"), "a") for i in range(count)
    ]


def says(request: GenerationRequest) -> list[tuple[str, float]]:
    return [(request.messages[-1].content.removeprefix("say "), 0.5)]


async def test_accuracy_is_the_share_of_right_answers_overall_and_by_category() -> None:
    result = await evaluate(ScriptedGenerator(says), TASK, examples(5), None)
    assert result.accuracy == 0.6
    assert result.by_category == {"even": 1.0, "odd": 0.0}
    assert result.mean_entropy == 0.5
    assert [(o.id, o.answer, o.correct, o.category) for o in result.outcomes][:2] == [
        ("0", "a", True, "even"),
        ("1", "b", False, "odd"),
    ]


async def test_an_answer_that_does_not_parse_is_wrong() -> None:
    result = await evaluate(ScriptedGenerator(lambda request: ["nonsense"]), TASK, examples(1), None)
    assert (result.accuracy, result.outcomes[0].answer, result.outcomes[0].correct) == (0.0, None, False)


async def test_requests_are_greedy_closed_book_and_a_limited_number_at_a_time() -> None:
    generator = ScriptedGenerator(says)
    done: list[int] = []
    await evaluate(generator, TASK, examples(CHUNK + 2), None, progress=done.append)
    assert [len(call) for call in generator.calls] == [CHUNK, 2]
    assert sum(done) == CHUNK + 2
    assert {(r.temperature, r.samples, len(r.messages)) for call in generator.calls for r in call} == {(0.0, 1, 1)}


async def test_neighbours_are_shown_nearest_last_and_never_the_question_itself() -> None:
    generator = ScriptedGenerator(says)
    index = ListIndex(examples(4))
    await evaluate(generator, TASK, examples(1), None, index=index, neighbours=2)
    assert [m.content for m in generator.calls[0][0].messages] == ["say a", "a", "say b", "a", "say a"]


async def test_without_examples_nothing_is_claimed() -> None:
    result = await evaluate(ScriptedGenerator(says), TASK, [], None)
    assert (result.accuracy, result.outcomes, result.mean_entropy) == (0.0, (), math.inf)


async def test_an_adapter_that_is_not_loaded_is_an_error() -> None:
    with pytest.raises(AdapterError, match="not loaded"):
        await evaluate(ScriptedGenerator(says), TASK, examples(1), "r0001")


async def test_an_answer_that_means_the_same_as_any_true_one_is_right() -> None:
    said = {"percent": "Answer: 0.125", "close": "$1,005", "far": "1,050", "several": "2, 1"}
    truth = {"percent": ("12.5%",), "close": ("7", "1000"), "far": ("1000",), "several": ("1, 2",)}
    asked = [Example(Query(key, key), first, None, tuple(rest)) for key, (first, *rest) in truth.items()]
    generator = ScriptedGenerator(lambda request: [said[request.messages[-1].content]])
    result = await evaluate(generator, Task(TaskConfig(form="numeric")), asked, None)
    assert {o.id: (o.expected, o.correct) for o in result.outcomes} == {
        "percent": ("12.5%", True),
        "close": ("7", True),
        "far": ("1000", False),
        "several": ("1, 2", False),
    }


async def test_free_form_answers_are_compared_by_the_embedder() -> None:
    task = Task(TaskConfig(form="free_form", similarity=0.6))
    asked = [
        Example(Query("q", "what now?"), "Restart the router."),
        Example(Query("r", "and?"), "Call the support line."),
    ]
    generator = ScriptedGenerator(lambda request: ["restart the router now"])
    result = await evaluate(generator, task, asked, None, equality=AnswerEquality(task, HashingEmbedder()))
    assert [outcome.correct for outcome in result.outcomes] == [True, False]
    with pytest.raises(ConfigError, match="free_form"):
        await evaluate(generator, task, asked, None)


def numbered(count: int) -> list[Example]:
    return [Example(Query(f"e{i}", f"question {i}", category="odd" if i % 2 else "even"), "a") for i in range(count)]


def failing(error: Exception, *places: int) -> ScriptedGenerator:
    """Answers all but some of the numbered examples."""

    def answer(request: GenerationRequest) -> list[str]:
        if request.messages[-1].content in {f"question {place}" for place in places}:
            raise error
        return ["a"]

    return ScriptedGenerator(answer)


async def test_an_example_that_is_refused_is_left_out_by_name_and_counts_neither_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = await evaluate(failing(DataError("-")), TASK, numbered(5), None)
    found = await evaluate(failing(DataError("the chat template refuses them"), 3), TASK, numbered(5), None)
    assert found.left_out == {"e3": "the chat template refuses them"}
    assert found.outcomes == tuple(each for each in whole.outcomes if each.id != "e3")
    assert (found.accuracy, found.by_category) == (1.0, {"even": 1.0, "odd": 1.0})
    assert "example e3 is left out of the evaluation: the chat template refuses them" in caplog.text
    for old, new in (paired(whole, found), paired(found, whole)):
        assert [each.id for each in old.outcomes] == [each.id for each in new.outcomes] == ["e0", "e1", "e2", "e4"]


async def test_neighbours_that_do_not_fit_are_left_away() -> None:
    near = ListIndex([Example(Query("long", "x" * 99), "a"), Example(Query("short", "y"), "b")])

    def answer(request: GenerationRequest) -> list[str]:
        if any("x" * 99 in message.content for message in request.messages):
            raise TooLongError("too long")
        return ["a"]

    generator = ScriptedGenerator(answer)
    found = await evaluate(generator, TASK, numbered(1), None, index=near, neighbours=2)
    assert (len(found.outcomes), found.left_out) == (1, {})
    assert [message.content for message in generator.calls[1][0].messages] == ["y", "b", "question 0"]


async def test_where_one_is_late_it_is_left_out_and_where_many_are_the_evaluation_fails() -> None:
    found = await evaluate(failing(LateError("no answer within 6 s"), 0), TASK, numbered(40), None)
    assert (len(found.outcomes), found.left_out) == (39, {"e0": "no answer within 6 s"})
    with pytest.raises(LateError, match="3 of 40 examples were not answered in time"):
        await evaluate(failing(LateError("no answer within 6 s"), 0, 1, 2), TASK, numbered(40), None)


async def test_an_example_whose_question_the_embedder_refuses_is_left_out() -> None:
    asked = [*examples(3), Example(Query("long", "too long"), "a")]
    index = ListIndex(examples(4), refuses="too long")
    result = await evaluate(ScriptedGenerator(says), TASK, asked, None, index=index, neighbours=2)
    assert [outcome.id for outcome in result.outcomes] == ["0", "1", "2"]
    assert result.left_out == {"long": "embedding: refuses a text"}
