"""All of a workload's state behind one handle, so that a role asks for what it needs by name."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.store.adapters import AdapterStore
from daemon.store.aliases import AliasStore
from daemon.store.database import Database
from daemon.store.examples import ExampleStore
from daemon.store.pseudo_labels import PseudoLabelStore
from daemon.store.requests import RequestStore
from daemon.store.rounds import RoundStore


@dataclass(frozen=True, slots=True)
class Stores:
    """The repositories of one workload over one database."""

    database: Database
    examples: ExampleStore
    pseudo_labels: PseudoLabelStore
    rounds: RoundStore
    adapters: AdapterStore
    alias: AliasStore
    requests: RequestStore


def open_stores(url: str, workload: str, alias: str, *, migrate: bool = True) -> Stores:
    """Open the state; `migrate` brings the schema to this version first."""
    database = Database(url, workload)
    if migrate:
        database.migrate()
    return Stores(
        database=database,
        examples=ExampleStore(database, workload),
        pseudo_labels=PseudoLabelStore(database, workload),
        rounds=RoundStore(database, workload),
        adapters=AdapterStore(database, workload),
        alias=AliasStore(database, workload, alias),
        requests=RequestStore(database, workload),
    )
