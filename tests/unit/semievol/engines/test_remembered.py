"""Equal requests are asked once."""

from semievol.engines.remembered import RememberedAnswers
from semievol.types import GenerationRequest, Message
from tests.scripted import ScriptedGenerator


def request(text: str, **others: object) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), **others)  # type: ignore[arg-type]


async def test_only_new_requests_reach_the_generator_in_one_call() -> None:
    inner = ScriptedGenerator(lambda asked: [asked.messages[0].content.upper()] * asked.samples)
    remembered = RememberedAnswers(inner)
    first = await remembered.generate([request("a"), request("b"), request("a")])
    assert [answers[0].text for answers in first] == ["A", "B", "A"]
    again = await remembered.generate([request("b"), request("c")])
    assert [answers[0].text for answers in again] == ["B", "C"]
    assert [[each.messages[0].content for each in call] for call in inner.calls] == [["a", "b"], ["c"]]


async def test_a_seed_tells_samples_apart_but_not_greedy_answers() -> None:
    inner = ScriptedGenerator(lambda asked: [f"seed {asked.seed}"] * asked.samples)
    remembered = RememberedAnswers(inner)
    await remembered.generate([request("a", seed=1), request("a", seed=2)])
    assert len(inner.calls[0]) == 1
    sampled = await remembered.generate([request("a", seed=seed, temperature=1.0) for seed in (1, 2)])
    assert [answers[0].text for answers in sampled] == ["seed 1", "seed 2"]


async def test_adapters_are_the_generators() -> None:
    inner = ScriptedGenerator(lambda asked: [f"by {asked.adapter}"])
    remembered = RememberedAnswers(inner)
    await remembered.load_adapter("x", None)  # type: ignore[arg-type]
    assert await remembered.loaded_adapters() == {"x"}
    found = await remembered.generate([request("a"), request("a", adapter="x")])
    assert [answers[0].text for answers in found] == ["by None", "by x"]
    await remembered.unload_adapter("x")
    assert await remembered.loaded_adapters() == frozenset()
