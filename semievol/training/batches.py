"""Training rows as batches of tokens.

Owns which tokens are learned, the order of rows over all epochs and the layout of a batch. Owns no model. The rows of
all epochs form one stream, laid out before the first step, so that resuming a training means skipping.
Invariant: the order is a function of lengths, batch size, epochs and seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from semievol.engines import decoding
from semievol.engines.language_model import Prompts
from semievol.engines.plain.tally import NEUTRALISED
from semievol.errors import DataError
from semievol.seeds import derive
from semievol.types import TrainingRow

IGNORED = -100
"""The label of a place that teaches nothing."""

# Rows are sorted by length within windows of this many batches: little padding, and still well mixed.
_WINDOW_BATCHES = 8
# A second pass for the shared tokens costs about as much as this many tokens more in the first one.
_SHARING_PAYS_TOKENS = 400


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A training row in tokens. Learned are `completion` (with the end of turn) alone."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Tokenized:
    """What is trained on.

    cut: ids of the rows whose prompts lost their start.
    left_out: why each of the other rows cannot be trained on, by id.
    neutralised: ids of the rows in which text was kept from becoming control tokens.
    """

    rows: list[TokenRow]
    cut: tuple[str, ...]
    left_out: Mapping[str, str]
    neutralised: tuple[str, ...] = ()


def tokenize(rows: Sequence[TrainingRow], prompts: Prompts, max_tokens: int) -> Tokenized:
    """Rows in tokens, each at most `max_tokens` long: too long prompts lose their start. Weight 0 is left out.

    A row that the chat template refuses, or whose completion leaves no room, is left out and named: one of them must
    not end a training.

    Raises:
        DataError: every weight is 0, or no row can be trained on.
    """
    limit = max_tokens if prompts.positions is None else min(max_tokens, prompts.positions)
    result: list[TokenRow] = []
    cut: list[str] = []
    left_out: dict[str, str] = {}
    neutralised: list[str] = []
    for row in rows:
        if row.weight == 0:
            continue
        try:
            prompt, read = prompts.read_completion(row.messages, row.completion)
        except DataError as error:
            left_out[row.id] = str(error)
            continue
        completion = read.ids
        if read.neutralised:
            neutralised.append(row.id)
            NEUTRALISED.add("training")
        room = limit - len(completion)
        if room < 1:
            left_out[row.id] = (
                f"its completion has {len(completion)} tokens, training.max_tokens and the model allow {limit} for "
                "prompt and completion"
            )
            continue
        if len(prompt) > room:
            cut.append(row.id)
        result.append(TokenRow(tuple(prompt[-room:]), tuple(completion), row.weight))
    if not result and left_out:
        name, reason = next(iter(left_out.items()))
        raise DataError(f"none of {len(left_out)} rows can be trained on; row {name}: {reason}")
    if not result:
        raise DataError("every row has weight 0, nothing to train on")
    return Tokenized(result, tuple(cut), left_out, tuple(neutralised))


def tokenize_texts(rows: Sequence[TrainingRow], prompts: Prompts, max_tokens: int) -> Tokenized:
    """Conversations in tokens, to be learned as text; one that is too long loses its end.

    What all of them begin and end with, instruction and template, is no text of theirs: the one is read and not
    learned, the other left away. One that the template refuses, or that says nothing besides, is left out and named.

    Raises:
        DataError: none can be learned.
    """
    limit = max_tokens if prompts.positions is None else min(max_tokens, prompts.positions)
    found: dict[str, tuple[int, ...]] = {}
    left_out: dict[str, str] = {}
    neutralised: list[str] = []
    for row in rows:
        try:
            read = prompts.read(row.messages)
        except DataError as error:
            left_out[row.id] = str(error)
            continue
        if read.neutralised:
            neutralised.append(row.id)
            NEUTRALISED.add("training")
        found[row.id] = tuple(read.ids)
    different = list(dict.fromkeys(found.values()))
    head = max(1, decoding.shared_length(different))
    tail = decoding.shared_length([ids[: head - 1 : -1] for ids in different])
    result: list[TokenRow] = []
    cut: list[str] = []
    for row in rows:
        if row.id not in found:
            continue
        ids = found[row.id]
        text = ids[head : len(ids) - tail]
        if head >= limit or not text:
            left_out[row.id] = (
                f"it begins with {head} tokens that all begin with, of {limit} that training.max_tokens and the model "
                "allow, and has no text besides"
            )
            continue
        if len(text) > limit - head:
            cut.append(row.id)
        result.append(TokenRow(ids[:head], text[: limit - head], row.weight))
    if not result:
        name, reason = next(iter(left_out.items()), ("", "there is none"))
        raise DataError(f"none of {len(rows)} texts can be learned; {name}: {reason}")
    return Tokenized(result, tuple(cut), left_out, tuple(neutralised))


def batch_order(lengths: Sequence[int], batch_size: int, epochs: float, seed: int) -> list[int]:
    """The rows of all steps, one after the other: every `batch_size` of them are one optimiser step.

    Each epoch is a fresh permutation. Within windows the rows of an epoch are sorted by length and the batches then
    shuffled; a last batch that is short stays last.
    """
    random = np.random.default_rng(derive(seed, "batches"))
    rows = len(lengths)
    count = max(1, round(epochs * rows))
    stream: list[int] = []
    while len(stream) < count:
        stream.extend(random.permutation(rows).tolist())
    order: list[int] = []
    window_rows = _WINDOW_BATCHES * batch_size
    for start in range(0, count, window_rows):
        places = range(start, min(start + window_rows, count))
        # Epochs apart: sorted together, copies of a row would be neighbours and fill a batch.
        window = [stream[i] for i in sorted(places, key=lambda i: (i // rows, lengths[stream[i]]))]
        full, rest = divmod(len(window), batch_size)
        for batch in random.permutation(full):
            order.extend(window[batch * batch_size : (batch + 1) * batch_size])
        order.extend(window[len(window) - rest :])
    return order


def whole_batches(stream: Sequence[TokenRow], batch_size: int) -> list[TokenRow]:
    """The stream, its last batch filled up with rows of weight 0, which teach nothing.

    Several processes take equal shares of a batch; accelerate would fill a short one with rows from the start.
    """
    missing = -len(stream) % batch_size
    shortest = min(stream, key=lambda row: row.length)
    return [*stream, *[replace(shortest, weight=0.0)] * missing]


def collate(rows: Sequence[TokenRow], padding: int, *, share: bool) -> dict[str, torch.Tensor]:
    """A batch whose completions end at the right edge.

    Returns:
        shared_ids (1, shared) when sharing pays; input_ids, position_ids (rows, width) without the last token;
        attention_mask (rows, shared + width); labels (rows, longest completion), right-aligned; weights (rows,).
    """
    shared = decoding.shared_length([row.prompt for row in rows]) if share else 0
    if shared * (len(rows) - 1) < _SHARING_PAYS_TOKENS:
        shared = 0
    sequences = [(*row.prompt[shared:], *row.completion[:-1]) for row in rows]
    input_ids, mask, positions = decoding.left_pad(sequences, padding, shared)
    labels = torch.full((len(rows), max(len(row.completion) for row in rows)), IGNORED)
    for i, row in enumerate(rows):
        labels[i, labels.shape[1] - len(row.completion) :] = torch.tensor(row.completion)
    batch = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "labels": labels}
    batch["weights"] = torch.tensor([row.weight for row in rows], dtype=torch.float32)
    if shared:
        batch["shared_ids"] = torch.tensor([rows[0].prompt[:shared]])
    return batch
