"""How many tokens the caches of a model in this process may hold, and who holds how many.

Owns what a token costs in memory and the bound that follows; not what is moved out when there is no room (batching).
Invariant: caches, and what a pass over them needs beside them, fit in the tokens of the budget.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_TOKENS = 65_536
"""The budget where memory is no matter: what labelling, a batch at a time, makes use of."""
_PART_OF_MEMORY = 4
_UNIT_TOKENS = 8_192
_UNIT_ROWS = 16
LABELLING_UNIT = 4
"""A step of labelling may be so much larger than one of clients: its share is of time, and small steps waste time."""
_BYTES_A_LOGIT = 28  # logits, what is drawn from them in fp32, and their sums in fp64
_BYTES_A_MASKED_PLACE = 5
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class CacheCosts:
    """What a model's cache costs: bytes a token, and tokens' worth of what a pass needs beside it.

    copied: of the cache that a pass runs over, the part that exists twice meanwhile (one layer, for all heads).
    row: tokens' worth of memory that a row needs to draw a token (its logits). positions: of the longest prompt.
    prompt_bytes: what a token of a prompt needs while it is computed, without its mask. layers: each has two blocks of
    memory in a cache.
    """

    token_bytes: int
    copied: float
    row: int
    positions: int = 0
    prompt_bytes: int = 0
    layers: int = 1

    @classmethod
    def of(cls, model: Any) -> CacheCosts:
        config = model.config.get_text_config()
        layers = config.num_hidden_layers
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        token_bytes = 2 * layers * groups * size * model.dtype.itemsize
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        return cls(
            token_bytes,
            (1 + heads / groups) / layers,
            -(-config.vocab_size * _BYTES_A_LOGIT // token_bytes),
            getattr(config, "max_position_embeddings", 0) or 0,
            model.dtype.itemsize * (8 * config.hidden_size + 3 * inner),
            layers,
        )

    def prompts(self, chunk: int, tokens: int) -> int:
        """Tokens' worth of memory that so many tokens of prompts need at a time, their mask as bits and as numbers."""
        masked = _BYTES_A_MASKED_PLACE * min(self.positions, tokens)
        return chunk * (masked + self.prompt_bytes) // self.token_bytes


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """What may be held at a time.

    tokens: places of all caches. unit: places that one pass runs over while others wait, so that they do not wait long
    and what it needs beside stays small. rows: rows of such a pass. whole: places of a pass that nobody waits for.
    """

    tokens: int
    unit: int
    rows: int
    whole: int

    @classmethod
    def made(cls, costs: CacheCosts, tokens: int | None, memory: int, *, chunk: int | None) -> CacheBudget:
        """Of `generation.cache_tokens`; None: a quarter of `memory` bytes, MOST_TOKENS at the most.

        Args:
            costs: of the model.
            tokens: the setting.
            memory: bytes that there are.
            chunk: tokens of prompts at a time, where clients are served; then the tokens are to hold what passes need
                beside the caches, too, up to half of them. None: labelling alone.
        """
        if tokens is None:
            tokens = max(1, min(MOST_TOKENS, int(memory / _PART_OF_MEMORY / costs.token_bytes)))
        if chunk is None:
            return cls(tokens, tokens, tokens, tokens)
        unit = max(1, min(_UNIT_TOKENS, tokens // 8))
        rows = max(1, min(_UNIT_ROWS, tokens // 64 // costs.row))
        step = math.ceil(costs.copied * LABELLING_UNIT * unit) + LABELLING_UNIT * rows * costs.row
        beside = max(step, costs.prompts(chunk, tokens))
        usable = max(1, tokens - min(beside, tokens // 2))
        return cls(usable, unit, rows, max(1, int(usable / (1 + costs.copied))))


def memory_bytes(device: Any) -> int:
    """Memory of the device, or what this process may use of the machine's."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[1])
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(memory, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such bound
        return memory
