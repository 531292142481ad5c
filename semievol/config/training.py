"""Settings of training. No imports beyond pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from semievol.config.fine_tuning import FineTuningConfig
from semievol.config.section import Auto, Section

MOST_RANK = 32
"""The largest rank that `rank: auto` takes; a server is told of it before anybody knows what will be learned."""
AUTO = ("epochs", "learning_rate", "batch_size", "rank", "alpha")
"""What `training: auto` leaves to the rule (semievol.training.fitting)."""


class TrainingConfig(Section):
    """Supervised LoRA fine-tuning (completion-only loss)."""

    kind: Literal["local", "openai_api"] = "local"
    """local: LoRA in a process of this machine. openai_api: a job at a fine-tuning API (see openai_api)."""
    openai_api: FineTuningConfig = FineTuningConfig()
    """kind openai_api only: where and how the job runs."""
    rank: Annotated[int, Field(gt=0)] | Auto = 16
    """LoRA rank; keep it at or below the server's --max-lora-rank. auto: 16, or 32 where more is to be learned than 16
    can hold. A training that continues an adapter keeps its rank; what adapt_epochs make has no answers, and so 16."""
    alpha: Annotated[int, Field(gt=0)] | Auto = 32
    """LoRA scale is alpha / rank. auto, also where it is left out and rank is auto: twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """LoRA dropout."""
    learning_rate: Annotated[float, Field(gt=0)] | Auto = 1e-4
    """Peak rate of the evolve rounds (paper: 1e-4 for 8 B models; small models want more). auto: by the size."""
    warm_learning_rate: Annotated[float, Field(gt=0)] | Auto | None = None
    """Peak rate of the warm round. None: learning_rate."""
    epochs: Annotated[float, Field(gt=0)] | Auto = 2.0
    """Passes over the mix in an evolve round. auto: by its rows and the model's size."""
    warm_epochs: Annotated[float, Field(gt=0)] | Auto | None = None
    """Passes over the examples in the warm round. None: epochs."""
    batch_size: Annotated[int, Field(gt=0)] | Auto = 8
    """Rows per optimiser step. auto: by their number, their length and the model's size."""
    adapt_epochs: float = Field(default=0, ge=0)
    """Passes over what the queries say, before any answer is taught: language modelling on their text, without a label.
    The LoRA that it makes is where every training starts that would else start afresh, and which the adapters' lineage
    names as their parent; served is one LoRA, as ever. For a run on files; the text of a fine-tuning API's models is
    its own. 0: none."""
    adapt_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of those passes. None: learning_rate."""
    gradient_accumulation: int = Field(default=1, gt=0)
    """Micro-batches per optimiser step, each of batch_size / gradient_accumulation rows."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with rising learning rate; cosine decay follows."""
    max_tokens: int = Field(default=1024, gt=0)
    """Longer rows are cut at the start of the prompt; the completion is always whole."""
    start_from: Literal["base", "incumbent"] = "base"
    """base: each adapter is trained afresh (no drift over rounds), with adapt_epochs from what these made; incumbent:
    continue from the serving adapter."""
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

    inherit: tuple[str, ...] = ()
    """Names of environment variables that a training process gets besides those it is known to need (semievol.
    child_environment); `AWS_*` stands for all that begin so. Settings of ours are never handed on."""

    @model_validator(mode="before")
    @classmethod
    def _alpha_follows(cls, values: Any) -> Any:
        if values == "auto":
            return dict.fromkeys(AUTO, "auto")
        if isinstance(values, dict) and values.get("rank") == "auto":
            return {"alpha": "auto", **values}
        return values

    @property
    def largest_rank(self) -> int:
        """That an adapter of these settings may have."""
        return MOST_RANK if self.rank == "auto" else self.rank

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainingConfig:
        parts = self.gradient_accumulation * self.processes
        if self.kind == "local" and self.batch_size != "auto" and self.batch_size % parts:
            raise ValueError(
                f"batch_size: {self.batch_size} rows cannot be divided among {self.processes} processes and "
                f"gradient_accumulation {self.gradient_accumulation}; take a multiple of {parts}"
            )
        return self

    @model_validator(mode="after")
    def _texts_are_read_here(self) -> TrainingConfig:
        if self.adapt_epochs and self.kind != "local":
            raise ValueError(
                f"adapt_epochs: {self.kind} is taught answers to questions, not texts; set 0, or kind: local"
            )
        if self.adapt_learning_rate is not None and not self.adapt_epochs:
            raise ValueError("adapt_learning_rate: is for adapt_epochs; set that, or leave it out")
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
