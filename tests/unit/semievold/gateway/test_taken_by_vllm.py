"""Values that OpenAI takes and vLLM refuses are written as vLLM takes them; everything else passes as it came."""

from __future__ import annotations

from typing import Any, cast

import pytest

from semievold.gateway.call import CHAT, Call
from semievold.gateway.plain_messages import taken_by_vllm


def sent(**body: Any) -> Any:
    return taken_by_vllm(Call(cast(Any, None), CHAT, body, None, "support", 0.0, lambda _: None)).body


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"tool_choice": None}])
def test_an_empty_list_of_tools_is_as_none(choice: dict[str, Any]) -> None:
    assert sent(n=1, tools=[], **choice) == {"n": 1}


def test_a_tool_that_must_be_called_is_left_for_the_server_to_refuse() -> None:
    assert sent(tools=[], tool_choice="required") == {"tool_choice": "required"}


def test_a_nucleus_of_nothing_is_the_likeliest_token() -> None:
    assert 0 < sent(top_p=0)["top_p"] < 1e-5
    assert 0 < sent(top_p=0.0)["top_p"] < 1e-5


@pytest.mark.parametrize("body", [{}, {"top_p": False}, {"top_p": 0.1}, {"tools": [{"type": "function"}]}])
def test_everything_else_passes_unchanged(body: dict[str, Any]) -> None:
    assert sent(**body) == body


@pytest.mark.parametrize("n", [{}, {"n": None}, {"n": 1}])
def test_a_best_of_that_leaves_nothing_to_choose_is_left_out(n: dict[str, Any]) -> None:
    """vLLM does not know the field any more, and a gateway that has asked it which it knows would refuse it."""
    assert sent(**n, best_of=1) == n
    assert sent(n=3, best_of=3) == {"n": 3}
    assert sent(**n, best_of=2) == {**n, "best_of": 2}
