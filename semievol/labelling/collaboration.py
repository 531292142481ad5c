"""Collaborative labelling: several inference configurations answer each query, and one answer comes out.

Owns the two stages (candidate answers, self-justification where they differ) and the vote. Does not decide which
answers mean the same (tasks.equality), nor what is trained on (selection). Invariants: every candidate answer counts
in the agreement, parseable or not; an answer is one that a candidate gave; the same queries, seed and adapter give the
same pseudo-labels however they are batched, and whatever becomes of the queries beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, cast

from semievol.config.method import Configuration, LabellingConfig
from semievol.engines.shared_calls import Gathered, SharedCalls, worked_off
from semievol.errors import ConfigError, DataError
from semievol.labelling import confidence
from semievol.labelling.propagation import arrange, retrieve_each
from semievol.labelling.shortening import Shown, asked
from semievol.protocols import ExampleIndex, Generator
from semievol.seeds import derive
from semievol.tasks.equality import AnswerEquality, Same, clustered
from semievol.tasks.task import Task
from semievol.types import (
    CandidateAnswer,
    Completion,
    Example,
    GenerationRequest,
    Late,
    Message,
    Neighbour,
    PseudoLabel,
    Query,
    Refused,
    Reply,
    Unlabelled,
    value,
)

Told = Callable[[PseudoLabel | Unlabelled], None]
"""Is told of a query that is finished."""


@value
class _Answers:
    """The first stage's result for one query."""

    query: Query
    neighbours: list[Neighbour]
    candidates: tuple[CandidateAnswer, ...]
    ranked: list[str]
    prompt_tokens: int
    generated_tokens: int


class CollaborativeLabeller:
    """Labels queries with one generator, one example index and one seed.

    Args:
        generator: answers prompts.
        index: source of neighbours; None when every configuration is closed book.
        task: prompts and parsing.
        config: configurations, self-justification and batch size.
        seed: the run's seed.
        equality: which answers mean the same; None: what the task says by itself, without an embedder.
        attempts: how often a request is asked that is late each time, before its query is left out.

    Raises:
        ConfigError: a configuration wants neighbours and there is no index, or the task wants an embedder.
    """

    def __init__(
        self,
        generator: Generator,
        index: ExampleIndex | None,
        task: Task,
        config: LabellingConfig,
        seed: int,
        *,
        equality: AnswerEquality | None = None,
        attempts: int = 2,
    ) -> None:
        self._calls = SharedCalls(generator, attempts=attempts)
        self._attempts = attempts
        self._index = index
        self._task = task
        self._config = config
        self._seed = seed
        self._equality = equality or AnswerEquality(task)
        self._same = Gathered(self._among)
        self._tasks = [_variant(task, configuration) for configuration in config.configurations]
        self._most_neighbours = max(configuration.neighbours for configuration in config.configurations)
        if self._most_neighbours and index is None:
            raise ConfigError("labelling.configurations: neighbours above 0 need an example index")

    async def label(
        self, queries: Sequence[Query], adapter: str | None, *, told: Told | None = None
    ) -> list[PseudoLabel | Unlabelled]:
        """Label every query, in order; one that is late or refused stands for itself alone.

        Args:
            queries: any number of them; about `batch_size` are worked on at a time.
            adapter: a loaded adapter; None is the base model.
            told: hears of each query as soon as it is finished.

        Raises:
            AdapterError: `adapter` is not loaded.
            TransientError: generator, index or embedder did not answer; what was told stays true.
        """
        finished: list[PseudoLabel | Unlabelled | None] = [None] * len(queries)

        async def one(place: int, neighbours: list[Neighbour] | DataError) -> None:
            try:
                if isinstance(neighbours, DataError):
                    raise neighbours
                outcome = await self._label_one(queries[place], neighbours, adapter)
            except DataError as error:
                outcome = Unlabelled(queries[place], str(error))
            finished[place] = outcome
            if told is not None:
                told(outcome)

        async def start(places: Sequence[int]) -> list[Coroutine[Any, Any, None]]:
            own = [queries[place] for place in places]
            found = await asyncio.to_thread(retrieve_each, self._index, own, self._most_neighbours)
            return [one(place, neighbours) for place, neighbours in zip(places, found, strict=True)]

        await worked_off(range(len(queries)), self._config.batch_size, start)
        return [outcome for outcome in finished if outcome is not None]

    async def _label_one(
        self, query: Query, neighbours: list[Neighbour], adapter: str | None
    ) -> PseudoLabel | Unlabelled:
        found = await asked(self._views(query, neighbours, adapter), self._calls.ask)
        requests, replies = [each.request for each in found], [each.reply for each in found]
        if (why := self._left_out(query, replies)) is not None:
            return why
        shown = {example.query.id for each in found for example in each.examples}
        kept = [each for each in neighbours if each.example.query.id in shown]
        answers = self._collect(query, kept, requests, cast("list[list[Completion]]", replies))
        try:
            if not self._task.exact:
                answers = await self._clustered(answers)
            pick = await self._justify(answers, adapter)
            if isinstance(pick, Unlabelled):
                return pick
            picked = await self._picked(answers, pick)
        except Exception:
            # Answers are paid for: the next attempt takes them over.
            self._calls.keep(requests, replies)
            raise
        return self._conclude(answers, pick, picked, adapter)

    # --- stage one: candidate answers ------------------------------------------------------------------------------

    def _views(self, query: Query, neighbours: Sequence[Neighbour], adapter: str | None) -> list[Shown]:
        """One per configuration; those that show the same examples in the same words share one prompt."""
        prompts: dict[tuple[int, tuple[str, ...]], tuple[Message, ...]] = {}

        def prompt(task: Task, shown: Sequence[Example]) -> tuple[Message, ...]:
            form = (id(task), tuple([example.query.id for example in shown]))
            if form not in prompts:
                prompts[form] = task.prompt(query, shown)
            return prompts[form]

        def view(configuration: Configuration, task: Task) -> Shown:
            def make(shown: Sequence[Example]) -> GenerationRequest:
                return GenerationRequest(
                    messages=prompt(task, shown),
                    adapter=_adapter(configuration, adapter),
                    samples=configuration.samples,
                    temperature=configuration.temperature,
                    max_tokens=self._task.config.max_answer_tokens,
                    seed=self._sampling_seed(configuration, query),
                    choices=self._choices(query),
                    model=configuration.model,
                )

            return Shown(tuple(self._arranged(neighbours, configuration, query)), make)

        return [view(*each) for each in zip(self._config.configurations, self._tasks, strict=True)]

    def _sampling_seed(self, configuration: Configuration, query: Query) -> int:
        if configuration.seed is None:
            return derive(self._seed, "label", query.id, configuration.name)
        return derive(configuration.seed, "label", query.id)

    def _arranged(self, neighbours: Sequence[Neighbour], configuration: Configuration, query: Query) -> list[Example]:
        seed = self._seed if configuration.seed is None else configuration.seed
        return arrange(neighbours, configuration, query, seed)

    def _choices(self, query: Query) -> tuple[str, ...] | None:
        return self._task.choices(query) if self._config.structured else None

    def _collect(
        self,
        query: Query,
        neighbours: list[Neighbour],
        requests: Sequence[GenerationRequest],
        completions: Sequence[Sequence[Completion]],
    ) -> _Answers:
        read: dict[tuple[str, bool], str | None] = {}  # samples of one query are often the same text
        candidates = []
        generated = 0
        for configuration, samples in zip(self._config.configurations, completions, strict=True):
            for completion in samples:
                said = (completion.text, completion.finish_reason == "length")
                if said not in read:
                    read[said] = self._task.parse(said[0], query, truncated=said[1])
                entropy = confidence.entropy(completion.logprobs)
                candidates.append(CandidateAnswer(configuration.name, said[0], read[said], entropy))
                generated += len(completion.token_ids)
        # A list, not a mapping: prompts that are one object are found at once, and hashing one reads all of it.
        prefills: list[tuple[str | None, str | None, tuple[Message, ...]]] = []
        prompts: list[int] = []
        for request, samples in zip(requests, completions, strict=True):
            prefill = (request.model, request.adapter, request.messages)
            tokens = max([completion.prompt_tokens for completion in samples], default=0)
            if prefill in prefills:
                prompts[prefills.index(prefill)] = tokens
            else:
                prefills.append(prefill)
                prompts.append(tokens)
        return _Answers(query, neighbours, tuple(candidates), ranking(candidates), sum(prompts), generated)

    async def _clustered(self, answers: _Answers) -> _Answers:
        """Candidates that mean the same get one answer."""
        same = await self._same([each.answer for each in answers.candidates])
        candidates = clustered(answers.candidates, same)
        return replace(answers, candidates=candidates, ranked=ranking(candidates))

    async def _among(self, groups: Sequence[Sequence[str | None]]) -> list[Same]:
        """Which answers mean the same, of several queries at a time: their texts are embedded together."""
        same = await self._equality.among_async(answer for group in groups for answer in group)
        return [same] * len(groups)

    def _left_out(self, query: Query, replies: Sequence[Reply]) -> Unlabelled | None:
        """Why a query cannot be labelled; a refusal is final, so it goes before what is late."""
        late: Late | None = None
        for reply in replies:
            if isinstance(reply, Refused):
                return Unlabelled(query, reply.reason)
            if late is None and isinstance(reply, Late):
                late = reply
        return None if late is None else self._late(query, late)

    def _late(self, query: Query, late: Late) -> Unlabelled:
        return Unlabelled(query, f"late {self._attempts} times: {late.reason}", late=True)

    # --- stage two: self-justification -----------------------------------------------------------------------------

    async def _justify(self, answers: _Answers, adapter: str | None) -> Completion | Unlabelled | None:
        """Where candidates differ, the model's own pick (one greedy answer); None where there is nothing to pick.

        Also where the question that lists the candidates is refused: then the vote decides.
        """
        if not self._config.justify or len(answers.ranked) < 2:
            return None
        (found,) = await asked([self._justification(answers, adapter)], self._calls.ask)
        if isinstance(found.reply, Late):
            return self._late(answers.query, found.reply)
        return found.reply[0] if isinstance(found.reply, list) else None

    def _justification(self, answers: _Answers, adapter: str | None) -> Shown:
        """As the first configuration asks, of the adapter that labels: it is the one that the pick is put down to."""

        def make(shown: Sequence[Example]) -> GenerationRequest:
            return GenerationRequest(
                messages=self._tasks[0].justify_prompt(answers.query, shown, answers.ranked),
                adapter=adapter,
                max_tokens=self._task.config.max_answer_tokens,
                seed=derive(self._seed, "justify", answers.query.id),
                choices=self._choices(answers.query),
            )

        return Shown(tuple(self._arranged(answers.neighbours, self._config.configurations[0], answers.query)), make)

    async def _picked(self, answers: _Answers, pick: Completion | None) -> str | None:
        """The candidate answer that the pick names; None where there is no pick, or it names none of them."""
        if pick is None:
            return None
        said = self._task.parse(pick.text, answers.query, truncated=pick.finish_reason == "length")
        if said is None or said in answers.ranked or self._task.exact:
            return said if said in answers.ranked else None
        return _named(said, answers.ranked, await self._same([said, *answers.ranked]))

    # --- conclusion ------------------------------------------------------------------------------------------------

    def _conclude(
        self, answers: _Answers, pick: Completion | None, picked: str | None, adapter: str | None
    ) -> PseudoLabel:
        """The picked answer or, without one, that of the vote; the tokens of `pick` count whatever it said."""
        ranked = answers.ranked
        answer = picked if picked is not None else ranked[0] if ranked else None
        justified = picked is not None
        given = [candidate.answer for candidate in answers.candidates]
        entropy = answer_entropy(answers.candidates, answer)
        agreement = confidence.agreement(given, answer)
        return PseudoLabel(
            query=answers.query,
            answer=answer,
            entropy=entropy,
            agreement=agreement,
            confidence=confidence.confidence(entropy, agreement),
            justified=justified,
            adapter=adapter,
            neighbours=tuple((each.example.id, each.similarity) for each in answers.neighbours),
            candidates=answers.candidates,
            prompt_tokens=answers.prompt_tokens + (pick.prompt_tokens if pick else 0),
            generated_tokens=answers.generated_tokens + (len(pick.token_ids) if pick else 0),
        )


def _named(said: str | None, ranked: Sequence[str], same: Same) -> str | None:
    """The ranked answer that is spelled as `said`, else the first that means the same; None: none of them."""
    if said is None or said in ranked:
        return said
    return next((answer for answer in ranked if same(said, answer)), None)


def _variant(task: Task, configuration: Configuration) -> Task:
    """The task in the words of one configuration; the task itself where it has none of its own."""
    own = {key: getattr(configuration, key) for key in ("instruction", "template")}
    changed = {key: value for key, value in own.items() if value is not None}
    return Task(task.config.model_copy(update=changed)) if changed else task


def _adapter(configuration: Configuration, incumbent: str | None) -> str | None:
    """What answers for a configuration: its own adapter, the base model, or the incumbent."""
    if configuration.adapter is not None:
        return None if configuration.adapter == "base" else configuration.adapter
    return incumbent if configuration.model is None else None


def answer_entropy(candidates: Sequence[CandidateAnswer], answer: str | None) -> float:
    """The mean entropy (nats per token) of the candidates that gave `answer`; None: of the unparseable ones."""
    return confidence.mean_entropy([candidate.entropy for candidate in candidates if candidate.answer == answer])


def ranking(candidates: Sequence[CandidateAnswer]) -> list[str]:
    """The different answers, most votes first, ties by lower mean entropy, then by spelling."""
    entropies: dict[str, list[float]] = {}
    for candidate in candidates:
        if candidate.answer is not None:
            entropies.setdefault(candidate.answer, []).append(candidate.entropy)
    if len(entropies) < 2:
        return list(entropies)
    return sorted(
        entropies, key=lambda answer: (-len(entropies[answer]), confidence.mean_entropy(entropies[answer]), answer)
    )
