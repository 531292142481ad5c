"""What operators ask for, as rows: the CLI and the API write them, the control role carries them out.

Owns the rows and what each kind of request may say. So a request made while the controller is down is not lost, and its
answer can be read afterwards. Invariant: nothing is written that `checked` refuses; a row may still hold anything (an
older version or a hand wrote it), so who carries it out checks it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, RowMapping, insert, select, update

from semievol.errors import DataError
from semievol.examples.json_values import fault_of
from semievold.round_states import RoundKind
from semievold.store.database import MAX_INTEGER, Database
from semievold.store.tables import operator_requests

RequestKind = Literal[
    "start_round",
    "cancel_round",
    "approve_round",
    "refuse_round",
    "advance_round",
    "promote",
    "rollback",
    "leave_unclean",
]
Answer = Literal["done", "refused", "failed"]
"""done: carried out. refused: it does not fit the present state, or says nothing that can be done. failed: it should
have been possible, and was not."""

Reason = Annotated[str, Field(min_length=1, max_length=200)]


class _Payload(BaseModel):
    """What a request says; no number is read from a text, and no field is passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StartRound(_Payload):
    kind: RoundKind = "evolve"
    shuffle_labels: bool = False
    reason: Reason = "by hand"


class CancelRound(_Payload):
    round: int = Field(ge=0, le=MAX_INTEGER)
    reason: Reason = "by hand"


class ApproveRound(_Payload):
    round: int = Field(ge=0, le=MAX_INTEGER)


class RefuseRound(_Payload):
    round: int = Field(ge=0, le=MAX_INTEGER)
    reason: Reason = "by hand"


class AdvanceRound(_Payload):
    """End the present stage of the round's canary now."""

    round: int = Field(ge=0, le=MAX_INTEGER)


class Promote(_Payload):
    adapter: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=200)


class Rollback(_Payload):
    """adapter: a version that served before, or `base`; None: the one before the present one."""

    adapter: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=200)


class LeaveUnclean(_Payload):
    """Serve the last version that descends from no label that was taken back."""


Payload = StartRound | CancelRound | ApproveRound | RefuseRound | AdvanceRound | Promote | Rollback | LeaveUnclean
PAYLOADS: Mapping[str, type[Payload]] = {
    "start_round": StartRound,
    "cancel_round": CancelRound,
    "approve_round": ApproveRound,
    "refuse_round": RefuseRound,
    "advance_round": AdvanceRound,
    "promote": Promote,
    "rollback": Rollback,
    "leave_unclean": LeaveUnclean,
}


def checked(kind: str, payload: object) -> Payload:
    """What the request says.

    Raises:
        DataError: its kind is unknown, or a field is unknown, missing, of another type or out of range.
    """
    wanted = PAYLOADS.get(kind)
    if wanted is None:
        raise DataError(f"request: {kind[:40]!r} is not a kind of request; known: {', '.join(PAYLOADS)}")
    try:
        said = wanted.model_validate(payload)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"])) or "body"
        known = ", ".join(wanted.model_fields) or "none"
        hint = f"; known fields: {known}" if problem["type"] == "extra_forbidden" else ""
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        raise DataError(f"{kind}: field {where[:60]!r}: {message}{hint}") from None
    if (fault := fault_of(payload)) is not None:
        raise DataError(f"{kind}: field {fault.field or 'body'!r}: {fault.problem}")
    return said


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """One row of `operator_requests`."""

    id: int
    kind: str
    payload: Any
    state: str
    result: Mapping[str, Any] | None
    created_at: float
    updated_at: float


def _request(row: RowMapping) -> OperatorRequest:
    return OperatorRequest(**{key: value for key, value in row.items() if key != "workload"})


class RequestStore:
    """The operator requests of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def add(self, kind: RequestKind, payload: Mapping[str, Any]) -> int:
        """Leave a request; its number.

        Raises:
            DataError: it could never be carried out (see `checked`).
        """
        checked(kind, payload)
        now = self._database.now()
        with self._database.write() as connection:
            result = connection.execute(
                insert(operator_requests).values(
                    workload=self._workload,
                    kind=kind,
                    payload=dict(payload),
                    state="pending",
                    created_at=now,
                    updated_at=now,
                )
            )
            key = result.inserted_primary_key
            assert key is not None
            return int(key[0])

    def get(self, request_id: int) -> OperatorRequest | None:
        if not 0 <= request_id <= MAX_INTEGER:
            return None
        statement = select(operator_requests).where(
            operator_requests.c.workload == self._workload, operator_requests.c.id == request_id
        )
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else _request(row)

    def pending(self) -> list[OperatorRequest]:
        """Oldest first."""
        statement = (
            select(operator_requests)
            .where(operator_requests.c.workload == self._workload, operator_requests.c.state == "pending")
            .order_by(operator_requests.c.id)
        )
        with self._database.read() as connection:
            return [_request(row) for row in connection.execute(statement).mappings()]

    def answer(self, request_id: int, state: Answer, result: Mapping[str, Any]) -> None:
        with self._database.write() as connection:
            answer_request(connection, self._workload, request_id, state, result, self._database.now())


def answer_request(
    connection: Connection, workload: str, request_id: int, state: Answer, result: Mapping[str, Any], at: float
) -> None:
    """Answer inside the caller's transaction; the first answer stands."""
    o = operator_requests.c
    connection.execute(
        update(operator_requests)
        .where(o.workload == workload, o.id == request_id, o.state == "pending")
        .values(state=state, result=dict(result), updated_at=at)
    )
