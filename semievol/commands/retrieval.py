"""What embeds and what finds neighbours in a run on files, as the configuration says: an index in memory.

Heavy imports happen inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from semievol.config.method import MethodConfig
from semievol.tasks.task import Task
from semievol.types import Example

if TYPE_CHECKING:
    from semievol.examples.resident import ResidentExampleIndex
    from semievol.protocols import Embedder


def wants_neighbours(config: MethodConfig) -> bool:
    shown = [configuration.neighbours for configuration in config.labelling.configurations]
    return max([*shown, config.training.neighbours_in_prompt]) > 0


def embeds(config: MethodConfig, task: Task) -> bool:
    return wants_neighbours(config) or config.labelling.hears_others or config.selection.by == "learned" or task.embeds


def embedder_of(config: MethodConfig) -> Embedder:
    """One for all that a command embeds, each text once."""
    from semievol.examples.embedding.opening import build_embedder
    from semievol.examples.embedding.remembered import RememberedVectors

    return RememberedVectors(build_embedder(config.embedding))


def index_over(embedder: Embedder, examples: Sequence[Example]) -> ResidentExampleIndex:
    from semievol.examples.resident import ResidentExampleIndex

    index = ResidentExampleIndex(embedder)
    index.upsert(examples)
    return index
