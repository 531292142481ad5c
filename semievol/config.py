"""Settings of the method, strict: unknown keys are errors, every setting states unit, default and reason.

Imports no torch. The daemon's configuration (`daemon.config`) embeds these sections unchanged, so that a run on
files and a run in the service mean the same by the same key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of every section: frozen, unknown keys rejected, docstrings become descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TaskConfig(Section):
    """What is asked and what counts as an answer."""

    form: Literal["classification", "multiple_choice"] = "classification"
    """classification: the answer is a label string; multiple_choice: a letter A, B, C... of the query's options."""
    labels: tuple[str, ...] | None = None
    """The closed set of labels of a classification task. None: any non-empty label string is an answer."""
    instruction: str | None = None
    """System message put before every prompt. None: no system message (the chat template may add its own)."""
    template: str = "{question}"
    """The user turn; `{question}` is replaced. Multiple choice appends the lettered options and `Answer:`."""
    max_question_chars: int = Field(default=8_000, gt=0)
    """Longer questions are refused (dead-lettered by the daemon): they would not fit the prompt."""
    max_answer_tokens: int = Field(default=16, gt=0)
    """Generation stops after this many tokens; an answer cut there rarely parses."""

    @model_validator(mode="after")
    def _check(self) -> TaskConfig:
        if "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if self.labels is not None:
            if self.form != "classification":
                raise ValueError("labels belong to form classification; multiple_choice takes options per query")
            if len(set(self.labels)) < 2:
                raise ValueError("labels needs at least two different labels, or none for an open set")
        return self


class ModelConfig(Section):
    """The base model: a hub name or a local directory of a transformers causal language model."""

    name: str
    """Hub name (`meta-llama/Llama-3.1-8B-Instruct`) or directory."""
    revision: str | None = None
    """Hub revision to pin. None: the default branch (a local directory has none)."""
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    """Precision of the weights, for generation and training."""
    device: str = "auto"
    """torch device; auto takes CUDA where there is one, else the CPU."""
    chat_template: Path | None = None
    """A jinja file that replaces the tokenizer's own chat template. None: the tokenizer's."""


class EmbeddingConfig(Section):
    """Where vectors come from."""

    kind: Literal["sentence_transformers", "openai", "hashing"] = "sentence_transformers"
    """hashing needs no model and no download; it is meant for tests and smoke runs."""
    name: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub name, directory, or `package:NAME` (a model inside an installed Python package); openai: the model's name."""
    base_url: str | None = None
    """openai only: the endpoint up to and including /v1."""
    api_key: str | None = Field(default=None, repr=False)
    """openai only; set it by environment, not in the file."""
    dimensions: int = Field(default=256, gt=0)
    """hashing only: width of the vectors."""
    batch_size: int = Field(default=64, gt=0)
    """Texts per forward pass or request."""


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

    @model_validator(mode="after")
    def _check(self) -> Configuration:
        if self.temperature == 0 and self.samples != 1:
            raise ValueError("temperature 0 gives one answer: set samples to 1 or raise temperature")
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

    theta: float = Field(default=0.5, gt=0, le=1)
    """Keep pseudo-labels whose entropy is at or below this quantile of the pool (paper: 0.5)."""
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    """Also require at least this share of candidates to agree; 0 leaves the paper's rule alone."""


class TrainingConfig(Section):
    """Supervised LoRA fine-tuning (completion-only loss)."""

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
    mlflow_uri: str | None = None
    """Tracking server or store; the experiment is the workload. None: MLFLOW_TRACKING_URI, or MLflow's own default."""


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


class MethodConfig(Section):
    """The method's sections together: what a run on files needs."""

    task: TaskConfig = TaskConfig()
    model: ModelConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    labelling: LabellingConfig = LabellingConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    gate: GateConfig = GateConfig()
    seed: int = Field(default=0, ge=0)
    """Every random choice of a run derives from this number."""


SERVICE_SECTIONS = frozenset(
    {
        "api",
        "artifacts",
        "gateway",
        "generation",
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
