"""The LoRA weights of a training: put on a base model, multiplied, and written as an adapter's files.

Owns what is adapted and in which precision: weights are fp32 for the optimiser, multiplied in the model's precision,
and rounded to it when they are written. Owns not the steps that change them (training.lora_steps).
Invariant: initial weights derive from the job's seed.
"""

from __future__ import annotations

import json
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from safetensors.torch import load_file, save_file
from torch.nn import Linear, functional

from semievol import adapter_directory
from semievol.errors import AdapterError, ConfigError
from semievol.seeds import derive32
from semievol.training.job import TrainingJob

PEFT_VERSION: str = peft.__version__
_ADAPTER = "default"


def add_adapter(model: Any, job: TrainingJob) -> PeftModel:
    """Add LoRA weights on all linear layers: new ones, or the parent's.

    Raises:
        AdapterError: the parent is unusable, or has another rank than `training.rank`.
    """
    torch.manual_seed(derive32(job.seed, "lora", "initial weights"))
    config = LoraConfig(
        r=job.rank,
        lora_alpha=job.alpha,
        lora_dropout=job.training.dropout,
        target_modules=linear_modules(model),
        task_type="CAUSAL_LM",
        base_model_name_or_path=job.model.name,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a deprecated name
        adapted = get_peft_model(model, config, adapter_name=_ADAPTER)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.lora_variant[_ADAPTER] = _LowPrecisionProducts()
    if job.parent is not None:
        adapter_directory.verify_weights(job.parent)
        weights = load_file(job.parent / adapter_directory.WEIGHTS_FILE)
        expected = get_peft_model_state_dict(adapted, adapter_name=_ADAPTER)
        if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in weights.items()}:
            raise AdapterError(
                f"{job.parent}: its weights do not fit training.rank {job.rank} on {job.model.name}; "
                "set training.start_from to base, or keep the rank"
            )
        set_peft_model_state_dict(adapted, weights, adapter_name=_ADAPTER)
    return adapted


def linear_modules(model: Any) -> list[str]:
    """Last names of all linear layers but the vocabulary projection, which servers refuse to adapt.

    PEFT's own "all-linear" may write every layer's full path into the configuration; engines expect these names.
    """
    output = model.get_output_embeddings()
    names = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, Linear) and m is not output}
    if not names:
        raise ConfigError("model.name: this model has no linear layers that LoRA could adapt")
    return sorted(names)


def uncast_inputs(adapted: PeftModel) -> AbstractContextManager[None]:
    """While the model trains, PEFT leaves the precision of what comes in alone: _LowPrecisionProducts sees to it."""
    return cast(AbstractContextManager[None], disable_input_dtype_casting(adapted))


class _LowPrecisionProducts(LoraVariant):  # type: ignore[misc]
    """LoRA whose weights stay in fp32 for the optimiser and are multiplied in the model's precision.

    PEFT would cast every activation to fp32 instead, unless it is told not to; the difference is a quarter of the step
    on a CPU.
    """

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any) -> torch.Tensor:
        down = module.lora_A[active_adapter].weight.to(x.dtype)
        up = (module.lora_B[active_adapter].weight * module.scaling[active_adapter]).to(x.dtype)
        return result + functional.linear(functional.linear(module.lora_dropout[active_adapter](x), down), up)


def write_adapter(adapted: Any, job: TrainingJob, directory: Path) -> None:
    """Round the LoRA weights to the model's precision, in place, and write them and their configuration.

    Every engine rounds them so when it loads them; rounded here, all compute with the bytes that were published.
    """
    dtype = getattr(torch, job.model.dtype)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.lora_variant.pop(_ADAPTER)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    weights = get_peft_model_state_dict(adapted, adapter_name=_ADAPTER)
    weights = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    save_file(weights, directory / adapter_directory.WEIGHTS_FILE, metadata={"format": "pt"})
    config = adapted.peft_config[_ADAPTER].to_dict() | {"inference_mode": True}
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    text = json.dumps(config, indent=2, sort_keys=True, default=str) + "\n"
    (directory / adapter_directory.CONFIG_FILE).write_text(text, encoding="utf-8")
