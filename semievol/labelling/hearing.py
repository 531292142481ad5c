"""What others than the model say of its pseudo-labels, heard in turn: the probe, then the queries that lie near.

Owns the order, and that both are asked with the same vectors. What each says is its own (labelling.probe,
labelling.consensus).
"""

from __future__ import annotations

from collections.abc import Sequence

from semievol.config.method import LabellingConfig
from semievol.errors import ConfigError
from semievol.labelling.consensus import agree
from semievol.labelling.probe import Probe, fitted, with_probe
from semievol.protocols import Embedder
from semievol.types import Example, PseudoLabel


def heard(
    labels: Sequence[PseudoLabel],
    examples: Sequence[Example],
    config: LabellingConfig,
    embedder: Embedder | None,
    probe: Probe | None = None,
) -> list[PseudoLabel]:
    """The pseudo-labels after each has listened, where that is configured. Blocking: embeds all.

    Args:
        labels: the whole pool, as the model made it.
        examples: the labelled ones.
        config: whom they listen to.
        embedder: of questions.
        probe: of these examples; None: it is fitted, where it is configured and there is an example.

    Raises:
        ConfigError: it is configured, and there is no embedder.
        TransientError: the endpoint that embeds does not answer.
    """
    if not config.hears_others or not labels:
        return list(labels)
    if embedder is None:
        raise ConfigError(f"labelling.{'consensus' if config.probe is None else 'probe'}: needs an embedder")
    vectors = embedder.embed([label.query.question for label in labels])
    others = embedder.embed([example.query.question for example in examples])
    weights = {each.name: each.weight for each in config.configurations}
    listening = list(labels)
    if config.probe is not None and examples:
        probe = probe or fitted(others, examples).whole
        listening = with_probe(listening, vectors, probe, config.probe, weights)
        weights["probe"] = config.probe.weight
    if config.consensus is not None:
        listening = agree(listening, vectors, examples, others, config.consensus, weights)
    return listening
