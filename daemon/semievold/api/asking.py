"""Leaves an operator's request for the control role and waits for its answer; for callers outside the event loop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from semievold.store.requests import RequestKind, RequestStore

POLL_S = 0.2


def ask(requests: RequestStore, kind: RequestKind, payload: Mapping[str, Any], wait_s: float = 20.0) -> dict[str, Any]:
    """The answer, or state `pending` when no controller answered in time: it will, once one runs."""
    request_id = requests.add(kind, payload)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        request = requests.get(request_id)
        if request is not None and request.state != "pending":
            return {"request": request_id, "state": request.state, **(request.result or {})}
        time.sleep(POLL_S)
    note = "no controller has answered yet; the request is kept until one runs"
    return {"request": request_id, "state": "pending", "note": note}
