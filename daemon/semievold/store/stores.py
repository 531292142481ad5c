"""All of a workload's state behind one handle, so that a role asks for what it needs by name."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from semievol.errors import ConfigError
from semievold.store.adapters import AdapterStore
from semievold.store.aliases import AliasStore
from semievold.store.captured import CapturedStore
from semievold.store.database import Database
from semievold.store.drift.events import DriftStore
from semievold.store.examples import ExampleStore
from semievold.store.feedback import FeedbackStore
from semievold.store.freezes import FreezeStore
from semievold.store.leases import LeaseStore
from semievold.store.lineage.retractions import RetractionStore
from semievold.store.lineage.walk import LineageStore
from semievold.store.pseudo_labels import PseudoLabelStore
from semievold.store.requests import RequestStore
from semievold.store.review.contradictions import ContradictionStore
from semievold.store.review.items import ReviewStore
from semievold.store.rollout.canaries import CanaryStore
from semievold.store.rollout.rests import RestStore
from semievold.store.rounds import RoundStore
from semievold.store.shadow_pairs import ShadowPairStore
from semievold.store.tables import examples, label_counts, rounds
from semievold.store.waiting_feedback import WaitingFeedback


@dataclass(frozen=True, slots=True)
class Stores:
    """The repositories of one workload over one database."""

    database: Database
    examples: ExampleStore
    pseudo_labels: PseudoLabelStore
    rounds: RoundStore
    lineage: LineageStore
    retractions: RetractionStore
    adapters: AdapterStore
    alias: AliasStore
    requests: RequestStore
    leases: LeaseStore
    freezes: FreezeStore
    feedback: FeedbackStore
    captured: CapturedStore
    waiting: WaitingFeedback
    contradictions: ContradictionStore
    canaries: CanaryStore
    reviews: ReviewStore
    shadow_pairs: ShadowPairStore
    drift: DriftStore
    rests: RestStore

    def warm_ended(self) -> bool:
        """A warm round was decided, or something was promoted by hand."""
        return self.rounds.warm_ended() or self.alias.get().promoted

    def workloads(self) -> frozenset[str]:
        """All that have examples, pseudo-labels or rounds in this database."""
        with self.database.read() as connection:
            return frozenset(
                name
                for table in (examples, label_counts, rounds)
                for name in connection.execute(select(table.c.workload).distinct()).scalars()
            )


def open_stores(url: str, workload: str, alias: str, *, migrate: bool = True, feedback_trusted: bool = False) -> Stores:
    """Open the state; `migrate` brings the schema to this version first."""
    database = Database(url, workload)
    if migrate:
        try:
            database.migrate()
        except BaseException:
            database.close()
            raise
    return stores_over(database, workload, alias, feedback_trusted=feedback_trusted)


def stores_over(database: Database, workload: str, alias: str, *, feedback_trusted: bool = False) -> Stores:
    """The repositories over a database that is open; `feedback_trusted` is `gateway.feedback.trusted`."""
    kept = ExampleStore(database, workload, feedback_trusted=feedback_trusted)
    lineage, moves = LineageStore(database, workload), RoundStore(database, workload)
    return Stores(
        database=database,
        examples=kept,
        pseudo_labels=PseudoLabelStore(database, workload),
        rounds=moves,
        lineage=lineage,
        retractions=RetractionStore(database, workload, kept, lineage),
        adapters=AdapterStore(database, workload),
        alias=AliasStore(database, workload, alias),
        requests=RequestStore(database, workload),
        leases=LeaseStore(database, workload),
        freezes=FreezeStore(database, workload),
        feedback=FeedbackStore(database, workload, kept),
        captured=CapturedStore(database, workload),
        waiting=WaitingFeedback(database, workload),
        contradictions=ContradictionStore(database, workload),
        canaries=CanaryStore(database, workload, alias, moves),
        reviews=ReviewStore(database, workload),
        shadow_pairs=ShadowPairStore(database, workload),
        drift=DriftStore(database, workload),
        rests=RestStore(database, workload),
    )


def check_workload(stores: Stores, workload: str) -> None:
    """Refuse to begin anew beside what was learned under another name: the base model would be served in silence.

    Raises:
        ConfigError: the state holds another workload and nothing of this one.
    """
    known = stores.workloads()
    if known and workload not in known:
        raise ConfigError(
            f"workload.name: {stores.database.description} holds {', '.join(sorted(known))} and nothing of {workload}; "
            "keep the name (workload.alias is what clients see), or set another artifacts.directory"
        )
