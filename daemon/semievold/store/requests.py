"""What operators ask for, as rows: the CLI and the API write them, the control role carries them out.

So a request made while the controller is down is not lost, and its answer can be read afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, insert, select, update

from semievold.store.database import Database
from semievold.store.tables import operator_requests

RequestKind = Literal["start_round", "cancel_round", "promote", "rollback"]
Answer = Literal["done", "refused"]


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """One row of `operator_requests`."""

    id: int
    kind: RequestKind
    payload: Mapping[str, Any]
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
