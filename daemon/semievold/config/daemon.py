"""The daemon's configuration: the method's sections plus those of the service, in one strict YAML file.

Owns names, defaults and cross-section rules; not how a file or the environment is read (semievol.config.file).
Invariant: nothing here opens a file or a socket, so `config validate` works anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import ConfigDict, Field, field_validator, model_validator

from semievol.config.generation import checked_key, checked_url
from semievol.config.method import MethodConfig, Section
from semievol.config.secrets import shown
from semievol.errors import ConfigError, DataError
from semievol.tasks.task import Task
from semievol.types import Query
from semievold.config.breaker import BreakerConfig
from semievold.config.drift import DriftSettings
from semievold.config.fronts import ApiConfig, GatewayConfig
from semievold.config.gate import GateSettings
from semievold.config.generation import LORA_RANKS, GenerationConfig
from semievold.config.review import ReviewConfig
from semievold.config.shadow import ShadowSettings
from semievold.config.streams import IntakeSettings, LabelsSettings, StreamSettings
from semievold.config.tracing import TracingSettings
from semievold.config.training import TrainingSettings
from semievold.config.worth import WorthConfig

_STORAGE = re.compile(r"(?:s3a?|gs|gcs)://[^\s@?#]+")
ROLES = ("intake", "labels", "control", "gateway")


class WorkloadConfig(Section):
    """One task on one base model served under one alias."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Names the rows, adapters and metrics of this daemon: lower-case letters, digits and hyphens."""
    alias: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^\S+$")
    """The stable model name that clients use. None: the workload's name."""

    @property
    def served_alias(self) -> str:
        return self.alias or self.name


class RetentionConfig(Section):
    """How much of what grows with the traffic the state keeps. What an open round or an adapter that exists descends
    from stays in any case, and what is not published yet.
    """

    pseudo_labels: int | None = Field(default=1_000_000, gt=0)
    """Of the pseudo-labels the newest this many are kept, with their history (some 2 KB each). A query whose label was
    deleted and whose record is read again is labelled again. None: no bound."""
    days: float | None = Field(default=None, gt=0)
    """What was labelled longer ago than this is deleted too; longer than the queries topic keeps its records. None: no
    bound."""
    interval_s: float = Field(default=600.0, gt=0)
    """How often the leader looks for what may go, seconds."""


class StoreConfig(Section):
    """Where state lives."""

    url: str | None = Field(default=None, repr=False)
    """SQLAlchemy URL, `postgresql+psycopg://user:password@host/database`; set it by environment when it holds a
    password. In `sqlite:////path`, ? and % are written %3F and %25. None: the SQLite file `state.db` under
    artifacts.directory."""
    retention: RetentionConfig = RetentionConfig()


class LeaseConfig(Section):
    """How several controllers of one workload agree on the one that leads (PostgreSQL)."""

    ttl_s: float = Field(default=10.0, ge=1)
    """A leader that has not renewed its lease for this long (it does so three times as often) is replaced by a standby.
    Longer than any pause of a healthy process, or the lead changes for nothing."""


class IndexConfig(Section):
    """Where the retrievable examples are searched: in the memory of each process, with the vectors in the state, unless
    `url` names a server.
    """

    path: Path | None = None
    """Not used any more: where an earlier version kept its embedded Qdrant (None: `index` under artifacts.directory).
    `doctor` says whether that is still there and may be deleted."""
    url: str | None = None
    """A Qdrant server; needs the extra `qdrant`."""
    api_key: str | None = Field(default=None, repr=False)
    """Key of the Qdrant server; set it by environment."""
    follow_interval_s: float = Field(default=2.0, gt=0)
    """Without `url`, how often a process looks for examples that others changed, seconds."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("api_key")
    @classmethod
    def _key(cls, value: str | None) -> str | None:
        return checked_key(value)


class TriggerConfig(Section):
    """When a round starts by itself. By hand: `semievol rounds start`."""

    kind: Literal["count", "worth"] = "count"
    """count: by new_pseudo_labels and interval_s. worth: when what a round is expected to bring exceeds what it costs
    (section `worth`), given min_new; count and interval are then passed over."""
    worth: WorthConfig = WorthConfig()
    min_examples: int = Field(default=16, gt=0)
    """The warm round waits for this many examples outside the holdout."""
    labels_quiet_s: float = Field(default=3.0, ge=0)
    """The warm round also waits until no label arrived for this long, so that a bulk import is taken whole."""
    new_pseudo_labels: int | None = Field(default=500, gt=0)
    """Start an evolve round when this many queries were labelled since the last one. None: never by count.
    Of a table of 100,000 the count may be half a second old, of one of a million some 15 s."""
    interval_s: float | None = Field(default=None, gt=0)
    """Start an evolve round this long after the last one, given min_new. None: never by time."""
    min_new: int = Field(default=50, gt=0)
    """An interval round needs at least this many new pseudo-labels."""
    retry_failed_s: float = Field(default=300.0, ge=0)
    """After a failed or cancelled round none starts by itself for this long, seconds; then the same conditions start
    one again. With every further one that fails for the same reason the wait doubles, up to a day."""
    max_rounds: int | None = Field(default=None, gt=0)
    """Stop starting evolve rounds by itself after this many. None: no limit."""


class RoundsConfig(Section):
    """How a round runs."""

    wait_for_warm: bool = True
    """Hold the intake until the warm round has decided, so that no query is labelled by the untaught base model."""
    refresh: bool = True
    """Before a round, label the pool again with the serving adapter where an older one had labelled it.
    With selection.risk, and with selection.by learned, it must be true."""
    max_pool: int = Field(default=20_000, gt=0)
    """The newest this many pseudo-labels form a round's pool."""
    max_source_share: float = Field(default=0.2, gt=0, le=1)
    """Of the selected pseudo-labels at most this share is of one source: a client of the gateway whose queries were
    captured, or what the header `semievol-client` of a record names; those without a source are not bounded. It holds
    where there are 1 / max_source_share sources or more (5), and leaves each trigger.min_new. Of the examples that a
    round learns from at most this share is one client's feedback (each of another origin counts as a source; at least
    trigger.min_examples), unless gateway.feedback.trusted. 1: no bound."""
    near_similarity: float | None = Field(default=0.98, gt=0, le=1)
    """With labelling.consensus or labelling.probe, whose vectors are at hand: queries with the same numbers and the
    same answer whose vectors have this cosine count once in a round. None: only texts that differ in nothing but
    spelling do."""
    max_attempts: int = Field(default=5, gt=0)
    """A state that was begun this often without ending (the process died each time) fails the round."""
    fingerprint_prompts: int = Field(default=4, ge=1)
    """Prompts of the attestation fingerprint."""


class RolloutConfig(Section):
    """What happens around a promotion."""

    approval: Literal["none", "required"] = "none"
    """required: a candidate that is proved also waits for a person's word (`semievol rounds approve R`)."""
    approval_patience_s: float = Field(default=3 * 86_400.0, gt=0)
    """How long it waits for that, seconds; then the round ends as inconclusive. No other round starts meanwhile."""

    canary: tuple[float, ...] = ()
    """Shares of the clients that a proved version answers before it is promoted, rising, above 0 and at most 1, such as
    [0.05, 0.25, 1]. A client keeps its version. Empty: it is promoted at once."""
    canary_min_s: float = Field(default=60.0, ge=0)
    """Each of these stages lasts this long or longer, seconds."""
    canary_min_answers: int = Field(default=100, gt=0)
    """Each stage also waits for so many answers of the version on trial: what nobody asked has passed nothing."""
    canary_patience_s: float = Field(default=86_400.0, gt=0)
    """How long a stage waits, seconds; then the round ends as inconclusive. No other round starts meanwhile."""
    slow_answer_s: float = Field(default=10.0, gt=0)
    """An answer of the gateway that takes longer is slow; a version on trial may not be slow more often than the one
    that serves."""

    watch_s: float = Field(default=30.0, ge=0)
    """A promoted adapter is watched this long before its round settles."""
    quarantine: bool = True
    """After a rollback, a pseudo-label that the round had learned is not selected again while its answer is the same.
    false: it may be."""
    drain_s: float = Field(default=60.0, gt=0)
    """Longest wait for requests on a version before it is unloaded; it stays loaded when they have not ended."""
    min_attested_share: float = Field(default=0.5, gt=0, le=1)
    """Of the replicas that answer, at least this share (and at least one) must have proved that it serves the
    candidate; those that fail the proof while others pass it are taken out, and all the rest must have passed."""
    attest_timeout_s: float = Field(default=120.0, gt=0)
    """How long a round waits for that, seconds; then it fails, naming replica and cause."""

    @field_validator("canary")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [share for share in value if not 0 < share <= 1]
        if wrong:
            raise ValueError(f"canary: {wrong[0]:g} is no share of the clients; give shares above 0 and at most 1")
        if any(after <= before for before, after in pairwise(value)):
            raise ValueError(f"canary: the shares {', '.join(f'{each:g}' for each in value)} do not rise; order them")
        return value

    @model_validator(mode="before")
    @classmethod
    def _gone(cls, value: object) -> object:
        for name in ("watch_min", "max_agreement_drop"):
            if isinstance(value, dict) and name in value:
                raise ValueError(
                    f"{name}: mean agreement is not watched any more, for it cannot see a version that gives one "
                    "answer to everything; remove it (what takes its place has the section shadow)"
                )
        return value


class ArtifactsConfig(Section):
    """Files of the daemon: state, snapshots, adapters."""

    directory: Path = Path("semievol-data")
    """Everything the daemon writes is under here. A relative path is of the configuration file's directory, wherever a
    command is run, and in SEMIEVOL__ARTIFACTS__DIRECTORY of the working directory; `doctor` says which it is."""
    storage: str | None = None
    """Where adapters are published beside that directory: `s3://BUCKET/PATH` (extra `s3`) or `gs://BUCKET/PATH` (extra
    `gcs`), one for any number of workloads. Processes that share no volume with the trainer fetch them from there, and
    `semievold sync-adapters` brings them to engines. Credentials are the driver's own (AWS_..., GOOGLE_...). None:
    every process and engine sees artifacts.directory."""
    keep_adapters: int = Field(default=5, ge=2)
    """So many directories of retired adapters are kept, to go back to, and as many of rejected ones, to look into;
    older ones are deleted as rounds end, but for the anchor's."""
    keep_rounds: int = Field(default=20, ge=1)
    """Of the newest this many rounds the snapshot (what was trained on) and the trainer's log are kept; older ones are
    deleted. Checkpoints and copies of the weights go when a round ends. What the state knows of a round stays."""

    @field_validator("storage")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not _STORAGE.fullmatch(value):
            raise ValueError(
                "artifacts.storage: is no address of object storage; write s3://BUCKET/PATH or gs://BUCKET/PATH, "
                "without credentials (those are the driver's own: AWS_CONFIG_FILE, GOOGLE_APPLICATION_CREDENTIALS, ...)"
            )
        return value


class ArtifactsAlone(Section):
    """What a process reads that has to do with the adapters alone: it is given no password of other sections."""

    model_config = ConfigDict(extra="ignore")

    artifacts: ArtifactsConfig = ArtifactsConfig()


class DaemonConfig(MethodConfig):
    """One workload's daemon."""

    workload: WorkloadConfig
    stream: StreamSettings = StreamSettings()
    intake: IntakeSettings = IntakeSettings()
    labels: LabelsSettings = LabelsSettings()
    store: StoreConfig = StoreConfig()
    lease: LeaseConfig = LeaseConfig()
    index: IndexConfig = IndexConfig()
    generation: GenerationConfig = GenerationConfig()
    training: TrainingSettings = TrainingSettings()
    gate: GateSettings = GateSettings()
    trigger: TriggerConfig = TriggerConfig()
    rounds: RoundsConfig = RoundsConfig()
    breaker: BreakerConfig = BreakerConfig()
    rollout: RolloutConfig = RolloutConfig()
    review: ReviewConfig = ReviewConfig()
    shadow: ShadowSettings = ShadowSettings()
    drift: DriftSettings = DriftSettings()
    tracing: TracingSettings = TracingSettings()
    api: ApiConfig = ApiConfig()
    gateway: GatewayConfig = GatewayConfig()
    artifacts: ArtifactsConfig = ArtifactsConfig()
    stop_deadline_s: float = Field(default=30.0, gt=0)
    """SIGTERM to exit, all stages together; keep it below Kubernetes' terminationGracePeriodSeconds."""

    @field_validator("workload", mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> DaemonConfig:
        if self.api.port == self.gateway.port and self.api.port != 0:
            raise ValueError("api.port and gateway.port are the same; give each its own")
        if self.generation.launch and not self.store_url.startswith("sqlite"):
            raise ValueError(
                "generation.launch: starts one server for one process; on a database server, which several controllers "
                "may share, run vLLM by itself and set generation.replicas"
            )
        if self.stream.kind == "local" and not self.store_url.startswith("sqlite"):
            raise ValueError(
                "stream.kind: local keeps its topics in the state's SQLite file, and store.url names a server; set "
                "kafka, or leave store.url out"
            )
        launch = self.generation.launch_settings
        if self.generation.launch and launch.port in (self.api.port, self.gateway.port):
            raise ValueError(
                f"generation.launch_settings.port: {launch.port} is that of api or gateway too; give each its own"
            )
        if (
            self.generation.launch
            and launch.max_model_len is not None
            and launch.max_model_len <= self.task.max_answer_tokens
        ):
            raise ValueError(
                f"generation.launch_settings.max_model_len: {launch.max_model_len} leaves no room beside "
                f"task.max_answer_tokens {self.task.max_answer_tokens}; raise it, or leave it out"
            )
        if self.generation.kind == "vllm" and self.training.largest_rank > LORA_RANKS[-1]:
            raise ValueError(f"training.rank: vLLM serves ranks up to {LORA_RANKS[-1]}, not {self.training.rank}")
        if (
            self.generation.launch
            and launch.max_lora_rank is not None
            and self.training.rank != "auto"
            and launch.max_lora_rank < self.training.rank
        ):
            raise ValueError(
                f"generation.launch_settings.max_lora_rank: {launch.max_lora_rank} is below training.rank "
                f"{self.training.rank}; raise it, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_retention(self) -> DaemonConfig:
        """Rounds would never see what they wait for."""
        kept = self.store.retention.pseudo_labels
        for name, needed in (
            ("rounds.max_pool", self.rounds.max_pool),
            ("trigger.new_pseudo_labels", self.trigger.new_pseudo_labels or 0),
            ("trigger.min_new", self.trigger.min_new),
        ):
            if kept is not None and kept < needed:
                raise ValueError(
                    f"store.retention.pseudo_labels: {kept} is below {name} {needed}; raise it, or lower the other"
                )
        return self

    @model_validator(mode="after")
    def _check_risk(self) -> DaemonConfig:
        """The calibration examples are answered by whoever labels today: the pool must be too."""
        if self.selection.risk is not None and not self.rounds.refresh:
            raise ValueError(
                "rounds.refresh: false leaves labels of older adapters in the pool, of which the certificate of "
                "selection.risk says nothing; set true, or leave selection.risk out"
            )
        if self.selection.by == "learned" and not self.rounds.refresh:
            raise ValueError(
                "rounds.refresh: false leaves labels of older adapters in the pool, of which what selection.by learned "
                "says nothing; set true, or another measure"
            )
        return self

    @model_validator(mode="after")
    def _check_training(self) -> DaemonConfig:
        """What every round would fail at, after its training."""
        if self.model.dtype == "float16":
            raise ValueError("model.dtype: float16 gradients underflow, so every round fails; set bfloat16 or float32")
        return self

    @model_validator(mode="after")
    def _check_shared_gpu(self) -> DaemonConfig:
        training, replicas = self.training, self.generation.replicas
        if training.share_gpu is not None and self.generation.kind != "vllm":
            raise ValueError(
                f"training.share_gpu: {training.share_gpu} is for vLLM servers, and generation.kind "
                f"{self.generation.kind} is an engine in the daemon, which answers beside a training; leave it out, or "
                "set generation.kind: vllm"
            )
        if unknown := [each for each in training.share_gpu_with if each.rstrip("/") not in replicas]:
            raise ValueError(
                f"training.share_gpu_with: {unknown[0]} is none of generation.replicas "
                f"({', '.join(replicas) or 'none'}); write addresses as they stand there, or leave it out: then all "
                "sleep"
            )
        return self

    @model_validator(mode="after")
    def _check_answers(self) -> DaemonConfig:
        """Labels that the task takes for the same, or would not read back as it teaches them."""
        try:
            task = Task(self.task)
            for label in self.task.labels or ():
                task.canonical(label, Query("label", "?"))
        except (ConfigError, DataError) as error:
            raise ValueError(str(error).removeprefix("field 'answer': ")) from None
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> DaemonConfig:
        """On files the examples may show them; here examples come and go."""
        if self.needs_labels and self.task.labels is None:
            raise ValueError(self.missing_labels)
        return self

    @model_validator(mode="after")
    def _check_methods_own(self) -> DaemonConfig:
        """What runs on files can do and the daemon cannot is refused, so that no setting is without effect."""
        if self.models:
            raise ValueError("models: the daemon answers with `generation` alone; remove it, or run `semievol evolve`")
        for place, each in enumerate(self.labelling.configurations):
            if each.adapter not in (None, "base"):
                raise ValueError(
                    f"labelling.configurations[{place}].adapter: the daemon labels with the serving adapter or with "
                    f"base, not with {each.adapter!r}; set base, or leave it out"
                )
        if self.training.kind != "local":
            raise ValueError(
                f"training.kind: {self.training.kind} makes models that only their endpoint can answer with, and the "
                "daemon serves LoRA adapters; set local"
            )
        if self.labelling.panel is not None:
            raise ValueError(
                "labelling.panel: the daemon trains nothing beside its rounds; leave it out, or run `semievol evolve`"
            )
        if self.training.adapt_epochs:
            raise ValueError(
                "training.adapt_epochs: the daemon's rounds do not read the queries' text yet; set 0, or run `semievol "
                "evolve`"
            )
        return self

    @property
    def store_url(self) -> str:
        # Quoted: in a URL, ? ends the path and % begins an escape.
        return self.store.url or f"sqlite:///{quote(str(self.artifacts.directory.resolve() / 'state.db'))}"

    def public(self) -> dict[str, object]:
        """The effective configuration as JSON values, secrets replaced by `***`."""
        return {key: shown(value, key) for key, value in self.model_dump(mode="json").items()}

    def hash(self) -> str:
        """16 hex digits over the effective configuration without secrets."""
        text = json.dumps(self.public(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
