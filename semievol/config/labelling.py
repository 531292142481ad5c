"""Settings of labelling, and of which pseudo-labels are trained on. No imports beyond pydantic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from semievol.config.section import MAX_SEED, Auto, Section

CONSENSUS_THETA = 0.95
FIRST_THETA, LATER_THETA = 0.5, 0.8
"""What `theta: auto` is: by consensus; by other measures in the first evolve round, and in later ones."""


class Configuration(Section):
    """One inference configuration of collaborative labelling."""

    name: str
    samples: int = Field(default=1, ge=1)
    """Candidate answers drawn from this prompt; samples of one prompt share its prefill."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy (then samples must be 1)."""
    neighbours: int = Field(default=3, ge=0)
    """Retrieved examples shown as turns; 0 is closed book."""
    order: Literal["nearest_last", "nearest_first", "shuffled"] = "nearest_last"
    """Order of the shown examples; models weigh the last turns most."""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Draws its samples and shuffled orders, in every round the same. None: the run's seed and the name draw them."""
    instruction: str | None = None
    """System message of this prompt variant; empty: none. None: task.instruction."""
    template: str | None = None
    """User turn of this prompt variant, with `{question}`. None: task.template."""
    adapter: str | None = Field(default=None, min_length=1)
    """What answers: `base` is the model without an adapter; else an adapter directory, or a name that the engine knows.
    None: the adapter that serves; with another `model`, that model's base."""
    model: str | None = None
    """An entry of `models` that answers instead of `generation`. None: `generation` does."""
    weight: float = Field(default=1.0, ge=0)
    """How much its candidates count in the consensus, beside those of other configurations."""

    @model_validator(mode="after")
    def _check(self) -> Configuration:
        if self.template is not None and "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if self.temperature == 0 and self.samples != 1:
            raise ValueError("temperature 0 gives one answer: set samples to 1 or raise temperature")
        return self


class ConsensusConfig(Section):
    """What queries and examples that lie close together say about each other's answers (see consensus)."""

    method: Literal["centres", "spreading"] = "centres"
    """centres: each answer has one place, found from the examples and all queries. spreading: neighbours pass their
    answers on, for answers whose queries lie in several places."""
    votes: float = Field(default=2.0, ge=0, le=20)
    """centres: what a query's own candidate answers add to the score of an answer, when all are sure of it."""
    sharpness: float = Field(default=35.0, gt=0, le=50)
    """centres: the score of an answer is this times the cosine of the query and the answer's centre. Sharper ones would
    give many queries the share 1, which no threshold parts."""
    words: float = Field(default=0.2, ge=0, le=5)
    """centres: how much a query's words count beside its vector, as nats of a naive Bayes classifier; 0: not at all."""
    weight: float = Field(default=0.7, ge=0, lt=1)
    """spreading: how much the neighbours' answers count against a query's own."""
    neighbours: int = Field(default=10, ge=1)
    """spreading: nearest queries and examples that each query listens to."""
    power: float = Field(default=8.0, ge=0)
    """spreading: a neighbour's weight is its cosine to this power: the nearest count most."""
    steps: int = Field(default=10, ge=1)
    """How often centres are placed anew, or answers passed on."""

    @model_validator(mode="after")
    def _check(self) -> ConsensusConfig:
        idle = ("weight", "neighbours", "power") if self.method == "centres" else ("votes", "sharpness", "words")
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: is for another method than {self.method}; remove it, or set method")
        return self


class ProbeConfig(Section):
    """A logistic regression on the examples' vectors as one more view (see labelling.probe)."""

    weight: float = Field(default=1.0, gt=0)
    """How much its answer counts beside the candidates of the configurations, each by its likelihood."""


class PanelConfig(Section):
    """Several adapters that are taught apart and vote (see labelling.panel). For a run on files."""

    adapters: int = Field(default=4, ge=2, le=20)
    """How many are trained beside the warm one, each on a part of the examples and by a seed of its own: each costs its
    share of the warm round, and one more answer to every query."""
    by: Literal["folds", "halves"] = "folds"
    """What each is taught. folds: the examples without one of so many parts. halves: one half, the next adapter the
    other, each pair by another division: they know less, and differ more."""

    @model_validator(mode="after")
    def _pairs(self) -> PanelConfig:
        if self.by == "halves" and self.adapters % 2:
            raise ValueError(f"adapters: {self.adapters} is odd, and halves go in pairs; take one more or one less")
        return self


class LabellingConfig(Section):
    """Collaborative labelling (paper, section on collaborative learning)."""

    configurations: tuple[Configuration, ...] = (
        Configuration(name="greedy", temperature=0.0, samples=1),
        Configuration(name="sampled", temperature=1.0, samples=3),
    )
    """The n candidate answers of a query are all samples of all configurations (paper: n = 4)."""
    justify: bool = True
    """Where candidates differ, show them to the model and let it pick; off: the majority decides."""
    consensus: ConsensusConfig | None = None
    """Correct the pseudo-labels by those of the queries near them, and rank them by that consensus when
    selection.by is consensus. An answer taken over from others has agreement 0, so that selection.min_agreement decides
    whether such ones may be trained on. Classification with labels only. The daemon asks for it when a round begins, of
    the whole pool: predictions, which are published at once, are without it. None: each stands alone."""
    probe: ProbeConfig | None = None
    """Let a logistic regression on the examples' vectors answer too, a view that is not the model's: closed sets only.
    Its answer is one more candidate, called `probe`, and the vote of all decides, each by its likelihood and weight;
    the consensus, where there is one, hears it as it hears the others. As the consensus, the daemon asks it when a
    round begins. None: the model's views alone."""
    panel: PanelConfig | None = None
    """Let adapters that were taught different parts of the examples answer too, each as the first configuration that
    the serving adapter answers. The vote of all, the probe's too where there is one, decides; what a word counts is
    learned from the examples that each was taught without, and no weight is set. `selection.by: learned` ranks by the
    probability that the vote gives the answer. Closed sets only, on files only. None: no panel."""
    batch_size: int = Field(default=32, gt=0)
    """Queries labelled together."""
    structured: bool = False
    """vLLM only: let nothing but the task's closed set of answers be written. Every answer then parses, also one that
    the model did not mean, and entropy is that among the allowed answers: lower, and blind to what else would have been
    said. Off, because selection relies on both."""

    @model_validator(mode="after")
    def _check(self) -> LabellingConfig:
        names = [c.name for c in self.configurations]
        if not names or len(set(names)) != len(names):
            raise ValueError("configurations needs at least one entry, each with its own name")
        if self.probe is not None and "probe" in names:
            raise ValueError("configurations: the name probe is that of labelling.probe; take another")
        return self

    @model_validator(mode="after")
    def _check_panel(self) -> LabellingConfig:
        if self.panel is None:
            return self
        if self.consensus is not None:
            raise ValueError("panel: decides by its vote, and consensus by what is near; take one of them")
        if self.justify:
            raise ValueError("justify: what the model would pick, the vote of the panel decides; set justify: false")
        if not any(each.adapter is None and each.model is None for each in self.configurations):
            raise ValueError("panel: its adapters answer as the serving one does, which no configuration asks; add one")
        if self.probe is not None and self.probe != ProbeConfig():
            raise ValueError("probe.weight: with a panel weights are learned from the examples; leave it out")
        if taken := {each.name for each in self.configurations} & set(self.panel_names):
            raise ValueError(f"configurations: the name {min(taken)} is that of one of the panel; take another")
        return self

    @property
    def panel_names(self) -> tuple[str, ...]:
        """What the configurations of the panel's adapters are called."""
        return () if self.panel is None else tuple(f"panel {n}" for n in range(1, self.panel.adapters + 1))

    @property
    def hears_others(self) -> bool:
        """Whether pseudo-labels listen to others than the model, which takes the whole pool and its vectors."""
        return self.consensus is not None or self.probe is not None


class RiskConfig(Section):
    """How many of the selected pseudo-labels may be wrong, and how sure that has to be (see labelling.certificate)."""

    budget: float = Field(default=0.05, gt=0, lt=0.5)
    """The share of the selected that may be wrong. Certain labels needed, if none of them is wrong, at confidence 0.95:
    149 for 0.02, 59 for 0.05, 29 for 0.1; two to four times as many where some are."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """That the budget is kept in a round."""
    on_average: bool = False
    """Keep the budget on average over rounds alone: selects more, and says nothing about the single round."""
    calibration_share: float = Field(default=0.25, gt=0, lt=1)
    """Of the questions of labelled examples, drawn by hash before any is held out for the gate: they are answered like
    queries in every round, and never retrieved nor trained on. In the daemon an example keeps the side that it was put
    on: those which were there before this was set are not calibrated on."""


class LearnedConfig(Section):
    """How the confidence is learned (see labelling.learned)."""

    folds: int = Field(default=5, ge=2, le=20)
    """The examples are answered in so many parts, each by views that know the others alone. Where the serving adapter
    answers a view, each part takes a training on the other examples, in every round: 5 parts cost four times the warm
    round. With fewer parts the views know less than those that label, and the confidence is too low. The daemon learns
    from examples that are put aside."""
    calibration_share: float = Field(default=0.25, gt=0, lt=1)
    """The daemon only: of the questions of labelled examples, drawn by hash before any is held out for the gate; they
    are answered like queries in every round, and never retrieved nor trained on. Where a risk is stated,
    risk.calibration_share is the share, one half of them teaches and the other certifies."""


class SelectionConfig(Section):
    """Adaptive selection: which pseudo-labels are trained on."""

    by: Literal["entropy", "agreement", "margin", "semantic_entropy", "votes", "consensus", "learned"] = "entropy"
    """What ranks them. entropy: the paper's H; agreement: the share of candidates that gave the answer; margin: that
    share less the runner-up's; semantic_entropy: how the candidates spread over different answers; votes: agreement in
    which each candidate counts by its likelihood; consensus: see labelling.consensus; learned: the probability
    that the answer is right, learned from the examples (see `learned`). Agreement and margin have few different values
    with few candidates, and equals stand or fall together."""
    learned: LearnedConfig = LearnedConfig()
    """by learned only: how that is learned."""
    theta: Annotated[float, Field(gt=0, le=1)] | Auto = 0.5
    """Keep pseudo-labels that are as sure as this quantile of the pool or surer (paper: 0.5, by entropy). auto: by
    learned, what is likelier right than wrong; by consensus 0.95; else 0.5 in the first evolve round, later 0.8."""
    theta_by_round: tuple[float, ...] = ()
    """theta of the first evolve round, the second and so on; the last one holds for all later ones. Empty: theta. Later
    rounds label more surely than the first, and may keep more (intents: 0.5, 0.8)."""
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    """Also require at least this share of candidates to agree; 0 leaves the paper's rule alone."""
    risk: RiskConfig | None = None
    """In place of theta, the loosest threshold at which no more than a stated share of the selected is wrong: labelled
    examples that are put aside certify it, and too few of them select nothing. None: theta, the paper's rule."""

    @model_validator(mode="after")
    def _no_idle_setting(self) -> SelectionConfig:
        if self.by != "learned" and self.learned != LearnedConfig():
            raise ValueError("learned: is for by: learned; set that, or leave it out")
        return self

    @model_validator(mode="after")
    def _one_rule(self) -> SelectionConfig:
        if self.risk is not None:
            for name in ("theta", "theta_by_round"):
                if getattr(self, name) not in (type(self).model_fields[name].default, "auto"):
                    raise ValueError(f"{name}: is the paper's rule, and risk another one; remove either")
        return self

    @field_validator("theta_by_round")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < theta <= 1 for theta in value):
            raise ValueError("theta_by_round: each theta must be above 0 and at most 1")
        return value

    @property
    def calibrated(self) -> bool:
        """Whether the daemon answers examples that are put aside, as it answers queries."""
        return self.risk is not None or self.by == "learned"

    @property
    def put_aside(self) -> float:
        """The daemon: of the questions of labelled examples."""
        if self.risk is not None:
            return self.risk.calibration_share
        return self.learned.calibration_share if self.by == "learned" else 0.0

    def of_evolve_round(self, number: int) -> SelectionConfig:
        """The settings of the `number`-th evolve round, counted from 1."""
        if self.theta_by_round:
            theta = self.theta_by_round[min(number, len(self.theta_by_round)) - 1]
        elif self.theta == "auto" and self.by != "learned":
            theta = CONSENSUS_THETA if self.by == "consensus" else FIRST_THETA if number <= 1 else LATER_THETA
        else:  # what is learned says of each pool how much of it is right
            return self
        return self.model_copy(update={"theta": theta})
