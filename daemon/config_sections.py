"""Settings of the streams and of the two intakes; `daemon.config` composes them into the whole file.

Invariant: no imports beyond pydantic, so that reading a configuration loads no driver.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from semievol.config import Section


class RetrySettings(Section):
    """Waiting between attempts when a component does not answer; attempts never end by themselves."""

    initial_s: float = Field(default=0.5, gt=0)
    """Upper bound of the first wait, seconds; it doubles with every failure. The wait is drawn below its bound."""
    max_s: float = Field(default=10.0, gt=0)
    """The bound never grows past this, seconds: what a recovered component waits at most to be used again."""


class StreamSettings(Section):
    """Which stream carries the records, and what its topics are called."""

    kind: Literal["local"] = "local"
    """local: tables in the embedded SQLite file, no server."""
    queries: str = Field(default="semievol.queries", min_length=1, max_length=200)
    """Topic of unlabeled queries (in)."""
    labels: str = Field(default="semievol.labels", min_length=1, max_length=200)
    """Topic of true answers (in)."""
    predictions: str = Field(default="semievol.predictions", min_length=1, max_length=200)
    """Topic of answers (out)."""
    review: str = Field(default="semievol.review", min_length=1, max_length=200)
    """Topic of the queries worth a person's label (out)."""
    dead_letter: str = Field(default="semievol.dead-letter", min_length=1, max_length=200)
    """Topic of records that can never be processed, as they came, with the reason in the headers (out)."""
    partitions: int = Field(default=1, ge=1, le=1024)
    """local only: partitions per topic. One process reads all of them at the speed of one; more of them let more
    processes share a topic. Raising it later moves keys to other partitions."""
    poll_interval_s: float = Field(default=0.2, gt=0)
    """local only: how often a waiting reader looks for records that other processes wrote, seconds; records of its
    own process wake it at once."""
    lock_retry_s: float = Field(default=1.0, gt=0)
    """local only: how often a standby tries to take over partitions that another consumer owns, seconds."""
    retention_s: float | None = Field(default=None, gt=0)
    """local only: records are deleted this long after they were written, once every group that reads their topic has
    passed them. None: never; the file then grows by about 1 kB per query."""
    max_record_bytes: int = Field(default=1_048_576, gt=0)
    """Larger values are dead-lettered unread; 1 MiB is also Kafka's default limit."""

    @model_validator(mode="after")
    def _topics_differ(self) -> StreamSettings:
        names = [self.queries, self.labels, self.predictions, self.review, self.dead_letter]
        if len(set(names)) != len(names):
            raise ValueError("queries, labels, predictions, review and dead_letter must be five different topics")
        return self


class IntakeSettings(Section):
    """Reading queries and writing pseudo-labels."""

    batch_size: int = Field(default=32, gt=0)
    """Records polled and labelled together; one batch is one transaction."""
    max_in_flight_batches: int = Field(default=2, ge=1)
    """Batches worked on at a time: while one is written, the next is answered. Bounds memory."""
    poll_timeout_s: float = Field(default=0.5, gt=0)
    """How long one poll waits for records, seconds; also how soon a stop is noticed."""
    commit_interval_s: float = Field(default=0.5, ge=0)
    """Least time between two offset commits, seconds; records behind it are delivered again after a crash and
    recognised. 0 commits after every batch."""
    lag_interval_s: float = Field(default=5.0, gt=0)
    """How often the lag is measured, seconds."""
    republish_interval_s: float = Field(default=60.0, gt=0)
    """How often predictions that a dead process stored but did not publish are looked for, and how old they must be,
    seconds."""
    stop_timeout_s: float = Field(default=20.0, ge=0)
    """What batches in flight get to finish after a stop, seconds; unfinished ones are delivered again."""
    retry: RetrySettings = RetrySettings()


class LabelsSettings(Section):
    """Reading true answers and keeping the examples."""

    holdout_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the examples, by hash of their id, that is held out for the gate. An example keeps the side it was
    first put on, whatever this says later."""
    holdout_salt: str = "holdout"
    """Mixed into the hash: another salt is another split."""
    batch_size: int = Field(default=128, gt=0)
    """Records handled together."""
    poll_timeout_s: float = Field(default=0.5, gt=0)
    """How long one poll waits for records, seconds; also how soon a stop is noticed."""
    lag_interval_s: float = Field(default=5.0, gt=0)
    """How often the lag is measured, seconds."""
    retry: RetrySettings = RetrySettings()
