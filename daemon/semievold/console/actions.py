"""What the buttons do: each leaves a request for the controller, or writes what holds at once (freeze, retraction).

Owns the forms' fields. Invariant: a button says the same as the command of its name, and what came of it is shown from
the state, never from the address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from semievol.errors import DataError
from semievold.api import drift, lineage, operations
from semievold.api.api import ApiTools
from semievold.api.asking import asked
from semievold.api.retracting import retract
from semievold.config.daemon import DaemonConfig
from semievold.console.door import Answer, Visit, see
from semievold.console.pages import packed
from semievold.store.database import MAX_INTEGER
from semievold.store.requests import OperatorRequest, RequestKind

Shown = Callable[[Visit, str, Mapping[str, Any]], str]
"""A template with its values as a page."""
WAIT_S = 5.0
"""How long a button waits for the controller; then the page says that it is not answered yet."""
BY = "by hand, in the console"


class Actions:
    """The buttons of one daemon's console."""

    def __init__(self, config: DaemonConfig, tools: ApiTools, shown: Shown) -> None:
        self._config = config
        self._tools = tools
        self._shown = shown

    def all(self) -> Mapping[str, Answer]:
        """By address."""
        return {
            "/do/start": self._start,
            "/do/cancel": self._cancel,
            "/do/approve": self._approve,
            "/do/refuse": self._refuse,
            "/do/promote": self._promote,
            "/do/rollback": self._roll_back,
            "/do/freeze": self._freeze,
            "/do/thaw": self._thaw,
            "/do/rearm": self._rearm,
            "/do/retract": self._retract,
        }

    def asked(self, number: str | None) -> OperatorRequest | None:
        """What became of the request that a page tells about."""
        if number is None or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        return self._tools.stores.requests.get(int(number))

    async def _start(self, visit: Visit) -> web.Response:
        kind = visit.form.get("kind", "evolve")
        shuffle = {"shuffle_labels": True} if visit.form.get("shuffle") == "yes" else {}
        return await self._ask("start_round", {"kind": kind, "reason": _reason(visit), **shuffle}, "/")

    async def _cancel(self, visit: Visit) -> web.Response:
        number = _round(visit)
        return await self._ask("cancel_round", {"round": number, "reason": _reason(visit)}, f"/rounds/{number}")

    async def _approve(self, visit: Visit) -> web.Response:
        number = _round(visit)
        return await self._ask("approve_round", {"round": number}, f"/rounds/{number}")

    async def _refuse(self, visit: Visit) -> web.Response:
        number = _round(visit)
        return await self._ask("refuse_round", {"round": number, "reason": _reason(visit)}, f"/rounds/{number}")

    async def _promote(self, visit: Visit) -> web.Response:
        return await self._ask("promote", {"adapter": visit.form.get("adapter", "")}, "/")

    async def _roll_back(self, _visit: Visit) -> web.Response:
        return await self._ask("rollback", {}, "/")

    async def _freeze(self, visit: Visit) -> web.Response:
        reason = operations.freeze_reason({"reason": _reason(visit)})
        await asyncio.to_thread(self._tools.stores.freezes.freeze, reason)
        return see("/")

    async def _thaw(self, _visit: Visit) -> web.Response:
        await asyncio.to_thread(self._tools.stores.freezes.thaw)
        return see("/")

    async def _rearm(self, visit: Visit) -> web.Response:
        reason = operations.said_reason("rearm", {"reason": _reason(visit)}, drift.MAX_REASON)
        await asyncio.to_thread(drift.rearm, self._tools.stores, reason)
        return see("/drift")

    async def _retract(self, visit: Visit) -> web.Response:
        """Shows what descended from the label, and what is done about it."""
        given, now = visit.form.get("id", "").strip(), visit.form.get("now") == "yes"
        stores = self._tools.stores
        # An unknown one is no label; what descends is looked for once, as it is marked.
        label = await asyncio.to_thread(lambda: lineage.explain_label(stores, given, whole=False))
        topic = self._config.stream.labels
        report = await retract(stores, self._tools.producer, topic, [given], now=now, wait_s=WAIT_S)
        values = {"label": label, "report": report}
        return packed(visit.request, await asyncio.to_thread(self._shown, visit, "retracted.html.jinja", values))

    async def _ask(self, kind: RequestKind, payload: Mapping[str, Any], then: str) -> web.Response:
        answer = await asked(self._tools.stores.requests, kind, payload, WAIT_S)
        return see(f"{then}?{urlencode({'request': answer['request']})}")


def _reason(visit: Visit) -> str:
    return visit.form.get("reason", "").strip() or BY


def _round(visit: Visit) -> int:
    """Raises DataError: it is no number of a round."""
    digits = visit.form.get("round", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18 or int(digits) > MAX_INTEGER:
        raise DataError("round: give the number of a round")
    return int(digits)
