import math
from collections import Counter
from collections.abc import Sequence

import pytest

from semievol.config.method import Configuration, LabellingConfig, MethodConfig, ModelConfig, TaskConfig
from semievol.errors import ConfigError, LateError, TooLongError, TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.protocols import Tell
from semievol.seeds import derive
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import Example, GenerationRequest, PseudoLabel, Query, Unlabelled
from tests.scripted import ListIndex, Script, ScriptedGenerator, completion

TASK = Task(TaskConfig(labels=("a", "b", "c")))
GREEDY = Configuration(name="greedy", temperature=0.0)
SAMPLED = Configuration(name="sampled", temperature=1.0, samples=3)
BOTH = LabellingConfig(configurations=(GREEDY, SAMPLED))
QUERY = Query("q", "which one?")
INDEX = ListIndex([Example(Query(f"e{i}", f"question {i}"), "a") for i in range(5)])


def is_justification(request: GenerationRequest) -> bool:
    return "Candidate answers:" in request.messages[-1].content


def script(greedy: str, samples: list[str], pick: str = "?") -> Script:
    def answer(request: GenerationRequest) -> list[str]:
        if is_justification(request):
            return [pick]
        return [greedy] if request.samples == 1 else samples

    return answer


def labeller(generator: ScriptedGenerator, config: LabellingConfig = BOTH, seed: int = 7) -> CollaborativeLabeller:
    return CollaborativeLabeller(generator, INDEX, TASK, config, seed)


async def test_an_agreed_answer_needs_one_call_for_the_whole_batch() -> None:
    generator = ScriptedGenerator(script("a", ["a", "a", "a"]))
    labels = await labeller(generator).label([QUERY, Query("r", "and this?")], None)
    assert [(label.answer, label.agreement, label.justified) for label in labels] == [("a", 1.0, False)] * 2
    assert [len(call) for call in generator.calls] == [4]


async def test_configurations_with_the_same_neighbours_ask_the_same_prompt_with_their_own_seed() -> None:
    generator = ScriptedGenerator(script("a", ["a", "a", "a"]))
    await labeller(generator).label([QUERY], None)
    greedy, sampled = generator.calls[0]
    assert greedy.messages == sampled.messages
    assert (greedy.temperature, greedy.samples, sampled.temperature, sampled.samples) == (0.0, 1, 1.0, 3)
    assert greedy.seed == derive(7, "label", "q", "greedy")
    assert sampled.seed == derive(7, "label", "q", "sampled")
    assert [m.content for m in greedy.messages][::2] == ["question 2", "question 1", "question 0", "which one?"]


async def test_neighbours_are_retrieved_once_with_the_largest_number() -> None:
    index = ListIndex([Example(Query(f"e{i}", f"question {i}"), "a") for i in range(5)])
    config = LabellingConfig(
        configurations=(
            Configuration(name="closed", temperature=0.0, neighbours=0),
            Configuration(name="two", temperature=0.0, neighbours=2, order="nearest_first"),
            Configuration(name="four", temperature=0.0, neighbours=4),
        )
    )
    generator = ScriptedGenerator(lambda request: ["a"])
    (label,) = await CollaborativeLabeller(generator, index, TASK, config, 0).label([QUERY], None)
    assert index.asked == [(("which one?",), 5)]
    assert [len(request.messages) for request in generator.calls[0]] == [1, 5, 9]
    assert [example_id for example_id, _ in label.neighbours] == ["e0", "e1", "e2", "e3"]
    assert [candidate.configuration for candidate in label.candidates] == ["closed", "two", "four"]


async def test_each_order_of_the_neighbours_has_its_own_prompt_and_its_own_answer() -> None:
    orders = ("nearest_last", "nearest_first", "shuffled", "nearest_last")
    config = LabellingConfig(
        configurations=tuple(
            Configuration(name=f"{order} {place}", temperature=0.0, neighbours=4, order=order)
            for place, order in enumerate(orders)
        ),
        justify=False,
    )
    generator = ScriptedGenerator(lambda request: ["a" if request.messages[0].content == "question 3" else "b"])
    (label,) = await labeller(generator, config).label([QUERY], None)
    prompts = [request.messages for request in generator.calls[0]]
    assert prompts[0] == prompts[3]
    assert len(set(prompts)) == 3
    assert [(each.configuration, each.answer) for each in label.candidates] == [
        (f"{order} {place}", "a" if prompts[place][0].content == "question 3" else "b")
        for place, order in enumerate(orders)
    ]
    assert {each.answer for each in label.candidates} == {"a", "b"}


async def test_the_model_picks_where_candidates_differ() -> None:
    generator = ScriptedGenerator(script("a", ["a", "b", "a"], pick="b"))
    (label,) = await labeller(generator).label([QUERY], None)
    assert (label.answer, label.justified, label.agreement) == ("b", True, 0.25)
    asked = generator.calls[1][0]
    assert asked.messages[-1].content.startswith("which one?\n\nCandidate answers:\n- a\n- b\n")
    assert (asked.temperature, asked.samples) == (0.0, 1)
    assert asked.messages[:-1] == generator.calls[0][0].messages[:-1]


async def test_only_queries_whose_candidates_differ_are_justified_and_in_one_call() -> None:
    def answer(request: GenerationRequest) -> list[str]:
        if is_justification(request):
            return ["c"]
        differs = "differ" in request.messages[-1].content
        return ["a"] if request.samples == 1 else ["a", "c" if differs else "a", "a"]

    generator = ScriptedGenerator(answer)
    queries = [Query("1", "agree"), Query("2", "differ 2"), Query("3", "agree"), Query("4", "differ 4")]
    labels = await labeller(generator).label(queries, None)
    assert [len(call) for call in generator.calls] == [8, 2]
    assert [label.answer for label in labels] == ["a", "c", "a", "c"]
    assert [label.query.id for label in labels] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("pick", ["c", "nonsense", ""])
async def test_a_pick_that_is_no_candidate_falls_back_to_the_vote(pick: str) -> None:
    (label,) = await labeller(ScriptedGenerator(script("a", ["b", "a", "a"], pick))).label([QUERY], None)
    assert (label.answer, label.justified, label.agreement) == ("a", False, 0.75)


async def test_without_self_justification_the_majority_decides() -> None:
    config = LabellingConfig(configurations=(GREEDY, SAMPLED), justify=False)
    generator = ScriptedGenerator(script("a", ["b", "b", "b"]))
    (label,) = await labeller(generator, config).label([QUERY], None)
    assert (label.answer, label.agreement, len(generator.calls)) == ("b", 0.75, 1)


async def test_a_tie_goes_to_the_answer_of_lower_entropy() -> None:
    config = LabellingConfig(configurations=(GREEDY, SAMPLED), justify=False)

    def answer(request: GenerationRequest) -> list[tuple[str, float]]:
        return [("a", 0.9)] if request.samples == 1 else [("b", 0.3), ("a", 0.1), ("b", 0.5)]

    (label,) = await labeller(ScriptedGenerator(answer), config).label([QUERY], None)
    assert (label.answer, label.agreement) == ("b", 0.5)
    assert label.entropy == pytest.approx(0.4)


async def test_the_entropy_is_the_mean_over_the_candidates_that_gave_the_answer() -> None:
    def answer(request: GenerationRequest) -> list[tuple[str, float]]:
        return [("a", 0.2)] if request.samples == 1 else [("a", 0.4), ("nonsense", 9.0), ("b", 5.0)]

    config = LabellingConfig(configurations=(GREEDY, SAMPLED), justify=False)
    (label,) = await labeller(ScriptedGenerator(answer), config).label([QUERY], None)
    assert label.entropy == pytest.approx(0.3)
    assert label.confidence == pytest.approx(math.exp(-0.3) * 0.5)


async def test_unparseable_candidates_count_in_the_agreement() -> None:
    (label,) = await labeller(ScriptedGenerator(script("?", ["a", "??", ""]))).label([QUERY], None)
    assert (label.answer, label.agreement, label.justified) == ("a", 0.25, False)


async def test_four_unparseable_candidates_are_no_agreement_on_anything() -> None:
    generator = ScriptedGenerator(script("?", ["", "", "what"]))
    (label,) = await labeller(generator).label([QUERY], None)
    assert (label.answer, label.agreement, label.confidence) == (None, 0.0, 0.0)
    assert len(generator.calls) == 1


async def test_a_label_that_was_cut_off_does_not_parse() -> None:
    class Cutting(ScriptedGenerator):
        def _answer(self, request: GenerationRequest) -> list[object]:  # type: ignore[override]
            return [completion("a", finish_reason="length")] * request.samples

    (label,) = await labeller(Cutting(lambda request: [])).label([QUERY], None)
    assert label.answer is None


async def test_a_query_that_is_an_example_by_now_is_not_shown_its_own_answer() -> None:
    generator = ScriptedGenerator(script("a", ["a", "a", "a"]))
    (label,) = await labeller(generator).label([Query("e0", "question 0")], None)
    assert [example_id for example_id, _ in label.neighbours] == ["e1", "e2", "e3"]
    assert [m.content for m in generator.calls[0][0].messages] == [
        *("question 3", "a", "question 2", "a", "question 1", "a"),
        "question 0",
    ]


async def test_tokens_are_summed_with_a_shared_prefill_counted_once() -> None:
    (label,) = await labeller(ScriptedGenerator(script("a", ["a", "a", "a"]))).label([QUERY], None)
    assert (label.prompt_tokens, label.generated_tokens) == (10, 8)
    (label,) = await labeller(ScriptedGenerator(script("a", ["b", "a", "a"], "a"))).label([QUERY], None)
    assert (label.prompt_tokens, label.generated_tokens) == (20, 10)
    apart = LabellingConfig(configurations=(GREEDY, Configuration(name="other", temperature=0.0, neighbours=1)))
    (label,) = await labeller(ScriptedGenerator(lambda request: ["a"]), apart).label([QUERY], None)
    assert label.prompt_tokens == 20


async def test_batches_are_no_larger_than_configured_and_change_nothing() -> None:
    def answer(request: GenerationRequest) -> list[str]:
        if is_justification(request):
            return ["abc"[request.seed % 3]]
        return ["abc"[(request.seed >> i) % 3] for i in range(request.samples)]

    queries = [Query(str(i), f"question {i}") for i in range(10)]
    small, large = ScriptedGenerator(answer), ScriptedGenerator(answer)
    done: list[str] = []
    config = BOTH.model_copy(update={"batch_size": 3})
    labels = await labeller(small, config).label(queries, None, told=lambda each: done.append(each.query.id))
    assert labels == await labeller(large).label(queries, None)
    assert sorted(done, key=int) == [query.id for query in queries]
    assert max(len(call) for call in small.calls) <= 8  # of up to two batches, one at each stage


def long_example_near_all(limit: int) -> tuple[ListIndex, Script]:
    """Every query's nearest example is a long one; prompts above the limit, in characters, are refused."""
    lengths = {"e0": 500, "e1": 10, "e2": 10, "e3": 10}
    index = ListIndex([Example(Query(each, "x" * length), "a") for each, length in lengths.items()])

    def answer(request: GenerationRequest) -> list[str]:
        length = sum(len(message.content) for message in request.messages)
        if length > limit:
            raise TooLongError(f"the prompt has {length} tokens")
        return ["a"] * request.samples

    return index, answer


async def test_an_example_that_is_too_long_is_not_shown_and_the_others_are() -> None:
    index, answer = long_example_near_all(limit=100)
    generator = ScriptedGenerator(answer)
    (label,) = await CollaborativeLabeller(generator, index, TASK, BOTH, 7).label([QUERY], None)
    assert isinstance(label, PseudoLabel)
    assert (label.answer, label.agreement) == ("a", 1.0)
    assert [example_id for example_id, _ in label.neighbours] == ["e1", "e2"]
    greedy, sampled = generator.calls[1]
    assert greedy.messages == sampled.messages  # they still share one prompt
    assert (greedy.seed, sampled.seed) == tuple(each.seed for each in generator.calls[0])


async def test_a_query_that_is_too_long_by_itself_is_left_out_and_no_other_is_asked_again() -> None:
    index, answer = long_example_near_all(limit=100)
    generator = ScriptedGenerator(answer)
    queries = [QUERY, Query("long", "y" * 200), Query("r", "and this?")]
    first, long, other = await CollaborativeLabeller(generator, index, TASK, BOTH, 7).label(queries, None)
    assert isinstance(first, PseudoLabel)
    assert isinstance(other, PseudoLabel)
    assert long == Unlabelled(queries[1], "the prompt has 200 tokens")
    answered = [request for call in generator.calls for request in call if _fits(request)]
    assert len(answered) == len(set(answered)) == 4


def _fits(request: GenerationRequest) -> bool:
    return sum(len(message.content) for message in request.messages) <= 100


async def test_a_late_answer_is_asked_for_again_and_then_its_query_alone_is_left_out() -> None:
    asked: Counter[GenerationRequest] = Counter()

    def answer(request: GenerationRequest) -> list[str]:
        asked[request] += 1
        if request.samples == 3 and "slow" in request.messages[-1].content:
            raise LateError("no answer within 6 s")
        return ["a"] * request.samples

    generator = ScriptedGenerator(answer)
    finished: list[str] = []
    label_it = CollaborativeLabeller(generator, INDEX, TASK, BOTH, 7, attempts=3)
    outcomes = await label_it.label(
        [Query("s", "slow"), QUERY], None, told=lambda outcome: finished.append(outcome.query.id)
    )
    assert outcomes[0] == Unlabelled(Query("s", "slow"), "late 3 times: no answer within 6 s", late=True)
    assert isinstance(outcomes[1], PseudoLabel)
    assert finished == ["q", "s"]
    assert sorted(asked.values()) == [1, 1, 1, 3]


async def test_a_late_answer_that_comes_at_last_gives_the_label_that_it_would_have_given_at_once() -> None:
    late = [True]

    def answer(request: GenerationRequest) -> list[str]:
        if request.samples == 3 and late:
            late.pop()
            raise LateError("no answer within 6 s")
        return ["abc"[(request.seed >> i) % 3] for i in range(request.samples)]

    assert await labeller(ScriptedGenerator(answer)).label([QUERY], None) == await labeller(
        ScriptedGenerator(answer)
    ).label([QUERY], None)


async def test_answers_of_an_unfinished_query_are_not_asked_for_again_after_a_failure() -> None:
    class Leaving(ScriptedGenerator):
        """Answers greedy requests, and is gone at the first sampled one, as often as told."""

        gone = 2

        async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
            greedy = [place for place, request in enumerate(requests) if request.temperature == 0]
            if self.gone and len(greedy) < len(requests):
                self.gone -= 1
                await super().answer([requests[p] for p in greedy], lambda place, reply: tell(greedy[place], reply))
                raise TransientError("nobody answers")
            await super().answer(requests, tell)

    generator = Leaving(script("a", ["a", "b", "a"], pick="a"))
    label_it = labeller(generator)
    for _ in range(2):
        with pytest.raises(TransientError):
            await label_it.label([QUERY, Query("r", "and this?")], None)
    outcomes = await label_it.label([QUERY, Query("r", "and this?")], None)
    asked = Counter(request for call in generator.calls for request in call)
    assert set(asked.values()) == {1}
    assert [isinstance(outcome, PseudoLabel) for outcome in outcomes] == [True, True]


async def test_where_the_list_of_candidates_is_refused_the_vote_decides() -> None:
    def answer(request: GenerationRequest) -> list[str]:
        if is_justification(request):
            raise TooLongError("too long")
        return ["a"] if request.samples == 1 else ["b", "a", "a"]

    (label,) = await labeller(ScriptedGenerator(answer)).label([QUERY], None)
    assert isinstance(label, PseudoLabel)
    assert (label.answer, label.justified) == ("a", False)


async def test_the_adapter_is_asked_and_recorded() -> None:
    generator = ScriptedGenerator(script("a", ["b", "a", "a"], "a"))
    generator.adapters.add("r0001")
    (label,) = await labeller(generator).label([QUERY], "r0001")
    assert label.adapter == "r0001"
    assert {request.adapter for call in generator.calls for request in call} == {"r0001"}


async def test_no_queries_need_no_call() -> None:
    generator = ScriptedGenerator(script("a", ["a", "a", "a"]))
    assert await labeller(generator).label([], None) == []
    assert generator.calls == []


def test_neighbours_without_an_index_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="need an example index"):
        CollaborativeLabeller(ScriptedGenerator(lambda request: []), None, TASK, BOTH, 0)


async def test_structured_labelling_allows_the_closed_set_alone() -> None:
    generator = ScriptedGenerator(script("a", ["a", "b", "a"], pick="a"))
    config = BOTH.model_copy(update={"structured": True})
    await labeller(generator, config).label([QUERY], None)
    assert [request.choices for call in generator.calls for request in call] == [("a", "b", "c")] * 3
    await labeller(generator).label([QUERY], None)
    assert generator.calls[-1][0].choices is None


@pytest.mark.parametrize("form", ["numeric", "short_answer", "free_form"])
def test_structured_labelling_is_refused_where_there_is_no_closed_set(form: str) -> None:
    with pytest.raises(
        ValueError, match=f"labelling.structured: form {form} has no closed set of answers; turn it off"
    ):
        MethodConfig(
            model=ModelConfig(name="none"),
            task=TaskConfig(form=form),  # type: ignore[arg-type]
            labelling=LabellingConfig(structured=True),
        )


# --- forms whose answers have many spellings -------------------------------------------------------------------------


def entropies(greedy: tuple[str, float], samples: list[tuple[str, float]], pick: str = "?") -> Script:
    def answer(request: GenerationRequest) -> list[str | tuple[str, float]]:
        if is_justification(request):
            return [pick]
        return [greedy] if request.samples == 1 else list(samples)

    return answer


async def test_numbers_within_the_tolerance_vote_together_under_the_surest_spelling() -> None:
    task = Task(TaskConfig(form="numeric"))
    generator = ScriptedGenerator(
        entropies(("12.5%", 0.4), [("0.125", 0.2), ("Answer: 12.4 %", 0.6), ("7", 0.1)], "7.0")
    )
    (label,) = await CollaborativeLabeller(generator, INDEX, task, BOTH, 0).label([QUERY], None)
    assert [each.answer for each in label.candidates] == ["0.125", "0.125", "0.125", "7"]
    assert [each.text for each in label.candidates] == ["12.5%", "0.125", "Answer: 12.4 %", "7"]
    assert "\n- 0.125\n- 7\n" in generator.calls[1][0].messages[-1].content
    assert (label.answer, label.justified, label.agreement) == ("7", True, 0.25)


async def test_spellings_of_one_number_are_no_difference_to_be_justified() -> None:
    task = Task(TaskConfig(form="numeric"))
    generator = ScriptedGenerator(entropies(("$1,000", 0.4), [("1000", 0.3), ("1000.0", 0.2), ("1001", 0.1)]))
    (label,) = await CollaborativeLabeller(generator, INDEX, task, BOTH, 0).label([QUERY], None)
    assert (label.answer, label.agreement, label.justified, len(generator.calls)) == ("1001", 1.0, False, 1)
    assert label.entropy == pytest.approx(0.25)


async def test_a_pick_in_other_words_counts_for_the_answer_that_means_the_same() -> None:
    task = Task(TaskConfig(form="short_answer"))
    generator = ScriptedGenerator(entropies(("Tom Brady", 0.4), [("Manning", 0.3)] * 3, "The tom brady."))
    (label,) = await CollaborativeLabeller(generator, INDEX, task, BOTH, 0).label([QUERY], None)
    assert (label.answer, label.justified, label.agreement) == ("Tom Brady", True, 0.25)


async def test_free_form_answers_vote_by_meaning() -> None:
    task = Task(TaskConfig(form="free_form", similarity=0.7))
    said = [
        ("Restart the router, then wait.", 0.3),
        ("restart the router, and then wait", 0.2),
        ("Call the support line today.", 0.1),
    ]
    generator = ScriptedGenerator(
        entropies(("Restart the router then wait!", 0.5), said, "Please restart the router, wait.")
    )
    equality = AnswerEquality(task, HashingEmbedder())
    (label,) = await CollaborativeLabeller(generator, INDEX, task, BOTH, 0, equality=equality).label([QUERY], None)
    surest = "restart the router, and then wait"
    assert [each.answer for each in label.candidates] == [surest, surest, surest, said[2][0]]
    assert (label.answer, label.justified, label.agreement) == (surest, True, 0.75)


async def test_free_form_answers_without_an_embedder_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="it needs the section embedding"):
        CollaborativeLabeller(ScriptedGenerator(lambda r: []), INDEX, Task(TaskConfig(form="free_form")), BOTH, 0)


async def test_no_justification_is_asked_for_when_all_configurations_agree() -> None:
    other = Configuration(name="other", temperature=0.0, neighbours=0, template="again: {question}")
    generator = ScriptedGenerator(lambda request: ["a"] * request.samples)
    config = LabellingConfig(configurations=(GREEDY, SAMPLED, other), justify=True)
    (label,) = await labeller(generator, config).label([QUERY], None)
    assert (label.answer, label.agreement, label.justified) == ("a", 1.0, False)
    assert [len(call) for call in generator.calls] == [3]
    assert not any(is_justification(request) for request in generator.calls[0])


async def test_a_variant_changes_its_own_prompt_and_shares_the_prefill_of_nobody() -> None:
    config = LabellingConfig(
        configurations=(
            GREEDY,
            Configuration(name="short", temperature=0.0, instruction="One word."),
            Configuration(name="polite", temperature=0.0, template="Please: {question}"),
        )
    )
    generator = ScriptedGenerator(lambda request: ["a"])
    (label,) = await labeller(generator, config).label([QUERY], None)
    plain, short, polite = (request.messages for request in generator.calls[0])
    assert (short[0].role, short[0].content, short[1:]) == ("system", "One word.", plain)
    assert [message.content for message in polite][::2] == [f"Please: {m.content}" for m in plain][::2]
    assert label.prompt_tokens == 30
    assert [each.configuration for each in label.candidates] == ["greedy", "short", "polite"]


async def test_a_seed_of_its_own_draws_samples_and_order_whatever_the_runs_seed() -> None:
    own = Configuration(name="own", samples=2, seed=5, order="shuffled", neighbours=4)
    calls = []
    for seed in (1, 2):
        generator = ScriptedGenerator(lambda request: ["a"] * request.samples)
        await labeller(generator, LabellingConfig(configurations=(own, SAMPLED)), seed).label([QUERY], None)
        calls.append(generator.calls[0])
    (first, other), (again, different) = calls
    assert first == again
    assert first.seed == derive(5, "label", "q")
    assert other.seed != different.seed


async def test_a_configuration_may_ask_the_base_an_adapter_or_another_model() -> None:
    config = LabellingConfig(
        configurations=(
            GREEDY,
            Configuration(name="base", temperature=0.0, adapter="base"),
            Configuration(name="fixed", temperature=0.0, adapter="old"),
            Configuration(name="big", temperature=0.0, model="big"),
        )
    )
    generator = ScriptedGenerator(
        lambda request: ["c"] if is_justification(request) else ["ab"[request.adapter is None]]
    )
    generator.adapters |= {"r0001", "old"}
    (label,) = await labeller(generator, config).label([QUERY], "r0001")
    assert [(request.adapter, request.model) for request in generator.calls[0]] == [
        ("r0001", None),
        (None, None),
        ("old", None),
        (None, "big"),
    ]
    # The adapter that labels picks, and the same words of another engine are another prefill.
    assert [(request.adapter, request.model) for request in generator.calls[1]] == [("r0001", None)]
    assert (label.adapter, label.prompt_tokens) == ("r0001", 50)


async def test_candidates_are_judged_in_the_words_of_the_first_configuration() -> None:
    first = Configuration(name="first", temperature=0.0, neighbours=0, template="Well, {question}")
    generator = ScriptedGenerator(script("a", ["a", "b", "a"], pick="b"))
    await labeller(generator, LabellingConfig(configurations=(first, SAMPLED))).label([QUERY], None)
    (asked,) = generator.calls[1]
    assert [message.content.split("\n")[0] for message in asked.messages] == ["Well, which one?"]


async def test_a_question_that_the_embedder_refuses_costs_no_other_its_label() -> None:
    index = ListIndex(list(INDEX.examples.values()), refuses="too long")
    queries = [Query(str(n), text) for n, text in enumerate(["x", "y", "too long", "z"])]
    generator = ScriptedGenerator(script("a", ["a", "a", "a"]))
    labels = await CollaborativeLabeller(generator, index, TASK, BOTH, 7).label(queries, None)
    assert labels[2] == Unlabelled(queries[2], "embedding: refuses a text")
    assert [each.answer for each in labels if isinstance(each, PseudoLabel)] == ["a"] * 3
