"""The gate's evidence in a round: both models answer the labels that they have not answered yet, and all is weighed.

Owns which answers count; the rule is semievol.proof.sequential's. Invariants: a label counts once, however often it is
looked at, and so does a question; an answer counts as long as label and settings are what they were when it was given,
and is asked for again where they are not. What was proved stays proved while the labels that proved it stand. So a
process that takes the round over finds the same evidence.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from semievol.engines.remembered import RememberedAnswers
from semievol.errors import AdapterError
from semievol.examples.near import near_key
from semievol.examples.split import one_a_question
from semievol.proof.evaluation import Evaluation, evaluate, paired, summarise
from semievol.proof.evidence import Pairs
from semievol.proof.sequential import Verdict, prove
from semievol.types import Example, Outcome
from semievold.config.daemon import DaemonConfig
from semievold.errors import FatalError
from semievold.rounds import deciding
from semievold.rounds.fresh import FreshLabels
from semievold.rounds.places import RoundPlace
from semievold.rounds.pool import GONE, known_to
from semievold.rounds.tools import RoundTools
from semievold.store.examples import FEEDBACK
from semievold.store.outcomes import StoredOutcome
from semievold.store.rounds import Round

log = logging.getLogger(__name__)

ROUNDS_ADAPTERS = 3
"""Versions that a round needs on a vLLM server: serving, previous, candidate."""
NOBODY = summarise(None, ())


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. `evaluation` is for the round's row, `outcomes` are those that the round had not yet, by role."""

    verdict: Verdict
    evaluation: Mapping[str, Any]
    outcomes: Mapping[str, Sequence[StoredOutcome]]


@dataclass(frozen=True, slots=True)
class Late:
    """What the labels after a promotion say; `outcomes` are those that the round had not yet, by role."""

    pairs: Pairs
    outcomes: Mapping[str, Sequence[StoredOutcome]]


class Evidence:
    """Looks at the labels that there are."""

    def __init__(self, config: DaemonConfig, tools: RoundTools, place: RoundPlace) -> None:
        self._config = config
        self._tools = tools
        # What is cut short by a component goes on where it was; names of adapters are never used again.
        self._answers = RememberedAnswers(tools.generator)
        self._fresh = FreshLabels(tools.stores, place)

    async def look(self, round_: Round) -> Look:
        """Ask incumbent and candidate what they have not answered, and weigh all that they have.

        Raises:
            AdapterError: the candidate's directory is unusable.
            TransientError: engine or state do not answer now; what was answered is remembered.
        """
        tools = self._tools
        labels, chosen = await asyncio.to_thread(self._labels, round_)
        held_out, gone = known_to(tools.task, labels)
        holdout = one_a_question(sorted(held_out, key=lambda example: example.id))
        contents = {example.id: deciding.example_hash(example) for example in holdout}
        settings = await asyncio.to_thread(deciding.settings_hash, self._config)
        rows = await self._rows(round_, settings)
        stored = {role: _valid(rows.get(role, {}), contents) for role in ("incumbent", "candidate", "anchor")}
        withdrawn = sorted(rows.get("candidate", {}).keys() - stored["candidate"].keys())
        proved = _proved(round_, settings, withdrawn)
        remembered = await self._remembered(round_.incumbent, settings, contents)
        candidate = candidate_of(round_)
        if contents.keys() - stored["candidate"].keys():
            await tools.fleet.load(candidate)  # again after a restart: an engine forgets what it had loaded
        incumbent = await self._evaluation(round_.incumbent, holdout, {**remembered, **stored["incumbent"]})
        proposed = await self._evaluation(candidate, holdout, stored["candidate"])
        both = paired(incumbent, proposed)
        say = functools.partial(prove, both[0].outcomes, both[1].outcomes, self._config.gate, proved=proved)
        verdict, anchors = say(chosen=chosen), NOBODY
        if verdict.decision == "promote":
            anchors = await self._anchors(round_, settings, [e for e in holdout if e.id not in both[1].left_out])
        if anchors.adapter is not None:
            beside = (anchors.adapter, anchors.outcomes)
            verdict = say(beside, chosen=chosen)
        self._answers.forget()
        evaluation = _as_json(verdict, *both) | {
            "settings": settings,
            "remembered": len(remembered),
            "withdrawn": withdrawn,
            "left_out": {**dict.fromkeys(gone, GONE), **both[1].left_out},
        }
        found = {"incumbent": both[0], "candidate": both[1], "anchor": anchors}
        return Look(verdict, evaluation, _new(found, stored, contents))

    async def since_promotion(self, round_: Round) -> Late:
        """What the labels that came after the promotion say; both versions are asked for what they have not answered.

        Raises:
            AdapterError: the version before is not loaded.
            TransientError: as `look`.
        """
        tools = self._tools
        labels, _ = known_to(tools.task, await asyncio.to_thread(self._late_labels, round_, round_.updated_at))
        late = one_a_question(sorted(labels, key=lambda example: example.id))
        contents = {example.id: deciding.example_hash(example) for example in late}
        rows = await self._rows(round_, await asyncio.to_thread(deciding.settings_hash, self._config))
        stored = {role: _valid(rows.get(role, {}), contents) for role in ("incumbent", "candidate")}
        incumbent = await self._evaluation(round_.incumbent, late, stored["incumbent"])
        promoted = await self._evaluation(candidate_of(round_), late, stored["candidate"])
        both = dict(zip(stored, paired(incumbent, promoted), strict=True))
        self._answers.forget()
        pairs = list(zip(both["incumbent"].outcomes, both["candidate"].outcomes, strict=True))
        wins = sum(new.correct and not old.correct for old, new in pairs)
        losses = sum(old.correct and not new.correct for old, new in pairs)
        return Late(Pairs(wins, losses, len(pairs) - wins - losses), _new(both, stored, contents))

    def _late_labels(self, round_: Round, since: float) -> list[Example]:
        """Labels that came `since` (UTC seconds), by the rule of the gate."""
        held_out = self._tools.stores.examples.arrived(since, held_out=True, clients=True)
        return list({example.id: example for example in [*held_out, *self._unchosen(round_, since)]}.values())

    def _labels(self, round_: Round) -> tuple[list[Example], frozenset[str]]:
        """All that may prove something, and the ids of those that were drawn among differing answers alone.

        A label of the review counts at the gate that asked for it, and there whatever `late_labels` says.
        """
        stores, gate = self._tools.stores, self._config.gate
        found = {each.id: each for each in stores.examples.holdout()}
        found |= {each.id: each for each in self._unchosen(round_)}
        # Of what was drawn among differing answers nothing is known of the share of all queries that is gained.
        reviews = stores.reviews.evidence(round_.number)
        asked_for = {id_: alone for id_, alone in reviews.items() if not alone or gate.margin == 0}
        reviewed = self._fresh.untaught(round_, stores.examples.training(list(asked_for)))
        if not self._config.gateway.feedback.trusted:
            reviewed = [each for each in reviewed if each.source != FEEDBACK]
        found |= {each.id: each for each in reviewed}
        return list(found.values()), frozenset(each.id for each in reviewed if asked_for[each.id])

    def _unchosen(self, round_: Round, since: float | None = None) -> list[Example]:
        """Labels on the training side that came `since` (None: the snapshot) and that nobody asked for: those of shadow
        pairs, or all.
        """
        late = self._fresh.of if self._config.gate.late_labels == "all" else self._fresh.paired
        labels = late(round_, since)
        drawn = self._tools.stores.reviews.drawn([near_key(each.query) for each in labels])
        return [each for each in labels if near_key(each.query) not in drawn]

    async def _rows(self, round_: Round, settings: str) -> Mapping[str, Mapping[str, StoredOutcome]]:
        """By role, what this round's models answered, under the same settings; of labels that are gone too."""
        if (round_.evaluation or {}).get("settings") != settings:
            return {}
        return await asyncio.to_thread(self._tools.stores.rounds.outcomes, round_.number)

    async def _remembered(self, adapter: str | None, settings: str, contents: Mapping[str, str]) -> dict[str, Outcome]:
        """What the incumbent answered when it was the candidate, where it would answer the same today.

        That is under the same settings, and to examples whose question and right answers are the same.
        """
        if adapter is None:
            return {}
        rows = await asyncio.to_thread(self._tools.stores.rounds.outcomes_as_candidate, adapter, settings)
        return _valid(rows, contents)

    async def _anchors(self, round_: Round, settings: str, holdout: Sequence[Example]) -> Evaluation:
        """What the anchor answers; without an adapter where there is no other anchor than the incumbent.

        What it has not answered yet it is asked, where the engine has room for one version more and its directory is
        sound; else what is known decides.
        """
        tools = self._tools
        name = await asyncio.to_thread(tools.stores.adapters.anchor)
        if name is None or name in (round_.incumbent, round_.adapter):
            return NOBODY
        rows = await asyncio.to_thread(tools.stores.rounds.outcomes_of, name, settings)
        known = _valid(rows, {example.id: deciding.example_hash(example) for example in holdout})
        generation = self._config.generation
        room = generation.kind != "vllm" or generation.max_adapters > ROUNDS_ADAPTERS
        if room and len(known) < len(holdout):
            try:
                await tools.fleet.load(name)
                return await self._evaluation(name, holdout, known)
            except AdapterError as error:
                log.warning("the anchor %s is compared by what it answered earlier: %s", name, error)
            finally:
                await tools.fleet.release(self._config.rollout.drain_s)
        return summarise(name, [known[example.id] for example in holdout if example.id in known])

    async def _evaluation(
        self, adapter: str | None, holdout: Sequence[Example], known: Mapping[str, Outcome]
    ) -> Evaluation:
        """Ask what is not known yet; answers are greedy, so that asking again would give the same."""
        tools = self._tools
        unknown = [example for example in holdout if example.id not in known]
        asked = await evaluate(self._answers, tools.task, unknown, adapter, equality=tools.equality)
        outcomes = {**known, **{outcome.id: outcome for outcome in asked.outcomes}}
        found = [replace(outcomes[e.id], category=e.query.category) for e in holdout if e.id in outcomes]
        return replace(summarise(adapter, found), left_out=asked.left_out)


def candidate_of(round_: Round) -> str:
    """The name of the adapter that the round proposes.

    Raises:
        FatalError: it has none.
    """
    if round_.adapter is None:
        raise FatalError(f"round {round_.number} is {round_.state} but names no adapter")
    return round_.adapter


def _proved(round_: Round, settings: str, withdrawn: Sequence[str]) -> bool:
    """Whether the gain was proved at the last look, and of what was answered by then no label is changed or gone since.

    `withdrawn`: ids of labels that were answered and do not count as they were then.
    """
    before = round_.evaluation or {}
    return (
        before.get("decision") == "promote"
        and before.get("settings") == settings
        and set(withdrawn) <= set(before.get("withdrawn", ()))
    )


def _new(
    found: Mapping[str, Evaluation], stored: Mapping[str, Mapping[str, Outcome]], contents: Mapping[str, str]
) -> dict[str, list[StoredOutcome]]:
    """By role, the outcomes that the round has not yet."""
    return {
        role: [StoredOutcome(each, contents[each.id]) for each in of.outcomes if each.id not in stored[role]]
        for role, of in found.items()
    }


def _valid(rows: Mapping[str, StoredOutcome], contents: Mapping[str, str]) -> dict[str, Outcome]:
    return {id_: row.outcome for id_, row in rows.items() if id_ in contents and row.content == contents[id_]}


def _as_json(verdict: Verdict, incumbent: Evaluation, candidate: Evaluation) -> dict[str, Any]:
    return {
        **asdict(verdict),
        "incumbent_accuracy": incumbent.accuracy,
        "candidate_accuracy": candidate.accuracy,
        "incumbent_entropy": incumbent.mean_entropy,
        "candidate_entropy": candidate.mean_entropy,
        "holdout": len(candidate.outcomes),
    }
