"""The tables: state, not the stream, is the truth about examples, pseudo-labels, rounds and adapters.

Every row belongs to a workload; keys are (workload, id), so that at-least-once delivery plus idempotent writes give
each query exactly one pseudo-label. Times are UTC seconds since the epoch (REAL). JSON columns hold
what explains a row and is never queried by. The schema is changed by the migrations beside this file alone.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)

metadata = MetaData()

# --- the local stream -------------------------------------------------------------------------------------------

stream_records = Table(
    "stream_records",
    metadata,
    Column("topic", String(200), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("key", String(512)),
    Column("value", LargeBinary),  # NULL is a tombstone
    Column("headers", JSON, nullable=False),
    Column("timestamp", Float, nullable=False),
)

stream_offsets = Table(
    "stream_offsets",
    metadata,
    Column("group", String(200), primary_key=True),
    Column("topic", String(200), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
)

# --- examples and pseudo-labels ---------------------------------------------------------------------------------

examples = Table(
    "examples",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("id", String(512), primary_key=True),
    # See semievol.examples.records.query_to_json; with `answers`, where several are right.
    Column("query", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("source", String(200)),
    Column("category", String(200)),
    Column("asked", String(32)),  # hash of what is asked, whatever the id: semievol.examples.split.asked_key
    Column("holdout", Boolean, nullable=False),
    # Held out, and not for the gate: what selection at a stated risk is calibrated on.
    Column("calibration", Boolean, nullable=False, server_default=false()),
    Column("indexed", Boolean, nullable=False),  # False until the example index holds it (holdout: stays False)
    Column("retracted", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_examples_split", "workload", "retracted", "holdout"),
    Index("ix_examples_asked", "workload", "asked"),
    Index("ix_examples_changed", "workload", "updated_at"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("query_id", String(512), primary_key=True),
    Column("client", String(64), primary_key=True),  # a keyed hash of who said it
    Column("asked", String(32), nullable=False),
    Column("answer", Text, nullable=False),
    Column("outcome", String(20), nullable=False),  # semievold.store.feedback.Outcome
    Column("created_at", Float, nullable=False),
    Column("against", Boolean, nullable=False, server_default=false()),  # the client says that the answer is wrong
    Index("ix_feedback_asked", "workload", "asked"),
)

captured = Table(
    "captured",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("query_id", String(512), primary_key=True),
    Column("content_hash", String(32), nullable=False),  # of the query, as in pseudo_labels
    Column("asked", String(32), nullable=False),
    Column("client", String(64), nullable=False),  # who asked, a keyed hash
    Column("answer_id", String(512)),  # of the answer, where the client gave the query another id
    Column("served", Text),  # the answer that the client got, as the task reads it
    Column("created_at", Float, nullable=False),
    Index("ix_captured_answer", "workload", "answer_id"),
    Index("ix_captured_created", "workload", "created_at"),
)

waiting_feedback = Table(
    "waiting_feedback",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("query_id", String(512), primary_key=True),
    Column("client", String(64), primary_key=True),
    Column("content_hash", String(32), nullable=False),
    Column("asked", String(32), nullable=False),
    Column("answer", Text, nullable=False),
    Column("against", Boolean, nullable=False),
    Column("standing", String(20), nullable=False),  # semievold.store.waiting_feedback.Standing
    Column("reason", Text),  # why it is refused
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_waiting_feedback_client", "workload", "standing", "client"),
)

contradictions = Table(
    "contradictions",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("key", String(32), primary_key=True),  # hash of the question and of what is said about it
    Column("asked", String(32), nullable=False),
    Column("query_id", String(512), nullable=False),
    Column("item", JSON, nullable=False),  # the record of the review topic
    Column("published", Boolean, nullable=False),
    Column("settled", Boolean, nullable=False),  # an operator's label of the question came later
    Column("given_at", Float),  # a reviewer's label of it is on its way
    Column("created_at", Float, nullable=False),
    Index("ix_contradictions_asked", "workload", "asked"),
    Index("ix_contradictions_due", "workload", "published", "created_at"),
    Index("ix_contradictions_open", "workload", "settled", "created_at", "key"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column(
        "key", String(32), primary_key=True
    ),  # what is asked, however it is spelled: semievol.examples.near.near_key
    Column("query_id", String(512), nullable=False),  # of those that ask it, the one that is labelled
    Column("purpose", String(20), nullable=False),  # gate | teach
    Column("query", JSON, nullable=False),
    Column("candidates", JSON, nullable=False),  # answers that may be right, in an order that says nothing
    Column("times", Integer, nullable=False),  # how many queries ask it
    Column("why", JSON, nullable=False),  # figures that made it an item
    Column("usefulness", Float, nullable=False),  # of what teaches; 0 for the gate
    Column("round", Integer),  # whose gate asks
    Column("place", Integer, nullable=False),  # in the random order of that round; 0 for what teaches
    Column("differing", Boolean, nullable=False),  # drawn among queries to which the two models answer differently
    Column("state", String(20), nullable=False),  # semievold.store.review.items.ItemState
    Column("answer", Text),
    Column("label_by", String(20)),  # by which way the label came
    Column("label_id", String(512)),  # of the example that the label is
    Column("published", Boolean, nullable=False),  # in the review topic
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_reviews_state", "workload", "state", "purpose"),
    Index("ix_reviews_round", "workload", "round"),
    Index("ix_reviews_updated", "workload", "updated_at"),
)

example_vectors = Table(
    "example_vectors",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("example_id", String(512), primary_key=True),
    Column("embedder", Text, nullable=False),  # kind, model and version: semievol.protocols.Embedder.name
    Column("dimensions", Integer, nullable=False),
    Column("content", String(32), nullable=False),  # hash of the question that was embedded
    Column("vector", LargeBinary, nullable=False),  # float32, little-endian
)

pseudo_labels = Table(
    "pseudo_labels",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("query_id", String(512), primary_key=True),
    Column("query", JSON, nullable=False),
    Column("content_hash", String(32), nullable=False),  # of the query: tells a redelivery from a reused id
    Column("answer", Text),  # NULL: no candidate parsed; never selected
    Column("entropy", Float, nullable=False),
    Column("agreement", Float, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("justified", Boolean, nullable=False),
    Column("adapter", String(200)),  # NULL: the base model
    Column("neighbours", JSON, nullable=False),  # [[example id, similarity], ...]
    Column("candidates", JSON, nullable=False),  # [{configuration, text, answer, entropy}, ...]
    Column("topic", String(200)),
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("revision", Integer, nullable=False),  # 1, then +1 each time a round labels the query again
    Column("published", Boolean, nullable=False),  # the prediction is in the predictions topic
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("unclean", Boolean, nullable=False, server_default=false()),  # had a label as neighbour that was taken back
    Index("ix_pseudo_labels_created", "workload", "created_at"),
)
# A partial index: such rows are few, and the common row pays nothing for it.
_unpublished = pseudo_labels.c.published.is_(False)
Index(
    "ix_pseudo_labels_unpublished",
    pseudo_labels.c.workload,
    pseudo_labels.c.created_at,
    sqlite_where=_unpublished,
    postgresql_where=_unpublished,
)

pseudo_label_history = Table(
    "pseudo_label_history",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("query_id", String(512), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("answer", Text),
    Column("entropy", Float, nullable=False),
    Column("agreement", Float, nullable=False),
    Column("adapter", String(200)),
    Column("candidates", JSON, nullable=False),
    Column("neighbours", JSON),  # NULL: before schema 0011
    Column("created_at", Float, nullable=False),
)

# What is asked of all pseudo-labels again and again, so that nobody looks through them: semievold.store.labels.tally.
label_counts = Table(
    "label_counts",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("labelled", BigInteger, nullable=False),  # queries so far
    Column("deleted", BigInteger, nullable=False),  # of these, by semievold.store.retention
    Column("unparsed", BigInteger, nullable=False),  # of those that are there, without an answer
)

label_positions = Table(
    "label_positions",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("topic", String(200), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, nullable=False),  # the highest of which there was a label
)

# --- rounds, adapters, alias, operator requests -----------------------------------------------------------------

rounds = Table(
    "rounds",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),  # warm | evolve
    Column("state", String(20), nullable=False),
    Column("reason", Text),  # why it left the main path
    Column("trigger", String(200), nullable=False),  # what started it
    Column("options", JSON, nullable=False),  # {"shuffle_labels": bool}
    Column("seed", Integer, nullable=False),
    Column("incumbent", String(200)),  # the serving adapter when the round was planned
    Column("adapter", String(200)),  # the candidate, once trained
    Column("snapshot", JSON),  # counts, hashes, threshold, stream offsets
    Column("training", JSON),  # steps, loss, seconds
    Column("evaluation", JSON),  # gate result with accuracies and slices
    Column("attestation", JSON),
    Column("attempts", Integer, nullable=False),  # how often the current state was begun again after a crash
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("unclean", Text),  # the id of a label that was taken back and from which the round descends
    Column("canary", JSON),  # stages and evidence: semievold.store.rollout.canaries
    Column("watch", JSON),  # what its version is compared by, and the evidence against it: semievold.rounds.watching
    Column("breaker", JSON),  # what was measured before the training, and which bounds did not hold
)

round_events = Table(
    "round_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("workload", String(100), nullable=False),
    Column("number", Integer, nullable=False),
    Column("from_state", String(20)),
    Column("to_state", String(20), nullable=False),
    Column("detail", Text),
    Column("at", Float, nullable=False),
    Index("ix_round_events_round", "workload", "number"),
)

round_members = Table(
    "round_members",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("query_id", String(512), primary_key=True),
    Column("selected", Boolean, nullable=False),
    Column("reason", String(200)),  # why not, when not selected
    Column("answer", Text),  # as the round took it: of the consensus, where there is one; NULL also before schema 0003
    Column("consensus", Float),  # the answer's share in the consensus; NULL: there was none
    Column("revision", Integer),  # of the pseudo-label that the round saw; NULL before schema 0011
    Column("depth", Integer),  # 1 + that of the adapter that answered; NULL before schema 0011
    Index("ix_round_members_query", "workload", "query_id"),
)

round_examples = Table(
    "round_examples",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("example_id", String(512), primary_key=True),
    Column("role", String(20), nullable=False),  # training | calibration
    Index("ix_round_examples_example", "workload", "example_id"),
)

round_outcomes = Table(
    "round_outcomes",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("role", String(20), primary_key=True),  # incumbent | candidate
    Column("example_id", String(512), primary_key=True),
    Column("expected", Text, nullable=False),
    Column("answer", Text),
    Column("correct", Boolean, nullable=False),
    Column("entropy", Float, nullable=False),
    # Hash of the question and its right answers as they were; NULL before schema 0004: not to be taken over.
    Column("content", String(32)),
)

shadow_pairs = Table(
    "shadow_pairs",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("key", String(32), primary_key=True),  # of the question: semievol.examples.near.near_key
    Column("query_id", String(512), nullable=False),
    Column("query", JSON, nullable=False),
    Column("source", String(20), nullable=False),  # intake | gateway
    Column("drawn_at", Float, nullable=False),
    Column("place", Integer),  # in the order in which pairs were answered, from 1; NULL: not answered yet
    Column("incumbent_answer", Text),  # NULL: it does not parse
    Column("candidate_answer", Text),
    Column("differ", Boolean),
    Index("ix_shadow_pairs_place", "workload", "number", "place"),
    Index("ix_shadow_pairs_query", "workload", "query_id"),
)

adapters = Table(
    "adapters",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("path", Text, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("round", Integer, nullable=False),
    Column("parent", String(200)),
    Column("state", String(20), nullable=False),  # candidate | serving | previous | retired | rejected | deleted
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("approved_at", Float),  # when a person last said that it should serve; NULL: nobody has
    Column("unclean", Text),  # the id of a label that was taken back and from which the version descends
)

aliases = Table(
    "aliases",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("alias", String(200), primary_key=True),
    Column("adapter", String(200)),  # NULL: the base model
    Column("previous", String(200)),  # what an instant rollback returns to
    Column("generation", Integer, nullable=False),  # +1 at every move
    Column("updated_at", Float, nullable=False),
    Column("canary", JSON),  # semievold.store.aliases.Canary; NULL: there is none
)

canary_answers = Table(
    "canary_answers",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("adapter", String(200), primary_key=True),  # the canary
    Column("process", String(32), primary_key=True),  # which counts by itself, from its start
    Column("version", String(20), primary_key=True),  # canary | incumbent
    Column("stage", Integer, primary_key=True),  # of the canary; 0 for the incumbent
    Column("source", String(20), primary_key=True),  # gateway | intake
    Column("answers", Integer, nullable=False),  # failed ones too
    Column("failed", Integer, nullable=False),
    Column("timed", Integer, nullable=False),  # whose time is known
    Column("slow", Integer, nullable=False),
    Column("read", Integer, nullable=False),  # which the task has read
    Column("unparsed", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)

freezes = Table(
    "freezes",
    metadata,
    Column("workload", String(100), primary_key=True),  # a row: frozen
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)

rests = Table(
    "rests",
    metadata,
    Column("workload", String(100), primary_key=True),  # a row: replicas sleep, or are about to
    Column("round", Integer, nullable=False),  # whose training has their GPU
    Column("replicas", JSON, nullable=False),  # names
    Column("since", Float, nullable=False),
    Column("expected_s", Float),  # how long the last training took; null: none did
    Column("waking", Boolean, nullable=False),
)

operator_requests = Table(
    "operator_requests",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("workload", String(100), nullable=False),
    Column("kind", String(40), nullable=False),  # semievold.store.requests.RequestKind
    Column("payload", JSON, nullable=False),
    Column("state", String(20), nullable=False),  # pending | done | refused | failed
    Column("result", JSON),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_operator_requests_state", "workload", "state"),
)

# --- drift: semievold.store.drift -------------------------------------------------------------------------------

drift_positions = Table(
    "drift_positions",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("arming", Integer, nullable=False),  # +1 with each new reference: what was weighed against another is void
    # The pseudo-label and the label that were looked at last.
    Column("query_at", Float, nullable=False),
    Column("query_id", String(512), nullable=False),
    Column("label_at", Float, nullable=False),
    Column("label_id", String(512), nullable=False),
    Column("summary", JSON, nullable=False),  # accuracy, with labels and without
)

drift_detectors = Table(
    "drift_detectors",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("name", String(700), primary_key=True),  # kind|adapter|category
    Column("state", JSON, nullable=False),
)

drift_events = Table(
    "drift_events",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("category", String(200)),
    Column("adapter", String(200)),
    Column("actions", JSON, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("also", JSON, nullable=False),  # alarms that came while it was open
    Column("at", Float, nullable=False),
    Column("closed_at", Float),  # NULL: it is open
    Column("closed_by", Text),
    Index("ix_drift_events_open", "workload", "closed_at"),
)

# --- who leads ----------------------------------------------------------------------------------------------------

leases = Table(
    "leases",
    metadata,
    Column("workload", String(100), primary_key=True),
    Column("role", String(20), primary_key=True),
    Column("holder", String(200), nullable=False),  # of the last lease, also after its end
    Column("epoch", Integer, nullable=False),  # +1 whenever the lease is taken; a write of an older epoch is refused
    Column("expires_at", Float, nullable=False),  # by the clock of the database; 0: released
)
