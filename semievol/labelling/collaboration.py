"""Collaborative labelling: several inference configurations answer each query, and one answer comes out.

Owns the two stages (candidate answers, self-justification where they differ) and the vote. Does not decide which
answers mean the same (tasks.equality), nor what is trained on (selection). Invariants: every candidate answer counts
in the agreement, parseable or not; an answer is one that a candidate gave; the same queries, seed and adapter give the
same pseudo-labels however they are batched.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from semievol.config.method import Configuration, LabellingConfig
from semievol.errors import ConfigError
from semievol.labelling import confidence
from semievol.labelling.propagation import arrange, retrieve
from semievol.protocols import ExampleIndex, Generator, Progress
from semievol.seeds import derive
from semievol.tasks.equality import AnswerEquality, Same, clustered
from semievol.tasks.task import Task
from semievol.types import (
    CandidateAnswer,
    Completion,
    Example,
    GenerationRequest,
    Message,
    Neighbour,
    PseudoLabel,
    Query,
)


@dataclass(frozen=True, slots=True)
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
    ) -> None:
        self._generator = generator
        self._index = index
        self._task = task
        self._config = config
        self._seed = seed
        self._equality = equality or AnswerEquality(task)
        self._tasks = [_variant(task, configuration) for configuration in config.configurations]
        self._most_neighbours = max(configuration.neighbours for configuration in config.configurations)
        if self._most_neighbours and index is None:
            raise ConfigError("labelling.configurations: neighbours above 0 need an example index")

    async def label(
        self, queries: Sequence[Query], adapter: str | None, *, progress: Progress | None = None
    ) -> list[PseudoLabel]:
        """Label every query, in order; at most `batch_size` of them per call of the generator.

        Args:
            queries: any number of them.
            adapter: a loaded adapter; None is the base model.
            progress: called with the number of queries finished since the last call.

        Raises:
            AdapterError: `adapter` is not loaded.
            TransientError: generator, index or embedder did not answer; nothing is returned.
        """
        labels: list[PseudoLabel] = []
        for start in range(0, len(queries), self._config.batch_size):
            batch = queries[start : start + self._config.batch_size]
            labels += await self._label_batch(batch, adapter)
            if progress is not None:
                progress(len(batch))
        return labels

    async def _label_batch(self, queries: Sequence[Query], adapter: str | None) -> list[PseudoLabel]:
        answers = await self._clustered(await self._answer(queries, adapter))
        picks = await self._justify(answers, adapter)
        picked = await self._picked(answers, picks)
        return [
            self._conclude(each, pick, answer, adapter)
            for each, pick, answer in zip(answers, picks, picked, strict=True)
        ]

    # --- stage one: candidate answers ------------------------------------------------------------------------------

    async def _answer(self, queries: Sequence[Query], adapter: str | None) -> list[_Answers]:
        """All candidate answers of all queries, from one call: identical prompts share their prefill there."""
        neighbours = await asyncio.to_thread(retrieve, self._index, queries, self._most_neighbours)
        by_query = [self._requests(query, found, adapter) for query, found in zip(queries, neighbours, strict=True)]
        completions = iter(await self._generator.generate([request for own in by_query for request in own]))
        return [
            self._collect(query, found, own, list(itertools.islice(completions, len(own))))
            for query, found, own in zip(queries, neighbours, by_query, strict=True)
        ]

    def _requests(self, query: Query, neighbours: Sequence[Neighbour], adapter: str | None) -> list[GenerationRequest]:
        """One per configuration; those that show the same examples in the same words share one prompt."""
        prompts: dict[tuple[int, tuple[str, ...]], tuple[Message, ...]] = {}
        requests = []
        for configuration, task in zip(self._config.configurations, self._tasks, strict=True):
            shown = self._arranged(neighbours, configuration, query)
            form = (id(task), tuple([example.id for example in shown]))
            if form not in prompts:
                prompts[form] = task.prompt(query, shown)
            requests.append(
                GenerationRequest(
                    messages=prompts[form],
                    adapter=_adapter(configuration, adapter),
                    samples=configuration.samples,
                    temperature=configuration.temperature,
                    max_tokens=self._task.config.max_answer_tokens,
                    seed=self._sampling_seed(configuration, query),
                    choices=self._choices(query),
                    model=configuration.model,
                )
            )
        return requests

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
        candidates = tuple(
            CandidateAnswer(
                configuration.name,
                completion.text,
                self._task.parse(completion.text, query, truncated=completion.finish_reason == "length"),
                confidence.entropy(completion.logprobs),
            )
            for configuration, samples in zip(self._config.configurations, completions, strict=True)
            for completion in samples
        )
        prefills: dict[tuple[str | None, str | None, tuple[Message, ...]], int] = {}
        for request, samples in zip(requests, completions, strict=True):
            prefill = (request.model, request.adapter, request.messages)
            prefills[prefill] = max((completion.prompt_tokens for completion in samples), default=0)
        generated = sum(len(completion.token_ids) for samples in completions for completion in samples)
        return _Answers(query, neighbours, candidates, ranking(candidates), sum(prefills.values()), generated)

    async def _clustered(self, answers: list[_Answers]) -> list[_Answers]:
        """Candidates that mean the same get one answer."""
        if self._task.exact:
            return answers
        same = await self._equality.among_async(each.answer for own in answers for each in own.candidates)
        named = [clustered(own.candidates, same) for own in answers]
        return [
            replace(own, candidates=candidates, ranked=ranking(candidates))
            for own, candidates in zip(answers, named, strict=True)
        ]

    # --- stage two: self-justification -----------------------------------------------------------------------------

    async def _justify(self, answers: Sequence[_Answers], adapter: str | None) -> list[Completion | None]:
        """Where candidates differ, the model's own pick (one greedy answer each, from one call); else None."""
        picks: list[Completion | None] = [None] * len(answers)
        if not self._config.justify:
            return picks
        differing = [position for position, each in enumerate(answers) if len(each.ranked) > 1]
        if not differing:
            return picks
        requests = [self._justify_request(answers[position], adapter) for position in differing]
        for position, completions in zip(differing, await self._generator.generate(requests), strict=True):
            picks[position] = completions[0]
        return picks

    def _justify_request(self, answers: _Answers, adapter: str | None) -> GenerationRequest:
        """As the first configuration asks, of the adapter that labels: it is the one that the pick is put down to."""
        shown = self._arranged(answers.neighbours, self._config.configurations[0], answers.query)
        return GenerationRequest(
            messages=self._tasks[0].justify_prompt(answers.query, shown, answers.ranked),
            adapter=adapter,
            max_tokens=self._task.config.max_answer_tokens,
            seed=derive(self._seed, "justify", answers.query.id),
            choices=self._choices(answers.query),
        )

    async def _picked(self, answers: Sequence[_Answers], picks: Sequence[Completion | None]) -> list[str | None]:
        """The candidate answers that the picks name; None where there is no pick, or it names none of them."""
        parsed = [
            None if pick is None else self._task.parse(pick.text, each.query, truncated=pick.finish_reason == "length")
            for each, pick in zip(answers, picks, strict=True)
        ]
        if not any(parsed):
            return parsed
        differing = [each for each, said in zip(answers, parsed, strict=True) if said is not None]
        same = await self._equality.among_async([*parsed, *(answer for each in differing for answer in each.ranked)])
        return [_named(said, each.ranked, same) for each, said in zip(answers, parsed, strict=True)]

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
    answers = {candidate.answer for candidate in candidates if candidate.answer is not None}
    votes = {answer: sum(candidate.answer == answer for candidate in candidates) for answer in answers}
    return sorted(answers, key=lambda answer: (-votes[answer], answer_entropy(candidates, answer), answer))
