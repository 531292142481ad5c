"""A request's samplers before it is decoded, and its completions after.

Owns what needs the tokenizer: finding stop strings, telling tokens as texts, refusing tokens that there are not.
Invariant: a request that asks for nothing of this gets the samplers and the text that it always got.
"""

from __future__ import annotations

from collections.abc import Sequence

from semievol.engines.decoding import Decoded
from semievol.engines.language_model import Prompts
from semievol.engines.sampling.constraints import Constraints
from semievol.engines.sampling.sampler import Sampler
from semievol.engines.sampling.token_texts import TokenTexts
from semievol.errors import DataError
from semievol.types import Completion, GenerationRequest, TokenText


class RequestSampling:
    """Makes samplers and completions for the requests of one tokenizer."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._texts: TokenTexts | None = None
        self._constraints = Constraints(prompts)

    def samplers(self, request: GenerationRequest) -> list[Sampler]:
        """One for each sample of the request.

        Raises:
            DataError: it names a token that there is not, or a constraint that cannot be held to.
        """
        options = request.sampling
        self._prompts.check_tokens([token for token, _ in options.logit_bias], "logit_bias")
        return [
            Sampler(
                request.temperature,
                request.seed,
                sample,
                options,
                decode=self._prompts.text,
                matcher=None if options.constraint is None else self._constraints.matcher(options.constraint),
            )
            for sample in range(request.samples)
        ]

    def answer(
        self, request: GenerationRequest, samplers: Sequence[Sampler], rows: Sequence[Decoded], prompt_tokens: int
    ) -> list[Completion] | DataError:
        """What a client or the labelling is told of a request whose rows have ended."""
        if (failed := next((each.failed for each in samplers if each.failed is not None), None)) is not None:
            constraint = request.sampling.constraint
            return DataError(f"{'' if constraint is None else constraint.field + ': '}{failed}")
        return [
            self._completion(request, sampler, row, prompt_tokens) for sampler, row in zip(samplers, rows, strict=True)
        ]

    def _completion(self, request: GenerationRequest, sampler: Sampler, row: Decoded, prompt_tokens: int) -> Completion:
        cut = sampler.text()
        text = self._prompts.text(row.token_ids) if cut is None else cut
        return Completion(
            text=text,
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            finish_reason="stop" if row.stopped else "length",
            adapter=request.adapter,
            prompt_tokens=prompt_tokens,
            details=()
            if request.sampling.top_logprobs is None
            else self._details(row, cut if sampler.stopped else None),
        )

    def _details(self, row: Decoded, cut: str | None) -> tuple[tuple[TokenText, tuple[TokenText, ...]], ...]:
        """Each token with its alternatives; of a text that was cut, those that it has a part of."""
        details = [
            (self._token(token, logprob), tuple(self._token(*other) for other in others))
            for token, logprob, others in zip(row.token_ids, row.logprobs, row.likeliest, strict=True)
        ]
        if cut is not None:
            details = details[: _tokens_within([token.bytes for token, _ in details], len(cut.encode()))]
        return tuple(details)

    def _token(self, token_id: int, logprob: float) -> TokenText:
        if self._texts is None:
            self._texts = TokenTexts(self._prompts.tokenizer)
        written = self._texts.of(token_id)
        return TokenText(written.decode(errors="replace"), written, logprob)


def _tokens_within(tokens: Sequence[bytes], length: int) -> int:
    """How many tokens begin before `length` bytes."""
    begin = 0
    for count, token in enumerate(tokens):
        if begin >= length:
            return count
        begin += len(token)
    return len(tokens)
