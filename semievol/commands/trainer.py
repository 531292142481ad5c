"""What trains in a run on files, as the configuration says, and whether what it makes can be answered with.

Owns the choice by `training.kind`, and saying which rows it could not train on.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from semievol.adapter_directory import verify
from semievol.config.method import MethodConfig
from semievol.errors import ConfigError
from semievol.training.process import train_in_subprocess

if TYPE_CHECKING:
    from semievol.teaching import Trainer

logger = logging.getLogger(__name__)


def trainer_of(config: MethodConfig) -> Trainer:
    """What trains, by `training.kind`.

    Raises:
        ConfigError: a fine-tuning API without an address.
    """
    if config.training.kind == "local":
        return functools.partial(train_in_subprocess, inherit=config.training.inherit)
    from semievol.training.fine_tuning import FineTuningTrainer

    settings = config.training.openai_api
    base_url, api_key, key_setting = settings.base_url, settings.api_key, "training.openai_api.api_key"
    if base_url is None or base_url == config.generation.base_url:
        base_url = config.generation.base_url
        if api_key is None:
            api_key, key_setting = config.generation.api_key, "generation.api_key"
    if base_url is None:
        raise ConfigError("training.openai_api.base_url: missing; give the API up to and including /v1")
    return FineTuningTrainer(base_url, api_key, settings.model or config.model.name, settings, key_setting=key_setting)


def left_out_of_training(adapter: Path) -> dict[str, str]:
    """Why some rows are not in an adapter that was just made, by their id; each is told.

    Raises:
        AdapterError: it is not whole.
    """
    training = verify(adapter).training
    left_out = {str(name): str(reason) for name, reason in dict(training.get("left_out") or {}).items()}
    for name, reason in left_out.items():
        logger.warning("row %s is left out of the training: %s", name, reason)
    if (others := int(training.get("rows_left_out") or 0) - len(left_out)) > 0:
        logger.warning("%d more rows are left out of the training", others)
    return left_out


def check_evolvable(config: MethodConfig) -> None:
    """Whether what is trained can be answered with.

    Raises:
        ConfigError: the trainer makes adapters that the engine cannot load.
    """
    if config.training.kind == "local" and config.model.dtype == "float16":
        raise ConfigError("model.dtype: float16 gradients underflow, so nothing is trained; set bfloat16 or float32")
    if config.generation.kind == "openai" and config.training.kind == "local":
        raise ConfigError(
            "training.kind: local makes LoRA adapters, which an endpoint of generation.kind openai cannot load; set "
            "training.kind: openai_api, or generation.kind: vllm or local"
        )
    if config.training.kind == "openai_api" and config.generation.kind != "openai":
        raise ConfigError(
            "generation.kind: a model of training.kind openai_api answers at its endpoint alone; set kind: openai and "
            "base_url"
        )
