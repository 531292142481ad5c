"""Whether what the daemon does is traced, and how much of it; where traces go is said by the standard variables."""

from __future__ import annotations

from pydantic import Field

from semievol.config.section import Section


class TracingSettings(Section):
    """Traces by OpenTelemetry (extra `tracing`), sent by OTLP over HTTP to where OTEL_EXPORTER_OTLP_ENDPOINT says
    (http://localhost:4318 by default); the other OTEL_* variables hold too.
    """

    enabled: bool = False
    """One span from a query's record to its prediction, one for each admitted request of the gateway, one for each step
    of a round."""
    share: float = Field(default=0.01, ge=0, le=1)
    """Of the queries and requests that belong to no trace, this share begins one; of those that do, all whose trace is
    sampled are in it. Steps of rounds always are. A span costs some 0.1 ms. Where OTEL_TRACES_SAMPLER is set, that
    decides."""
