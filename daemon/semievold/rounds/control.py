"""The control role: observes, triggers, advances the open round, carries out operators' requests; or stands by.

Owns the loop and the one step that is running; decisions are in trigger, gate and round_states, effects in
rounds. Invariant: it acts only while its process leads (semievold.rounds.lease), and one step runs at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from semievol.backoff import Backoff
from semievol.errors import AdapterError, ConfigError, DataError, SemiEvolError, TransientError
from semievol.seeds import derive
from semievold.config.daemon import DaemonConfig
from semievold.errors import LeaseLost, StateConflict
from semievold.retry import Pulse
from semievold.round_states import CANCELLABLE, RoundKind, RoundState
from semievold.rounds.history import CONFIG_OPTION
from semievold.rounds.lease import ControlLease
from semievold.rounds.observing import RoundObserver, at_work, shape, waits_for
from semievold.rounds.planning.trigger import Start, Wait, decide
from semievold.rounds.planning.worth import Worth
from semievold.rounds.steps import RoundEngine
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.store.requests import (
    AdvanceRound,
    Answer,
    ApproveRound,
    CancelRound,
    LeaveUnclean,
    OperatorRequest,
    Promote,
    RefuseRound,
    Rollback,
    StartRound,
    checked,
)
from semievold.store.rounds import Round
from semievold.store.shadow_pairs import PairFate
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

POLL_S = 0.5
STANDBY_POLL_S = 0.1
TELLING = frozenset({RoundState.TRAINING, RoundState.PROVING, RoundState.CANARY})
"""States whose step says what it waits for."""
WAITS_OUTSIDE = ("evidence", "approval", "answers", "frozen")
"""What an open round waits for that comes from somebody outside."""
STEP_RETRY = Backoff(1.0, 15.0, jitter=(0.8, 1.2))
LOOK_LIMIT_S = 300.0
"""No look takes so long: an attestation that an operator asked for is the slowest, and has a time of its own."""
REQUEST_PATIENCE_S = 300.0
"""How long a request is tried again while a component that it needs does not answer."""


class Control:
    """Runs the rounds of one workload.

    Args:
        stores: those whose writes are checked against the lease.
    """

    def __init__(
        self,
        config: DaemonConfig,
        stores: Stores,
        lease: ControlLease,
        engine: RoundEngine,
        fleet: AdapterFleet,
        alias: Alias,
        labels_lag: Callable[[], Awaitable[int]],
    ) -> None:
        self._config = config
        self._stores = stores
        self._lease = lease
        self._term: int | None = None  # the one in which this process works; None: it stands by
        self._engine = engine
        self._fleet = fleet
        self._alias = alias
        self._labels_lag = labels_lag
        self._step: asyncio.Task[Round] | None = None
        self._stepping: Round | None = None
        self._failures = 0  # of the running step, in a row
        self._next_try = 0.0  # by the loop's clock
        self._observer = RoundObserver(config, stores)
        self.pulse = Pulse("the controller", LOOK_LIMIT_S)
        self.waiting_for = "starting"
        self.waits_for = "start"
        """The same as one word of a closed set (a metric's label)."""
        self.worth: Worth | None = None
        """What the next round would bring and take, by the last look; None: nobody asks."""
        self._failing_since: dict[int, float] = {}  # request: since when it is tried in vain, by the loop's clock
        self._look_error: str | None = None
        self._request_error: str | None = None
        self._step_error: str | None = None

    @property
    def idle(self) -> bool:
        """No round is open, or all that is open waits for somebody outside; and nothing is due."""
        return (self._step is None and self._stepping is None) or self.waits_for in WAITS_OUTSIDE

    @property
    def last_error(self) -> str | None:
        """What did not answer at the last look or the last step; None: everything did."""
        return self._step_error or self._look_error or self._request_error

    @property
    def pair_fates(self) -> Mapping[PairFate, int]:
        """What became of the queries that were drawn as shadow pairs."""
        return self._engine.pairs.fates

    @property
    def leads(self) -> bool:
        """This process works as the leader."""
        return self._term is not None and self._lease.term == self._term

    async def run(self, stop: asyncio.Event) -> None:
        """Look around every half second while this process leads, until stopped."""
        try:
            while not stop.is_set():
                self.pulse.beat()
                try:
                    if await self._take_lead():
                        await self.look()
                    self._look_error = None
                except LeaseLost as lost:
                    log.warning("control: %s", lost)
                    await self._stand_by()
                except TransientError as error:  # the state is away for a moment; the next look tries again
                    self._look_error = str(error)
                    log.warning("control: %s", error)
                await self._pause(stop)
        finally:
            await self._stop_step()

    async def _take_lead(self) -> bool:
        """Whether this process leads; at the begin of a term it takes over the state as it stands, at its end it stops.

        The open round, if there is one, goes on from where the former leader left it.
        """
        term = self._lease.term
        if term is None:
            if self._term is not None:
                log.warning("control: the lease has run out; standing by")
                await self._stand_by()
            self._wait_for("the lease: another process leads", "lease")
            return False
        if term == self._term:
            return True
        await self._stop_step()
        self._lease.begin(term)
        await self._engine.remove_unfinished()
        await self._fleet.follow()
        await self._fleet.publish_what_is_missing()
        self._term = term
        self._forget_trouble()
        self._forget_requests()
        log.info("control: leads (epoch %d)", term)
        return True

    async def _stand_by(self) -> None:
        """Stop the running step (a training is stopped too) and forget what was being done."""
        self._term = self._stepping = None
        self._forget_trouble()
        self._forget_requests()
        await self._stop_step()

    def _forget_trouble(self) -> None:
        """What a step met says nothing about the next round, or another term."""
        self._step_error = None
        self._failures, self._next_try = 0, 0.0

    def _forget_requests(self) -> None:
        """How long they were tried in vain is for the leader to say."""
        self._request_error = None
        self._failing_since.clear()

    async def _pause(self, stop: asyncio.Event) -> None:
        """Until the next look is due: the step ended, the stop came, or some time passed."""
        stopped = asyncio.create_task(stop.wait())
        waits: set[asyncio.Task[Any]] = {stopped} if self._step is None else {stopped, self._step}
        poll_s = STANDBY_POLL_S if self._term is None else POLL_S
        await asyncio.wait(waits, timeout=poll_s, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()

    async def look(self) -> None:
        """One look: end or begin a step, carry out requests, ask the trigger."""
        await self._collect_step()
        await self._fleet.follow()
        self._request_error = None
        for request in await asyncio.to_thread(self._stores.requests.pending):
            await self._carry_out(request)
        if await self._stands_still():
            return
        if self._step is not None:
            if self._stepping is not None and self._stepping.state in TELLING:
                await self._say_what_is_missing(await asyncio.to_thread(self._stores.rounds.open))
            return
        open_round = await asyncio.to_thread(self._stores.rounds.open)
        if self._stepping is not None and (open_round is None or open_round.number != self._stepping.number):
            self._forget_trouble()  # it was a round's that is over, however it ended
        if open_round is None:
            open_round = await self._trigger()
        self._stepping = open_round
        await self._say_what_is_missing(open_round)
        if open_round is not None and asyncio.get_running_loop().time() >= self._next_try:
            self._step = asyncio.create_task(self._engine.advance(open_round), name=f"round-{open_round.number}")

    async def _say_what_is_missing(self, open_round: Round | None) -> None:
        """An open round waits for itself, but where its gate waits for labels, or its canary for answers."""
        if open_round is not None:
            doing = await asyncio.to_thread(at_work, open_round, self._engine.place)
            self._wait_for(doing, waits_for(open_round))

    async def _stands_still(self) -> bool:
        """While frozen nothing goes on but the watch of what was promoted or is on trial, which may take it back."""
        frozen = await asyncio.to_thread(self._stores.freezes.get)
        if frozen is None:
            return False
        open_round = await asyncio.to_thread(self._stores.rounds.open)
        if open_round is not None and open_round.state in (RoundState.PROMOTED, RoundState.CANARY):
            return False
        await self._stop_step()
        self._stepping = open_round
        self._wait_for(frozen.said(), "frozen")
        return True

    async def _collect_step(self) -> None:
        if self._step is None or not self._step.done():
            return
        step, self._step = self._step, None
        try:
            step.result()
        except TransientError as error:
            self._failures += 1
            pause_s = STEP_RETRY.wait_s(self._failures)
            self._next_try = asyncio.get_running_loop().time() + pause_s
            self._step_error = str(error)
            log.warning("round step will be tried again in %.0f s: %s", pause_s, error)
            return
        except StateConflict as error:  # an operator was faster; the next look starts from what is stored
            log.warning("round step: %s", error)
            return
        self._forget_trouble()

    async def _stop_step(self) -> None:
        if self._step is not None:
            self._step.cancel()
            with suppress(asyncio.CancelledError, SemiEvolError):
                await self._step
            self._step = None

    async def _trigger(self) -> Round | None:
        seen = await asyncio.to_thread(self._observer.observe, await self._labels_lag())
        self._weigh(seen.worth)
        decision = decide(seen, self._config.trigger)
        self._wait_for(decision.reason, decision.waits_for if isinstance(decision, Wait) else "round")
        if not isinstance(decision, Start):
            return None
        return await self._plan(decision.kind, decision.reason, {})

    def _weigh(self, worth: Worth | None) -> None:
        """Remember both sides, and say them in the log when they have moved by a tenth of a point."""
        before, self.worth = self.worth, worth
        if worth is not None and (before is None or worth.rounded() != before.rounded()):
            log.info("the next round: %s", worth.said())

    def _wait_for(self, what: str, waits_for: str) -> None:
        """Remember it for whoever asks, and say it in the log when it is another thing, not when a number counts on.

        The moves of an open round are in the log already, and a lease is not waited for before it was asked for.
        """
        known = waits_for == "round" or (waits_for == "lease" and self.waits_for == "start")
        if shape(what) != shape(self.waiting_for) and not known:
            log.info("waits for: %s", what)
        self.waiting_for, self.waits_for = what, waits_for

    async def _plan(self, kind: RoundKind, reason: str, options: dict[str, Any]) -> Round:
        rounds = await asyncio.to_thread(self._stores.rounds.all, 1)
        number = rounds[0].number + 1 if rounds else 0
        seed = derive(self._config.seed, "round", number) % 2**31
        options = {CONFIG_OPTION: self._config.hash(), **options}
        planned = await asyncio.to_thread(self._stores.rounds.plan, kind, reason, seed, self._alias.adapter, options)
        log.info("round %d planned (%s): %s", planned.number, kind, reason)
        return planned

    async def _carry_out(self, request: OperatorRequest) -> None:
        """Answer one request: done, refused with the reason, or failed; never dropped, and never the end of the loop.

        One that meets a component which does not answer stays pending for a while and does not hold up the others.
        """
        state: Answer = "done"
        try:
            answer = await self._answered(request)
        except LeaseLost:
            raise  # the next leader carries it out
        except TransientError as error:
            now = asyncio.get_running_loop().time()
            if now - self._failing_since.setdefault(request.id, now) < REQUEST_PATIENCE_S:
                self._request_error = f"request {request.id} ({request.kind}): {error}"
                log.warning("%s; it is tried again", self._request_error)
                return
            answer, state = {"error": f"given up after {REQUEST_PATIENCE_S:.0f} s: {error}"}, "failed"
        except (StateConflict, AdapterError, ConfigError, DataError) as error:
            answer, state = {"error": _text(error)}, "refused"
        except Exception as error:  # a defect of ours, or a state that no one thought of: the daemon lives on
            log.exception("request %d (%s) failed", request.id, request.kind)
            answer, state = {"error": f"{type(error).__name__}: {_text(error)}"}, "failed"
        log.info("request %d (%s): %s %s", request.id, request.kind, state, answer)
        await asyncio.to_thread(self._stores.requests.answer, request.id, state, answer)
        self._failing_since.pop(request.id, None)

    async def _answered(self, request: OperatorRequest) -> dict[str, Any]:
        asked = checked(request.kind, request.payload)
        match asked:
            case StartRound():
                return await self._start_round(asked)
            case CancelRound():
                return await self._cancel_round(asked)
            case ApproveRound():
                approved = await asyncio.to_thread(self._stores.rounds.approve, asked.round)
                return {"round": approved.number, "state": approved.state.value, "adapter": approved.adapter}
            case AdvanceRound():
                await asyncio.to_thread(self._stores.canaries.skip, asked.round, request.id)
                return {"round": asked.round}
            case RefuseRound():
                return await self._refuse_round(asked)
            case Promote():
                return await self._promote(asked, request)
            case Rollback():
                return await self._rollback(asked, request)
            case LeaveUnclean():
                return await self._leave_unclean(request)

    async def _start_round(self, asked: StartRound) -> dict[str, Any]:
        await self._check_thawed()
        options = {"shuffle_labels": True} if asked.shuffle_labels else {}
        planned = await self._plan(asked.kind, asked.reason, options)
        return {"round": planned.number}

    async def _check_thawed(self) -> None:
        if (frozen := await asyncio.to_thread(self._stores.freezes.get)) is not None:
            raise StateConflict(frozen.said())

    async def _cancel_round(self, asked: CancelRound) -> dict[str, Any]:
        number = asked.round
        round_ = await asyncio.to_thread(self._stores.rounds.get, number)
        if round_ is None:
            raise StateConflict(f"there is no round {number}")
        if round_.state not in CANCELLABLE:
            raise StateConflict(f"round {number} is {round_.state}; only an open, unpromoted round can be cancelled")
        await self._stop_step()
        current = await asyncio.to_thread(self._stores.rounds.get, number)
        assert current is not None
        await self._engine.cancel(current, asked.reason)
        return {"round": number, "state": "cancelled"}

    async def _refuse_round(self, asked: RefuseRound) -> dict[str, Any]:
        number = asked.round
        round_ = await asyncio.to_thread(self._stores.rounds.get, number)
        if round_ is None:
            raise StateConflict(f"there is no round {number}")
        if round_.state is not RoundState.PROVING:
            advice = f"; `semievol rounds cancel {number}` ends it" if round_.state in CANCELLABLE else ""
            raise StateConflict(f"round {number} is {round_.state}; only one that is proving can be refused{advice}")
        await self._stop_step()
        current = await asyncio.to_thread(self._stores.rounds.get, number)
        assert current is not None
        if current.state is not RoundState.PROVING:
            raise StateConflict(f"round {number} is {current.state}: it was promoted in this moment")
        await self._engine.refuse(current, asked.reason)
        return {"round": number, "state": "rejected"}

    async def _promote(self, asked: Promote, request: OperatorRequest) -> dict[str, Any]:
        name = asked.adapter
        if name == self._alias.adapter:
            raise StateConflict(f"adapter {name} serves already")
        await self._check_thawed()  # before the work; the move itself looks again, in its transaction
        with self._fleet.sparing(name):
            await self._load_attested(name)
            return await self._move(name, request)

    async def _load_attested(self, name: str) -> None:
        await self._fleet.load(name)
        attestation = await self._fleet.attest(name)
        if not attestation.passed:
            raise AdapterError(f"adapter {name} is not promoted: {attestation.reason}")

    async def _rollback(self, asked: Rollback, request: OperatorRequest) -> dict[str, Any]:
        open_round = await asyncio.to_thread(self._stores.rounds.open)
        if open_round is not None and open_round.state is RoundState.CANARY:
            if asked.adapter is not None:
                raise StateConflict(
                    f"round {open_round.number} has a version on trial; `semievol adapters rollback` without a name "
                    "takes that back first"
                )
            return await self._end_canary(open_round, request)
        state = self._alias.state
        if state.adapter is None and state.previous is None:
            raise StateConflict("nothing was promoted yet; there is nothing to roll back to")
        back_to = state.previous
        if asked.adapter is not None:
            back_to = await asyncio.to_thread(self._stores.adapters.served_before, asked.adapter, state.adapter)
        if back_to is None:
            return await self._move(None, request, away=True)
        with self._fleet.sparing(back_to):
            if back_to == state.previous:
                await self._fleet.load(back_to)  # it is attested: it served until now
            else:
                await self._load_attested(back_to)
            return await self._move(back_to, request, away=True)

    async def _end_canary(self, round_: Round, request: OperatorRequest) -> dict[str, Any]:
        """What is taken back is the version on trial; what serves goes on serving."""
        await self._stop_step()
        current = await asyncio.to_thread(self._stores.rounds.get, round_.number)
        if current is None or current.state is not RoundState.CANARY:
            return await self._rollback(Rollback(), request)  # it was promoted, or taken back, in this moment
        await self._engine.end_canary(current, request.id)
        return {"from": round_.adapter, "to": self._alias.adapter, "round": round_.number}

    async def _leave_unclean(self, request: OperatorRequest) -> dict[str, Any]:
        if await asyncio.to_thread(self._stores.retractions.unclean, self._alias.adapter) is None:
            raise StateConflict(f"{self._alias.adapter or 'base'} descends from no label that was taken back")
        left = self._alias.adapter
        with ExitStack() as spared:
            clean = await self._last_clean_attested(spared)
            moved = await self._move(clean, request, away=True)
        open_round = await asyncio.to_thread(self._stores.rounds.open)
        if open_round is not None and open_round.incumbent == left and open_round.state in CANCELLABLE:
            await self._cancel_round(CancelRound(round=open_round.number, reason=f"it was to replace {left}, now left"))
        return moved

    async def _last_clean_attested(self, spared: ExitStack) -> str | None:
        """The newest clean version that can be served as it was trained; None: the base model."""
        for name in await asyncio.to_thread(self._stores.retractions.clean_versions):
            spared.enter_context(self._fleet.sparing(name))
            try:
                await self._load_attested(name)
            except AdapterError as error:
                log.warning("the last clean version is passed over for the one before: %s", error)
            else:
                return name
        return None

    async def _move(self, adapter: str | None, request: OperatorRequest, *, away: bool = False) -> dict[str, Any]:
        before = self._alias.adapter
        if (label := await asyncio.to_thread(self._stores.retractions.unclean, adapter)) is not None:
            raise StateConflict(f"adapter {adapter} descends from the label {label!r}, which was taken back")
        moved = await asyncio.to_thread(lambda: self._stores.alias.move(adapter, request.id, away=away))
        self._alias.follow(moved)
        await self._fleet.settle()
        return {"from": before, "to": adapter}


def _text(error: Exception) -> str:
    """What an answer may hold, whatever the request had put into the error."""
    return str(error)[:2000].encode(errors="backslashreplace").decode()
