"""Errors of the service, by meaning: retry, dead-letter, or stop.

`TransientError` (from the method) is retried by whoever runs the loop; `PoisonRecord` goes to the dead-letter topic
and the stream moves on; `FatalError` stops the process. Client errors (SQL, stream) are translated at the edge.
"""

from __future__ import annotations

from enum import StrEnum

from semievol.errors import AdapterError, SemiEvolError, TransientError
from semievol.plain_lines import one_line


class Reason(StrEnum):
    """Why a record was dead-lettered; a closed set, so that it can label a metric."""

    NO_VALUE = "no_value"
    NO_KEY = "no_key"
    TOO_LARGE = "record_too_large"
    NOT_UTF8 = "invalid_utf8"
    MALFORMED_JSON = "malformed_json"
    SCHEMA_VERSION = "unsupported_schema_version"
    MISSING_FIELD = "missing_field"
    INVALID_FIELD = "invalid_field"
    ID_TOO_LONG = "id_too_long"
    QUESTION_TOO_LONG = "question_too_long"
    INVALID_QUERY = "invalid_query"
    ANSWER_NOT_ALLOWED = "answer_not_allowed"
    DUPLICATE_ID = "duplicate_id"
    LABELLING_REFUSED = "labelling_refused"
    ANSWER_LATE = "answer_late"
    NOT_STORABLE = "not_storable"
    UNEXPECTED = "unexpected_error"


class Dropped(StrEnum):
    """Why a query of the sampled share was not captured; a closed set, for a metric."""

    OPTED_OUT = "opted_out"
    TOO_LONG = "too_long"
    NOT_TEXT = "not_text"
    INVALID = "invalid"
    ID_TAKEN = "id_taken"  # another query has the client's id, or the state did not say in time whether one has
    QUEUE_FULL = "queue_full"
    NOT_PUBLISHED = "not_published"


class PoisonRecord(SemiEvolError):  # noqa: N818 - named by meaning
    """A stream record that can never be processed as it is; `detail` names the field and the fix."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = one_line(detail)
        super().__init__(f"{reason.value}: {self.detail}")


class FatalError(SemiEvolError):
    """The process cannot go on; a restart alone does not help."""


class StoreError(FatalError):
    """The database answered, and what it says cannot be repaired by waiting (schema, constraint, permission)."""


class ValueRefused(StoreError):  # noqa: N818 - named by meaning
    """The database takes everything but a value of this row; nothing of the transaction was kept, others may pass."""


class SchemaError(StoreError):
    """The schema of the database does not fit this version of the code."""


class TransientStoreError(TransientError):
    """The database is busy, full or away; nothing of the transaction was kept, or all of it (writes are idempotent)."""


class TransientStreamError(TransientError):
    """The stream did not answer; records may have been published and will be published again."""


class RecordRefused(FatalError):  # noqa: N818 - named by meaning
    """The stream refuses a record however often it is sent: it is larger than its topic takes, or lacks a key."""


class DamagedAdapter(AdapterError):  # noqa: N818 - named by meaning
    """What an adapter's place gave is not what was published there; asking again brings the same bytes."""


class StateConflict(SemiEvolError):  # noqa: N818 - named by meaning
    """What was asked for does not fit the present state (a round is open, nothing to roll back); ask again later."""


class LeaseLost(SemiEvolError):  # noqa: N818 - named by meaning
    """Another process leads now; nothing was written, and this one stands by."""
