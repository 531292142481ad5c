"""What a round works with, handed to whoever does a part of its work."""

from __future__ import annotations

from dataclasses import dataclass

from semievol.protocols import Embedder, ExampleIndex, Generator
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievold.rounds.launch import Launcher
from semievold.rounds.pool import Label
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.store.stores import Stores
from semievold.tracing import Tracing


@dataclass(frozen=True, slots=True)
class RoundTools:
    """Stores, engine and fleet of one process; `tracing` None: steps are not traced."""

    stores: Stores
    task: Task
    generator: Generator
    index: ExampleIndex
    embedder: Embedder
    label: Label
    launcher: Launcher
    fleet: AdapterFleet
    alias: Alias
    equality: AnswerEquality
    tracing: Tracing | None = None
