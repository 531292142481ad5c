"""The admin API: operators' views and requests over HTTP, beside /metrics, /healthz and /readyz.

Owns routes and shapes; views are semievold.api.operations, effects are the control role's. Only health and metrics
answer without the token.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from semievol.examples.json_values import id_problem
from semievold.api import drift, lineage, operations
from semievold.api.asking import asked
from semievold.api.deliveries import read_delivery
from semievold.api.limits import LISTED, MOST_LISTED, read_limit
from semievold.api.reviewing import answered, read_which
from semievold.config.daemon import DaemonConfig
from semievold.errors import StateConflict
from semievold.intake.bulk import What
from semievold.intake.messages import trace_of
from semievold.monitoring.metrics import Metrics
from semievold.review.answering import Reviewers, UnknownItem
from semievold.rounds.places import RoundPlace
from semievold.serving.replica import ReplicaView
from semievold.store.database import MAX_INTEGER
from semievold.store.requests import RequestKind
from semievold.store.stores import Stores
from semievold.streams.protocol import StreamProducer
from semievold.web.access import Handler, guarded
from semievold.web.body_limits import limited_app, read_body, read_json
from semievold.web.errors import error
from semievold.web.tokens import HOLDER

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
REQUEST_WAIT_S = 15.0
WITH_TOKEN = "ask with the token to see why"
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "/v1/explain/{id}": ("descendants",),
    "/v1/rounds": ("limit",),
    "/v1/adapters": ("limit",),
    "/v1/review": ("purpose", "limit"),
    "/v1/queries": ("skip_invalid",),
    "/v1/labels": ("skip_invalid",),
}
"""Of the query, by address; another one may be one of these, misspelled, and is not passed over."""
MAX_PROBLEMS = 100
"""Records that are wrong, named in one answer."""


@dataclass(frozen=True, slots=True)
class ApiTools:
    """What the API shows and writes to."""

    stores: Stores
    place: RoundPlace
    producer: StreamProducer
    metrics: Metrics
    readiness: Callable[[], Mapping[str, str]]
    held: Callable[[], Mapping[str, str]]
    process: Callable[[], Mapping[str, Any]]
    observe: Callable[[], None]
    replicas: Callable[[], Sequence[ReplicaView]]


class Api:
    """The routes of the admin API."""

    def __init__(self, config: DaemonConfig, tools: ApiTools, token: str) -> None:
        self._config = config
        self._tools = tools
        self._token = token
        self._reviewers = Reviewers(config, tools.stores, tools.producer)

    def app(self) -> web.Application:
        open_paths = OPEN_PATHS - (set() if self._config.api.metrics_are_open else {"/metrics"})
        app = limited_app(self._config.api, [guarded(self._token, open_paths), _parameters_are_known])
        add = app.router
        add.add_get("/healthz", self._healthz)
        add.add_get("/readyz", self._readyz)
        add.add_get("/metrics", self._metrics)
        add.add_get("/v1/status", self._status)
        add.add_get("/v1/rounds", self._rounds)
        add.add_get("/v1/rounds/{number:[0-9]+}", self._round)
        add.add_post("/v1/rounds", self._start_round)
        add.add_post("/v1/rounds/{number:[0-9]+}/cancel", self._cancel_round)
        add.add_post("/v1/rounds/{number:[0-9]+}/approve", self._approve_round)
        add.add_post("/v1/rounds/{number:[0-9]+}/refuse", self._refuse_round)
        add.add_post("/v1/rounds/{number:[0-9]+}/advance", self._advance_round)
        add.add_post("/v1/freeze", self._freeze)
        add.add_post("/v1/thaw", self._thaw)
        add.add_get("/v1/adapters", self._adapters)
        add.add_get("/v1/adapters/{name}", self._adapter)
        add.add_post("/v1/adapters/{name}/promote", self._promote)
        add.add_post("/v1/rollback", self._rollback)
        add.add_get("/v1/drift", self._drift)
        add.add_get("/v1/drift/{number:[0-9]+}", self._drift_event)
        add.add_post("/v1/drift/rearm", self._rearm)
        add.add_get("/v1/explain/{id:.+}", self._explain)
        add.add_get("/v1/lineage/rounds/{number:[0-9]+}", self._round_lineage)
        add.add_get("/v1/lineage/adapters/{name}", self._adapter_lineage)
        add.add_get("/v1/lineage/labels/{id:.+}", self._label_lineage)
        add.add_get("/v1/review", self._review)
        add.add_post("/v1/review/{key:[0-9a-f]{32}}", self._answer_review)
        add.add_post("/v1/queries", functools.partial(self._publish, "queries"))
        add.add_post("/v1/labels", functools.partial(self._publish, "labels"))
        return app

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        """Without the token only which part is missing: why names servers, files and what is asked."""
        missing, held = dict(self._tools.readiness()), dict(self._tools.held())
        if HOLDER not in request:
            missing, held = (dict.fromkeys(each, WITH_TOKEN) for each in (missing, held))
        answer = {"ready": not missing, "waiting_for": missing, "held": held}
        return web.json_response(answer, status=503 if missing else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        self._tools.observe()
        return web.Response(body=self._tools.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _view(self, view: Callable[..., Any], *args: Any) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(view, self._tools.stores, *args))
        except StateConflict as missing:
            return error(404, "not_found", str(missing))

    async def _status(self, _request: web.Request) -> web.Response:
        seen = await asyncio.to_thread(operations.status, self._config, self._tools.stores, self._tools.place)
        replicas = [asdict(replica) for replica in self._tools.replicas()]
        held = {**seen["held"], **self._tools.held()}
        return web.json_response({**seen, **self._tools.process(), "held": held, "replicas": replicas})

    async def _rounds(self, request: web.Request) -> web.Response:
        return await self._listed(operations.rounds, request)

    async def _round(self, request: web.Request) -> web.Response:
        return await self._view(operations.round_detail, _round_number(request))

    async def _adapters(self, request: web.Request) -> web.Response:
        return await self._listed(operations.adapters, request)

    async def _listed(self, view: Callable[..., Any], request: web.Request) -> web.Response:
        return await self._view(view, self._tools.place, read_limit(request.query, LISTED, MOST_LISTED))

    async def _adapter(self, request: web.Request) -> web.Response:
        return await self._view(operations.adapter_detail, self._tools.place, _name(request, "name"))

    async def _drift(self, _request: web.Request) -> web.Response:
        return await self._view(functools.partial(drift.overview, self._config))

    async def _drift_event(self, request: web.Request) -> web.Response:
        return await self._view(drift.detail, _round_number(request))

    async def _rearm(self, request: web.Request) -> web.Response:
        """At once, whether or not a controller runs."""
        reason = operations.said_reason("rearm", await _body(request), drift.MAX_REASON)
        return web.json_response(await asyncio.to_thread(drift.rearm, self._tools.stores, reason))

    async def _explain(self, request: web.Request) -> web.Response:
        return await self._view(operations.explain, _name(request, "id"), _is_set(request, "descendants"))

    async def _round_lineage(self, request: web.Request) -> web.Response:
        return await self._view(lineage.explain_round, _round_number(request))

    async def _adapter_lineage(self, request: web.Request) -> web.Response:
        return await self._view(lineage.explain_adapter, _name(request, "name"))

    async def _label_lineage(self, request: web.Request) -> web.Response:
        return await self._view(lineage.explain_label, _name(request, "id"))

    async def _start_round(self, request: web.Request) -> web.Response:
        return await self._ask("start_round", await _body(request))

    async def _cancel_round(self, request: web.Request) -> web.Response:
        return await self._ask("cancel_round", {**await _body(request), "round": _round_number(request)})

    async def _approve_round(self, request: web.Request) -> web.Response:
        return await self._ask("approve_round", {**await _body(request), "round": _round_number(request)})

    async def _refuse_round(self, request: web.Request) -> web.Response:
        return await self._ask("refuse_round", {**await _body(request), "round": _round_number(request)})

    async def _advance_round(self, request: web.Request) -> web.Response:
        return await self._ask("advance_round", {**await _body(request), "round": _round_number(request)})

    async def _freeze(self, request: web.Request) -> web.Response:
        """At once, whether or not a controller runs."""
        reason = operations.freeze_reason(await _body(request))
        frozen = await asyncio.to_thread(self._tools.stores.freezes.freeze, reason)
        return web.json_response({"frozen": frozen._asdict()})

    async def _thaw(self, request: web.Request) -> web.Response:
        if given := await _body(request):
            raise web.HTTPBadRequest(text=f"thaw: field {next(iter(given))[:60]!r}: unknown; send none")
        was = await asyncio.to_thread(self._tools.stores.freezes.thaw)
        return web.json_response({"frozen": None, "was": None if was is None else was._asdict()})

    async def _promote(self, request: web.Request) -> web.Response:
        return await self._ask("promote", {**await _body(request), "adapter": request.match_info["name"]})

    async def _rollback(self, request: web.Request) -> web.Response:
        return await self._ask("rollback", await _body(request))

    async def _review(self, request: web.Request) -> web.Response:
        kind, most = read_which(request.query)
        return web.json_response(await asyncio.to_thread(self._reviewers.waiting, kind, most))

    async def _answer_review(self, request: web.Request) -> web.Response:
        """What a person says of one item: an answer, that they cannot say, or that it is taken back."""
        key, asked = request.match_info["key"], await _body(request)
        try:
            return web.json_response(await answered(self._reviewers, key, asked))
        except UnknownItem as unknown:
            return error(404, "not_found", str(unknown))
        except StateConflict as conflict:
            return error(409, "already_answered", str(conflict))

    async def _ask(self, kind: RequestKind, payload: Mapping[str, Any]) -> web.Response:
        """Leave a request for the controller and wait a while for its answer; 202 when it takes longer."""
        told = await asked(self._tools.stores.requests, kind, payload, REQUEST_WAIT_S)
        return web.json_response(told, status={"done": 200, "pending": 202}.get(told["state"], 409))

    async def _publish(self, what: What, request: web.Request) -> web.Response:
        """Publish records in bulk; all of them or none, or with `?skip_invalid=true` those that are valid."""
        skip_invalid = _is_set(request, "skip_invalid")
        delivery = await asyncio.to_thread(read_delivery, self._config, what, await read_body(request))
        problems = [problem.as_json() for problem in delivery.problems]
        if problems and not skip_invalid:
            body = {"code": "invalid_records", "message": "nothing was published", "records": problems[:MAX_PROBLEMS]}
            return web.json_response({"error": body}, status=400)
        trace = trace_of(request.headers)
        records = [each._replace(headers={**each.headers, **trace}) for each in delivery.records] if trace else None
        await self._tools.producer.publish(delivery.topic, records or delivery.records)
        return web.json_response(
            {
                "published": len(delivery.records),
                "topic": delivery.topic,
                "form": delivery.said,
                "records": delivery.taken,
                "problems": problems[:MAX_PROBLEMS],
            },
            status=202,
        )


@web.middleware
async def _parameters_are_known(request: web.Request, handler: Handler) -> web.StreamResponse:
    resource = request.match_info.route.resource
    address = "" if resource is None else resource.canonical
    if address.startswith("/v1/"):
        known = PARAMETERS.get(address, ())
        if unknown := next((name for name in request.query if name not in known), None):
            there = f"known: {', '.join(known)}" if known else "none is known here"
            raise web.HTTPBadRequest(text=f"{unknown[:60]}: unknown parameter; {there}")
    return await handler(request)


def _is_set(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise web.HTTPBadRequest(text=f"{name}: {value[:20]!r} is neither true nor false")
    return value in ("true", "1")


def _name(request: web.Request, part: str) -> str:
    """Of the path; what nothing can be called is answered like a name that nothing has."""
    name = request.match_info[part]
    if (problem := id_problem(name)) is not None:
        raise web.HTTPNotFound(text=f"{part}: {problem}")
    return name


def _round_number(request: web.Request) -> int:
    """Of the path; what no round can have is answered like a round that there is not."""
    digits = request.match_info["number"]
    if len(digits) > len(str(MAX_INTEGER)) or int(digits) > MAX_INTEGER:
        raise web.HTTPNotFound(text=f"there is no round {digits[:20]}; `semievol rounds list` shows them")
    return int(digits)


async def _body(request: web.Request) -> Mapping[str, Any]:
    """The fields of an optional JSON object.

    Raises:
        web.HTTPBadRequest: the body is something else.
    """
    body = await read_json(request) if request.can_read_body else {}
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text=f"body: expected a JSON object, found {type(body).__name__}")
    return body
