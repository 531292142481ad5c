"""The gradient steps: rows in, LoRA weights and their fingerprint out.

Owns the loss and the checkpoints. Owns neither the weights (training.lora_weights), nor how rows become batches
(training.batches), nor the job's files and publishing (training.lora). Differs from the textbook in two ways: the
vocabulary projection runs at the answer positions only; what all prompts of a batch begin with runs through the model
once, gradients included.
Invariant: batches, initial weights and dropout derive from the job's seed.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch.nn import functional
from transformers import DynamicCache, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from semievol.durable_files import sync_tree, write_durably
from semievol.engines import decoding
from semievol.engines.language_model import device_of, load_model, load_prompts
from semievol.errors import ConfigError
from semievol.plain_lines import one_line
from semievol.seeds import derive32
from semievol.training import log as training_log
from semievol.training.batches import (
    IGNORED,
    Tokenized,
    TokenRow,
    batch_order,
    collate,
    tokenize,
    tokenize_texts,
    whole_batches,
)
from semievol.training.fingerprint import take_fingerprint
from semievol.training.job import TrainingJob
from semievol.training.lora_weights import PEFT_VERSION, add_adapter, uncast_inputs, write_adapter
from semievol.training.progress import TrainingProgress
from semievol.types import TrainingRow

_COMPLETE = "COMPLETE"
NAMED = 20
"""So many rows that are left out are named; of the others the number is told."""
# On a CPU, plain attention is faster than torch's fused kernel up to about this length, and its memory still small.
_PLAIN_ATTENTION_TOKENS = 256


def run(
    job: TrainingJob,
    rows: Sequence[TrainingRow],
    checkpoints_dir: Path,
    weights_dir: Path,
    report: Callable[[TrainingProgress], None],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train the job and write the adapter's files into `weights_dir`.

    Returns:
        The fingerprint and a summary of the training, both for the manifest; nothing where another process publishes.
    """
    transformers.utils.logging.set_verbosity_error()
    if job.model.dtype == "float16":
        raise ConfigError("model.dtype: float16 gradients underflow; train with bfloat16 or float32")
    if is_main_process():
        training_log.check(job)
    _take_place(job)
    prompts = load_prompts(job.model)
    tokenized = (tokenize_texts if job.kind == "adapt" else tokenize)(rows, prompts, job.training.max_tokens)
    tokens = tokenized.rows
    if is_main_process():
        _name_left_out(tokenized)
    model = load_model(job.model)
    on_cpu = model.device.type == "cpu"
    plain = on_cpu and max(row.length for row in tokens) <= _PLAIN_ATTENTION_TOKENS
    if plain:
        model.set_attn_implementation("eager")
    if job.training.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    adapted = add_adapter(model, job)
    arguments = training_arguments(job, checkpoints_dir)
    # Only now have all processes met: before, the first one may still be deleting what another job left here.
    checkpoint = last_checkpoint(checkpoints_dir)
    resumed_from = 0 if checkpoint is None else int(checkpoint.rpartition("-")[2])
    order = batch_order([row.length for row in tokens], job.batch_size, job.epochs, job.seed)
    # Checkpointed layers keep no cache; DistributedDataParallel expects one forward per backward.
    share = decoding.can_share(model) and not job.training.gradient_checkpointing and arguments.world_size == 1
    stream = [tokens[i] for i in order]
    if arguments.world_size > 1:
        stream = whole_batches(stream, job.batch_size)
    trainer = LoraTrainer(adapted, arguments, stream, prompts.padding, share, report)
    if is_main_process():
        for callback in training_log.callbacks(job, checkpoints_dir.parent, resumed_from + 1):
            trainer.add_callback(callback)
    with uncast_inputs(adapted):
        trainer.train(resume_from_checkpoint=checkpoint)
    steps = trainer.state.global_step
    if arguments.world_size > 1:
        trainer.accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()
    if not is_main_process():
        return [], {}
    if plain:
        _fuse_attention(model)
    report(TrainingProgress("fingerprinting", steps, steps, trainer.last_loss))
    weights_dir.mkdir(parents=True, exist_ok=True)
    write_adapter(adapted, job, weights_dir)
    fingerprint = take_fingerprint(adapted, prompts, job, rows)
    return fingerprint, trainer.summary() | {
        "resumed_from_step": resumed_from,
        "rows": len(rows),
        "rows_cut": len(tokenized.cut),
        "rows_left_out": len(tokenized.left_out),
        "rows_neutralised": len(tokenized.neutralised),
        "left_out": dict(list(tokenized.left_out.items())[:NAMED]),
        "pseudo_labels": sum(row.kind == "pseudo-label" for row in rows),
        "learning_rate": job.learning_rate,
        "epochs": job.epochs,
        "batch_size": job.batch_size,
        "rank": job.rank,
        "alpha": job.alpha,
        "device": str(model.device),
        "processes": arguments.world_size,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": PEFT_VERSION},
    }


def _fuse_attention(model: Any) -> None:
    """Back to the attention that models are loaded with: torch's fused kernel, and plain where a model has no other."""
    with suppress(ValueError, ImportError):
        model.set_attn_implementation("sdpa")


def _name_left_out(tokenized: Tokenized) -> None:
    for name, reason in list(tokenized.left_out.items())[:NAMED]:
        print(one_line(f"row {name} is left out: {reason}"), file=sys.stderr)
    if len(tokenized.left_out) > NAMED:
        print(f"and {len(tokenized.left_out) - NAMED} more rows", file=sys.stderr)


def _take_place(job: TrainingJob) -> None:
    """This process's threads, and the GPU that is its own among those of several processes."""
    threads, share = job.training.threads, os.environ.get("OMP_NUM_THREADS", "")
    if threads is None and int(os.environ.get("WORLD_SIZE", "1")) > 1 and share.isdigit():
        threads = int(share)  # torch read it when it was loaded, which the first process may have done before
    if threads is not None:
        torch.set_num_threads(threads)
    if "LOCAL_RANK" in os.environ and device_of(job.model) == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def is_main_process() -> bool:
    """Whether this process publishes: the first of several that train one job together."""
    return int(os.environ.get("RANK", "0")) == 0


class LoraTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with the batches and the loss of this module."""

    # The loss of a micro-batch is already its share of the step's: the Trainer must not scale it again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        stream: Sequence[TokenRow],
        padding: int,
        share: bool,
        report: Callable[[TrainingProgress], None],
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=list(stream),
            data_collator=lambda rows: collate(rows, padding, share=share),
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(_Reporter(self, report))
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self._step_loss = torch.zeros((), device=arguments.device)
        self._tokens = 0
        self._seconds = 0.0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """The micro-batches of one step, and the weight of all completion tokens in it, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # Counted where the collator made them: on a GPU every number that is read waits for all that runs there.
        weight, tokens = torch.zeros(()), 0
        for batch in batches:
            weight += ((batch["labels"] != IGNORED).sum(-1) * batch["weights"]).sum()
            tokens += int(batch["attention_mask"].sum()) + len(batch["labels"])
        weight = weight.to(device)
        if self.args.world_size > 1:
            weight = self.accelerator.reduce(weight)
            tokens *= self.args.world_size  # about: the rows of a step are near in length
        self._tokens += tokens
        return batches, weight

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted cross entropy of the completion tokens, divided by the step's weight: its mean over the step."""
        labels, weights = inputs["labels"], inputs["weights"]
        cache: Any = None
        if "shared_ids" in inputs:
            cache = DynamicCache(config=self.model.config)
            model(input_ids=inputs["shared_ids"], past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_select_indices(torch.zeros(len(labels), dtype=torch.long, device=labels.device))
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            position_ids=inputs["position_ids"],
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=labels.shape[1],
        ).logits
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        assert num_items_in_batch is not None
        loss = (losses.view_as(labels).sum(-1) * weights).sum() / num_items_in_batch
        loss = loss * self.args.world_size  # gradients are averaged over processes, the divisor counts all their rows
        self._step_loss += loss.detach()
        return cast(torch.Tensor, loss)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def step_done(self, seconds: float) -> TrainingProgress:
        """Close the books of one optimiser step.

        Raises:
            ConfigError: the loss is no longer a number.
        """
        if self.args.world_size > 1:
            self._step_loss = self.accelerator.reduce(self._step_loss, "mean")
        self.last_loss = self._step_loss.item()
        self._step_loss = torch.zeros_like(self._step_loss)
        if not math.isfinite(self.last_loss):
            raise ConfigError(
                f"training.learning_rate: {self.args.learning_rate:g} diverged, the loss of step "
                f"{self.state.global_step} is {self.last_loss}; lower it"
            )
        if self.first_loss is None:
            self.first_loss = self.last_loss
        self._seconds += seconds
        return TrainingProgress(
            "training", self.state.global_step, self.state.max_steps, self.last_loss, self._tokens / self._seconds
        )

    def summary(self) -> dict[str, Any]:
        return {
            "steps": self.state.global_step,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
            "tokens": self._tokens,
            "seconds": round(self._seconds, 3),
        }

    def mark_checkpoint(self) -> None:
        """Mark the checkpoint once all of it is on the disk: a kill while it is written leaves no marker."""
        if self.args.world_size > 1:
            self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            directory = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            sync_tree(directory)
            write_durably(directory / _COMPLETE, "")


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Reports every optimiser step, and has every checkpoint marked."""

    def __init__(self, trainer: LoraTrainer, report: Callable[[TrainingProgress], None]) -> None:
        self._trainer = trainer
        self._report = report
        self._since = time.monotonic()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        progress = self._trainer.step_done(time.monotonic() - self._since)
        if is_main_process():
            self._report(progress)

    def on_save(self, *_: Any, **__: Any) -> None:
        self._trainer.mark_checkpoint()


class _OneDevice(TrainingArguments):  # type: ignore[misc]
    """Several visible GPUs would mean DataParallel to the Trainer, which PEFT refuses."""

    @property
    def n_gpu(self) -> int:
        return min(int(super().n_gpu), 1)


def training_arguments(job: TrainingJob, checkpoints_dir: Path) -> TrainingArguments:
    """The Trainer's settings. The stream of batches is one epoch to it, whatever the number of epochs.

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """
    training = job.training
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    parts = training.gradient_accumulation * processes
    if job.batch_size % parts:
        raise ConfigError(
            f"training.batch_size: {job.batch_size} rows cannot be divided among {processes} processes and "
            f"training.gradient_accumulation {training.gradient_accumulation}"
        )
    return _OneDevice(
        output_dir=str(checkpoints_dir),
        num_train_epochs=1,
        per_device_train_batch_size=job.batch_size // parts,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup_ratio,
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=derive32(job.seed, "lora", "dropout"),
        save_strategy="steps",
        save_steps=training.checkpoint_steps,
        save_total_limit=2,  # the last complete one is kept while the next is written
        logging_strategy="steps" if training.log_to else "no",
        logging_steps=training.log_steps,
        logging_nan_inf_filter=False,  # reads every loss once more; a step that diverged ends the training anyway
        run_name=job.name_prefix,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        ddp_find_unused_parameters=False,  # every forward pass uses all LoRA weights
        use_cpu=device_of(job.model) == "cpu",
    )


def last_checkpoint(checkpoints_dir: Path) -> str | None:
    """The newest complete checkpoint; the unfinished ones are deleted."""
    found = sorted(checkpoints_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    complete = [path for path in found if (path / _COMPLETE).exists()]
    for path in found:
        if path not in complete and is_main_process():
            shutil.rmtree(path)
    return str(complete[-1]) if complete else None
