"""Training on a fine-tuning API: a snapshot in, an adapter directory that names the fine-tuned model out.

Owns the rows' form there, the job (`/files`, `/fine_tuning/jobs`) and its record `fine_tuning.json` in the work
directory. Owns not the HTTP (openai_client) nor who answers with the model (engines.openai).
Invariant: one snapshot is paid for once. What was uploaded or created is written down before the next step; where a
creation's answer was lost, the job is looked for by its file before another one is created.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semievol import adapter_directory
from semievol.backoff import Backoff
from semievol.config.fine_tuning import FineTuningConfig
from semievol.durable_files import write_durably
from semievol.engines.openai_client import NotJsonError, OpenAIClient
from semievol.engines.plain.control_texts import COMMON
from semievol.engines.plain.tally import NEUTRALISED
from semievol.errors import AdapterError, ConfigError, DataError, SemiEvolError, TransientError
from semievol.file_lock import FileLock
from semievol.http.errors import BusyError, RefusedError
from semievol.protocols import Progress
from semievol.training.job import TrainingJob, read_snapshot
from semievol.types import TrainingRow

RECORD_FILE = "fine_tuning.json"
LOG_FILE = "trainer.log"
_UPLOAD_S = 600.0
_PATIENCE_S = 600.0
_FIRST_POLL_S = 1.0
_LONGEST_WAIT_S = 30.0
_PAGE = 100
_SEEDS = 1 << 31
_STEP = re.compile(r"\bStep (\d+)/(\d+)\b", re.IGNORECASE)
_NOT_READY = "not ready"
_NO_LIST = "training.openai_api.base_url: the answer there is no list; is it a fine-tuning API?"
_GONE_WRONG = ("failed", "cancelled")


@dataclass(frozen=True, slots=True)
class _Record:
    """How far a training has come; `request` is the hash of what is asked for."""

    request: str
    file: str | None = None
    creating: bool = False
    job: str | None = None
    model: str | None = None
    trained_tokens: int | None = None

    @classmethod
    def read(cls, path: Path, request: str) -> _Record:
        """The record of this request; a new one where there is none, or one of another request."""
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(request)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path}: is no record of a fine-tuning job ({error}); delete it to start another"
            ) from None
        return found if found.request == request else cls(request)


class FineTuningTrainer:
    """A Trainer (see teaching) on one API."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        model: str,
        settings: FineTuningConfig,
        *,
        key_setting: str = "training.openai_api.api_key",
    ) -> None:
        """Ask nothing yet.

        Args:
            base_url: the API up to and including /v1.
            api_key: for it; None: it wants none.
            model: what is fine-tuned.
            settings: hyperparameters and patience.
            key_setting: the setting that an error about the key names.
        """
        self._base_url = base_url
        self._api_key = api_key
        self._model = model
        self._settings = settings
        self._key_setting = key_setting

    async def __call__(self, snapshot: Path, work: Path, adapters: Path, progress: Progress) -> Path:
        """Train what `snapshot` describes, or wait for the job that an earlier call started.

        1. Upload the rows. 2. Create the job. 3. Follow it to its end. 4. Publish a directory that names its model.

        Raises:
            AdapterError: the job failed or was cancelled; the text is the API's. The next call creates another.
            ConfigError: key, model or address are wrong.
            TransientError: the API does not answer, the job takes longer than timeout_s, or another process is here.
        """
        job, rows = read_snapshot(snapshot)
        model = self._model if job.parent is None else adapter_directory.hosted_model(job.parent)
        text = chat_rows(rows)
        asked = self._request(job, model)
        with _locked(work):
            digest = hashlib.sha256(json.dumps([asked, text], sort_keys=True).encode()).hexdigest()
            record = _Record.read(work / RECORD_FILE, digest)
            if record.model is None:
                async with OpenAIClient(self._base_url, self._api_key, key_setting=self._key_setting) as client:
                    training = _Training(client, work, self._settings, progress)
                    record = await training.run(record, asked, text, job.name_prefix)
            return _publish(record, job, model, work, adapters, self._base_url)

    def _request(self, job: TrainingJob, model: str) -> dict[str, Any]:
        """The job as it is asked for, without its file."""
        settings = self._settings
        hyperparameters = {
            key: getattr(settings, key) for key in ("n_epochs", "batch_size", "learning_rate_multiplier")
        }
        asked: dict[str, Any] = {
            "model": model,
            "seed": job.seed % _SEEDS,
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        }
        return asked if settings.suffix is None else {**asked, "suffix": settings.suffix}


class _Training:
    """One training: from its record to the record with the fine-tuned model's name."""

    def __init__(self, client: OpenAIClient, work: Path, settings: FineTuningConfig, progress: Progress) -> None:
        self._client = client
        self._work = work
        self._settings = settings
        self._progress = progress
        self._told = 0
        self._seen: set[str] = set()

    async def run(self, record: _Record, asked: dict[str, Any], text: str, name: str) -> _Record:
        try:
            if record.file is None:
                record = self._keep(replace(record, file=await self._upload(text, name)))
            if record.job is None:
                record = await self._create(record, asked)
            return await self._follow(record)
        except RefusedError as refused:
            raise _translated(refused) from refused

    def _keep(self, record: _Record) -> _Record:
        write_durably(self._work / RECORD_FILE, json.dumps(asdict(record)) + "\n")
        return record

    async def _upload(self, text: str, name: str) -> str:
        answer = await self._client.call(
            "POST",
            "/files",
            data={"purpose": "fine-tune"},
            files={"file": (f"{name}.jsonl", text.encode(), "application/jsonl")},
            patience_s=_PATIENCE_S,
            timeout_s=_UPLOAD_S,
            wanted="id",
        )
        return _field(answer, "id")

    async def _create(self, record: _Record, asked: dict[str, Any]) -> _Record:
        """Create the job, or find the one that was created when the answer was lost."""

        async def created() -> _Record:
            nonlocal record
            if record.creating and (found := await self._find(str(record.file))) is not None:
                return self._keep(replace(record, job=found))
            record = self._keep(replace(record, creating=True))
            body = {**asked, "training_file": record.file}
            try:
                answer = await self._client.call("POST", "/fine_tuning/jobs", json=body, patience_s=0, wanted="id")
            except RefusedError:  # there is no job to look for
                record = self._keep(replace(record, creating=False))
                raise
            return self._keep(replace(record, job=_field(answer, "id")))

        return await Backoff(_FIRST_POLL_S, _LONGEST_WAIT_S).call(
            created, retry_on=_may_be_created_later, patience_s=_PATIENCE_S
        )

    async def _find(self, file: str) -> str | None:
        """The job that trains on our file, which nobody else knows; one that has come to nothing is none."""
        after: str | None = None
        while True:
            params = {"limit": str(_PAGE)} | ({} if after is None else {"after": after})
            page = await self._page("/fine_tuning/jobs", params, patience_s=0)
            jobs = page["data"]
            for job in jobs:
                if job.get("training_file") == file and job.get("status") not in _GONE_WRONG:
                    return str(job["id"])
            if not page.get("has_more") or not jobs:
                return None
            after = jobs[-1]["id"]

    async def _follow(self, record: _Record) -> _Record:
        """Look at the job until it has ended."""
        started = time.monotonic()
        pauses, looks = Backoff(_FIRST_POLL_S, self._settings.poll_interval_s, factor=1.5), 0
        path = f"/fine_tuning/jobs/{record.job}"
        try:
            while True:
                job = await self._retrieve(record, path)
                await self._read_events(path)
                status = _field(job, "status")
                if status == "succeeded":
                    self._tell(100)
                    tokens = job.get("trained_tokens")
                    return self._keep(replace(record, model=_field(job, "fine_tuned_model"), trained_tokens=tokens))
                if status in _GONE_WRONG:
                    # Another call may try again, with the file that is there.
                    self._keep(replace(record, job=None, creating=False))
                    said = (job.get("error") or {}).get("message") or "the API gives no reason"
                    raise AdapterError(f"fine-tuning job {record.job} {status}: {said}")
                looks += 1
                pause_s = pauses.bound_s(looks)
                limit_s = self._settings.timeout_s
                if limit_s is not None and time.monotonic() + pause_s - started > limit_s:
                    raise TransientError(
                        f"training.openai_api.timeout_s: fine-tuning job {record.job} is {status} after "
                        f"{limit_s:.0f} s; it goes on, and the same command waits for it again"
                    )
                await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            if self._settings.cancel_on_interrupt:
                await self._cancel(record, path)
            raise

    async def _cancel(self, record: _Record, path: str) -> None:
        """Cancel the job; one that could not be cancelled stays on record, and the next call waits for it."""
        with contextlib.suppress(SemiEvolError):
            await self._client.call("POST", f"{path}/cancel", patience_s=10.0, timeout_s=10.0)
            self._keep(replace(record, job=None, creating=False))

    async def _retrieve(self, record: _Record, path: str) -> Any:
        try:
            return await self._client.call("GET", path, patience_s=_PATIENCE_S, wanted="status")
        except RefusedError as refused:
            if refused.status != 404:
                raise
            raise AdapterError(
                f"{self._client.base_url} knows no fine-tuning job {record.job}; give the base_url at which it was "
                f"created, or delete {self._work / RECORD_FILE} to pay for another"
            ) from refused

    async def _read_events(self, path: str) -> None:
        """Log what is new, and tell the percent of the steps that the newest of them name."""
        try:
            events = (await self._page(f"{path}/events", {"limit": str(_PAGE)}))["data"]
        except (RefusedError, ConfigError):  # an API without events, or with others, has no progress to show
            return
        new = [event for event in reversed(events) if event["id"] not in self._seen]
        self._seen |= {event["id"] for event in new}
        with (self._work / LOG_FILE).open("a", encoding="utf-8") as log:
            log.writelines(f"{event.get('level', 'info')}: {event.get('message', '')}\n" for event in new)
        for event in new:
            step, total = _steps(event)
            if total > 0:
                self._tell(min(99, 100 * step // total))

    async def _page(self, path: str, params: dict[str, str], patience_s: float = _PATIENCE_S) -> dict[str, Any]:
        """One page of a list: its entries, each with its id, are its `data`."""
        try:
            page = await self._client.call("GET", path, params=params, patience_s=patience_s, wanted="data")
        except NotJsonError as odd:
            raise ConfigError(_NO_LIST) from odd
        entries = page.get("data")
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries
        ):
            raise ConfigError(_NO_LIST)
        return page

    def _tell(self, percent: int) -> None:
        if percent > self._told:
            self._progress(percent - self._told)
            self._told = percent


def chat_rows(rows: Sequence[TrainingRow]) -> str:
    """Training rows as JSON lines of chats; a row of weight w is there w times, rounded.

    Control texts of the usual model families are broken by a space, as where the endpoint is asked (engines.openai).

    Earlier answers of a conversation (shown neighbours) have weight 0: the completion alone is learned.

    Raises:
        DataError: there are no rows.
    """
    lines: list[str] = []
    for row in rows:
        messages: list[dict[str, Any]] = [
            {
                "role": message.role,
                "content": COMMON.broken(message.content),
                **({"weight": 0} if message.role == "assistant" else {}),
            }
            for message in row.messages
        ]
        messages.append({"role": "assistant", "content": COMMON.broken(row.completion)})
        if any(COMMON.holds(text) for text in (row.completion, *(message.content for message in row.messages))):
            NEUTRALISED.add("training")
        lines += [json.dumps({"messages": messages}, ensure_ascii=False) + "\n"] * round(row.weight)
    if not lines:
        raise DataError("fine-tuning: no rows, nothing to train on")
    return "".join(lines)


def _publish(record: _Record, job: TrainingJob, model: str, work: Path, adapters: Path, base_url: str) -> Path:
    directory = work / "adapter"
    directory.mkdir(exist_ok=True)
    hosted = {"fine_tuned_model": record.model, "model": model, "job": record.job, "base_url": base_url}
    write_durably(directory / adapter_directory.HOSTED_FILE, json.dumps(hosted, indent=1) + "\n")
    return adapter_directory.publish(
        directory,
        adapters,
        job.name_prefix,
        base_model=model,
        parent=None if job.parent is None else job.parent.name,
        round_number=job.round_number,
        seed=job.seed,
        training={
            "workload": job.workload,
            "kind": job.kind,
            "job": record.job,
            "file": record.file,
            "trained_tokens": record.trained_tokens,
        },
    )


def _may_be_created_later(error: Exception) -> bool:
    return isinstance(error, BusyError) or (isinstance(error, RefusedError) and _NOT_READY in error.message)


def _translated(refused: RefusedError) -> SemiEvolError:
    if refused.param == "model" or refused.code == "model_not_found":
        return ConfigError(f"training.openai_api.model: {refused}; name a model that can be fine-tuned there")
    return AdapterError(f"the fine-tuning API refuses the training: {refused}")


def _steps(event: dict[str, Any]) -> tuple[int, int]:
    """(step, total steps) that an event tells; (0, 0) where it tells none."""
    data = event.get("data") or {}
    try:
        return int(data["step"]), int(data["total_steps"])
    except (KeyError, TypeError, ValueError):
        found = _STEP.search(str(event.get("message", "")))
        return (int(found[1]), int(found[2])) if found else (0, 0)


def _field(answer: Any, key: str) -> str:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise ConfigError(f"training.openai_api.base_url: the answer there has no {key}; is it a fine-tuning API?")
    return value


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the directory, which is made: two processes would pay for two jobs."""
    lock = FileLock.take(work / "lock")
    if lock is None:
        raise TransientError(f"{work}: another process trains here")
    with lock:
        yield
