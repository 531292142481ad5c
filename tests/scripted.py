"""Fakes at the method's protocols: a Generator that answers from a script and an ExampleIndex that lists examples.

And a pseudo-label as such a Generator would give it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from semievol.errors import AdapterError, DataError, LateError, TooLongError
from semievol.protocols import Generator, Tell
from semievol.types import (
    CandidateAnswer,
    Completion,
    Example,
    GenerationRequest,
    Late,
    Neighbour,
    PseudoLabel,
    Query,
    Refused,
)

Script = Callable[[GenerationRequest], Sequence[str | tuple[str, float]]]
"""The texts (optionally with their entropy in nats per token) that answer a request, one a sample."""


def completion(
    text: str, entropy: float = 0.5, *, prompt_tokens: int = 10, finish_reason: str = "stop", adapter: str | None = None
) -> Completion:
    """A completion of two tokens."""
    assert finish_reason in ("stop", "length")
    return Completion(
        text=text,
        token_ids=(1, 2),
        logprobs=(-entropy, -entropy),
        finish_reason="length" if finish_reason == "length" else "stop",
        adapter=adapter,
        prompt_tokens=prompt_tokens,
    )


def pseudo_label(
    query_id: str, question: str, answer: str | None, entropy: float, configuration: str = "c"
) -> PseudoLabel:
    """What the base model said in the one answer that it gave."""
    return PseudoLabel(
        query=Query(query_id, question),
        answer=answer,
        entropy=entropy,
        agreement=1.0,
        confidence=0.5,
        justified=False,
        adapter=None,
        neighbours=(),
        candidates=(CandidateAnswer(configuration, str(answer), answer, entropy),),
    )


class ScriptedGenerator(Generator):
    """Answers by a script and remembers every call; a request whose script raises a DataError is refused."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[list[GenerationRequest]] = []
        self.adapters: set[str] = set()

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        self.calls.append(list(requests))
        for place, request in enumerate(requests):
            try:
                tell(place, self._answer(request))
            except LateError as late:
                tell(place, Late(str(late)))
            except DataError as refusal:
                tell(place, Refused(str(refusal), too_long=isinstance(refusal, TooLongError)))

    def _answer(self, request: GenerationRequest) -> list[Completion]:
        if request.adapter is not None and request.adapter not in self.adapters:
            raise AdapterError(f"adapter {request.adapter} is not loaded")
        texts = self.script(request)
        assert len(texts) == request.samples
        return [completion(*((text,) if isinstance(text, str) else text), adapter=request.adapter) for text in texts]

    async def load_adapter(self, name: str, path: Path) -> None:
        self.adapters.add(name)

    async def unload_adapter(self, name: str) -> None:
        self.adapters.discard(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return frozenset(self.adapters)

    async def close(self) -> None:
        self.adapters.clear()


class ListIndex:
    """Every example is a neighbour of every question, in the order of insertion, ever less similar."""

    def __init__(self, examples: Sequence[Example] = (), refuses: str | None = None) -> None:
        """`refuses`: the question that its embedder does not take."""
        self.examples = {example.id: example for example in examples}
        self.refuses = refuses
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def upsert(self, examples: Sequence[Example]) -> None:
        self.examples |= {example.id: example for example in examples}

    def delete(self, ids: Sequence[str]) -> None:
        for example_id in ids:
            self.examples.pop(example_id, None)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        self.asked.append((tuple(questions), k))
        if self.refuses in questions:
            raise DataError("embedding: refuses a text")
        nearest = [Neighbour(each, 0.9 - 0.1 * rank) for rank, each in enumerate(self.examples.values())]
        return [nearest[:k] for _ in questions]

    def ids(self) -> frozenset[str]:
        return frozenset(self.examples)

    def close(self) -> None:
        pass
