"""The decode loop: prompts in, sampled tokens with their log-probabilities out.

Owns batching inside one forward pass: prompts are unique, what all of them begin with is computed once, every row (one
sample) continues from its prompt's cache. Owns no queue, no adapters, no text. Called with the model's adapter set.
Invariant: the tokens of a row depend on its prompt, seed and temperature; what else is in the batch changes
nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from semievol.engines.sampling.sampler import Drawn, Sampler, draw


@dataclass(frozen=True, slots=True)
class Row:
    """One sample to draw, continuing prompts[`prompt`]."""

    prompt: int
    sampler: Sampler
    max_tokens: int


@dataclass(slots=True)
class Decoded:
    """What a row generated; `stopped` tells an end from the limit. `logprobs` are at temperature 1.

    likeliest: for each token its alternatives, where the row's sampler was asked for them.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    stopped: bool = False


@dataclass(slots=True)
class Prefix:
    """Prompts of a batch, computed: the cache holds shared tokens, then padding, then the rest of each prompt.

    mask: (prompts, cached places), 1 where a place holds a token. lengths: (prompts,), tokens of each prompt.
    """

    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor

    def select(self, rows: torch.Tensor) -> None:
        """Keep or repeat rows of the batch."""
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]


@dataclass(eq=False, slots=True)
class Sample:
    """One row on its way: how its tokens are drawn, how many there may be, and what there is so far."""

    sampler: Sampler
    max_tokens: int
    decoded: Decoded = field(default_factory=Decoded)

    @property
    def ended(self) -> bool:
        return self.decoded.stopped or len(self.decoded.token_ids) >= self.max_tokens

    def take(self, drawn: Drawn, end_tokens: frozenset[int]) -> None:
        """Go on with a token that was drawn."""
        self.decoded.token_ids.append(drawn.token_id)
        self.decoded.logprobs.append(drawn.logprob)
        self.decoded.likeliest.append(drawn.likeliest)
        end = drawn.token_id in end_tokens
        self.sampler.took(drawn.token_id, end=end)
        self.decoded.stopped = end or self.sampler.stopped


class Running:
    """Rows that go on together, a token each at a time.

    rows[i] is at place i of cache and logits. A row that ended keeps its place until a quarter of the places is idle:
    copying the cache costs about as much as one step over it.
    """

    def __init__(self, rows: Sequence[Sample], prefix: Prefix, logits: torch.Tensor) -> None:
        """Rows with their prompts computed; logits: (rows, vocabulary), from which their next tokens are drawn."""
        self.rows = list(rows)
        self.prefix = prefix
        self.logits = logits

    @property
    def places(self) -> int:
        """Tokens that the cache has room for, padding and idle rows included."""
        return int(self.prefix.mask.shape[0] * self.prefix.mask.shape[1])

    def advance(self, model: Any, end_tokens: frozenset[int]) -> list[Sample]:
        """Draw a token for each row and compute what follows; the rows that ended by it. Without rows left it is over.

        Invariant: what a row draws does not depend on how often this was interrupted.
        """
        live = [not row.ended for row in self.rows]
        drawn = draw(self.logits, [row.sampler for row in self.rows], live)
        for row, token, goes_on in zip(self.rows, drawn, live, strict=True):
            if goes_on:
                row.take(token, end_tokens)
        ended = [row for row, went_on in zip(self.rows, live, strict=True) if went_on and row.ended]
        alive = [place for place, row in enumerate(self.rows) if not row.ended]
        if not alive:
            self.rows = []
            return ended
        if (len(self.rows) - len(alive)) * 4 >= len(self.rows):
            drawn = [drawn[place] for place in alive]
            self.rows = [self.rows[place] for place in alive]
            self.prefix.select(torch.tensor(alive, device=self.logits.device))
        tokens = torch.tensor([token.token_id for token in drawn], device=self.logits.device)
        self.logits = _step(model, self.prefix, tokens)
        return ended


@torch.inference_mode()
def decode(
    model: Any, prompts: Sequence[Sequence[int]], rows: Sequence[Row], *, end_tokens: frozenset[int], padding: int
) -> list[Decoded]:
    """Draw every row from its first to its last token; result[i] belongs to rows[i]."""
    prefix, logits = prefill(model, prompts, padding)
    samples = [Sample(row.sampler, row.max_tokens) for row in rows]
    running = begun(prefix, logits, samples, [row.prompt for row in rows])
    while running.rows:
        running.advance(model, end_tokens)
    return [sample.decoded for sample in samples]


def begun(prefix: Prefix, logits: torch.Tensor, rows: Sequence[Sample], prompts: Sequence[int]) -> Running:
    """Rows that continue computed prompts: rows[i] the prompt at place prompts[i] of prefix and logits."""
    held = torch.tensor(list(prompts), device=logits.device)
    prefix.select(held)
    return Running(rows, prefix, logits[held])


@torch.inference_mode()
def score(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> list[float]:
    """Log-probabilities of given tokens after a prompt, in one pass (teacher forcing)."""
    if not completion:
        return []
    logits = _forced_logits(model, prompt, completion)
    chosen = torch.tensor(list(completion), device=logits.device)
    result: list[float] = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0].tolist()
    return result


@torch.inference_mode()
def margins(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> list[float]:
    """How far the second best token was behind the best one at each place of a completion, nats (teacher forcing)."""
    if not completion:
        return []
    best = _forced_logits(model, prompt, completion).topk(2, dim=-1).values
    result: list[float] = (best[:, 0] - best[:, 1]).tolist()
    return result


def _forced_logits(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """The logits from which each completion token was drawn, shape (tokens, vocabulary), fp32."""
    tokens = torch.tensor([[*prompt, *completion]], device=model.device)
    logits: torch.Tensor = model(input_ids=tokens[:, :-1], logits_to_keep=len(completion), use_cache=False).logits[0]
    return logits.float()


def prefill(model: Any, prompts: Sequence[Sequence[int]], padding: int) -> tuple[Prefix, torch.Tensor]:
    """Compute the cache of every prompt and the logits after its last token, shape (prompts, vocabulary).

    The tokens that all prompts begin with (template, system message) run through the model once.
    """
    device = model.device
    cache = empty_cache(model)
    shared = shared_length(prompts) if can_share(model) else 0
    if shared:
        first = torch.tensor([list(prompts[0][:shared])], device=device)
        model(input_ids=first, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_select_indices(torch.zeros(len(prompts), dtype=torch.long, device=device))
    return continued(model, cache, shared, prompts, padding)


def empty_cache(model: Any) -> Any:
    return DynamicCache(config=model.config)


def continued(
    model: Any, cache: Any, shared: int, prompts: Sequence[Sequence[int]], padding: int
) -> tuple[Prefix, torch.Tensor]:
    """As `prefill`, where the cache already holds the first `shared` tokens of each prompt. It is used up."""
    device = model.device
    tokens, mask, positions = left_pad([prompt[shared:] for prompt in prompts], padding, shared)
    mask = mask.to(device)
    output = model(
        input_ids=tokens.to(device),
        attention_mask=mask,
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return Prefix(cache, mask, lengths), output.logits[:, -1]


def extended(model: Any, cache: Any, tokens: Sequence[int], start: int) -> tuple[Prefix, torch.Tensor]:
    """One row's cache of `start` tokens, with some more; the logits after the last, shape (1, vocabulary)."""
    device = model.device
    output = model(
        input_ids=torch.tensor([list(tokens)], device=device),
        position_ids=torch.arange(start, start + len(tokens), device=device)[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    length = start + len(tokens)
    mask = torch.ones(1, length, dtype=torch.long, device=device)
    return Prefix(cache, mask, torch.tensor([length], device=device)), output.logits[:, -1]


def can_share(model: Any) -> bool:
    """Whether a cache may be continued behind padding: only full attention leaves masked places out exactly."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    return set(kinds) == {"full_attention"}


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; at least one token of each is left, and one prompt shares nothing."""
    if len(prompts) < 2:
        return 0
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))  # in lexical order the others lie between these
    limit = min(len(prompt) for prompt in prompts) - 1
    shared = 0
    while shared < limit and low[shared] == high[shared]:
        shared += 1
    return shared


def left_pad(
    sequences: Sequence[Sequence[int]], padding: int, shared: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-align sequences that follow `shared` cached tokens.

    Returns:
        Tokens (rows, longest), mask (rows, shared + longest) and positions (rows, longest).
    """
    longest = max(len(sequence) for sequence in sequences)
    tokens = torch.full((len(sequences), longest), padding, dtype=torch.long)
    mask = torch.ones(len(sequences), shared + longest, dtype=torch.long)
    positions = torch.zeros(len(sequences), longest, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        start = longest - len(sequence)
        tokens[i, start:] = torch.tensor(list(sequence), dtype=torch.long)
        mask[i, shared : shared + start] = 0
        positions[i, start:] = torch.arange(shared, shared + len(sequence))
    return tokens, mask, positions


def _step(model: Any, prefix: Prefix, tokens: torch.Tensor) -> torch.Tensor:
    """Feed one token per row; returns the next logits, shape (rows, vocabulary)."""
    prefix.mask = torch.cat([prefix.mask, prefix.mask.new_ones(len(tokens), 1)], dim=1)
    output = model(
        input_ids=tokens[:, None],
        attention_mask=prefix.mask,
        position_ids=prefix.lengths[:, None],
        past_key_values=prefix.cache,
        use_cache=True,
    )
    prefix.lengths = prefix.lengths + 1
    logits: torch.Tensor = output.logits[:, -1]
    return logits
