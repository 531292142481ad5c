"""openai-python, chat: how tokens are drawn, when an answer stops, and what is told of its tokens."""

from __future__ import annotations

from typing import Any

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import NEWEST, chat, text_of

LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "Count from one to ten in words."}], "max_tokens": 14}


@call(NEWEST, "chat, n")
def several(at: Gateway) -> object:
    answer = chat(at, **LONG, n=3, temperature=1.0, seed=5)
    assert sorted(each.index for each in answer.choices) == [0, 1, 2]
    assert len({each.message.content for each in answer.choices}) == 3, "three answers are three draws"
    return answer


@call(NEWEST, "chat, n without drawing")
def several_greedy(at: Gateway) -> object:
    answer = chat(at, n=2)
    assert len(answer.choices) == 2
    return answer


@call(NEWEST, "chat, stop")
def stop(at: Gateway) -> object:
    free = text_of(chat(at, **LONG))
    word = free[5:9]
    answer = chat(at, **LONG, stop=word)
    assert text_of(answer) == free[: free.index(word)], "the answer ends before the stop string"
    assert answer.choices[0].finish_reason == "stop"
    return answer


@call(NEWEST, "chat, stop, a list")
def stops(at: Gateway) -> object:
    free = text_of(chat(at, **LONG))
    words = [free[9:12], free[6:9]]
    answer = chat(at, **LONG, stop=words)
    assert text_of(answer) == free[: min(free.index(word) for word in words)]
    return answer


@call(NEWEST, "chat, stop, an empty text")
def empty_stop(at: Gateway) -> object:
    return chat(at, stop="")


@call(NEWEST, "chat, seed, negative")
def negative_seed(at: Gateway) -> object:
    return _repeated(at, -5)


@call(NEWEST, "chat, seed, of 64 bits")
def long_seed(at: Gateway) -> object:
    return _repeated(at, 2**63 - 1)


@call(NEWEST, "chat, seed, too long")
def too_long_seed(at: Gateway) -> object:
    return chat(at, seed=2**63)


@call(NEWEST, "chat, temperature 0 repeats itself")
def greedy(at: Gateway) -> object:
    one, other = chat(at, **LONG), chat(at, **LONG)
    assert text_of(one) == text_of(other)
    return other


@call(NEWEST, "chat, temperature out of range")
def hot(at: Gateway) -> object:
    return chat(at, temperature=2.5)


@call(NEWEST, "chat, temperature, a text")
def worded(at: Gateway) -> object:
    return chat(at, temperature="warm")


@call(NEWEST, "chat, top_p, small: as greedy")
def nucleus(at: Gateway) -> object:
    answer = chat(at, **LONG, temperature=1.0, top_p=0.0001, seed=1)
    assert text_of(answer) == text_of(chat(at, **LONG)), "the first token alone is left to draw"
    return answer


@call(NEWEST, "chat, top_p 0")
def no_nucleus(at: Gateway) -> object:
    answer = chat(at, **LONG, temperature=1.0, top_p=0, seed=1)
    assert text_of(answer) == text_of(chat(at, **LONG))
    return answer


@call(NEWEST, "chat, top_p out of range")
def wide(at: Gateway) -> object:
    return chat(at, top_p=1.5)


@call(NEWEST, "chat, top_k and min_p")
def top_k(at: Gateway) -> object:
    answer = chat(at, **LONG, temperature=1.0, seed=1, extra_body={"top_k": 1, "min_p": 0.1})
    assert text_of(answer) == text_of(chat(at, **LONG))
    return answer


@call(NEWEST, "chat, presence_penalty and frequency_penalty")
def penalties(at: Gateway) -> object:
    said = [{"role": "user", "content": "Say: yes yes yes yes yes yes yes yes"}]
    bare = chat(at, messages=said, max_tokens=24)
    answer = chat(at, messages=said, max_tokens=24, presence_penalty=2.0, frequency_penalty=2.0)
    assert text_of(answer) != text_of(bare), "what was said already is said less"
    return answer


@call(NEWEST, "chat, presence_penalty out of range")
def penalty_out_of_range(at: Gateway) -> object:
    return chat(at, presence_penalty=3)


@call(NEWEST, "chat, repetition_penalty", refused="repetition_penalty")
def repetition(at: Gateway) -> object:
    return chat(at, extra_body={"repetition_penalty": 1.3})


@call(NEWEST, "chat, logit_bias")
def bias(at: Gateway) -> object:
    answer = chat(at, max_tokens=4, logit_bias={"60": 100}, logprobs=True)
    tokens = {each.token for each in answer.choices[0].logprobs.content}
    assert len(tokens) == 1, "a token with a bias of 100 is all that is said"
    assert answer.usage.completion_tokens == 4
    return answer


@call(NEWEST, "chat, logit_bias out of range")
def biased_too_much(at: Gateway) -> object:
    return chat(at, logit_bias={"60": 101})


@call(NEWEST, "chat, logit_bias of a token that is not there")
def biased_nothing(at: Gateway) -> object:
    return chat(at, logit_bias={"99999999": 1})


@call(NEWEST, "chat, logprobs")
def logprobs(at: Gateway) -> object:
    answer = chat(at, logprobs=True)
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(each.bytes) for each in told).decode(errors="replace").startswith(text_of(answer).strip())
    assert all(each.logprob <= 0 for each in told)
    assert len(told) == answer.usage.completion_tokens, "each token is told of"
    return answer


@call(NEWEST, "chat, top_logprobs")
def top_logprobs(at: Gateway) -> object:
    answer = chat(at, logprobs=True, top_logprobs=3)
    for each in answer.choices[0].logprobs.content:
        assert len(each.top_logprobs) == 3
        assert each.token == each.top_logprobs[0].token, "greedy: what was said is the likeliest"
    return answer


@call(NEWEST, "chat, top_logprobs without logprobs")
def half_logprobs(at: Gateway) -> object:
    return chat(at, top_logprobs=2)


@call(NEWEST, "chat, top_logprobs, too many")
def many_logprobs(at: Gateway) -> object:
    return chat(at, logprobs=True, top_logprobs=21)


@call(NEWEST, "chat, max_completion_tokens")
def limit(at: Gateway) -> object:
    answer = chat(at, messages=LONG["messages"], max_tokens=..., max_completion_tokens=3)
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"
    return answer


@call(NEWEST, "chat, max_tokens 0")
def no_tokens(at: Gateway) -> object:
    return chat(at, max_tokens=0)


@call(NEWEST, "chat, max_tokens beyond the gateway's limit")
def huge(at: Gateway) -> object:
    return chat(at, max_tokens=10_000_000)


@call(NEWEST, "chat, max_tokens beyond the model's context")
def beyond_context(at: Gateway) -> object:
    return chat(at, max_tokens=9_000)


@call(NEWEST, "chat, prompt and max_tokens together beyond the model's context", refused="messages")
def together_beyond_context(at: Gateway) -> object:
    return chat(at, max_tokens=8_190, stop=[" "])


@call(NEWEST, "chat, a prompt beyond the model's context")
def long_prompt(at: Gateway) -> object:
    return chat(at, messages=[{"role": "user", "content": "one two three four five " * 4_000}])


@call(NEWEST, "chat, n beyond the gateway's limit")
def too_many(at: Gateway) -> object:
    return chat(at, n=1_000, temperature=1)


def _repeated(at: Gateway, seed: int) -> object:
    one, other = (chat(at, **LONG, temperature=1.0, seed=seed) for _ in range(2))
    assert text_of(one) == text_of(other), "a seed repeats itself"
    assert text_of(one) != text_of(chat(at, **LONG, temperature=1.0, seed=seed - 1)), "another seed draws others"
    return other
