from pathlib import Path

import pytest

from semievol.engines.routed import RoutedGenerator
from semievol.errors import ConfigError
from semievol.types import GenerationRequest, Message
from tests.scripted import ScriptedGenerator


def ask(text: str, model: str | None = None, adapter: str | None = None) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), model=model, adapter=adapter)


def engine(name: str) -> ScriptedGenerator:
    return ScriptedGenerator(lambda request: [f"{name}:{request.messages[0].content}:{request.adapter}"])


async def test_each_request_goes_to_its_engine_in_one_call_and_answers_keep_their_order() -> None:
    main, other = engine("main"), engine("other")
    other.adapters.add("tuned-1")
    routed = RoutedGenerator(main, {"big": other}, {("big", "/adapters/tuned-1"): "tuned-1"})
    answers = await routed.generate([ask("1"), ask("2", "big"), ask("3"), ask("4", "big", "/adapters/tuned-1")])
    assert [samples[0].text for samples in answers] == ["main:1:None", "other:2:None", "main:3:None", "other:4:tuned-1"]
    assert [len(main.calls), len(other.calls)] == [1, 1]


async def test_the_adapters_of_configurations_outlive_the_rounds() -> None:
    main = engine("main")
    main.adapters |= {"fixed", "r0001"}
    routed = RoutedGenerator(main, {}, {(None, "/adapters/fixed"): "fixed"})
    await routed.load_adapter("r0002", Path("r0002"))
    assert await routed.loaded_adapters() == {"r0001", "r0002"}
    for name in ("fixed", "r0001"):
        await routed.unload_adapter(name)
    assert main.adapters == {"fixed", "r0002"}


async def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigError, match="models: there is no 'big'"):
        await RoutedGenerator(engine("main"), {}, {}).generate([ask("1", "big")])
