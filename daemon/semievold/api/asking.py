"""Leaves an operator's request for the control role and waits for its answer, within an event loop or outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from semievold.store.requests import OperatorRequest, RequestKind, RequestStore

POLL_S = 0.2
LOOK_S = 0.1


def ask(requests: RequestStore, kind: RequestKind, payload: Mapping[str, Any], wait_s: float = 20.0) -> dict[str, Any]:
    """The answer, or state `pending` when no controller answered in time: it will, once one runs."""
    request_id = requests.add(kind, payload)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if (told := _told(requests.get(request_id))) is not None:
            return told
        time.sleep(POLL_S)
    note = "no controller has answered yet; the request is kept until one runs"
    return {"request": request_id, "state": "pending", "note": note}


async def asked(requests: RequestStore, kind: RequestKind, payload: Mapping[str, Any], wait_s: float) -> dict[str, Any]:
    """As `ask`, without holding a thread meanwhile."""
    request_id = await asyncio.to_thread(requests.add, kind, payload)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while loop.time() < deadline:
        if (told := _told(await asyncio.to_thread(requests.get, request_id))) is not None:
            return told
        await asyncio.sleep(LOOK_S)
    return {"request": request_id, "state": "pending"}


def _told(request: OperatorRequest | None) -> dict[str, Any] | None:
    if request is None or request.state == "pending":
        return None
    return {"request": request.id, "state": request.state, **(request.result or {})}
