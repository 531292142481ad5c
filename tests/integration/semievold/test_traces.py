"""One span from a query's record to its prediction, and one a request of the gateway, in the trace of whoever asked."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from semievol.types import Query, Unlabelled
from semievold.config.tracing import TracingSettings
from semievold.streams.protocol import OutgoingRecord
from semievold.tracing import open_tracing
from tests.openai_double import ALIAS, Double, front
from tests.stream_world import RuleLabeller, World, run_until
from tests.traces import PARENT, SAMPLED, TRACE, Traces, header


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    opened = World(tmp_path)
    yield opened
    await opened.close()


async def worked(world: World, traces: Traces, labeller: RuleLabeller, *values: bytes) -> None:
    await world.producer.publish(world.topics.queries, [OutgoingRecord(None, each, SAMPLED) for each in values])
    intake = world.intake(labeller, tracing=traces.tracing)
    await run_until(intake, lambda: len(traces.spans) == len(values))


async def test_a_query_is_one_span_in_its_trace_and_its_prediction_names_it(world: World) -> None:
    traces = Traces(share=0.0)
    await worked(world, traces, RuleLabeller(), b'{"id": "q", "question": "is it even?"}')
    (span,) = traces.spans
    assert span.name == "semievol.queries process"
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    (told,) = traces.told()
    assert told["messaging.destination.name"] == "semievol.queries"
    assert (told["semievol.outcome"], told["semievol.adapter"], told["semievol.agreement"]) == ("labelled", "a1", 0.75)
    [prediction] = await world.read(world.topics.predictions)
    assert prediction.headers == {"traceparent": header(span), "tracestate": "shop=1"}


async def test_what_gets_no_label_says_why_and_what_comes_again_that_it_did(world: World) -> None:
    traces = Traces(share=0.0)

    def refused(query: Query) -> Unlabelled | None:
        return Unlabelled(query, "too long for the model") if query.id == "long" else None

    asked = b'{"id": "q", "question": "is it even?"}'
    await worked(world, traces, RuleLabeller(left_out=refused), b"{", b'{"id": "long", "question": "?"}', asked, asked)
    outcomes = sorted(each["semievol.outcome"] for each in traces.told())
    assert outcomes == ["dead letter: labelling_refused", "dead letter: malformed_json", "labelled", "redelivered"]
    assert sum(not span.status.is_ok for span in traces.spans) == 2


async def test_a_request_is_one_span_that_the_replica_is_told_of() -> None:
    traces = Traces(share=0.0)
    double = Double("one")
    async with front([double], tracing=traces.tracing) as it:
        body = {"model": ALIAS, "messages": [{"role": "user", "content": "hello"}]}
        async with it.session.post(f"{it.url}/v1/chat/completions", json=body, headers=SAMPLED) as answer:
            assert answer.status == 200
        async with it.ask() as answer:  # in no trace, and none begins
            assert answer.status == 200
    (span,) = traces.spans
    assert span.name == "POST /v1/chat/completions"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    (told,) = traces.told()
    assert (told["http.response.status_code"], told["semievol.adapter"]) == (200, "v1")
    assert [headers.get("traceparent") for *_, headers in double.asked] == [header(span), None]


def test_spans_go_where_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            got.append((self.path, gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "support")
        tracing = open_tracing(TracingSettings(enabled=True, share=1.0), "w", frozenset({"intake"}))
        assert tracing is not None
        span = tracing.begin("work", "consumer", {}, semievol__offset=7)
        assert span is not None
        span.end()
        tracing.close()
        server.shutdown()
    ((path, body),) = got
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    named = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert (named["service.name"], named["semievol.workload"]) == ("support", "w")
    assert resource.scope_spans[0].spans[0].name == "work"
