"""Settings of the streams and of the two intakes; `semievold.config.daemon` composes them into the whole file.

Invariant: no imports beyond pydantic, so that reading a configuration loads no driver.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from semievol.config.method import Section


class RetrySettings(Section):
    """Waiting between attempts when a component does not answer; attempts never end by themselves."""

    initial_s: float = Field(default=0.5, gt=0)
    """Upper bound of the first wait, seconds; it doubles with every failure. The wait is drawn below its bound."""
    max_s: float = Field(default=10.0, gt=0)
    """The bound never grows past this, seconds: what a recovered component waits at most to be used again."""


class KafkaSettings(Section):
    """How Apache Kafka is reached, and how its topics are made where they do not exist yet."""

    bootstrap_servers: tuple[str, ...] = ()
    """`host:port` of one or more brokers, as a list or separated by commas; the others are learnt from them."""
    client_id: str = "semievol"
    """Names this daemon in the broker's logs, quotas and metrics."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """SSL encrypts, SASL authenticates; outside a closed network use SASL_SSL, or SSL with a client certificate."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """SASL only: how the password is proved. PLAIN shows it to the broker; use it over SASL_SSL alone."""
    sasl_username: str | None = None
    """SASL only: the user."""
    sasl_password: str | None = Field(default=None, repr=False)
    """SASL only: the password; set it by environment, not in the file."""
    tls_ca: Path | None = None
    """SSL only: PEM file of the authorities that the broker's certificate may come from. None: the system's."""
    tls_certificate: Path | None = None
    """SSL only: PEM file of the client's certificate, where the broker asks for one."""
    tls_key: Path | None = None
    """SSL only: PEM file of that certificate's private key. None: it is in the certificate's file."""
    tls_check_hostname: bool = True
    """SSL only: the certificate must name the host that was called; turn it off only for a pinned `tls_ca`."""
    group_prefix: str = ""
    """Put before the names of the consumer groups, where access rights are given by prefix."""
    group_instance_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,249}$")
    """Static membership: a name that this process alone uses and keeps over restarts (a StatefulSet's pod name). A
    restart within `session_timeout_s` then moves no partition. None: every start joins anew."""
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    """Where a group that has never committed begins. latest skips what was written before its first start."""
    session_timeout_s: float = Field(default=15.0, ge=1)
    """A process that sends no heartbeat for this long loses its partitions to the others, seconds: how soon a killed
    process's work is taken over. Brokers accept 6 and more."""
    max_poll_interval_s: float = Field(default=300.0, gt=0)
    """How long the reader's thread may be stuck before it leaves the group, seconds. Slow labelling does not count: the
    thread goes on polling meanwhile."""
    fetch_max_bytes: int = Field(default=52_428_800, gt=0)
    """Most bytes of one fetch, over all partitions."""
    partition_fetch_bytes: int = Field(default=1_048_576, gt=0)
    """Most bytes of one fetch from one partition; a single larger record is still fetched."""
    delivery_timeout_s: float = Field(default=30.0, ge=10)
    """How long the client tries by itself to deliver a record, seconds; then the daemon's own retries go on."""
    exactly_once: bool = False
    """The intake publishes predictions and dead letters in transactions with the offsets of their queries: who reads
    what is committed (isolation.level read_committed) sees each once, whatever is killed. They then appear in the order
    of the queries of a partition, so that a late query delays those behind it. False: after a crash one may appear
    twice, with the same id and content."""
    transaction_timeout_s: float = Field(default=30.0, ge=10)
    """exactly_once only: the broker ends a transaction after so long, seconds, such as that of a process that died and
    that nobody replaces. Brokers allow what their transaction.max.timeout.ms says, 15 minutes if nothing else."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """Of what is published. The extra `kafka` brings what the last three need. What is read may come in any."""
    partitions: int = Field(default=6, ge=1, le=1024)
    """Partitions of the topics that the daemon creates: at most this many intakes share the queries."""
    replication_factor: int | None = Field(default=None, ge=1)
    """Copies of the topics that the daemon creates. None: the broker's default."""
    retention_s: float | None = Field(default=None, gt=0)
    """How long created topics keep records, seconds; labels are compacted instead. None: the broker's default."""

    @field_validator("sasl_password", "sasl_username")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        """A file's last line break belongs to the file."""
        return None if value is None else value.rstrip("\r\n")

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("bootstrap_servers")
    @classmethod
    def _host_and_port(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
                raise ValueError(
                    f"{server!r} is not host:port with a port from 1 to 65535; write for example kafka.example.com:9092"
                )
        return servers

    @model_validator(mode="after")
    def _security(self) -> KafkaSettings:
        sasl, tls = self.security_protocol.startswith("SASL_"), self.security_protocol.endswith("SSL")
        if sasl and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs sasl_username and sasl_password; set the password "
                "by environment (SEMIEVOL__STREAM__KAFKA__SASL_PASSWORD)"
            )
        if not sasl and (self.sasl_username or self.sasl_password):
            raise ValueError("sasl_username and sasl_password need security_protocol SASL_SSL or SASL_PLAINTEXT")
        if not tls and (self.tls_ca or self.tls_certificate or self.tls_key):
            raise ValueError("tls_ca, tls_certificate and tls_key need security_protocol SSL or SASL_SSL")
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_key needs tls_certificate, the certificate that it belongs to")
        return self


class StreamSettings(Section):
    """Which stream carries the records, and what its topics are called."""

    kind: Literal["local", "kafka"] = "local"
    """local: tables in the embedded SQLite file, no server. kafka: Apache Kafka 3.9 or newer, see `kafka`."""
    kafka: KafkaSettings = KafkaSettings()
    """kafka only: brokers, security, groups and topics."""
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
    def _kafka_has_brokers(self) -> StreamSettings:
        if self.kind == "kafka" and not self.kafka.bootstrap_servers:
            raise ValueError("kind kafka needs kafka.bootstrap_servers, for example [kafka.example.com:9092]")
        return self

    @model_validator(mode="after")
    def _only_kafka_has_transactions(self) -> StreamSettings:
        if self.kind != "kafka" and self.kafka.exactly_once:
            raise ValueError(
                "kafka.exactly_once needs kind kafka: the local stream has no transactions over topics and offsets; "
                "leave it out"
            )
        return self

    @model_validator(mode="after")
    def _kafka_takes_the_names(self) -> StreamSettings:
        for key in ("queries", "labels", "predictions", "review", "dead_letter"):
            name = getattr(self, key)
            if self.kind == "kafka" and (name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]+", name)):
                raise ValueError(f"{key}: {name!r} is no name of a Kafka topic; use letters, digits, dots, _ and -")
        return self

    @model_validator(mode="after")
    def _topics_differ(self) -> StreamSettings:
        names = [self.queries, self.labels, self.predictions, self.review, self.dead_letter]
        if len(set(names)) != len(names):
            raise ValueError("queries, labels, predictions, review and dead_letter must be five different topics")
        return self


class IntakeSettings(Section):
    """Reading queries and writing pseudo-labels."""

    batch_size: int = Field(default=64, gt=0)
    """Records polled and labelled together; one batch is one transaction."""
    max_in_flight_batches: int = Field(default=2, ge=1)
    """Records worked on at a time, in batches: while some are written, the next are answered. Bounds memory."""
    late_attempts: int = Field(default=3, ge=1)
    """How often a query is asked whose answer does not come within twice generation.timeout_s each time, though the
    server lives. Then it is dead-lettered as `answer_late`; until then it delays itself alone, and the commit of its
    partition."""
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
    """Share of the examples, by hash of their id, that is held out for the gate. While that would be fewer than
    gate.min_holdout, so many are held out, once there are trigger.min_examples others. An example keeps the side it was
    first put on, whatever this says later, and what asks the same joins it there."""
    holdout_salt: str = "holdout"
    """Mixed into the hash: another salt is another split."""
    batch_size: int = Field(default=128, gt=0)
    """Records handled together."""
    poll_timeout_s: float = Field(default=0.5, gt=0)
    """How long one poll waits for records, seconds; also how soon a stop is noticed."""
    lag_interval_s: float = Field(default=5.0, gt=0)
    """How often the lag is measured, seconds."""
    retry: RetrySettings = RetrySettings()
