"""Training settings that fit what is trained on: the rule behind every `auto` of the section `training`.

Owns the rule and the model's size that it goes by; docs/method.md says where its constants come from. A training's
numbers are found once, by whoever plans it, and written into its job. Pure but for the model's files, of which headers
are read; the model is never loaded. Invariant: the same rows and the same model give the same numbers.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semievol.config.training import AUTO, MOST_RANK, TrainingConfig
from semievol.engines.cpu import has_bfloat16
from semievol.types import TrainingRow

SIZE = 135e6
"""The model that most was measured with, SmolLM2-135M: below, epochs grow with the root of how much smaller one is."""
EPOCHS = 60.0
"""Over the root of the number of rows: 6 for 100, 3 for 452."""
SHOWN = 30.0
"""So often each answer of a closed set is shown at least: 20 intents with 5 examples each had 6 epochs by hand."""
FEWEST_EPOCHS, MOST_EPOCHS = 2.0, 12.0
RATE, LARGEST_RATE, SMALLEST_RATE = 8.5e-4, 4e-3, 5e-5
"""Of that model; it falls with the cube root of the size."""
UNKNOWN_RATE = 2e-4
BATCH, LARGEST_BATCH = 8, 32
SMALL = 20e6
MANY_ROWS = 5000
STEPS_A_PASS = 8
TOKENS_A_STEP = 16_384
RANK = 16
LEARNED_TOKENS = 5e6
"""So many tokens of answers a model of SIZE learns with RANK; more with the root of its size, as LoRA's weights do."""
CHARS_A_TOKEN = 4
_OF_WARM = ("warm_learning_rate", "warm_epochs")
"""Settings that may be `auto` too, and of which nothing is left once a training's numbers are found."""
_NVIDIA = Path("/dev/nvidiactl")
_SIZE_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is trained on. Tokens are counted as characters, four a token: no tokenizer is loaded to plan.

    answer_tokens: of all rows together. longest: tokens of the longest row. answers: how many different ones there are,
    where an answer means the same for every query; 0: it does not.
    """

    rows: int
    answer_tokens: float
    longest: float
    answers: int = 0

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], most_tokens: int, *, closed: bool) -> Extent:
        """Of rows, the longest of which is cut to `most_tokens`; `closed`: answers mean the same for every query."""
        answers = [len(row.completion) for row in rows]
        prompts = [sum(len(each.content) for each in row.messages) for row in rows]
        longest = max(map(sum, zip(prompts, answers, strict=True)), default=0) / CHARS_A_TOKEN
        different = len({row.completion for row in rows}) if closed else 0
        return cls(len(rows), sum(answers) / CHARS_A_TOKEN, min(longest, most_tokens), different)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A training's numbers. training: the settings with them in place of each `auto`; learning_rate, epochs: of this
    kind of round. why: what the rule went by; None: nothing was left to it.
    """

    training: TrainingConfig
    learning_rate: float
    epochs: float
    why: str | None

    def said(self) -> str:
        """In words: `6 epochs at 0.00085, batches of 8, rank 16`."""
        training = self.training
        return (
            f"{self.epochs:g} epoch{'' if self.epochs == 1 else 's'} at {self.learning_rate:g}, "
            f"batches of {training.batch_size}, rank {training.rank}"
        )


def fitted(
    training: TrainingConfig,
    kind: Literal["warm", "evolve", "adapt"],
    extent: Extent,
    model: str,
    parent: Path | None = None,
    *,
    nodes: int = 1,
    most_rank: int = MOST_RANK,
) -> Fitted:
    """The numbers of one training, each `auto` by the rule.

    Args:
        training: settings; what they state is kept.
        kind: of the round, for settings of its own.
        extent: what is trained on.
        model: hub name or directory of the base model.
        parent: the adapter that is continued: its rank is kept.
        nodes: machines among which a batch is divided.
        most_rank: that the server takes.
    """
    rates = {"warm": training.warm_learning_rate, "adapt": training.adapt_learning_rate}
    passes = {"warm": training.warm_epochs, "adapt": training.adapt_epochs}
    rate = rates.get(kind) or training.learning_rate
    epochs = passes.get(kind) or training.epochs
    stated = (rate, epochs, training.batch_size, training.rank, training.alpha)
    if "auto" not in (*stated, *(getattr(training, name) for name in (*AUTO, *_OF_WARM))):
        return Fitted(training, float(rate), float(epochs), None)
    size = parameters(model)
    rate = rate_for(size) if rate == "auto" else rate
    epochs = epochs_for(extent, size) if epochs == "auto" else epochs
    batch = training.batch_size
    if batch == "auto":
        batch = _shared(batch_for(extent, size), training.gradient_accumulation * training.processes * nodes)
    rank = training.rank
    if rank == "auto":
        rank = rank_of(parent) or min(most_rank, rank_for(extent, size))
    alpha = 2 * rank if training.alpha == "auto" else training.alpha
    numbers = {"learning_rate": float(rate), "epochs": float(epochs), "batch_size": batch, "rank": rank, "alpha": alpha}
    settled = training.model_copy(update={**numbers, **dict.fromkeys(_OF_WARM)})
    if "auto" not in stated:  # only of the other kind of round
        return Fitted(settled, float(rate), float(epochs), None)
    longest = f"{extent.rows:,} rows of at most {math.ceil(extent.longest):,} tokens"
    longest += f" and {extent.answers} answers" if extent.answers else ""
    return Fitted(settled, float(rate), float(epochs), f"{longest}, {said_of(size)}")


def epochs_for(extent: Extent, size: int | None) -> float:
    """Passes over the rows, in halves: few rows want many, answers that few rows give too, and a small model more."""
    smaller = max(1.0, SIZE / size) if size is not None else 1.0
    rows = max(1, extent.rows)
    wanted = max(EPOCHS * math.sqrt(smaller / rows), SHOWN * extent.answers / rows)
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.floor(2 * wanted + 0.5) / 2))


def rate_for(size: int | None) -> float:
    """The peak rate, to two digits."""
    if size is None:
        return UNKNOWN_RATE
    return float(f"{min(LARGEST_RATE, max(SMALLEST_RATE, RATE * (SIZE / size) ** (1 / 3))):.1e}")


def batch_for(extent: Extent, size: int | None) -> int:
    """Rows a step: more where rows are many or the model is small; not where a pass has few steps or rows are long."""
    small = size is not None and size < SMALL
    batch = LARGEST_BATCH if small or extent.rows >= 4 * MANY_ROWS else BATCH
    if batch == BATCH and extent.rows >= MANY_ROWS:
        batch = 2 * BATCH
    while batch > BATCH and (extent.rows < STEPS_A_PASS * batch or batch * extent.longest > TOKENS_A_STEP):
        batch //= 2
    return batch


def processes_count(training: TrainingConfig) -> bool:
    """Whether another number of processes would train another way: a batch by the rule is made larger for them."""
    alone = training.gradient_accumulation
    batches = [BATCH * 2**power for power in range((LARGEST_BATCH // BATCH).bit_length())]
    return training.batch_size == "auto" and any(
        _shared(batch, alone * training.processes) != _shared(batch, alone) for batch in batches
    )


def _shared(batch: int, parts: int) -> int:
    """The next larger batch that so many equal parts make."""
    return math.ceil(batch / parts) * parts


def rank_for(extent: Extent, size: int | None) -> int:
    """The paper's, or twice that where the answers are more than it can hold."""
    held = LEARNED_TOKENS * math.sqrt((size or SIZE) / SIZE)
    return RANK if extent.answer_tokens <= held else MOST_RANK


def rank_of(adapter: Path | None) -> int | None:
    """The rank of an adapter; None: there is none, or it does not say."""
    if adapter is None:
        return None
    try:
        return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is wrong with it is said by what loads it


def suggested_dtype(*, bfloat16: bool | None = None) -> Literal["float32"] | None:
    """What `model.dtype` should be where the default would be slow here; None: the default.

    `bfloat16`: whether this machine computes it well. None: looked up.
    """
    well = bfloat16 if bfloat16 is not None else has_bfloat16() or _NVIDIA.exists()
    return None if well else "float32"


# --- the size of a model --------------------------------------------------------------------------------------------


def parameters(model: str) -> int | None:
    """How many parameters a model has: by the headers of its weights, or by its name ("-1.7B-"). None: unknown."""
    directory = Path(model).expanduser()
    if directory.is_dir():
        files = sorted(directory.glob("*.safetensors"))
        try:
            return sum(map(_in_file, files)) or None
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return None  # what is wrong with it is said by what loads it
    found = _SIZE_IN_NAME.findall(model.rpartition("/")[2].replace("-", " ").replace("_", " "))
    if not found:
        return None
    number, unit = found[-1]
    return int(float(number) * (1e9 if unit.lower() == "b" else 1e6)) or None


def said_of(size: int | None) -> str:
    """A size in words."""
    if size is None:
        return "a model of unknown size"
    count = f"{size / 1e9:.2g} billion" if size >= 1e9 else f"{size / 1e6:.3g} million"
    return f"a model of {count} parameters"


def _in_file(path: Path) -> int:
    """Sum of the tensors' sizes that a safetensors file names in its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError(f"{path}: no header")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
