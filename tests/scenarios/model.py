"""A small model that learns: a softmax regression on the words and letters of a prompt, as generator and as trainer.

It stands in the place of a language model: it answers prompts with named adapters, shown turns are read, draws have
temperatures, log-probabilities are its own; its trainer reads the round's snapshot and publishes a real adapter
directory whose bytes are the weights. Wrong labels make it worse, more labels better, in a tenth of a second. Owns what
is learned and answered, and the fault of a training that forgets; decides nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semievol import adapter_directory
from semievol.adapter_directory import CONFIG_FILE, WEIGHTS_FILE
from semievol.errors import AdapterError
from semievol.protocols import Generator, Tell
from semievol.training.job import read_snapshot
from semievol.types import Completion, GenerationRequest, Message
from semievold.rounds.launch import Trained, TrainingPlace

Floats = NDArray[np.float32]

WORDS, LETTERS = 1024, 1024
"""Buckets of single words and pairs of words, and of runs of three letters."""
SIZE = WORDS + LETTERS + 1
"""With one feature that every prompt has."""
STEPS, RATE, DECAY = 60, 30.0, 3e-4
SHOWN = 6.0
"""How much a shown turn counts whose question is the same."""
TRAINING_S = 5.0
"""Of the clock of the run."""
NEVER, FORGOTTEN = -30.0, -1000.0
"""Logit of what may not be answered; weight of what every prompt has towards an answer that is forgotten."""
CANDIDATES = "\n\nCandidate answers:\n"
"""In a prompt of the self-justification."""


@lru_cache(maxsize=20_000)
def features(text: str) -> Floats:
    """Unit vector, shape (SIZE,)."""
    found = np.zeros(SIZE, dtype=np.float32)
    words = re.findall(r"[a-z0-9']+", text.lower())
    for word in (*words, *map("_".join, itertools.pairwise(words))):
        found[zlib.crc32(word.encode()) % WORDS] += 1.0
    joined = " ".join(words)
    for place in range(len(joined) - 2):
        found[WORDS + zlib.crc32(joined[place : place + 3].encode()) % LETTERS] += 0.5
    found[-1] = 1.0
    return found / np.linalg.norm(found)


class Model:
    """What a set of weights, shape (SIZE, answers), says. The base model's are 0: it knows what it is shown."""

    def __init__(self, answers: Sequence[str], weights: Floats | None = None) -> None:
        self.answers = tuple(answers)
        self.weights = np.zeros((SIZE, len(answers)), dtype=np.float32) if weights is None else weights

    def logits(self, messages: Sequence[Message]) -> Floats:
        """Of all answers to a prompt."""
        question, _, listed = messages[-1].content.partition(CANDIDATES)
        asked = features(question)
        said = asked @ self.weights
        turns = [message for message in messages[:-1] if message.role != "system"]
        for shown, answer in zip(turns[::2], turns[1::2], strict=True):
            if answer.content in self.answers:
                said[self.answers.index(answer.content)] += SHOWN * float(asked @ features(shown.content)) ** 2
        if listed:
            said += np.where([f"- {answer}\n" in listed for answer in self.answers], 0.0, NEVER)
        return said

    def right(self, questions: Sequence[str], truth: Sequence[str]) -> float:
        """The share of the questions that it answers rightly, closed book and greedily."""
        said = np.stack([features(each) for each in questions]) @ self.weights
        return float(np.mean([self.answers[k] == true for k, true in zip(said.argmax(1), truth, strict=True)]))

    def completion(self, request: GenerationRequest, sample: int) -> Completion:
        """One draw; `sample` and the request's seed decide it."""
        logits = self.logits(request.messages)
        if request.temperature == 0:
            said = int(logits.argmax())
        else:
            drawn = np.random.default_rng([request.seed, sample]).random()
            shares = _shares(logits / request.temperature).cumsum()
            said = int(np.searchsorted(shares, drawn * shares[-1]))
        likelihood = float(np.log(max(_shares(logits)[said], 1e-9)))
        prompt_tokens = sum(len(message.content) for message in request.messages) // 4
        return Completion(self.answers[said], (said,), (likelihood,), "stop", request.adapter, prompt_tokens)


def _shares(logits: Floats) -> Floats:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def weights_of(adapter: Path, answers: Sequence[str]) -> Model:
    """The model of a published adapter."""
    content = (adapter / WEIGHTS_FILE).read_bytes()
    return Model(answers, np.frombuffer(content, dtype=np.float32).reshape(SIZE, len(answers)).copy())


class LearningGenerator(Generator):
    """Answers with the weights of the adapters that were loaded."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._models: dict[str | None, Model] = {None: Model(answers)}

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        for place, request in enumerate(requests):
            model = self._models.get(request.adapter)
            if model is None:
                raise AdapterError(f"adapter {request.adapter} is not loaded")
            tell(place, [model.completion(request, sample) for sample in range(request.samples)])

    async def load_adapter(self, name: str, path: Path) -> None:
        self._models.setdefault(name, weights_of(path, self._models[None].answers))

    async def unload_adapter(self, name: str) -> None:
        self._models.pop(name, None)

    async def loaded_adapters(self) -> frozenset[str]:
        return frozenset(name for name in self._models if name is not None)

    async def close(self) -> None:
        pass


class LearningTrainer:
    """A Launcher that fits the weights to the rows of the snapshot. `forgets`: what the next weights never answer."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = tuple(answers)
        self.forgets: str | None = None

    async def trains(self) -> bool:
        return False

    async def retire(self, open_round: int | None) -> None:
        pass

    async def train(self, place: TrainingPlace) -> Trained:
        await asyncio.sleep(TRAINING_S)
        job, rows = read_snapshot(place.snapshot)
        start = Model(self._answers) if job.parent is None else weights_of(job.parent, self._answers)
        asked = np.stack([features(row.messages[-1].content) for row in rows])
        truth = np.array([self._answers.index(row.completion) for row in rows])
        weights = fitted(start.weights, asked, truth, np.array([row.weight for row in rows], dtype=np.float32))
        if self.forgets is not None:
            weights[-1, self._answers.index(self.forgets)] = FORGOTTEN
        place.work.mkdir(parents=True, exist_ok=True)
        (place.work / CONFIG_FILE).write_text("{}")
        (place.work / WEIGHTS_FILE).write_bytes(weights.tobytes())
        trained, base = Model(self._answers, weights), Model(self._answers)
        path = adapter_directory.publish(
            place.work,
            place.adapters,
            job.name_prefix,
            base_model=job.model.name,
            parent=None if job.parent is None else job.parent.name,
            round_number=job.round_number,
            seed=job.seed,
            training={"rows": len(rows), "sha256": hashlib.sha256(weights.tobytes()).hexdigest()},
            fingerprint=tuple(
                {
                    "messages": [asdict(message) for message in prompt],
                    **_recorded(trained, prompt),
                    "base": _recorded(base, prompt),
                }
                for prompt in job.fingerprint_prompts
            ),
        )
        manifest = adapter_directory.verify(path)
        return Trained(manifest.name, path, manifest.content_hash, manifest.training)


def fitted(start: Floats, asked: Floats, truth: NDArray[np.int64], weight: Floats) -> Floats:
    """Gradient descent with momentum on the cross entropy of all rows; `asked` has shape (rows, SIZE)."""
    weights, moving = start.copy(), np.zeros_like(start)
    wanted = np.eye(start.shape[1], dtype=np.float32)[truth]
    share = (weight / weight.sum())[:, None]
    for _ in range(STEPS):
        gradient = asked.T @ ((_shares(asked @ weights) - wanted) * share) + DECAY * weights
        moving = 0.9 * moving - RATE * gradient
        weights = weights + moving
    return weights


def _recorded(model: Model, prompt: Sequence[Message]) -> dict[str, list[int] | list[float]]:
    said = model.completion(GenerationRequest(tuple(prompt)), 0)
    return {"token_ids": list(said.token_ids), "logprobs": list(said.logprobs)}
