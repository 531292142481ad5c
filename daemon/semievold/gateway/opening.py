"""Chooses what answers at the gateway, and opens it with what goes beside it: embeddings, feedback, capture.

Owns the choice by the configuration alone; the tools are closed by the caller.
"""

from __future__ import annotations

from semievol.engines.plain.control_texts import control_texts_of
from semievol.http.server_address import ServerAddress
from semievol.protocols import Generator
from semievold.config.daemon import DaemonConfig
from semievold.gateway.capture import Capture
from semievold.gateway.feedback import Feedback
from semievold.gateway.front import GatewayTools
from semievold.gateway.local import LocalBackend
from semievold.gateway.proxy import OneServer, ProxyBackend
from semievold.gateway.shadow.offers import ShadowOffers
from semievold.gateway.words import WaitingWords
from semievold.intake.messages import RecordParser
from semievold.monitoring.metrics import Metrics
from semievold.rollout.answers import AnswerCounts
from semievold.serving.lending import ReplicaPool
from semievold.store.stores import Stores
from semievold.streams.protocol import StreamProducer
from semievold.tracing import Tracing


def open_gateway_tools(
    config: DaemonConfig,
    generator: Generator,
    replicas: ReplicaPool | None,
    stores: Stores,
    secret: str,
    parser: RecordParser,
    producer: StreamProducer,
    metrics: Metrics,
    counts: AnswerCounts | None = None,
    tracing: Tracing | None = None,
) -> GatewayTools:
    """What the settings ask for; requests go to `replicas`, or without them to `generator`.

    `secret`: of the service; clients are named, and what is captured is drawn, by a hash with it.
    """
    settings = config.gateway
    backend = LocalBackend(generator) if replicas is None else _proxy(config, replicas, metrics)
    capture = embeddings = None
    if settings.capture.share > 0:
        instruction = config.task.instruction
        topic, state = config.stream.queries, stores.captured
        capture = Capture(settings.capture, topic, instruction, parser, producer, metrics, state=state, secret=secret)
    if settings.embeddings_url is not None:
        token = settings.embeddings_token
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        server = OneServer(ServerAddress("embeddings", settings.embeddings_url, headers))
        embeddings = ProxyBackend(server, settings, metrics)
    labels = config.stream.labels
    words = WaitingWords(settings.feedback, labels, stores, parser, producer, metrics)
    said = Feedback(settings, labels, words, stores, parser, producer, secret, capture)
    shadow = None
    if config.shadow.gateway and config.shadow.share > 0:
        most, instruction = settings.capture.max_chars, config.task.instruction
        shadow = ShadowOffers(config.shadow, most, instruction, parser, stores.shadow_pairs)
    return GatewayTools(backend, said, embeddings, capture, words, counts, shadow, tracing)


def _proxy(config: DaemonConfig, replicas: ReplicaPool, metrics: Metrics) -> ProxyBackend:
    return ProxyBackend(replicas, config.gateway, metrics, control_texts_of(config.model))
