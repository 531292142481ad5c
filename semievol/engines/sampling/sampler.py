"""How the next token of each row is drawn from its logits.

Owns temperature, seed and what a request may ask beyond them (`types.Sampling`): nucleus, penalties, biases, stop
strings, constraints, log-probabilities of alternatives. Owns no model, no batch and no queue: whoever decodes has one
`Sampler` a row and calls `draw` with the logits of all rows that run.
Invariant: a row's tokens depend on its logits, options and seed alone; rows that ask for nothing more than a
temperature are drawn together, in one pass, as if nobody could ask for more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from semievol.engines.sampling.stops import Decode, GrowingText, StopFinder
from semievol.seeds import derive
from semievol.types import Sampling

_PLAIN = Sampling()
_NUMBERS_AT_ONCE = 64


class Matcher(Protocol):
    """Follows one completion through a constraint (engines.sampling.constraints)."""

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits of one row, shape (vocabulary,), with those of forbidden tokens at minus infinity."""
        ...

    def accept(self, token_id: int) -> None:
        """Go on with a token that was drawn."""
        ...

    @property
    def failed(self) -> str | None:
        """Why the row cannot go on under its constraint."""
        ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, its log-probability at temperature 1, and the likeliest tokens with theirs (`Sampling.top_logprobs`)."""

    token_id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


class Sampler:
    """The choices of one row: sample `sample` of a request.

    `stopped` says after a token whether the row ends there, by a stop string or because its constraint `failed`; end
    tokens and limits are for whoever decodes. Used by one thread at a time.
    """

    def __init__(
        self,
        temperature: float,
        seed: int,
        sample: int = 0,
        options: Sampling = _PLAIN,
        *,
        decode: Decode | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        """Begin a row.

        Args:
            temperature: 0 takes the likeliest token.
            seed: any integer; with `sample` it decides all that is random.
            sample: which sample of the request.
            options: what is asked beyond temperature and seed.
            decode: tokens to text; needed for stop strings.
            matcher: what the tokens have to follow, where there is something.

        Raises:
            ValueError: stop strings without `decode`.
        """
        if options.stop and decode is None:
            raise ValueError("stop strings need a tokenizer to be found")
        self.temperature = temperature
        self.options = options
        self.stopped = False
        self._numbers: list[float] = []
        self._random = np.random.default_rng(derive(seed, "sample", sample))
        self._counts: Counter[int] = Counter()
        self._matcher = matcher
        self._text = GrowingText(decode) if options.stop and decode is not None else None
        self._stops = StopFinder(options.stop)
        self._shown: list[str] = []
        self._follows = self._text is not None or matcher is not None or self._penalized
        self._adjusts = matcher is not None or self._penalized or bool(options.logit_bias)
        self._narrows = temperature > 0 and (options.top_p < 1 or options.top_k is not None or options.min_p > 0)

    @property
    def plain(self) -> bool:
        """Whether its logits can be used as they are."""
        return not (self._adjusts or self._narrows)

    @property
    def failed(self) -> str | None:
        """Why there is no answer: the constraint could not be followed."""
        return None if self._matcher is None else self._matcher.failed

    @property
    def _penalized(self) -> bool:
        return bool(self.options.presence_penalty or self.options.frequency_penalty)

    def uniform(self) -> float:
        """The row's next random number in [0, 1)."""
        if not self._numbers:  # in blocks, which gives the same numbers as one by one and takes less time
            self._numbers = self._random.random(_NUMBERS_AT_ONCE).tolist()[::-1]
        return self._numbers.pop()

    def allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits, shape (vocabulary,), without the tokens that the constraint forbids."""
        return logits if self._matcher is None else self._matcher.allow(logits)

    def adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """From allowed logits, those to draw from: biases and penalties added, unlikely tokens left out."""
        options = self.options
        if self._adjusts and (options.logit_bias or self._counts):
            logits = logits.clone()
            if options.logit_bias:
                _add(logits, options.logit_bias)
            if self._penalized:
                penalties = (
                    (token, -options.presence_penalty - options.frequency_penalty * times)
                    for token, times in self._counts.items()
                )
                _add(logits, tuple(penalties))
        return _narrowed(logits, self.temperature, options) if self._narrows else logits

    def took(self, token_id: int, *, end: bool = False) -> None:
        """Go on with the token that was drawn; sets `stopped`.

        Args:
            token_id: the token.
            end: it ends the turn, so that it has no text.
        """
        if not self._follows:
            return
        self._counts[token_id] += 1
        if self._matcher is not None:
            self._matcher.accept(token_id)
            self.stopped = self._matcher.failed is not None
        if self._text is None:
            return
        self._shown.append(self._stops.add(self._text.rest() if end else self._text.add(token_id)))
        self.stopped = self.stopped or self._stops.stopped

    def text(self) -> str | None:
        """The whole text up to the first stop string, once the row has ended; None without stop strings."""
        if self._text is None:
            return None
        self._shown.append(self._stops.add(self._text.rest()))
        self._shown.append(self._stops.rest())
        self._shown = ["".join(self._shown)]
        return self._shown[0]


def draw(logits: torch.Tensor, samplers: Sequence[Sampler], live: Sequence[bool] | None = None) -> list[Drawn]:
    """One token for each row. Which of them a row goes on with, its sampler has to be told (`Sampler.took`).

    Args:
        logits: shape (rows, vocabulary); not changed.
        samplers: one for each row.
        live: rows that have not ended; for the others some token comes back. None: all.
    """
    temperatures = torch.tensor([each.temperature for each in samplers], dtype=torch.float32, device=logits.device)
    uniforms = torch.tensor(
        [each.uniform() if each.temperature > 0 else 0.0 for each in samplers],
        dtype=torch.float64,
        device=logits.device,
    )
    logits = logits.float()
    changed = [row for row, each in enumerate(samplers) if not each.plain and (live is None or live[row])]
    allowed = target = logits
    if changed:
        allowed, target = logits.clone(), logits.clone()
        for row in changed:
            allowed[row] = samplers[row].allowed(logits[row])
            target[row] = samplers[row].adjusted(allowed[row])
    tokens = choose(target, temperatures, uniforms)
    normalizers = allowed.logsumexp(-1)
    logprobs = allowed.gather(-1, tokens[:, None])[:, 0] - normalizers
    likeliest = _likeliest(allowed, normalizers, [each.options.top_logprobs or 0 for each in samplers])
    return [
        Drawn(token, logprob, likeliest.get(row, ()))
        for row, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True))
    ]


def choose(logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """One token a row by inverse CDF, shape (rows,); temperature 0 takes the likeliest.

    Args:
        logits: shape (rows, vocabulary), fp32.
        temperatures: shape (rows,).
        uniforms: shape (rows,), fp64 in [0, 1).
    """
    tokens = logits.argmax(-1)
    sampled = (temperatures > 0).nonzero()[:, 0]
    if len(sampled):
        scaled = (logits[sampled] / temperatures[sampled, None]).softmax(-1)
        cumulative = scaled.double().cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniforms[sampled, None] * cumulative[:, -1:], right=True)
        tokens[sampled] = drawn[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens


def _narrowed(logits: torch.Tensor, temperature: float, options: Sampling) -> torch.Tensor:
    """Logits, shape (vocabulary,), at minus infinity for tokens outside `top_k`, `min_p` and `top_p`, in this order."""
    values, order = (logits / temperature).sort(descending=True, stable=True)
    if options.top_k is not None:
        values, order = values[: options.top_k], order[: options.top_k]
    probabilities = values.softmax(-1)
    kept = probabilities >= options.min_p * probabilities[0]
    if options.top_p < 1:
        # The token with which the sum reaches top_p is the last one in; the likeliest one always is.
        kept &= (probabilities * kept).cumsum(-1) - probabilities < options.top_p * (probabilities * kept).sum()
    kept[0] = True
    result = torch.full_like(logits, -torch.inf)
    inside = order[kept]
    result[inside] = logits[inside]
    return result


def _likeliest(
    logits: torch.Tensor, normalizers: torch.Tensor, wanted: Sequence[int]
) -> dict[int, tuple[tuple[int, float], ...]]:
    """By row: the likeliest tokens with their log-probabilities, for rows that want some."""
    rows = [row for row, count in enumerate(wanted) if count]
    if not rows:
        return {}
    values, tokens = logits[rows].topk(min(max(wanted), logits.shape[-1]))
    values = values - normalizers[rows, None]
    return {
        row: tuple(zip(some[: wanted[row]], their[: wanted[row]], strict=True))
        for row, some, their in zip(rows, tokens.tolist(), values.tolist(), strict=True)
    }


def _add(logits: torch.Tensor, terms: Iterable[tuple[int, float]]) -> None:
    """Add to single tokens of one row, in place; tokens that the model does not have are left out."""
    pairs = [(token, value) for token, value in terms if 0 <= token < len(logits)]
    if pairs:
        places = torch.tensor([token for token, _ in pairs], device=logits.device)
        logits.index_add_(0, places, torch.tensor([value for _, value in pairs], device=logits.device))
