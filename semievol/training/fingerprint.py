"""The fingerprint of an adapter: what its weights answer, greedily, to prompts that are kept with it.

Owns which prompts are asked and what of the answers is kept. Owns not who compares them later, nor how near is near
enough (the service's attestation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from semievol.engines import decoding
from semievol.engines.language_model import Prompts
from semievol.training.job import TrainingJob
from semievol.types import Message

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


def take_fingerprint(adapted: Any, prompts: Prompts, job: TrainingJob) -> list[dict[str, Any]]:
    """What trained and base weights answer greedily to the job's fingerprint prompts and the probes.

    The probes tell the adapters of one task apart. The base model's answers let whoever compares later tell rounding
    from other weights. All prompts in one batch.
    """
    if not job.fingerprint_prompts:
        return []
    adapted.eval()
    conversations = [*job.fingerprint_prompts, *((Message("user", text),) for text in _PROBES)]
    tokens = [prompts.prompt_tokens(messages) for messages in conversations]
    for prompt in tokens:
        prompts.check_length(len(prompt), _FINGERPRINT_TOKENS)
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
    rows = [decoding.Row(different.index(prompt), 0, 0, 0.0, _FINGERPRINT_TOKENS) for prompt in tokens]
    decoded = decoding.decode(model, different, rows, end_tokens=prompts.end_tokens, padding=prompts.padding)
    return [
        {
            "token_ids": answer.token_ids,
            "logprobs": [round(logprob, 6) for logprob in answer.logprobs],
            "margins": [round(margin, 6) for margin in decoding.margins(model, prompt, answer.token_ids)],
        }
        for prompt, answer in zip(tokens, decoded, strict=True)
    ]
