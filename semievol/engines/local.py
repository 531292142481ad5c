"""A Generator in this process: a base model and its adapters behind one worker thread.

Owns what a request is answered with. Owns not the queue and the cut of a batch (request_queue), the decode loop
(decoding) nor the adapters' modules (resident_adapters).
Invariant: only the worker thread touches the model; a batch is answered by one adapter from its first to its last
token; a request that fails, fails alone.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.config.method import ModelConfig
from semievol.engines.language_model import Prompts, load_model, load_prompts
from semievol.engines.plain.tally import asked_by
from semievol.engines.request_queue import Answer, QueuedRequest, RequestQueue, cut_batch, settle_together
from semievol.errors import AdapterError, ConfigError, DataError, SemiEvolError, TooLongError, TransientError
from semievol.protocols import Generator, Tell
from semievol.types import Completion, GenerationRequest, Message, Refused

if TYPE_CHECKING:
    from semievol.engines.resident_adapters import ResidentAdapters
    from semievol.engines.sampling.requests import RequestSampling

logger = logging.getLogger(__name__)

# A batch is cut from a window of the queue this many batches long, so that its prompts are about equally long.
_WINDOW_BATCHES = 4


def _pass_on(tell: Tell, place: int, future: asyncio.Future[Any]) -> None:
    """Tell of an answer or a refusal; errors of the whole call are for the caller."""
    if future.cancelled():
        return
    error = future.exception()
    if error is None:
        tell(place, future.result())
    elif isinstance(error, DataError):
        tell(place, Refused(str(error), too_long=isinstance(error, TooLongError)))


class LocalGenerator(Generator):
    """Answers prompts with a transformers model in this process; see the module's docstring.

    The model is loaded on first use, or by `start`.
    """

    def __init__(self, config: ModelConfig, *, threads: int | None = None, max_batch: int = 32) -> None:
        """Keep the settings; nothing is loaded yet.

        Args:
            config: the base model.
            threads: CPU threads of the model. None: as torch has it, all cores.
            max_batch: different prompts per forward pass.
        """
        self._config = config
        self._threads = threads
        self._max_batch = max_batch
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
        jobs = [QueuedRequest(request, Answer()) for request in requests]
        futures = [job.answer.future for job in jobs]
        for place, future in enumerate(futures):
            future.add_done_callback(functools.partial(_pass_on, tell, place))
        self._ensure_thread()
        self._queue.put(jobs)
        try:
            if futures:
                await asyncio.wait(futures)
        finally:
            for future in futures:
                future.cancel()
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
        self._model = self._adapters = None
        self._names = frozenset()

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
        while (work := self._queue.take(self._max_batch * _WINDOW_BATCHES)) is not None:
            if isinstance(work, tuple):
                command, answer = work
                try:
                    answer.settle(command())
                except Exception as error:
                    answer.settle(error)
            else:
                self._answer(work)
        for answer in self._queue.close():  # put back while the queue was being closed
            answer.settle(TransientError("the generator was closed before it answered"))

    def _answer(self, jobs: list[QueuedRequest]) -> None:
        """Answer a batch cut from `jobs`; the others go back to the queue."""
        batch: list[QueuedRequest] = []
        try:
            self._ensure_model()
            jobs = self._tokenized(jobs)
            batch = cut_batch(jobs, self._max_batch)
            self._queue.put_back([job for job in jobs if job not in batch])
            if batch:
                self._activate(batch[0].request.adapter)
                settle_together(zip([job.answer for job in batch], self._decode(batch), strict=True))
        except Exception as error:
            for job in batch or jobs:
                job.answer.settle(_translate(error))

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
        """The jobs whose prompts fit; the others are refused."""
        prompts, fitting = self._ensure_prompts(), []
        for job in jobs:
            try:
                job.tokens = job.tokens or prompts.prompt_tokens(
                    job.request.messages, asked_by(job.request.interactive)
                )
                prompts.check_length(len(job.tokens), job.request.max_tokens)
                job.samplers = self._ensure_sampling().samplers(job.request)
                fitting.append(job)
            except DataError as error:
                job.answer.settle(error)
        return fitting

    def _decode(self, batch: Sequence[QueuedRequest]) -> list[list[Completion] | DataError]:
        from semievol.engines import decoding

        prompts, sampling = self._ensure_prompts(), self._ensure_sampling()
        places: dict[tuple[int, ...], int] = {}
        rows = [
            decoding.Row(places.setdefault(tuple(job.tokens), len(places)), sampler, job.request.max_tokens)
            for job in batch
            for sampler in job.samplers
        ]
        decoded = iter(
            decoding.decode(
                self._model,
                list(places),
                rows,
                end_tokens=prompts.end_tokens,
                padding=prompts.padding,
                unwanted=lambda: self._queue.closed or all(job.answer.abandoned for job in batch),
            )
        )
        if self._queue.closed:
            raise TransientError("the generator was closed before it answered")
        return [
            sampling.answer(
                job.request, job.samplers, list(itertools.islice(decoded, job.request.samples)), len(job.tokens)
            )
            for job in batch
        ]


def _translate(error: Exception) -> Exception:
    if isinstance(error, SemiEvolError):
        return error
    if type(error).__name__ == "OutOfMemoryError":
        return TransientError(f"the model ran out of memory: {error}")
    logger.error("generation failed", exc_info=error)
    return error
