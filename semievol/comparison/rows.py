"""The rows of a comparison: which methods stand beside each other, and how each differs from the run's settings.

Owns the table's rows as data, no I/O. Each ablation takes one part of the method away and leaves the rest as the
settings have it (paper, tables 1 and 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semievol.config.method import Configuration, LabellingConfig, MethodConfig, RiskConfig, SelectionConfig
from semievol.errors import ConfigError

Training = Literal["nothing", "vectors", "examples", "rounds", "truth"]
Retrieval = Literal["dense", "bm25"]


@dataclass(frozen=True, slots=True)
class ComparedMethod:
    """One row.

    trained_on: nothing (the model as it is), the examples' vectors (no language model answers), the examples (SFT),
        rounds of pseudo-labels, or every query's true answer.
    retrieval: what finds the neighbours that the model is shown when it is asked with neighbours.
    closed_book, open_book: whether the row is asked without and with neighbours.
    warm: the first round trains on the examples; without it the base model labels in every round.
    """

    name: str
    title: str
    config: MethodConfig
    trained_on: Training
    retrieval: Retrieval = "dense"
    closed_book: bool = True
    open_book: bool = True
    warm: bool = True


def all_methods(config: MethodConfig) -> list[ComparedMethod]:
    """Every row, in the order of the table.

    A risk that the settings state is that of the row `stated_risk`; the others select as the paper does.
    """
    risk = config.selection.risk or RiskConfig()
    config = _selecting(config, risk=None)
    stated = _selecting(config, theta=SelectionConfig().theta, theta_by_round=(), risk=risk)
    return [
        ComparedMethod("vanilla", "Vanilla", config, "nothing", open_book=False),
        ComparedMethod("rag_bm25", "RAG (BM25)", config, "nothing", retrieval="bm25", closed_book=False),
        ComparedMethod("rag_dense", "RAG (dense)", config, "nothing", closed_book=False),
        ComparedMethod("probe", "Probe (vectors alone)", config, "vectors", open_book=False),
        ComparedMethod("sft", "SFT", config, "examples"),
        ComparedMethod("self_training", "Self-training (plain confidence)", _self_training(config), "rounds"),
        ComparedMethod("semievol", "SemiEvol", config, "rounds"),
        ComparedMethod("stated_risk", "SemiEvol, selection at a stated risk", stated, "rounds"),
        ComparedMethod("no_in_weight", "- in-weight propagation", _without_in_weight(config), "rounds", warm=False),
        ComparedMethod("no_in_context", "- in-context propagation", _without_in_context(config), "rounds"),
        ComparedMethod("no_collaboration", "- collaborative learning", _without_collaboration(config), "rounds"),
        ComparedMethod("no_selection", "- adaptive selection", _without_selection(config), "rounds"),
        ComparedMethod("fully_labelled", "Fully labelled (bound)", config, "truth"),
    ]


def pick(methods: Sequence[ComparedMethod], names: Iterable[str] | None) -> list[ComparedMethod]:
    """The named rows, in the order of the table; None: all.

    Raises:
        ConfigError: there is no such row.
    """
    if names is None:
        return list(methods)
    wanted = set(names)
    if unknown := wanted - {method.name for method in methods}:
        known = ", ".join(method.name for method in methods)
        raise ConfigError(f"--rows: there is no row {', '.join(sorted(unknown))}; there are {known}")
    return [method for method in methods if method.name in wanted]


# --- ablations ------------------------------------------------------------------------------------------------------


def _without_in_weight(config: MethodConfig) -> MethodConfig:
    """The base model answers every configuration: what the examples taught reaches no pseudo-label through weights."""
    base = [each.model_copy(update={"adapter": "base"}) for each in config.labelling.configurations]
    return _labelling(config, base, panel=None)


def _without_in_context(config: MethodConfig) -> MethodConfig:
    """Every configuration asks closed book, and neither a consensus of near queries nor a probe is heard.

    Configurations that then ask the same are one; the adapter that is taught answers, as often as before, by sampling.
    """
    count = candidates(config.labelling)
    closed = [Configuration(name="greedy", temperature=0.0, neighbours=0)]
    if count > 1:
        closed.append(Configuration(name="sampled", temperature=1.0, samples=count - 1, neighbours=0))
    return _labelling(_alone(_no_open_book(config), "votes"), closed, consensus=None, probe=None)


def _without_collaboration(config: MethodConfig) -> MethodConfig:
    """One greedy answer of the adapter that is taught, with the first configuration's neighbours."""
    neighbours = max(each.neighbours for each in config.labelling.configurations[:1])
    single = [Configuration(name="greedy", temperature=0.0, neighbours=neighbours)]
    return _labelling(_single(config), single, justify=False, panel=None)


def _without_selection(config: MethodConfig) -> MethodConfig:
    """Every pseudo-label that parses is trained on."""
    return _selecting(config, theta=1.0, theta_by_round=(), min_agreement=0.0)


def _self_training(config: MethodConfig) -> MethodConfig:
    """The classic: one greedy closed-book answer of the adapter itself, kept where its entropy is low."""
    single = [Configuration(name="greedy", temperature=0.0, neighbours=0)]
    return _labelling(_alone(config, "entropy"), single, justify=False, consensus=None, probe=None, panel=None)


def _single(config: MethodConfig) -> MethodConfig:
    """Ranked by entropy where the settings count candidates: a single one would leave nothing to rank by."""
    return _alone(config, "entropy") if config.selection.by in ("agreement", "margin", "semantic_entropy") else config


def _alone(config: MethodConfig, by: str) -> MethodConfig:
    """Ranked by `by` where the settings rank by what is heard of others, or, for entropy, by anything else."""
    if config.selection.by not in ("consensus", "learned") and by != "entropy":
        return config
    return _selecting(config, by=by)


def _selecting(config: MethodConfig, **settings: Any) -> MethodConfig:
    return config.model_copy(update={"selection": config.selection.model_copy(update=settings)})


def _labelling(config: MethodConfig, configurations: Sequence[Configuration], **others: Any) -> MethodConfig:
    values = {"configurations": tuple(configurations), **others}
    return config.model_copy(update={"labelling": config.labelling.model_copy(update=values)})


def _no_open_book(config: MethodConfig) -> MethodConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"neighbours_in_prompt": 0})})


# --- sweeps ---------------------------------------------------------------------------------------------------------


def candidates(labelling: LabellingConfig) -> int:
    """n: how many candidate answers a query gets."""
    return sum(each.samples for each in labelling.configurations)


def with_candidates(config: MethodConfig, count: int) -> MethodConfig:
    """The settings with n = `count`: the first configurations, the last one's samples cut or raised to fit.

    Raises:
        ConfigError: n is below 1, or the last configuration is greedy and cannot give more.
    """
    if count < 1:
        raise ConfigError("--sweep n: needs whole numbers from 1")
    kept: list[Configuration] = []
    for each in config.labelling.configurations:
        left = count - sum(other.samples for other in kept)
        if left == 0:
            break
        kept.append(each.model_copy(update={"samples": min(each.samples, left)}))
    if (left := count - sum(each.samples for each in kept)) > 0:
        if kept[-1].temperature == 0:
            raise ConfigError(f"--sweep n={count}: the last configuration is greedy; add one that samples")
        kept[-1] = kept[-1].model_copy(update={"samples": kept[-1].samples + left})
    return _labelling(_single(config) if count == 1 else config, kept)


def with_theta(config: MethodConfig, theta: float) -> MethodConfig:
    """The settings with this theta in every round.

    Raises:
        ConfigError: theta is not a share.
    """
    if not 0 < theta <= 1:
        raise ConfigError(f"--sweep theta={theta:g}: needs shares above 0 and at most 1")
    return _selecting(config, theta=theta, theta_by_round=(), risk=None)
