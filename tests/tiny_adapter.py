"""Random LoRA adapters for the tiny model, published like real ones."""

from __future__ import annotations

import warnings
from pathlib import Path

from semievol import adapter_directory


def make_tiny_adapter(
    model: Path, adapters: Path, seed: int, *, rank: int = 4, prefix: str = "tiny-r0001", parent: str | None = None
) -> Path:
    """Publish an adapter with random weights, strong enough to change the answers; return its directory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    work = adapters.parent / f"work-{prefix}-{seed}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a deprecated name
            adapted = get_peft_model(base, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(work)
    return adapter_directory.publish(
        work, adapters, prefix, base_model=str(model), parent=parent, round_number=1, seed=seed, training={}
    )
