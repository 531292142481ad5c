"""One step of a round per call: does what the round's state asks for, then moves it on in one transaction.

Owns the order of effects: what a state's name promises is durable before the move is committed, and every step may be
done again after a crash with the same result. Not the trigger, not the state machine, not the loop that calls it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from semievol import adapter_directory
from semievol.errors import AdapterError, ConfigError, DataError, TransientError
from semievol.proof.sequential import Verdict
from semievold.config.daemon import DaemonConfig
from semievold.errors import FatalError, LeaseLost
from semievold.round_states import RoundState
from semievold.rounds.ages import Moment
from semievold.rounds.evidence import Evidence, Look, candidate_of
from semievold.rounds.places import RoundPlace
from semievold.rounds.planning.choosing import Choosing
from semievold.rounds.tidying import tidy_up
from semievold.rounds.tools import RoundTools
from semievold.rounds.trial import Trial
from semievold.rounds.watching.pairs import ShadowPairs
from semievold.rounds.watching.watch import Watch
from semievold.serving.attestation import Proof
from semievold.serving.following import FOLLOW_S
from semievold.store.lineage.retractions import descends_from
from semievold.store.rounds import Round

log = logging.getLogger(__name__)

PROPOSED = frozenset(
    {
        *(RoundState.TRAINED, RoundState.LOADED, RoundState.EVALUATED, RoundState.ATTESTED),
        *(RoundState.PROVING, RoundState.CANARY),
    }
)
"""States in which the candidate is asked, and must stay loaded."""

PROVING_LOOK_S = 1.0
"""How often a round that waits for its proof looks for new labels; that is one short query of the state."""


class RoundEngine:
    """Advances rounds. `progress` says in numbers how far the current step is."""

    def __init__(self, config: DaemonConfig, tools: RoundTools, place: RoundPlace) -> None:
        self._config = config
        self._tools = tools
        self._rounds = tools.stores.rounds
        self.place = place
        self.progress: dict[str, Any] = {}
        self._evidence = Evidence(config, tools, place)
        self._trial = Trial(config, tools)
        self._watch = Watch(config, tools, self._evidence)
        self.pairs = ShadowPairs(config, tools)
        self._choosing = Choosing(config, tools, place)
        self._steps: Mapping[RoundState, Callable[[Round], Awaitable[Round]]] = {
            RoundState.PLANNED: self._choose,
            RoundState.SNAPSHOTTED: self._begin_training,
            RoundState.TRAINING: self._train,
            RoundState.TRAINED: self._load,
            RoundState.LOADED: self._evaluate,
            RoundState.EVALUATED: self._attest,
            RoundState.ATTESTED: self._decide,
            RoundState.PROVING: self._compared(self._prove),
            RoundState.CANARY: self._compared(self._try),
            RoundState.PROMOTED: self._compared(self._watch_promoted),
        }

    async def advance(self, round_: Round) -> Round:
        """Do the current state's work and move on. A defect that no retry mends ends the round as `failed`.

        Raises:
            TransientError: try again later; the round is where it was.
        """
        if (tracing := self._tools.tracing) is None:
            return await self._advanced(round_)
        with tracing.step(round_.number, round_.created_at, round_.state.value, semievol__kind=round_.kind) as span:
            moved = await self._advanced(round_)
            if span is not None:
                span.tell(semievol__moved_to=moved.state.value, semievol__adapter=moved.adapter)
                if moved.state is RoundState.FAILED:
                    span.fail(moved.reason or "failed")
            return moved

    async def _advanced(self, round_: Round) -> Round:
        if round_.state in PROPOSED:
            self._tools.fleet.propose(round_.adapter)
        attempts = await self._begin_attempt(round_)
        if attempts > self._config.rounds.max_attempts and round_.state is not RoundState.PROMOTED:
            reason = f"state {round_.state} was begun {attempts - 1} times and never ended"
            return await self._leave(round_, RoundState.FAILED, reason)
        self.progress = {"state": round_.state.value}
        try:
            moved = await self._steps[round_.state](round_)
        except (TransientError, LeaseLost, asyncio.CancelledError):
            await self._forget_attempt(round_)
            raise
        except (FatalError, AdapterError, ConfigError, DataError) as error:
            if round_.state is RoundState.PROMOTED:
                raise
            log.error("round %d failed in %s: %s", round_.number, round_.state, error)
            return await self._leave(round_, RoundState.FAILED, str(error))
        log.info("round %d: %s -> %s", round_.number, round_.state, moved.state)
        return moved

    async def _begin_attempt(self, round_: Round) -> int:
        counting = asyncio.ensure_future(asyncio.to_thread(self._rounds.begin_attempt, round_.number))
        try:
            return await asyncio.shield(counting)
        except asyncio.CancelledError:
            await counting  # what is counted must be counted before it can be taken back
            await self._forget_attempt(round_)
            raise

    async def _forget_attempt(self, round_: Round) -> None:
        """Attempts are counted to find a step that kills the process. One that waits for a component does not, nor one
        that was stopped: by the end of the daemon, or because another process leads.
        """
        with suppress(TransientError):
            await asyncio.to_thread(self._rounds.forget_attempt, round_.number, round_.state)

    async def cancel(self, round_: Round, reason: str) -> Round:
        """End an open round that has not been promoted."""
        return await self._leave(round_, RoundState.CANCELLED, reason)

    async def refuse(self, round_: Round, reason: str) -> Round:
        """End a round that waits, by a person's word against its candidate."""
        return await self._leave(round_, RoundState.REJECTED, f"refused by a person: {reason}")

    async def end_canary(self, round_: Round, request_id: int) -> Round:
        """Take the version on trial back by an operator's hand, and answer the request with it."""
        canaries, reason = self._tools.stores.canaries, "rolled back by hand during its canary"
        return await self._left(await asyncio.to_thread(canaries.roll_back, round_, reason, request_id))

    async def tidy(self) -> None:
        """Remove what ended rounds left, also what still trains for one."""
        await tidy_up(self.place, self._tools, self._config.artifacts.keep_rounds)

    async def remove_unfinished(self) -> None:
        """Remove what a killed publication left, unless a round may still finish it; and what ended rounds left."""
        await self.tidy()
        if await asyncio.to_thread(self._rounds.open) is not None:
            return
        registered = {version.name for version in await asyncio.to_thread(self._tools.stores.adapters.there)}
        await asyncio.to_thread(
            adapter_directory.remove_unfinished, self.place.adapters, self._config.workload.name, registered
        )

    async def _leave(self, round_: Round, exit_state: RoundState, reason: str, **columns: Any) -> Round:
        moved = await asyncio.to_thread(
            lambda: self._rounds.leave(round_.number, round_.state, exit_state, reason, **columns)
        )
        return await self._left(moved)

    async def _left(self, moved: Round) -> Round:
        """After the end of a round's version: it is asked no more, and unloaded once its requests have ended."""
        self._tools.fleet.propose(None)
        if moved.canary is not None:
            await self._tools.fleet.follow()
            await asyncio.sleep(2 * FOLLOW_S)  # other processes follow too, before it is gone from under their requests
        await self._tools.fleet.release(self._config.rollout.drain_s)
        await self._clean_up()
        return moved

    async def _clean_up(self) -> None:
        """However a round ended: a daemon whose rounds are all rejected keeps no more versions than another."""
        try:
            await self._tools.fleet.delete_old(self._config.artifacts.keep_adapters)
        except TransientError as error:  # the end of the next round tries it again
            log.warning("old adapters stay for now: %s", error)
        await self.tidy()

    async def _choose(self, round_: Round) -> Round:

        def say(figures: dict[str, Any]) -> None:
            self.progress = {"state": round_.state.value, **figures}

        found = await self._choosing.choose(round_, say)
        if found.nothing is not None:
            log.warning("round %d trains nothing: %s", round_.number, found.nothing)
            return await self._leave(round_, RoundState.FAILED, found.nothing, snapshot=found.chosen.summary)
        if found.stopped is not None:
            log.error("%s", found.stopped)
            stopped = await asyncio.to_thread(
                self._rounds.stop, round_.number, RoundState.PLANNED, found.stopped, found.breaker
            )
            await self._forget_attempt(round_)  # it waits for a person, and kills no process
            return stopped
        return await asyncio.to_thread(
            lambda: self._rounds.transition(
                round_.number,
                RoundState.PLANNED,
                RoundState.SNAPSHOTTED,
                found.said,
                members=found.chosen.members,
                taken=found.chosen.taken,
                snapshot=found.chosen.summary,
                breaker=found.breaker or None,
            )
        )

    async def _begin_training(self, round_: Round) -> Round:
        return await asyncio.to_thread(
            self._rounds.transition, round_.number, RoundState.SNAPSHOTTED, RoundState.TRAINING
        )

    async def _train(self, round_: Round) -> Round:
        started = time.monotonic()
        trained = await self._tools.launcher.train(self.place.training(round_))
        summary = {**trained.summary, "wall_s": time.monotonic() - started}
        adapter = {
            "name": trained.name,
            "path": str(trained.path.resolve()),
            "content_hash": trained.content_hash,
            "parent": (round_.snapshot or {}).get("parent"),
        }
        return await asyncio.to_thread(self._rounds.trained, round_.number, summary, adapter)

    async def _load(self, round_: Round) -> Round:
        await self._tools.fleet.load(candidate_of(round_))
        return await asyncio.to_thread(self._rounds.transition, round_.number, RoundState.TRAINED, RoundState.LOADED)

    async def _evaluate(self, round_: Round) -> Round:
        """The gate's first look; a round that labels of tomorrow may prove goes on."""
        await self._tools.fleet.load(candidate_of(round_))
        look = await self._evidence.look(round_)
        verdict = look.verdict
        found: dict[str, Any] = {"outcomes": look.outcomes, "evaluation": look.evaluation}
        if verdict.decision == "promote" or (verdict.is_open and self._config.gate.patience_s > 0):
            return await asyncio.to_thread(
                lambda: self._rounds.transition(
                    round_.number, RoundState.LOADED, RoundState.EVALUATED, verdict.reason, **found
                )
            )
        return await self._leave(round_, _exit_of(verdict), verdict.reason, **found)

    async def _attest(self, round_: Round) -> Round:
        await self._tools.fleet.load(candidate_of(round_))
        attestation = await self._tools.fleet.attest(candidate_of(round_))
        if not attestation.passed:
            return await self._not_attested(round_, attestation)
        return await asyncio.to_thread(
            lambda: self._rounds.transition(
                round_.number,
                RoundState.EVALUATED,
                RoundState.ATTESTED,
                attestation.reason,
                attestation=asdict(attestation),
            )
        )

    async def _decide(self, round_: Round) -> Round:
        """Promote what is proved; wait for the proof of what is not."""
        evaluation = round_.evaluation or {}
        if evaluation.get("decision") == "promote" and await self._approved(round_):
            return await self._promote(round_)
        return await asyncio.to_thread(
            self._rounds.transition,
            round_.number,
            RoundState.ATTESTED,
            RoundState.PROVING,
            evaluation.get("reason"),
        )

    def _compared(self, step: Callable[[Round], Awaitable[Round]]) -> Callable[[Round], Awaitable[Round]]:
        """The step, and live queries that both versions answer beside it."""

        async def beside(round_: Round) -> Round:
            async with self.pairs.beside(round_):
                return await step(round_)

        return beside

    async def _prove(self, round_: Round) -> Round:
        """Hold the round open while labels come in, until they decide, or patience or hope is at its end."""
        tools, gate = self._tools, self._config.gate
        rollout, labels_of = self._config.rollout, self._last_said
        begun, proved = Moment(tools.stores.database.now), Moment(tools.stores.database.now)
        await tools.fleet.load(candidate_of(round_))
        seen, verdict = await asyncio.to_thread(labels_of), None
        while True:
            await tools.fleet.follow()
            if (overtaken := self._overtaken(round_, tools.alias.adapter)) is not None:
                return await self._leave(round_, RoundState.FAILED, overtaken)
            if (breach := await self._watch.look(round_)) is not None:
                return await self._leave(round_, RoundState.REJECTED, f"on live queries, {breach}")
            changed = await asyncio.to_thread(labels_of)
            if verdict is None or changed != seen:
                look = await self._evidence.look(round_)
                round_ = await self._noted(round_, look)
                if verdict is None:  # what is counted are looks that kill the process; waiting does not
                    await self._forget_attempt(round_)
                seen, verdict = changed, look.verdict
            if verdict.decision == "promote":
                if await self._approved(round_):
                    return await self._attested_again(round_) or await self._promote(round_)
                patience, patience_s = "rollout.approval_patience_s", rollout.approval_patience_s
                left_s = patience_s - proved.age_s((round_.evaluation or {})["proved_at"])
            else:
                patience, patience_s = "gate.patience_s", gate.patience_s
                left_s = patience_s - begun.age_s(round_.updated_at)
                if not verdict.is_open:
                    return await self._leave(round_, _exit_of(verdict), verdict.reason)
            if left_s <= 0:
                reason = f"{verdict.reason}; {patience} ({patience_s:g} s) is over"
                return await self._leave(round_, _exit_of(verdict), reason)
            await asyncio.sleep(min(left_s, PROVING_LOOK_S))

    async def _try(self, round_: Round) -> Round:
        """Wait out the canary; what it does not take back is promoted."""
        left = await self._trial.watch(round_, lambda: self._forget_attempt(round_), self._watch.look)
        if left is not None:
            return await self._leave(round_, left.state, left.reason, **left.columns)
        return await self._attested_again(round_) or await self._promote(round_)

    def _last_said(self) -> tuple[float | None, float | None]:
        """What changes when labels do, or which of those that the review asked for count."""
        stores = self._tools.stores
        return stores.examples.last_change(), stores.reviews.last_change()

    async def _noted(self, round_: Round, look: Look) -> Round:
        """Keep what was seen, and since when it is proved."""
        proved_at = (round_.evaluation or {}).get("proved_at") or self._tools.stores.database.now()
        evaluation = {**look.evaluation, "proved_at": proved_at if look.verdict.decision == "promote" else None}
        return await asyncio.to_thread(self._rounds.note, round_.number, RoundState.PROVING, evaluation, look.outcomes)

    async def _approved(self, round_: Round) -> bool:
        """Whether nobody need be asked, or a person has said yes."""
        held = await asyncio.to_thread(self._tools.stores.drift.holds) if self._config.drift.enabled else None
        if self._config.rollout.approval == "none" and held is None:
            return True
        version = await asyncio.to_thread(self._tools.stores.adapters.get, candidate_of(round_))
        return version is not None and version.approved_at is not None

    async def _attested_again(self, round_: Round) -> Round | None:
        """A proof may take hours: what serves the candidate now must be what was attested then. None: it is."""
        attestation = await self._tools.fleet.attest(candidate_of(round_))
        return None if attestation.passed else await self._not_attested(round_, attestation)

    async def _not_attested(self, round_: Round, attestation: Proof) -> Round:
        reason = f"attestation: {attestation.reason}"
        return await self._leave(round_, RoundState.FAILED, reason, attestation=asdict(attestation))

    def _overtaken(self, round_: Round, serving: str | None) -> str | None:
        """Why the proof is worth nothing any more; None: the incumbent still serves."""
        if serving == round_.incumbent:
            return None
        return f"proved against {round_.incumbent}, but {serving} serves now; start another round"

    async def _promote(self, round_: Round) -> Round:
        """Move the alias to what is proved; or first, where the settings say so, some of the clients."""
        adapter = candidate_of(round_)
        if (label := await asyncio.to_thread(self._tools.stores.retractions.unclean, adapter)) is not None:
            return await self._leave(round_, RoundState.FAILED, descends_from(label))
        await self._tools.fleet.load(adapter)
        current = await asyncio.to_thread(self._tools.stores.alias.get)
        if (overtaken := self._overtaken(round_, current.adapter)) is not None:
            return await self._leave(round_, RoundState.FAILED, overtaken)
        if await self._trial.wanted(round_):
            return await self._trial.begin(round_, current.generation)
        alias = self._config.workload.served_alias
        moved = await asyncio.to_thread(
            self._rounds.promote, round_.number, alias, adapter, current.generation, round_.state
        )
        await self._tools.fleet.follow()
        return moved

    async def _watch_promoted(self, round_: Round) -> Round:
        """Wait out the watch; what is found against the version rolls back by itself."""
        rollout = self._config.rollout
        promotion = Moment(self._tools.stores.database.now)
        self._tools.fleet.propose(None)  # the alias holds it from here on
        while True:
            await self._tools.fleet.follow()  # the promotion may have been committed and its end not seen
            if self._tools.alias.adapter != round_.adapter:
                reason = f"the alias was moved to {self._tools.alias.adapter} by hand during the watch"
                return await self._leave(round_, RoundState.ROLLED_BACK, reason)
            left_s = rollout.watch_s - promotion.age_s(round_.updated_at)
            if (breach := await self._watch.look(round_)) is not None:
                return await self._roll_back(round_, str(breach), self._tools.alias.state.generation)
            if left_s <= 0:
                break
            await asyncio.sleep(min(left_s, 1.0))
        await self._tools.fleet.release(rollout.drain_s)
        moved = await asyncio.to_thread(self._rounds.transition, round_.number, RoundState.PROMOTED, RoundState.SETTLED)
        await self._clean_up()
        return moved

    async def _roll_back(self, round_: Round, reason: str, generation: int) -> Round:
        """Only from where it was watched: somebody may have moved the alias in this very moment."""
        alias = self._config.workload.served_alias
        moved = await asyncio.to_thread(
            self._rounds.roll_back, round_.number, alias, round_.incumbent, reason, generation
        )
        await self._tools.fleet.follow()
        return await self._left(moved)


def _exit_of(verdict: Verdict) -> RoundState:
    """What becomes of a round that is not promoted. A gain that is held back by something worse is no open question."""
    rejected = verdict.decision == "reject" or verdict.held_back
    return RoundState.REJECTED if rejected else RoundState.INCONCLUSIVE
