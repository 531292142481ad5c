"""openai-python, completions: a prompt goes on as it stands."""

from __future__ import annotations

from typing import Any

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import NEWEST, client

PROMPT = "One, two, three, four,"
TOKENS = [504, 357, 260, 3575]


@call(NEWEST, "completions, a text")
def text(at: Gateway) -> object:
    answer = complete(at)
    assert answer.model == at.model
    assert 0 < answer.usage.completion_tokens <= 8
    return answer


@call(NEWEST, "completions, a list of texts")
def texts(at: Gateway) -> object:
    answer = complete(at, prompt=[PROMPT, "Red, green,"])
    assert [each.index for each in answer.choices] == [0, 1]
    assert answer.choices[0].text == complete(at).choices[0].text, "each prompt has its own answer"
    return answer


@call(NEWEST, "completions, token ids")
def tokens(at: Gateway) -> object:
    answer = complete(at, prompt=TOKENS)
    assert answer.usage.prompt_tokens == len(TOKENS), "the ids are the prompt"
    return answer


@call(NEWEST, "completions, lists of token ids")
def lists_of_tokens(at: Gateway) -> object:
    answer = complete(at, prompt=[TOKENS, TOKENS[:2]])
    assert len(answer.choices) == 2
    assert answer.usage.prompt_tokens == len(TOKENS) + 2
    return answer


@call(NEWEST, "completions, a token id that is not there")
def no_token(at: Gateway) -> object:
    return complete(at, prompt=[99_999_999])


@call(NEWEST, "completions, an empty list")
def nothing(at: Gateway) -> object:
    return complete(at, prompt=[])


@call(NEWEST, "completions, echo", refused="echo")
def echo(at: Gateway) -> object:
    answer = complete(at, echo=True)
    assert answer.choices[0].text.startswith(PROMPT)
    return answer


@call(NEWEST, "completions, suffix")
def suffix(at: Gateway) -> object:
    return complete(at, suffix=" the end")


@call(NEWEST, "completions, best_of other than n")
def best(at: Gateway) -> object:
    return complete(at, best_of=2)


@call(NEWEST, "completions, n and best_of alike")
def several(at: Gateway) -> object:
    answer = complete(at, n=2, best_of=2, temperature=1.0, seed=4)
    assert len(answer.choices) == 2
    return answer


@call(NEWEST, "completions, logprobs")
def logprobs(at: Gateway) -> object:
    answer = complete(at, logprobs=2)
    told = answer.choices[0].logprobs
    assert "".join(told.tokens) == answer.choices[0].text
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
    assert told.text_offset[0] == 0, "offsets are those within the text"
    assert all({token} <= set(others) for token, others in zip(told.tokens, told.top_logprobs, strict=True))
    return {**_fields(answer), "top_logprobs": [list(each.values()) for each in told.top_logprobs]}


@call(NEWEST, "completions, logprobs, more than OpenAI gives", refused="logprobs")
def many_logprobs(at: Gateway) -> object:
    return complete(at, logprobs=6)


@call(NEWEST, "completions, stop")
def stop(at: Gateway) -> object:
    free = complete(at, max_tokens=20).choices[0].text
    word = free[5:8]
    answer = complete(at, max_tokens=20, stop=word)
    assert answer.choices[0].text == free[: free.index(word)]
    assert answer.choices[0].finish_reason == "stop"
    return answer


@call(NEWEST, "completions, max_tokens left out: 16")
def default_limit(at: Gateway) -> object:
    answer = complete(at, max_tokens=...)
    assert answer.usage.completion_tokens <= 16
    return answer


@call(NEWEST, "completions, stream")
def stream(at: Gateway) -> object:
    chunks = list(complete(at, stream=True))
    assert "".join(each.choices[0].text for each in chunks) == complete(at).choices[0].text
    assert [each.choices[0].finish_reason for each in chunks][-1] in ("stop", "length")
    return _fields(chunks[-1])


@call(NEWEST, "completions, stream with include_usage")
def usage(at: Gateway) -> object:
    chunks = list(complete(at, stream=True, stream_options={"include_usage": True}))
    assert not chunks[-1].choices
    assert all(each.usage is None for each in chunks[:-1])
    return chunks[-1]


@call(NEWEST, "completions, stream of a list")
def stream_of_texts(at: Gateway) -> object:
    chunks = list(complete(at, prompt=[PROMPT, "Red, green,"], stream=True))
    assert {choice.index for each in chunks for choice in each.choices} == {0, 1}
    return _fields(chunks[-1])


def complete(at: Gateway, **asked: Any) -> Any:
    body = {"model": at.model, "prompt": PROMPT, "temperature": 0, "max_tokens": 8, **asked}
    return client(at).completions.create(**{name: each for name, each in body.items() if each is not Ellipsis})


def _fields(answer: Any) -> dict[str, Any]:
    """The members whose names are the same in every answer: log-probabilities are keyed by their tokens."""
    choices = [{"index": each.index, "text": each.text, "finish_reason": each.finish_reason} for each in answer.choices]
    return {"id": answer.id, "object": answer.object, "created": answer.created, "choices": choices}
