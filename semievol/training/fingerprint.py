"""The fingerprint of an adapter: what its weights answer, greedily, to prompts that are kept with it.

Owns which prompts are asked and what of the answers is kept. Owns not who compares them later, nor how near is near
enough (the service's attestation).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from semievol.engines import decoding
from semievol.engines.language_model import Prompts
from semievol.engines.sampling.sampler import Sampler
from semievol.errors import DataError
from semievol.training.job import TrainingJob
from semievol.types import Message, TrainingRow

_FINGERPRINT_TOKENS = 8
# Nothing that is taught. To its own rows every good adapter gives the same answer, and surely; here each goes its own
# way.
_PROBES = (
    "Once upon a time",
    "What is the weather like on Mars?",
    "zebra quantum ladder soup",
    "7 4 9 q x z",
    "Write one line about the sea.",
)


def _askable(prompts: Prompts, conversations: Iterable[tuple[Message, ...]], wanted: int) -> dict[Any, list[int]]:
    """{conversation: tokens} of the first `wanted` that the template takes and that leave room for an answer.

    None in which text was kept from becoming control tokens: a server that has to read it itself may do so otherwise.
    """
    found: dict[Any, list[int]] = {}
    for messages in conversations:
        if len(found) == wanted:
            break
        try:
            read = prompts.read(messages)
            prompts.check_length(len(read.ids), _FINGERPRINT_TOKENS)
        except DataError:
            continue
        if not read.neutralised:
            found.setdefault(messages, read.ids)
    return found


def take_fingerprint(
    adapted: Any, prompts: Prompts, job: TrainingJob, rows: Sequence[TrainingRow] = ()
) -> list[dict[str, Any]]:
    """What trained and base weights answer greedily to the job's fingerprint prompts and the probes.

    A prompt that the model cannot be asked gives way to that of another of the `rows`.

    The probes tell the adapters of one task apart. The base model's answers let whoever compares later tell rounding
    from other weights. All prompts in one batch.
    """
    if not job.fingerprint_prompts:
        return []
    adapted.eval()
    taught = _askable(
        prompts, [*job.fingerprint_prompts, *(row.messages for row in rows)], len(job.fingerprint_prompts)
    )
    probes = [(Message("user", text),) for text in _PROBES]
    asked = taught | _askable(prompts, probes, len(probes))
    if not asked:
        raise DataError("the chat template refuses every prompt of the fingerprint, so that nothing could be proved")
    conversations, tokens = list(asked), list(asked.values())
    trained = _greedy(adapted, prompts, tokens)
    with adapted.disable_adapter():
        base = _greedy(adapted, prompts, tokens)
    return [
        {"messages": [asdict(message) for message in messages], **answer, "base": of_base}
        for messages, answer, of_base in zip(conversations, trained, base, strict=True)
    ]


def _greedy(adapted: Any, prompts: Prompts, tokens: Sequence[list[int]]) -> list[dict[str, Any]]:
    """Each prompt's greedy answer: tokens, log-probabilities, and how far behind the second best token was."""
    model = adapted.get_base_model()
    different = [list(prompt) for prompt in dict.fromkeys(map(tuple, tokens))]
    rows = [decoding.Row(different.index(prompt), Sampler(0.0, 0), _FINGERPRINT_TOKENS) for prompt in tokens]
    decoded = decoding.decode(model, different, rows, end_tokens=prompts.end_tokens, padding=prompts.padding)
    return [
        {
            "token_ids": answer.token_ids,
            "logprobs": [round(logprob, 6) for logprob in answer.logprobs],
            "margins": [round(margin, 6) for margin in decoding.margins(model, prompt, answer.token_ids)],
        }
        for prompt, answer in zip(tokens, decoded, strict=True)
    ]
