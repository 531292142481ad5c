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
from semievol.config.fine_tuning import FineTuningConfig
from semievol.config.generation import GenerationConfig, checked_key, checked_url
from semievol.config.section import NameOrPath
from semievol.config.section import Section as Section

MAX_SEED = 2**63 - 1
"""What every engine takes."""


class TaskConfig(Section):
    """What is asked and what counts as an answer."""

    form: Literal["classification", "multiple_choice", "numeric", "short_answer", "free_form"] = "classification"
    """classification: a label string; multiple_choice: a letter A, B, C... of the query's options; numeric: one number
    or several; short_answer: a few words, compared as SQuAD and DROP do; free_form: a text, compared by embedding."""
    labels: tuple[str, ...] | None = None
    """The closed set of labels of a classification task. None: any non-empty label string is an answer."""
    answer_index: Literal[0, 1] | None = None
    """multiple_choice: the number of option A where files give the right option as a whole number: 0 (MMLU on the
    Hugging Face hub) or 1 (parts of ARC). None: whole numbers are refused, for most fit both ways, one of them one off.
    """
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """numeric: numbers are the same up to this share of the larger one (ConvFinQA: 0.01); 0 wants equal ones."""
    similarity: float = Field(default=0.85, gt=0, le=1)
    """free_form: answers mean the same from this cosine of their embeddings on. It depends on the embedder: look at
    pairs of answers that do and that do not. Opposites are often as near as rewordings: then ask for labels."""
    instruction: str | None = None
    """System message put before every prompt. None: no system message (the chat template may add its own)."""
    template: str = "{question}"
    """The user turn; `{question}` is replaced. Multiple choice appends the lettered options and `Answer:`."""
    answer_pattern: str | None = None
    """Regular expression (Python's) that finds the answer in the model's text: its first group, or the whole match; the
    last match counts, and is then read as the form reads it. None: the form's own rule, behind `Answer:` or alone."""
    answer_template: str = "{answer}"
    """How an answer is written in prompts and in training; `{answer}` is replaced. With `answer_pattern`, a text in
    which the pattern finds the answer, or the model would unlearn what is read; examples are checked for it."""
    max_question_chars: int = Field(default=8_000, gt=0)
    """Longer questions are refused (dead-lettered by the daemon): they would not fit the prompt."""
    max_answer_tokens: int = Field(default=16, gt=0)
    """Generation stops after this many tokens; an answer cut there rarely parses. free_form: 256 unless set."""

    @model_validator(mode="before")
    @classmethod
    def _room_for_free_form(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("form") == "free_form":
            return {"max_answer_tokens": 256, **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> TaskConfig:
        if "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if "{answer}" not in self.answer_template:
            raise ValueError("answer_template must contain {answer}")
        if self.answer_pattern is not None:
            try:
                re.compile(self.answer_pattern)
            except re.error as error:
                raise ValueError(
                    f"answer_pattern is no regular expression ({error}); mend it or leave it out"
                ) from None
        if self.answer_index is not None and self.form != "multiple_choice":
            raise ValueError(f"answer_index belongs to form multiple_choice; {self.form} has no options, leave it out")
        if self.labels is not None:
            if self.form == "multiple_choice":
                raise ValueError("labels belong to form classification; multiple_choice takes options per query")
            if self.form != "classification":
                raise ValueError(f"labels belong to form classification; {self.form} has none, leave them out")
            if len(set(self.labels)) < 2:
                raise ValueError("labels needs at least two different labels, or none for an open set")
        return self


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


class Configuration(Section):
    """One inference configuration of collaborative labelling."""

    name: str
    samples: int = Field(default=1, ge=1)
    """Candidate answers drawn from this prompt; samples of one prompt share its prefill."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy (then samples must be 1)."""
    neighbours: int = Field(default=3, ge=0)
    """Retrieved examples shown as turns; 0 is closed book."""
    order: Literal["nearest_last", "nearest_first", "shuffled"] = "nearest_last"
    """Order of the shown examples; models weigh the last turns most."""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Draws its samples and shuffled orders, in every round the same. None: the run's seed and the name draw them."""
    instruction: str | None = None
    """System message of this prompt variant; empty: none. None: task.instruction."""
    template: str | None = None
    """User turn of this prompt variant, with `{question}`. None: task.template."""
    adapter: str | None = Field(default=None, min_length=1)
    """What answers: `base` is the model without an adapter; else an adapter directory, or a name that the engine knows.
    None: the adapter that serves; with another `model`, that model's base."""
    model: str | None = None
    """An entry of `models` that answers instead of `generation`. None: `generation` does."""
    weight: float = Field(default=1.0, ge=0)
    """How much its candidates count in the consensus, beside those of other configurations."""

    @model_validator(mode="after")
    def _check(self) -> Configuration:
        if self.template is not None and "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if self.temperature == 0 and self.samples != 1:
            raise ValueError("temperature 0 gives one answer: set samples to 1 or raise temperature")
        return self


class ConsensusConfig(Section):
    """What queries and examples that lie close together say about each other's answers (see consensus)."""

    method: Literal["centres", "spreading"] = "centres"
    """centres: each answer has one place, found from the examples and all queries. spreading: neighbours pass their
    answers on, for answers whose queries lie in several places."""
    votes: float = Field(default=2.0, ge=0, le=20)
    """centres: what a query's own candidate answers add to the score of an answer, when all are sure of it."""
    sharpness: float = Field(default=35.0, gt=0, le=50)
    """centres: the score of an answer is this times the cosine of the query and the answer's centre. Sharper ones would
    give many queries the share 1, which no threshold parts."""
    weight: float = Field(default=0.7, ge=0, lt=1)
    """spreading: how much the neighbours' answers count against a query's own."""
    neighbours: int = Field(default=10, ge=1)
    """spreading: nearest queries and examples that each query listens to."""
    power: float = Field(default=8.0, ge=0)
    """spreading: a neighbour's weight is its cosine to this power: the nearest count most."""
    steps: int = Field(default=10, ge=1)
    """How often centres are placed anew, or answers passed on."""

    @model_validator(mode="after")
    def _check(self) -> ConsensusConfig:
        idle = ("weight", "neighbours", "power") if self.method == "centres" else ("votes", "sharpness")
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: is for another method than {self.method}; remove it, or set method")
        return self


class LabellingConfig(Section):
    """Collaborative labelling (paper, section on collaborative learning)."""

    configurations: tuple[Configuration, ...] = (
        Configuration(name="greedy", temperature=0.0, samples=1),
        Configuration(name="sampled", temperature=1.0, samples=3),
    )
    """The n candidate answers of a query are all samples of all configurations (paper: n = 4)."""
    justify: bool = True
    """Where candidates differ, show them to the model and let it pick; off: the majority decides."""
    consensus: ConsensusConfig | None = None
    """Correct the pseudo-labels by those of the queries near them, and rank them by that consensus when
    selection.by is consensus. An answer taken over from others has agreement 0, so that selection.min_agreement decides
    whether such ones may be trained on. Classification with labels only. The daemon asks for it when a round begins, of
    the whole pool: predictions, which are published at once, are without it. None: each stands alone."""
    batch_size: int = Field(default=32, gt=0)
    """Queries labelled together."""
    structured: bool = False
    """vLLM only: let nothing but the task's closed set of answers be written. Every answer then parses, also one that
    the model did not mean, and entropy is that among the allowed answers: lower, and blind to what else would have been
    said. Off, because selection relies on both."""

    @model_validator(mode="after")
    def _check(self) -> LabellingConfig:
        names = [c.name for c in self.configurations]
        if not names or len(set(names)) != len(names):
            raise ValueError("configurations needs at least one entry, each with its own name")
        return self


class SelectionConfig(Section):
    """Adaptive selection: which pseudo-labels are trained on."""

    by: Literal["entropy", "agreement", "margin", "semantic_entropy", "votes", "consensus"] = "entropy"
    """What ranks them. entropy: the paper's H; agreement: the share of candidates that gave the answer; margin: that
    share less the runner-up's; semantic_entropy: how the candidates spread over different answers; votes: agreement in
    which each candidate counts by its likelihood; consensus: see labelling.consensus. Agreement and margin have few
    different values with few candidates, and equals stand or fall together."""
    theta: float = Field(default=0.5, gt=0, le=1)
    """Keep pseudo-labels that are as sure as this quantile of the pool or surer (paper: 0.5, by entropy)."""
    theta_by_round: tuple[float, ...] = ()
    """theta of the first evolve round, the second and so on; the last one holds for all later ones. Empty: theta. Later
    rounds label more surely than the first, and may keep more (intents: 0.5, 0.8)."""
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    """Also require at least this share of candidates to agree; 0 leaves the paper's rule alone."""

    @field_validator("theta_by_round")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < theta <= 1 for theta in value):
            raise ValueError("theta_by_round: each theta must be above 0 and at most 1")
        return value

    def of_evolve_round(self, number: int) -> SelectionConfig:
        """The settings of the `number`-th evolve round, counted from 1."""
        if not self.theta_by_round:
            return self
        theta = self.theta_by_round[min(number, len(self.theta_by_round)) - 1]
        return self.model_copy(update={"theta": theta})


class TrainingConfig(Section):
    """Supervised LoRA fine-tuning (completion-only loss)."""

    kind: Literal["local", "openai_api"] = "local"
    """local: LoRA in a process of this machine. openai_api: a job at a fine-tuning API (see openai_api)."""
    openai_api: FineTuningConfig = FineTuningConfig()
    """kind openai_api only: where and how the job runs."""
    rank: int = Field(default=16, gt=0)
    """LoRA rank; keep it at or below the server's --max-lora-rank."""
    alpha: int = Field(default=32, gt=0)
    """LoRA scale is alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """LoRA dropout."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak rate of the evolve rounds (paper: 1e-4 for 8 B models; small models want more)."""
    warm_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of the warm round. None: learning_rate."""
    epochs: float = Field(default=2, gt=0)
    """Passes over the mix in an evolve round."""
    warm_epochs: float | None = Field(default=None, gt=0)
    """Passes over the examples in the warm round. None: epochs."""
    batch_size: int = Field(default=8, gt=0)
    """Rows per optimiser step."""
    gradient_accumulation: int = Field(default=1, gt=0)
    """Micro-batches per optimiser step, each of batch_size / gradient_accumulation rows."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with rising learning rate; cosine decay follows."""
    max_tokens: int = Field(default=1024, gt=0)
    """Longer rows are cut at the start of the prompt; the completion is always whole."""
    start_from: Literal["base", "incumbent"] = "base"
    """base: each adapter is trained afresh (no drift over rounds); incumbent: continue from the serving adapter."""
    example_repeats: int = Field(default=1, ge=1)
    """How often each labelled example enters the mix of an evolve round; examples are always in it."""
    neighbours_in_prompt: int = Field(default=0, ge=0)
    """Retrieved turns in open-book copies of training rows. 0: rows are trained closed book alone, as clients ask."""
    open_book_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the rows that get an open-book copy, when neighbours_in_prompt is above 0. Labelling shows neighbours: a
    small model that only trains without them forgets how to use them (intents, k = 3: 0.57 instead of 0.73)."""
    checkpoint_steps: int = Field(default=50, gt=0)
    """Optimiser steps between checkpoints; a killed training resumes from the last one."""
    gradient_checkpointing: bool = False
    """Trade speed for memory in the backward pass."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads of a training process. None: all cores, divided among the processes."""
    processes: int = Field(default=1, gt=0)
    """Processes that train one job together on this machine, one a GPU; each computes its share of the batch, so
    batch_size is a multiple of processes * gradient_accumulation. Under torchrun its own number counts instead."""
    log_to: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Where loss, gradient norm and learning rate are written too; each needs the extra of its name. Empty: nowhere.
    The last loss stands in progress.json anyway."""
    log_steps: int = Field(default=1, gt=0)
    """Optimiser steps between two entries of log_to; an entry is the mean over them."""
    tensorboard_directory: Path | None = None
    """One folder a training is made in it. None: `tensorboard` in the training's working directory."""
    mlflow_uri: str | None = Field(default=None, repr=False)
    """Tracking server or store, without a password; the experiment is the workload. None: MLFLOW_TRACKING_URI, or
    MLflow's own default."""

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainingConfig:
        parts = self.gradient_accumulation * self.processes
        if self.kind == "local" and self.batch_size % parts:
            raise ValueError(
                f"batch_size: {self.batch_size} rows cannot be divided among {self.processes} processes and "
                f"gradient_accumulation {self.gradient_accumulation}; take a multiple of {parts}"
            )
        return self

    @field_validator("mlflow_uri")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        # It is written into the snapshot of every training.
        if value is not None and ("@" in value.partition("://")[2] or "@" in value.partition("/")[0]):
            raise ValueError(
                "must hold no user and no password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the "
                "environment, or for a database leave mlflow_uri out and set MLFLOW_TRACKING_URI there"
            )
        return value


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

    @model_validator(mode="after")
    def _check_consensus(self) -> MethodConfig:
        if self.labelling.consensus is not None and self.task.labels is None:
            raise ValueError("labelling.consensus: needs task.labels, for near queries to have the same answers")
        for place, each in enumerate(self.labelling.configurations):
            if each.weight != 1 and self.labelling.consensus is None:
                raise ValueError(
                    f"labelling.configurations[{place}].weight: counts in labelling.consensus alone; set that, or "
                    "remove the weight"
                )
        if not any(each.weight for each in self.labelling.configurations):
            raise ValueError("labelling.configurations: every weight is 0; give one of them a weight")
        if self.selection.by == "consensus" and self.labelling.consensus is None:
            raise ValueError("selection.by: consensus needs labelling.consensus; set it (`consensus: {}`)")
        return self

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
        "gateway",
        "generation.adapters_path",
        "generation.dns",
        "generation.dns_interval_s",
        "generation.launch",
        "generation.launch_settings",
        "generation.max_adapters",
        "generation.watch_interval_s",
        "index",
        "intake",
        "labels",
        "lease",
        "rollout",
        "rounds",
        "stop_deadline_s",
        "store",
        "stream",
        "trigger",
        "workload",
    }
)
"""The daemon's own keys in a file that both programs read: a run on files passes over them, the daemon checks them."""
