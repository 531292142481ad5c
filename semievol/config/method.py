"""Settings of the method, strict: unknown keys are errors, every setting states unit, default and reason.

Imports no torch. The daemon's configuration (`semievold.config.daemon`) embeds these sections unchanged, so that a run
on files and a run in the service mean the same by the same key.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from semievol.config.data import DataConfig
from semievol.config.generation import GenerationConfig, checked_key, checked_url
from semievol.config.labelling import Configuration as Configuration
from semievol.config.labelling import ConsensusConfig as ConsensusConfig
from semievol.config.labelling import LabellingConfig as LabellingConfig
from semievol.config.labelling import LearnedConfig as LearnedConfig
from semievol.config.labelling import PanelConfig as PanelConfig
from semievol.config.labelling import ProbeConfig as ProbeConfig
from semievol.config.labelling import RiskConfig as RiskConfig
from semievol.config.labelling import SelectionConfig as SelectionConfig
from semievol.config.section import MAX_SEED, NameOrPath
from semievol.config.section import Section as Section
from semievol.config.task import TaskConfig as TaskConfig
from semievol.config.training import AUTO
from semievol.config.training import TrainingConfig as TrainingConfig


class ModelConfig(Section):
    """The base model: a hub name or a local directory of a transformers causal language model."""

    name: NameOrPath
    """Hub name (`meta-llama/Llama-3.1-8B-Instruct`) or directory: of the configuration's directory where it begins with
    `./` or `../`, else of the working directory."""
    revision: str | None = None
    """Hub revision to pin. None: the default branch (a local directory has none)."""
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    """Precision of the weights, for generation and training."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|(cuda|xpu|npu|hpu|mtia|meta)(:\d+)?)$")
    """torch device; auto takes CUDA where there is one, else the CPU."""
    chat_template: Path | None = None
    """A jinja file that replaces the tokenizer's own chat template. None: the tokenizer's."""

    @model_validator(mode="after")
    def _half_precision_wants_a_gpu(self) -> ModelConfig:
        if self.dtype == "float16" and self.device == "cpu":
            raise ValueError("dtype: float16 is not for a CPU; set float32, or bfloat16 where the processor knows it")
        return self


class EmbeddingConfig(Section):
    """Where vectors come from."""

    kind: Literal["sentence_transformers", "openai", "hashing"] = "sentence_transformers"
    """hashing needs no model and no download; it is meant for tests and smoke runs."""
    name: NameOrPath = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub name, directory (as model.name), or `package:NAME` (a model inside an installed Python package); openai: the
    model's name."""
    base_url: str | None = None
    """openai only: the endpoint up to and including /v1."""
    api_key: str | None = Field(default=None, repr=False)
    """openai only; set it by environment, not in the file."""
    dimensions: int = Field(default=256, gt=0)
    """hashing only: width of the vectors."""
    batch_size: int = Field(default=64, gt=0)
    """Texts per forward pass or request."""

    @field_validator("api_key")
    @classmethod
    def _key(cls, value: str | None) -> str | None:
        return checked_key(value)

    @field_validator("base_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @model_validator(mode="after")
    def _has_an_endpoint(self) -> EmbeddingConfig:
        if self.kind == "openai" and self.base_url is None:
            raise ValueError("base_url: missing; kind openai wants the endpoint up to and including /v1")
        return self


class GateConfig(Section):
    """When a candidate has proved itself."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Level of the exact paired test (one-sided, McNemar) of candidate against incumbent on the holdout."""
    min_holdout: int = Field(default=20, ge=5)
    """With fewer held-out examples the gate is inconclusive, whatever they say."""
    max_slice_drop: float = Field(default=0.25, gt=0, le=1)
    """A category of at least min_slice examples that loses more accuracy than this makes the gate reject."""
    min_slice: int = Field(default=20, ge=5)
    """Categories with fewer held-out examples are reported but do not decide."""

    @model_validator(mode="after")
    def _can_promote(self) -> GateConfig:
        least = math.ceil(math.log2(1 / self.alpha))
        if self.min_holdout < least:
            raise ValueError(
                f"min_holdout: with {self.min_holdout} examples not even a candidate that wins all of them is "
                f"significantly better at alpha {self.alpha:g}; raise it to {least}, or raise alpha"
            )
        return self


class SequentialGateConfig(GateConfig):
    """The gate of the service, which may look again after every label (semievol.proof.sequential)."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that a candidate which is no better is ever promoted, however often the gate looks. At 0.05 it takes 7
    wins without a loss, 10 with one, 12 with two."""
    margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Gain that must be exceeded, as a share of all queries. 0: any gain; it needs the fewest labels."""
    least_gain: float = Field(default=0.05, gt=0, lt=1)
    """A gain that is worth waiting for: once it is shown that less is gained, the wait is over."""
    beta: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that a candidate which gains `least_gain` is ever given up as one that gains less."""
    max_brier_rise: float | None = Field(default=None, ge=0, lt=1)
    """A candidate whose confidence (exp of minus the entropy) is shown to miss the truth by more than this above the
    incumbent's, in mean squared error (Brier score), is rejected: selection by entropy relies on it. None: not asked,
    for a first adapter is surer than the untaught model in all that it says."""

    @model_validator(mode="after")
    def _one_order(self) -> SequentialGateConfig:
        if self.margin > self.least_gain:
            raise ValueError(
                f"least_gain: {self.least_gain:g} is below gate.margin ({self.margin:g}), so that a candidate might be "
                "promoted and given up at once; raise it, or lower the margin"
            )
        return self


class MethodConfig(Section):
    """The method's sections together: what a run on files needs."""

    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig
    generation: GenerationConfig = GenerationConfig()
    models: dict[str, GenerationConfig] = Field(default_factory=dict)
    """Other engines by name, for labelling.configurations[].model."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    labelling: LabellingConfig = LabellingConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    gate: GateConfig = GateConfig()
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Every random choice of a run derives from this number."""

    @classmethod
    def spelled_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`training: auto` is every number of training that a rule knows, and theta where nothing else decides it."""
        if values.get("training") != "auto":
            return values
        selection = values.get("selection") or {}
        rules = ("theta", "theta_by_round", "risk")
        if isinstance(selection, dict) and all(selection.get(name) in (None, (), []) for name in rules):
            selection = {**selection, "theta": "auto"}
        return {**values, "training": dict.fromkeys(AUTO, "auto"), "selection": selection}

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        return cls.spelled_out(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_consensus(self) -> MethodConfig:
        labelling = self.labelling
        if self.needs_labels and self.task.labels is None and not self.task.may_be_closed:
            raise ValueError(self.missing_labels)
        for place, each in enumerate(labelling.configurations):
            if each.weight != 1 and (labelling.panel is not None or not labelling.hears_others):
                raise ValueError(
                    f"labelling.configurations[{place}].weight: counts in labelling.consensus and beside "
                    "labelling.probe alone, without a panel; set one of them, or remove the weight"
                )
        if not any(each.weight for each in labelling.configurations):
            raise ValueError("labelling.configurations: every weight is 0; give one of them a weight")
        if self.selection.by == "consensus" and labelling.consensus is None:
            raise ValueError("selection.by: consensus needs labelling.consensus; set it (`consensus: {}`)")
        return self

    @model_validator(mode="after")
    def _check_panel(self) -> MethodConfig:
        if self.labelling.panel is None:
            return self
        if self.training.kind != "local":
            raise ValueError(
                f"labelling.panel: would pay {self.training.kind} for {self.labelling.panel.adapters} more models; "
                "leave it out, or set training.kind: local"
            )
        if self.selection.learned != LearnedConfig():
            raise ValueError("selection.learned: with labelling.panel its vote is what is learned; leave it out")
        return self

    @property
    def needs_labels(self) -> bool:
        """Whether a part is on that takes a closed set of answers."""
        return self.labelling.hears_others or self.labelling.panel is not None

    @property
    def missing_labels(self) -> str:
        """What to say where there is none."""
        parts = {name: getattr(self.labelling, name) for name in ("consensus", "panel", "probe")}
        part = next(name for name, setting in parts.items() if setting is not None)
        return f"labelling.{part}: needs task.labels, for near queries to have the same answers"

    @model_validator(mode="after")
    def _check_label_names(self) -> MethodConfig:
        names = self.data.label_names
        if names is None:
            return self
        if self.task.form != "classification":
            raise ValueError(f"data.label_names: are of form classification; {self.task.form} has none, leave them out")
        unknown = [name for name in names if self.task.labels is not None and name not in self.task.labels]
        if unknown:
            raise ValueError(f"data.label_names: {unknown[0]!r} is not one of task.labels; add it there, or respell it")
        return self

    @model_validator(mode="after")
    def _check_structured(self) -> MethodConfig:
        if self.labelling.structured and self.task.form not in ("classification", "multiple_choice"):
            raise ValueError(f"labelling.structured: form {self.task.form} has no closed set of answers; turn it off")
        return self

    @field_validator("models")
    @classmethod
    def _names(cls, value: dict[str, GenerationConfig]) -> dict[str, GenerationConfig]:
        for name, entry in value.items():
            if not _ENTRY_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no usable name: take a-z, 0-9 and single _, so that SEMIEVOL__MODELS__NAME__API_KEY "
                    "can be set"
                )
            if entry.kind != "vllm" and entry.model is None:
                raise ValueError(f"{name}.model: missing; name the model that answers")
        return value

    @model_validator(mode="after")
    def _check_engines(self) -> MethodConfig:
        if self.generation.kind == "local" and self.generation.model is not None:
            raise ValueError("generation.model: is for kind openai; the model of this process is model.name")
        for place, each in enumerate(self.labelling.configurations):
            if each.model is not None and each.model not in self.models:
                known = ", ".join(sorted(self.models)) or "none"
                raise ValueError(
                    f"labelling.configurations[{place}].model: {each.model!r} is not in models (there: {known}); add it"
                )
            engine = self.generation if each.model is None else self.models[each.model]
            if self.labelling.structured and engine.kind != "vllm":
                key = "generation.kind" if each.model is None else f"models.{each.model}.kind"
                raise ValueError(f"labelling.structured needs {key} vllm; turn it off, or set the kind")
        return self


_ENTRY_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")

SERVICE_SECTIONS = frozenset(
    {
        "api",
        "artifacts",
        "breaker",
        "drift",
        "gate.beta",
        "gate.late_labels",
        "gate.least_gain",
        "gate.margin",
        "gate.max_brier_rise",
        "gate.patience_s",
        "gateway",
        "generation.adapters_path",
        "generation.dns",
        "generation.dns_interval_s",
        "generation.labelling_share",
        "generation.launch",
        "generation.launch_settings",
        "generation.max_adapters",
        "generation.prefill_tokens",
        "generation.waiting",
        "generation.watch_interval_s",
        "index",
        "intake",
        "labels",
        "lease",
        "review",
        "rollout",
        "rounds",
        "shadow",
        "stop_deadline_s",
        "store",
        "stream",
        "tracing",
        "training.launcher",
        "trigger",
        "workload",
    }
)
"""The daemon's own keys in a file that both programs read: a run on files passes over them, the daemon checks them."""
