"""The daemon's settings of the engine that answers prompts: the method's, and what serving adds to them.

Invariant: no imports beyond pydantic, so that reading a configuration loads no driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from semievol.config.generation import GenerationConfig as MethodGenerationConfig
from semievol.config.generation import checked_address
from semievol.config.method import Section

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""


class LaunchSettings(Section):
    """A vLLM server that the daemon starts and supervises itself (`generation.launch`)."""

    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    """What starts it, without its flags. None: `-m vllm.entrypoints.openai.api_server` of the daemon's interpreter."""
    port: int = Field(default=8330, ge=1, le=65535)
    """Where it listens, on 127.0.0.1 alone."""
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = None
    """Largest rank that it can load. None: training.rank, rounded up to what vLLM allows."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Longest prompt and answer together, tokens. None: the model's own."""
    arguments: tuple[str, ...] = ()
    """Further flags, for example `--gpu-memory-utilization 0.6` as two items."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Further environment variables of the server, with their values; the place for its tokens."""
    inherit: tuple[str, ...] = ()
    """Names of the daemon's variables that the server gets besides those it is known to need; `AWS_*` stands for all
    that begin so. Settings of ours are never handed on."""


class GenerationConfig(MethodGenerationConfig):
    """The engine that answers and serves."""

    labelling_share: float = Field(default=0.5, gt=0, lt=1)
    """local only: part of the engine's time that labelling gets while clients want more than the rest; each has what
    the other leaves."""
    prefill_tokens: int = Field(default=512, gt=0)
    """local only: tokens of prompts that are computed before somebody else may be next."""
    waiting: int = Field(default=256, gt=0)
    """local only: clients' requests that are worked on or wait for it; more are answered 429, as are those of a client
    that has half of them."""
    dns: str | None = None
    """vllm only, instead of replicas: `http://name:port`, where the name stands for all of them (headless Service)."""
    dns_interval_s: float = Field(default=2.0, gt=0)
    """vllm only: how often the name is resolved again, seconds."""
    max_adapters: int = Field(default=3, ge=3)
    """vllm only: versions of this workload on a replica at a time: serving, candidate, previous; with 4 the gate may
    also ask the anchor what it has not answered yet. Keep it below the servers' --max-loras, and where several
    workloads share the servers, their sum: with one to spare, no running request loses its slot while another version
    is loaded."""
    adapters_path: str | None = None
    """vllm only: `artifacts.directory`/adapters as the servers see it (an absolute path). None: the same path."""
    watch_interval_s: float = Field(default=1.0, gt=0)
    """vllm only: how often each replica is asked for its health and its models, seconds."""
    launch: bool = False
    """vllm only, instead of replicas: start one vLLM server on this machine and keep it running."""
    launch_settings: LaunchSettings = LaunchSettings()
    """How it is started."""

    @field_validator("launch_settings")
    @classmethod
    def _no_key_in_the_open(cls, value: LaunchSettings) -> LaunchSettings:
        given = (*value.arguments, *(value.command or ()))
        if any(argument.split("=")[0].replace("_", "-") == "--api-key" for argument in given):
            raise ValueError(
                "arguments or command: hold --api-key, which everybody can read; set generation.api_key by environment"
            )
        return value

    @field_validator("dns")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return None if value is None else checked_address(value, "generation.dns")

    @field_validator("adapters_path")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).is_absolute():
            raise ValueError(
                f"generation.adapters_path: {value!r} is relative; give the absolute path that the servers see"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> GenerationConfig:
        if self.kind == "openai":
            raise ValueError(
                "generation.kind: openai loads no adapters, so the daemon cannot serve with it; set local or vllm "
                "(openai is for `semievol evolve`, `label` and `eval` on files)"
            )
        given = [key for key in ("replicas", "dns", "launch") if getattr(self, key)]
        if self.kind == "local" and given:
            raise ValueError(f"generation.{given[0]}: is for kind vllm; set generation.kind: vllm, or remove it")
        if self.kind == "vllm" and len(given) != 1:
            raise ValueError(
                "generation: kind vllm wants exactly one of replicas (a list of addresses), dns (a name for all of "
                f"them) and launch (true: start one here); {', '.join(given) or 'none'} given"
            )
        self._check_endpoint()
        return self


def lora_rank(needed: int) -> int:
    """The smallest rank that vLLM takes for --max-lora-rank and that `needed` fits in.

    Raises:
        ValueError: it is above the largest.
    """
    fitting = [rank for rank in LORA_RANKS if rank >= needed]
    if not fitting:
        raise ValueError(f"training.rank: vLLM serves ranks up to {LORA_RANKS[-1]}, not {needed}; lower it")
    return fitting[0]
