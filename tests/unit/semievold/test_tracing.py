"""Who is traced, in which trace, and what is said where that cannot be."""

from __future__ import annotations

import itertools
import sys

import pytest

from semievol.errors import ConfigError
from semievold.config.tracing import TracingSettings
from semievold.round_states import RoundState as S
from semievold.tracing import open_tracing
from tests.control_world import ControlWorld, OpenWorld
from tests.traces import NOT_SAMPLED, PARENT, SAMPLED, TRACE, Traces

ROLES = frozenset({"intake"})


def begun(traces: Traces, headers: dict[str, str]) -> bool:
    span = traces.tracing.begin("x", "consumer", headers)
    if span is not None:
        span.end()
    return span is not None


def test_what_belongs_to_a_sampled_trace_is_in_it_whatever_the_share() -> None:
    traces = Traces(share=0.0)
    assert begun(traces, {"TraceParent": SAMPLED["traceparent"], "tracestate": "shop=1"})
    (span,) = traces.spans
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)


def test_what_belongs_to_a_trace_that_is_not_sampled_is_not_traced() -> None:
    assert not begun(Traces(share=1.0), NOT_SAMPLED)


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"tracestate": "shop=1"}])
def test_what_belongs_to_no_trace_begins_one_in_a_share_of_the_cases(headers: dict[str, str]) -> None:
    assert begun(Traces(share=1.0), headers)
    assert not begun(Traces(share=0.0), headers)


def test_where_a_sampler_is_set_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert begun(Traces(share=0.0), {})
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert not begun(Traces(share=1.0), SAMPLED)


def test_off_there_is_nothing_and_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert open_tracing(TracingSettings(), "w", ROLES) is None


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"semievol\[tracing\]"):
        open_tracing(TracingSettings(enabled=True), "w", ROLES)


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL: grpc is not spoken; set http/protobuf"):
        open_tracing(TracingSettings(enabled=True), "w", ROLES)


async def test_every_step_of_a_round_is_one_span_and_all_are_in_one_trace(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = Traces(share=0.0)
    monkeypatch.setattr(ControlWorld, "tracing", traces.tracing)
    world = open_world(rollout={"watch_s": 0.0})
    world.teach()
    world.here.start()
    await world.ended(0)
    assert world.round(0).state is S.SETTLED
    moves = [(span.name, (span.attributes or {})["semievol.moved_to"]) for span in traces.spans]
    states = [S.PLANNED, S.SNAPSHOTTED, S.TRAINING, S.TRAINED, S.LOADED, S.EVALUATED, S.ATTESTED, S.PROMOTED, S.SETTLED]
    assert moves == [(f"round {before.value}", after.value) for before, after in itertools.pairwise(states)]
    assert len({span.context.trace_id for span in traces.spans if span.context}) == 1
    assert {each["semievol.round"] for each in traces.told()} == {0}


async def test_a_step_that_is_stopped_says_so(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = Traces()
    with pytest.raises(KeyError), traces.tracing.step(3, 1.0, "training"):
        raise KeyError("gone")
    (span,) = traces.spans
    assert (span.status.is_ok, span.status.description) == (False, "KeyError: 'gone'")
