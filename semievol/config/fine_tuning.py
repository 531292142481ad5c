"""Settings of training on a fine-tuning API (OpenAI's `/v1/fine_tuning/jobs` and what speaks like it).

Invariant: no imports beyond pydantic, so that reading a configuration loads no driver.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from semievol.config.generation import checked_key, checked_url
from semievol.config.section import Auto, Section


class FineTuningConfig(Section):
    """A supervised fine-tuning job at an endpoint; the LoRA and optimiser settings of `training` do not apply to it."""

    base_url: str | None = None
    """The API up to and including /v1. None: generation.base_url."""
    api_key: str | None = Field(default=None, repr=False, exclude=True)
    """Set it by environment. None: generation.api_key, where base_url is that of generation too."""
    model: str | None = Field(default=None, min_length=1)
    """The model to fine-tune, as the API names it. None: model.name."""
    n_epochs: Annotated[int, Field(gt=0)] | Auto = "auto"
    """Passes over the rows; auto: the API's choice."""
    batch_size: Annotated[int, Field(gt=0)] | Auto = "auto"
    """Rows per step; auto: the API's choice."""
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Scales the API's own learning rate; auto: its choice."""
    suffix: str | None = Field(default=None, max_length=64)
    """Part of the fine-tuned model's name. None: none."""
    poll_interval_s: float = Field(default=15.0, gt=0)
    """Longest pause between two looks at a running job, seconds; the first looks come sooner."""
    timeout_s: float | None = Field(default=None, gt=0)
    """How long a run waits for its job, seconds; the job itself goes on, and the same command waits again. None: for as
    long as it takes."""
    cancel_on_interrupt: bool = False
    """Cancel the job when the run is interrupted. Off: the job goes on, and the same command waits for it again."""

    @field_validator("base_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("api_key")
    @classmethod
    def _key(cls, value: str | None) -> str | None:
        return checked_key(value)
