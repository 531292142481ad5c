"""How much the caches may hold: by setting, by memory, and with what a pass needs beside them."""

from __future__ import annotations

import pytest

from semievol.engines.stepwise.cache_budget import LABELLING_UNIT, MOST_TOKENS, CacheBudget, CacheCosts

COSTS = CacheCosts(token_bytes=46_080, copied=0.13, row=30, positions=8_192, prompt_bytes=40_000)


def test_labelling_alone_has_all_tokens_whatever_a_pass_needs() -> None:
    assert CacheBudget.made(COSTS, 5_000, 0, chunk=None) == CacheBudget(5_000, 5_000, 5_000, 5_000)
    assert CacheBudget.made(COSTS, None, 2**40, chunk=None).tokens == MOST_TOKENS


@pytest.mark.parametrize("memory_gib", [1, 4, 16])
def test_the_default_is_a_quarter_of_a_small_memory(memory_gib: int) -> None:
    tokens = CacheBudget.made(COSTS, None, memory_gib * 2**30, chunk=None).tokens
    assert tokens * COSTS.token_bytes <= memory_gib * 2**30 / 4 + COSTS.token_bytes


@pytest.mark.parametrize("tokens", [256, 2_000, 16_384, 65_536])
def test_what_passes_need_is_part_of_the_budget_where_it_can_be(tokens: int) -> None:
    budget = CacheBudget.made(COSTS, tokens, 0, chunk=512)
    step = budget.tokens + LABELLING_UNIT * (COSTS.copied * budget.unit + budget.rows * COSTS.row)
    prompt = budget.tokens + COSTS.prompts(512, tokens)
    assert budget.tokens >= tokens // 2
    assert max(step, prompt) <= tokens or budget.tokens == tokens - tokens // 2
    assert budget.whole <= budget.tokens
