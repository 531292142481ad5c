"""A Generator in this process: a base model and its adapters behind one worker thread.

Owns what a request is answered with, and who is refused. Owns not the queue and the cut of a batch (request_queue), the
order of work (batching), the decode loop (decoding) nor the adapters' modules (resident_adapters).
Invariant: only the worker thread touches the model; a request is answered by one adapter from its first to its last
token; a request that fails, fails alone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.config.method import ModelConfig
from semievol.engines.cpu import give_back_blocks
from semievol.engines.language_model import Prompts, load_model, load_prompts
from semievol.engines.request_queue import Answer, QueuedRequest, RequestQueue, cut_batch
from semievol.errors import (
    AdapterError,
    BusyError,
    ConfigError,
    DataError,
    SemiEvolError,
    TooLongError,
    TransientError,
)
from semievol.protocols import Generator, Tell
from semievol.types import Completion, GenerationRequest, Message, Refused

if TYPE_CHECKING:
    from semievol.engines.decoding import Decoded
    from semievol.engines.resident_adapters import ResidentAdapters
    from semievol.engines.sampling.requests import RequestSampling
    from semievol.engines.stepwise.batching import Batching

logger = logging.getLogger(__name__)

# A batch is cut from a window of the queue this many batches long, so that its prompts are about equally long.
_WINDOW_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Serving:
    """How clients are served.

    labelling_share: part of the engine's time that labelling gets while clients want more. prefill_tokens: tokens of
    prompts between two looks at who is next. waiting: most requests of clients that are not answered yet; one client
    may have half of them.
    """

    labelling_share: float = 0.5
    prefill_tokens: int = 512
    waiting: int = 256


class LocalGenerator(Generator):
    """Answers prompts with a transformers model in this process; see the module's docstring.

    The model is loaded on first use, or by `start`.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        threads: int | None = None,
        max_batch: int = 32,
        cache_tokens: int | None = None,
        serving: Serving | None = None,
    ) -> None:
        """Keep the settings; nothing is loaded yet.

        Args:
            config: the base model.
            threads: CPU threads of the model. None: as torch has it, all cores.
            max_batch: different prompts per forward pass.
            cache_tokens: tokens that all caches may hold. None: by the memory that there is.
            serving: how clients are served beside labelling. None: there are none, and labelling is computed batch by
                batch.
        """
        self._config = config
        self._threads = threads
        self._max_batch = max_batch
        self._cache_tokens = cache_tokens
        self._serving = serving
        self._asked: Counter[str] = Counter()  # clients' requests that are not answered yet, by turn
        self._batching: Batching | None = None
        self._most_tokens = 0
        self._queue = RequestQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._prompts: Prompts | None = None
        self._sampling: RequestSampling | None = None
        self._model: Any = None
        self._adapters: ResidentAdapters | None = None
        self._names: frozenset[str] = frozenset()

    async def start(self) -> None:
        """Load the model now.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        await self._command(self._ensure_model)

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        if any(request.choices is not None for request in requests):
            raise ConfigError("labelling.structured: the generator in this process cannot hold to a set; turn it off")
        for adapter in {request.adapter for request in requests}:
            if adapter is not None and adapter not in self._names:
                raise AdapterError(f"adapter {adapter} is not loaded")
        asked = Counter(request.turn or "" for request in requests if request.interactive)
        self._check_room(asked)
        jobs = [QueuedRequest(request, Answer()) for request in requests]
        futures = [job.answer.future for job in jobs]
        untold = _passed_on(futures, tell)
        self._ensure_thread()
        self._asked += asked
        try:
            self._queue.put(jobs)
            if futures:
                await asyncio.wait(futures)
        finally:
            self._asked -= asked
            for future in futures:
                future.cancel()
        if untold:  # nobody would wait for the others any more
            raise untold[0]
        failures = (future.exception() for future in futures)
        if (failure := next((each for each in failures if each and not isinstance(each, DataError)), None)) is not None:
            raise failure

    async def score(
        self, messages: Sequence[Message], completion_ids: Sequence[int], adapter: str | None
    ) -> tuple[float, ...]:
        """Log-probabilities at temperature 1 of given completion tokens, by teacher forcing.

        Raises:
            AdapterError: the adapter is not loaded.
            DataError: prompt and completion are longer than the model's positions.
        """

        def run() -> tuple[float, ...]:
            from semievol.engines import decoding

            model, prompts = self._ensure_model(), self._ensure_prompts()
            self._activate(adapter)
            tokens = prompts.prompt_tokens(messages)
            prompts.check_length(len(tokens), len(completion_ids))
            return tuple(decoding.score(model, tokens, completion_ids))

        result: tuple[float, ...] = await self._command(run)
        return result

    async def load_adapter(self, name: str, path: Path) -> None:
        def run() -> None:
            from semievol.engines.resident_adapters import ResidentAdapters

            if self._adapters is None:
                self._adapters = ResidentAdapters(self._ensure_model())
            self._adapters.load(name, path)
            self._names = self._adapters.names()

        await self._command(run)

    async def unload_adapter(self, name: str) -> None:
        def run() -> None:
            if self._adapters is not None:
                self._adapters.unload(name)
                self._names = self._adapters.names()

        if self._adapters is not None:
            await self._command(run)

    async def loaded_adapters(self) -> frozenset[str]:
        return self._names

    async def close(self) -> None:
        """Stop after the running token; unanswered requests fail with TransientError."""
        for answer in self._queue.close():
            answer.settle(TransientError("the generator was closed before it answered"))
        thread = self._thread
        if thread is not None:
            await asyncio.to_thread(thread.join)
        self._model = self._adapters = self._batching = None
        self._names = frozenset()

    def _check_room(self, asked: Counter[str]) -> None:
        """Whether there is a place in the queue for clients' requests.

        Raises:
            BusyError: there is none.
        """
        most = (self._serving or Serving()).waiting
        for turn, count in asked.items():
            if self._asked[turn] + count > max(1, most // 2):
                raise BusyError(f"{self._asked[turn]} requests of this client are not answered yet; wait for them")
        if asked and self._asked.total() + asked.total() > most:
            raise BusyError(f"{self._asked.total()} requests are not answered yet; try again")

    async def _command(self, command: Callable[[], Any]) -> Any:
        """Run a function on the worker thread, before queued requests."""
        answer = Answer()
        self._ensure_thread()
        self._queue.put_command(command, answer)
        return await answer.future

    # --- any thread -------------------------------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="local-generator", daemon=True)
                self._thread.start()

    # --- the worker thread alone ------------------------------------------------------------------------------

    def _work(self) -> None:
        window = self._max_batch * _WINDOW_BATCHES
        while True:
            busy = self._batching is not None and self._batching.busy
            labels = self._batching is not None and self._batching.labels
            taken = self._queue.take(window, labelling=not labels, wait=not busy)
            if taken is None:
                break
            if taken.command is not None:
                command, answer = taken.command
                try:
                    answer.settle(command())
                except Exception as error:
                    answer.settle(error)
                continue
            if taken.clients or taken.labelling:
                self._begin(taken.clients, taken.labelling)
            if self._batching is not None and self._batching.busy:
                self._unit(self._batching)
        closed = TransientError("the generator was closed before it answered")
        for answer in self._queue.close():  # put back while the queue was being closed
            answer.settle(closed)
        for job in self._batching.unanswered() if self._batching is not None else []:
            job.answer.settle(closed)

    def _unit(self, batching: Batching) -> None:
        try:
            batching.work()
        except Exception as error:  # not of one request, those fail by themselves
            for job in batching.unanswered():
                job.answer.settle(_translate(error))

    def _begin(self, clients: list[QueuedRequest], labelling: list[QueuedRequest]) -> None:
        """Take requests to work on: all of clients, and a batch cut from the others, which go back to the queue."""
        batch: list[QueuedRequest] = []
        try:
            batching = self._ensure_batching()
            for job in self._tokenized(clients):
                batching.add(job)
            labelling = self._tokenized(labelling)
            batch = cut_batch(labelling, self._max_batch, batching.labelling_tokens)
            chosen = {id(job) for job in batch}
            self._queue.put_back([job for job in labelling if id(job) not in chosen])
            if batch:
                batching.add_labelling(batch)
        except Exception as error:
            for job in (*clients, *(batch or labelling)):
                job.answer.settle(_translate(error))

    def _ensure_batching(self) -> Batching:
        if self._batching is None:
            from semievol.engines.stepwise.batching import Batching
            from semievol.engines.stepwise.cache_budget import CacheBudget, CacheCosts, memory_bytes
            from semievol.engines.stepwise.prefilling import Engine
            from semievol.engines.stepwise.turns import Turns

            model, prompts, serving = self._ensure_model(), self._ensure_prompts(), self._serving or Serving()
            chunk = None if self._serving is None else serving.prefill_tokens
            memory = memory_bytes(model.device)
            costs = CacheCosts.of(model)
            budget = CacheBudget.made(costs, self._cache_tokens, memory, chunk=chunk)
            # A quarter of the largest block that a cache within the budget has.
            give_back_blocks(budget.tokens * costs.token_bytes // (8 * costs.layers))
            engine = Engine(model, prompts.end_tokens, prompts.padding, self._activate, self._completions, _translate)
            self._batching = Batching(engine, Turns(serving.labelling_share), budget, chunk)
            self._most_tokens = budget.tokens
        return self._batching

    def _ensure_model(self) -> Any:
        if self._model is None:
            import torch

            if self._threads is not None:
                torch.set_num_threads(self._threads)
            self._ensure_prompts()
            self._model = load_model(self._config)
        return self._model

    def _ensure_prompts(self) -> Prompts:
        if self._prompts is None:
            self._prompts = load_prompts(self._config)
        return self._prompts

    def _ensure_sampling(self) -> RequestSampling:
        if self._sampling is None:
            from semievol.engines.sampling.requests import RequestSampling

            self._sampling = RequestSampling(self._ensure_prompts())
        return self._sampling

    def _activate(self, adapter: str | None) -> None:
        if self._adapters is not None:
            self._adapters.activate(adapter)
        elif adapter is not None:
            raise AdapterError(f"adapter {adapter} is not loaded")

    def _tokenized(self, jobs: Sequence[QueuedRequest]) -> list[QueuedRequest]:
        """The jobs whose prompts can be read and fit; the others are refused."""
        prompts, fitting = self._ensure_prompts(), []
        for job in jobs:
            try:
                job.tokens = job.tokens or prompts.request_tokens(job.request)
                prompts.check_length(len(job.tokens), job.request.max_tokens)
                self._check_cache(len(job.tokens), job.request.max_tokens)
                # Kept by a job that is put back, which has drawn nothing yet.
                job.samplers = job.samplers or self._ensure_sampling().samplers(job.request)
                fitting.append(job)
            except Exception as error:  # of a template or a constraint, say: of this request alone
                job.answer.settle(_translate(error))
        return fitting

    def _check_cache(self, prompt: int, answer: int) -> None:
        """Refuse what no cache would ever have room for.

        Raises:
            TooLongError: names the limit.
        """
        if prompt + answer > self._most_tokens:
            raise TooLongError(
                f"max_tokens: the prompt's {prompt} tokens and {answer} for the answer are more than the "
                f"{self._most_tokens} that the caches have room for (generation.cache_tokens): ask for less, or "
                "shorten the prompt"
            )

    def _completions(self, job: QueuedRequest, rows: Sequence[Decoded]) -> list[Completion] | DataError:
        return self._ensure_sampling().answer(job.request, job.samplers, rows, len(job.tokens))


def _translate(error: Exception) -> Exception:
    if isinstance(error, SemiEvolError):
        return error
    if type(error).__name__ == "OutOfMemoryError":
        return TransientError(f"the model ran out of memory: {error}")
    logger.error("generation failed", exc_info=error)
    return error


def _passed_on(futures: Sequence[asyncio.Future[Any]], tell: Tell) -> list[Exception]:
    """Have each answer or refusal told as it comes; errors of the whole call are for the caller.

    Returns:
        What `tell` raised, as on a full disk, where it writes answers down; all that are not told yet are cancelled.
    """
    untold: list[Exception] = []

    def pass_on(place: int, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        try:
            if error is None:
                tell(place, future.result())
            elif isinstance(error, DataError):
                tell(place, Refused(str(error), too_long=isinstance(error, TooLongError)))
        except Exception as failure:  # raised by who asked, in the name of this callback, it would be logged alone
            untold.append(failure)
            for each in futures:
                each.cancel()

    for place, future in enumerate(futures):
        future.add_done_callback(functools.partial(pass_on, place))
    return untold
