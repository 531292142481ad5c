"""The console at `/` of the admin API: pages for people, made here, and what their buttons do.

Owns the addresses. What is shown is read by `now`, `semievold.api.operations` and `.lineage`; what buttons do is left
as a request for the controller, as the command line does. Every page can be read without a script. Invariant: a page is
made in a thread of its own, so that the API goes on answering; it looks through whole tables only where its address
asks for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from semievol.errors import DataError
from semievol.examples.json_values import id_problem
from semievold.api import drift, lineage, operations
from semievold.api.api import ApiTools
from semievold.api.known import known_adapter
from semievold.config.daemon import DaemonConfig
from semievold.console.actions import Actions
from semievold.console.door import Door, Visit
from semievold.console.now import SPAN, SPANS, Now, round_page, round_view
from semievold.console.pages import Pages, packed
from semievold.console.reviewing import ReviewDesk
from semievold.console.sessions import Sessions
from semievold.errors import StateConflict
from semievold.store.database import MAX_INTEGER

NAV: Mapping[str, str] = {
    "/": "Now",
    "/rounds": "Rounds",
    "/review": "Review",
    "/drift": "Drift",
    "/queries": "Queries",
    "/labels": "Labels",
    "/adapters": "Adapters",
    "/replicas": "Replicas",
}
NEWEST_ROUNDS = 100
NEWEST_QUERIES = 30
NEWEST_EVENTS = 20


class Console:
    """The pages of one daemon.

    Args:
        config: of the daemon.
        tools: what the API shows and writes to.
        token: what opens the API, and by the login form the console.
    """

    def __init__(self, config: DaemonConfig, tools: ApiTools, token: str) -> None:
        self._config = config
        self._tools = tools
        self._pages = Pages(config.workload.name, tools.stores.database.now)
        self._door = Door(Sessions(token, tools.stores.database.now), self._pages)
        self._now = Now(config, tools.stores, tools.place)
        self._actions = Actions(config, tools, self._shown)
        self._desk = ReviewDesk(config, tools, self._shown)

    def add_to(self, app: web.Application) -> None:
        """Add the console's addresses."""
        get, post, door = app.router.add_get, app.router.add_post, self._door
        app.middlewares.insert(0, door.nowhere)
        get("/static/{name}", door.open(self._static))
        get("/login", door.open(door.show_login))
        post("/login", door.open(door.log_in))
        post("/logout", door.form(door.log_out))
        pages: Mapping[str, Callable[[Visit], tuple[str, dict[str, Any]]]] = {
            "/": self._first,
            "/rounds": self._rounds,
            "/rounds/{number:[0-9]+}": self._round,
            "/adapters": self._adapters,
            "/adapters/{name}": self._adapter,
            "/review": self._desk.page,
            "/drift": self._drift,
            "/queries": self._query,
            "/labels": self._label,
            "/replicas": self._replicas,
        }
        for path, page in pages.items():
            get(path, door.page(self._page(page)))
        post("/review", door.form(self._desk.answer))
        for path, action in self._actions.all().items():
            post(path, door.form(action))

    async def _static(self, request: web.Request) -> web.Response:
        return self._pages.files.response(request)

    def _page(self, view: Callable[[Visit], tuple[str, dict[str, Any]]]) -> Callable[[Visit], Any]:
        async def page(visit: Visit) -> web.Response:
            def made() -> str:
                template, values = view(visit)
                return self._shown(visit, template, values)

            return packed(visit.request, await asyncio.to_thread(made))

        return page

    def _shown(self, visit: Visit, template: str, values: Mapping[str, Any]) -> str:
        return self._pages.render(template, word=visit.word, **self._frame(visit), **values)

    def _frame(self, visit: Visit) -> dict[str, Any]:
        """What stands around every page."""
        stores = self._tools.stores
        drifted = self._config.drift.enabled and stores.drift.open_event() is not None
        badges = {"/review": self._desk.open(), "/drift": "1" if drifted else ""}
        return {
            "path": visit.request.path,
            "nav": [(address, name, badges.get(address, "")) for address, name in NAV.items()],
            "asked": self._actions.asked(visit.query.get("request")),
        }

    def _first(self, visit: Visit) -> tuple[str, dict[str, Any]]:
        span = visit.query.get("span", SPAN)
        missing, held = self._tools.readiness(), self._tools.held()
        values = self._now.look(span if span in SPANS else SPAN)
        return "now.html.jinja", {**values, "missing": missing, "held": {**values["held"], **held}}

    def _rounds(self, _visit: Visit) -> tuple[str, dict[str, Any]]:
        found = self._tools.stores.rounds.all(NEWEST_ROUNDS)
        shown = [operations.round_summary(each, self._tools.place) for each in found]
        return "rounds.html.jinja", {"rounds": shown, "open": any(not each.ended for each in found)}

    def _round(self, visit: Visit) -> tuple[str, dict[str, Any]]:
        number = round_number(visit.request)
        return "round.html.jinja", {
            **round_page(self._config, self._tools.stores, self._tools.place, number),
            "lineage": lineage.explain_round(self._tools.stores, number, whole=_whole(visit)),
        }

    def _adapters(self, _visit: Visit) -> tuple[str, dict[str, Any]]:
        stores = self._tools.stores
        shown = operations.adapters(stores, self._tools.place)
        return "adapters.html.jinja", {"adapters": shown[::-1], "anchor": stores.adapters.anchor()}

    def _adapter(self, visit: Visit) -> tuple[str, dict[str, Any]]:
        stores, name = self._tools.stores, visit.request.match_info["name"]
        detail = operations.adapter_detail(stores, self._tools.place, _id(name))
        made = stores.rounds.get(known_adapter(stores, name).round)
        return "adapter.html.jinja", {
            "adapter": detail,
            "anchor": stores.adapters.anchor(),
            "attestation": {} if made is None else made.attestation or {},
            "view": None if made is None else round_view(self._config, made, self._tools.place),
            "lineage": lineage.explain_adapter(stores, name, whole=_whole(visit)),
        }

    def _query(self, visit: Visit) -> tuple[str, dict[str, Any]]:
        """One pseudo-label; without an id, or of one that is unknown, the newest ones."""
        stores, asked = self._tools.stores, visit.query.get("id", "").strip()
        problem = None
        if asked:
            try:
                return "query.html.jinja", {"label": operations.explain(stores, _id(asked))}
            except StateConflict as missing:
                problem = str(missing)
        newest = [row.id for row in stores.pseudo_labels.pool(NEWEST_QUERIES)]
        shown = stores.pseudo_labels.load(newest)
        return "queries.html.jinja", {"labels": shown, "id": asked, "problem": problem}

    def _label(self, visit: Visit) -> tuple[str, dict[str, Any]]:
        """A label, and where it is asked for what descends from it."""
        asked = visit.query.get("id", "").strip()
        found, problem = None, None
        if asked:
            try:
                found = lineage.explain_label(self._tools.stores, _id(asked), whole=_whole(visit))
            except StateConflict as missing:
                problem = str(missing)
        return "label.html.jinja", {"label": found, "id": asked, "problem": problem}

    def _drift(self, _visit: Visit) -> tuple[str, dict[str, Any]]:
        stores = self._tools.stores
        seen = drift.overview(self._config, stores)
        shown = [drift.detail(stores, each["number"]) for each in seen["events"][:NEWEST_EVENTS]]
        return "drift.html.jinja", {"drift": seen, "events": shown}

    def _replicas(self, _visit: Visit) -> tuple[str, dict[str, Any]]:
        stores = self._tools.stores
        serving = stores.alias.get().adapter
        version = None if serving is None else stores.adapters.get(serving)
        made = None if version is None else stores.rounds.get(version.round)
        return "replicas.html.jinja", {
            "replicas": self._tools.replicas(),
            "kind": self._config.generation.kind,
            "serving": serving,
            "attestation": {} if made is None else made.attestation or {},
            "made": None if made is None else made.number,
            "process": self._tools.process(),
        }


def _whole(visit: Visit) -> bool:
    """Whether all that descends is asked for, and looked for through all pseudo-labels."""
    return visit.query.get("descendants") == "1"


def _id(given: str) -> str:
    """Raises StateConflict: nothing can be called so."""
    if (problem := id_problem(given)) is not None:
        raise StateConflict(f"nothing can be called so: {problem}")
    return given


def round_number(request: web.Request) -> int:
    """Of the path.

    Raises:
        DataError: no round can have it.
    """
    digits = request.match_info["number"]
    if len(digits) > len(str(MAX_INTEGER)) or int(digits) > MAX_INTEGER:
        raise DataError(f"there is no round {digits[:20]}")
    return int(digits)
