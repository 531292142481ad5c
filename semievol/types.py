"""The records of the method, in the words of the design.

Owns plain immutable values: no I/O, no torch, no validation beyond what a constructor can say. Every
pseudo-label carries what explains it (neighbours, candidate answers, adapter); nothing else needs to be looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, dataclass_transform

Role = Literal["system", "user", "assistant"]
T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass that never changes, as the type checker sees to: one that sees to it by itself has to get round its
    own guard in the constructor, which takes three times as long, and a query that is labelled is some thirty values.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@value
class Message:
    """One chat turn."""

    role: Role
    content: str


@value
class Query:
    """An unlabeled question of the workload.

    `question` is always set: for a conversation it is the last user turn, and `messages` holds the whole of it.
    `options` are the choices of a multiple-choice query, in the order in which they are lettered A, B, C...
    """

    id: str
    question: str
    options: tuple[str, ...] | None = None
    messages: tuple[Message, ...] | None = None
    category: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@value
class Example:
    """A query with its true answer (canonical: see `Task.canonical`).

    `answer` is what is shown and taught; `alternatives` are other answers that are right as well.
    """

    query: Query
    answer: str
    source: str | None = None
    alternatives: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.query.id

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers that are right."""
        return (self.answer, *self.alternatives)


@value
class Neighbour:
    """An example retrieved for a query, with its cosine similarity in [-1, 1]."""

    example: Example
    similarity: float


@value
class Constraint:
    """The form that an answer has to have. `field`: what the client calls it, for messages.

    json_schema: `text` is the schema as JSON. regex: `text` is a regular expression for the whole answer. choice: one
    of `choices`.
    """

    kind: Literal["json_schema", "regex", "choice"]
    field: str
    text: str = ""
    choices: tuple[str, ...] = ()


@value
class Sampling:
    """How tokens are drawn beyond temperature and seed, in OpenAI's terms; the defaults change nothing.

    top_p, min_p: in [0, 1]. top_k: None: all tokens. presence_penalty, frequency_penalty: subtracted from the logits
    of tokens that were generated, once, and once a time. logit_bias: (token id, addend). stop: the text ends before
    the first of these. top_logprobs: how many alternatives are told for each token; None: nothing but the
    log-probabilities. constraint: log-probabilities are then those among the tokens that it lets follow.
    """

    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    constraint: Constraint | None = None


@value
class GenerationRequest:
    """One prompt to be answered by one adapter.

    `adapter` None means the base model. `temperature` 0 is greedy and needs `samples` 1. `seed` makes the samples
    reproducible: sample i of a request depends on (seed, i) alone, whatever else is in the batch.
    `interactive` requests overtake queued labelling work. `choices` are the only texts that may be answered; None lets
    the model write freely. With choices, log-probabilities are those among the tokens that a choice could go on with.
    `model` names the engine that answers, where there are several (engines.routed); None is the first.
    `prompt` is what the model goes on with as it stands, a text or tokens, in place of messages and their template.
    `prompt` and `sampling` are for clients of the gateway, and read by the generator in this process alone, as are
    `turn`, whose request it is (requests of one turn share one place in the order), and `time_s`, for how many seconds
    the engine may work on it; None: as long as it takes.
    `prompt_ids` are the tokens of `messages` where a server must not read them itself (engines.plain.reading).
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 32
    seed: int = 0
    interactive: bool = False
    choices: tuple[str, ...] | None = None
    model: str | None = None
    sampling: Sampling = Sampling()
    prompt_ids: tuple[int, ...] | None = None
    turn: str | None = None
    time_s: float | None = None
    prompt: str | tuple[int, ...] | None = None


@value
class TokenText:
    """A token as clients see it: its text, its bytes (a character may span tokens), its log-probability."""

    text: str
    bytes: bytes
    logprob: float


@value
class Completion:
    """One sampled response.

    `logprobs` are the natural-log probabilities of the generated tokens (the end token included, when it was
    generated) under the model at temperature 1, whatever temperature sampled them. `adapter` is the version
    that computed every token of it. A token id is -1 where the engine tells the text alone. `details`: for each token
    that the text has a part of, its text and those of its alternatives, where `Sampling.top_logprobs` asked for them.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    adapter: str | None
    prompt_tokens: int
    details: tuple[tuple[TokenText, tuple[TokenText, ...]], ...] = ()


@value
class Refused:
    """A request that can never be answered as it is asked; `too_long`: a shorter one may be."""

    reason: str
    too_long: bool = False


@value
class Late:
    """A request that a living server did not answer within its time."""

    reason: str


Reply = list[Completion] | Refused | Late
"""What becomes of one request; answered, it has one completion a sample."""


@value
class CandidateAnswer:
    """One completion, parsed. `answer` None: the text did not parse, and can never be selected.

    Candidates that mean the same have the same `answer`: that of the surest of them (see tasks.equality).
    """

    configuration: str
    text: str
    answer: str | None
    entropy: float


@value
class PseudoLabel:
    """The answer chosen for a query, with all that explains it.

    entropy: paper's H in nats per token, the mean over the candidate answers that gave `answer`.
    agreement: share of all candidate answers that parse to `answer`, in [0, 1].
    confidence: exp(-entropy) * agreement, in [0, 1]; for people and plots, never for selection.
    justified: the answer was picked by self-justification because the candidates differed.
    consensus: the answer's share, in [0, 1], of what was answered to this query and to those near it, which may have
        changed the answer; None: not asked for (`labelling.consensus`).
    right: the probability, in [0, 1], that the answer is right, as was learned from examples; None: not asked for
        (`selection.by: learned`).
    """

    query: Query
    answer: str | None
    entropy: float
    agreement: float
    confidence: float
    justified: bool
    adapter: str | None
    neighbours: tuple[tuple[str, float], ...]
    candidates: tuple[CandidateAnswer, ...]
    prompt_tokens: int = 0
    generated_tokens: int = 0
    consensus: float | None = None
    right: float | None = None


@value
class Unlabelled:
    """A query that got no pseudo-label. `late`: its answer did not come in time; else it can never be answered."""

    query: Query
    reason: str
    late: bool = False


@value
class TrainingRow:
    """One supervised pair: a rendered conversation and the completion that is learned (nothing else is).

    Of kind `query` there is no completion yet, and the conversation itself is read as text.
    """

    id: str
    messages: tuple[Message, ...]
    completion: str
    kind: Literal["example", "pseudo-label", "query"]
    weight: float = 1.0


@value
class Outcome:
    """What one model answered to one held-out example."""

    id: str
    expected: str
    answer: str | None
    correct: bool
    entropy: float
    category: str | None = None
