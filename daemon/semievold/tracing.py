"""Spans of what the daemon does, where tracing is on; who is traced is asked, and gets None where nobody is.

Owns the names of OpenTelemetry, which no other file knows, and the choice of what is traced. Invariant: nothing waits
for whoever collects traces: spans are queued, and what does not fit is dropped by the library.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from semievol.errors import ConfigError
from semievold.config.tracing import TracingSettings

PARENT, STATE = "traceparent", "tracestate"
SAMPLER = "OTEL_TRACES_SAMPLER"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
Kind = Literal["consumer", "server", "internal"]
Value = str | int | float | bool


class Span:
    """One piece of work that is traced."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def tell(self, **attributes: Value | None) -> None:
        """More of it; `__` in a name stands for a dot, and None is left out."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name.replace("__", "."), value)

    def fail(self, reason: str) -> None:
        """It did not do what it was to."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR, reason))

    def headers(self) -> dict[str, str]:
        """For whoever goes on with the work: W3C Trace Context."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self._span))
        return carrier

    def end(self) -> None:
        self._span.end()


class Chosen(NamedTuple):
    """That something is traced; `context`: the trace that it belongs to, None: one of its own."""

    context: Any


class Tracing:
    """Begins spans.

    Args:
        provider: an SDK's TracerProvider.
        draw: a number in [0, 1).
    """

    def __init__(
        self, provider: Any, workload: str, share: float, *, draw: Callable[[], float] = random.random
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("semievold")
        self._workload = workload
        self._sampled_there = bool(os.environ.get(SAMPLER))
        self._share = 1.0 if self._sampled_there else share
        self._draw = draw
        self._extract = TraceContextTextMapPropagator().extract
        self._span_of = trace.get_current_span
        kinds = trace.SpanKind
        self._kinds = {"consumer": kinds.CONSUMER, "server": kinds.SERVER, "internal": kinds.INTERNAL}

    def begin(self, name: str, kind: Kind, headers: Mapping[str, str], **attributes: Value | None) -> Span | None:
        """In the trace that the headers name, else perhaps in one of its own; None: it is not traced.

        `attributes` as in `Span.tell`.
        """
        chosen = self.chosen(headers)
        return None if chosen is None else self.begin_chosen(chosen, name, kind, **attributes)

    def chosen(self, headers: Mapping[str, str]) -> Chosen | None:
        """The same choice alone, for who has work with what is said of a span: of most records none is made."""
        carrier = {key: headers[name] for name in headers if (key := name.lower()) in (PARENT, STATE)}
        context = self._extract(carrier) if PARENT in carrier else None
        parent = None if context is None else self._span_of(context).get_span_context()
        if parent is None or not parent.is_valid:
            if self._draw() >= self._share:
                return None
        elif not parent.trace_flags.sampled and not self._sampled_there:
            return None
        return Chosen(context)

    def begin_chosen(self, chosen: Chosen, name: str, kind: Kind, **attributes: Value | None) -> Span | None:
        """The span of what was chosen."""
        return self._begun(name, kind, chosen.context, attributes)

    @contextmanager
    def step(self, number: int, begun_at: float, state: str, **attributes: Value | None) -> Iterator[Span | None]:
        """A step of a round; all steps of one, whoever makes them, are in one trace."""
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        digest = hashlib.blake2b(f"{self._workload} {number} {begun_at}".encode(), digest_size=24).digest()
        sampled = TraceFlags(TraceFlags.SAMPLED)
        root = SpanContext(int.from_bytes(digest[:16]), int.from_bytes(digest[16:]), True, sampled)
        context = set_span_in_context(NonRecordingSpan(root))
        span = self._begun(f"round {state}", "internal", context, {"semievol__round": number, **attributes})
        try:
            yield span
        except BaseException as error:
            if span is not None:
                span.fail(f"{type(error).__name__}: {error}")
            raise
        finally:
            if span is not None:
                span.end()

    def _begun(self, name: str, kind: Kind, context: Any, attributes: Mapping[str, Value | None]) -> Span | None:
        span = self._tracer.start_span(name, context=context, kind=self._kinds[kind])
        if not span.is_recording():
            return None
        found = Span(span)
        found.tell(semievol__workload=self._workload, **attributes)
        return found

    def close(self) -> None:
        """Send what is queued, within the exporter's time; blocking."""
        self._provider.shutdown()


def open_tracing(settings: TracingSettings, workload: str, roles: frozenset[str]) -> Tracing | None:
    """As the settings and the OTEL_* variables say; None: tracing is off.

    Raises:
        ConfigError: the extra is missing, or a variable asks for a protocol that is not spoken.
    """
    if not settings.enabled:
        return None
    for name in _PROTOCOLS:
        if (asked := os.environ.get(name) or _SPOKEN) != _SPOKEN:  # empty is as unset, to all of OpenTelemetry
            raise ConfigError(f"{name}: {asked} is not spoken; set {_SPOKEN}, or leave it out")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            "tracing.enabled: needs the extra 'tracing' (pip install 'semievol[tracing]'); or set false"
        ) from error
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    known = {} if named else {"service.name": "semievold"}
    resource = Resource.create({**known, "semievol.workload": workload, "semievol.roles": ",".join(sorted(roles))})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider, workload, settings.share)
