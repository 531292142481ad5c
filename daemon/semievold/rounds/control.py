"""The control role: observes, triggers, advances the open round, carries out operators' requests; or stands by.

Owns the loop and the one step that is running; decisions are in trigger, gate and round_states, effects in
rounds. Invariant: it acts only while its process leads (semievold.rounds.lease), and one step runs at a time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

from semievol.errors import AdapterError, SemiEvolError, TransientError
from semievol.seeds import derive
from semievold.config.daemon import DaemonConfig
from semievold.errors import LeaseLost, StateConflict
from semievold.round_states import CANCELLABLE, UNDECIDED, RoundState
from semievold.rounds.lease import ControlLease
from semievold.rounds.steps import RoundEngine
from semievold.rounds.trigger import Observation, Start, decide
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.store.requests import OperatorRequest
from semievold.store.rounds import Round
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

POLL_S = 0.5
STANDBY_POLL_S = 0.1
MAX_BACKOFF_S = 15.0


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
        self._backoff_s = 0.0
        self._next_try = 0.0  # by the loop's clock
        self.waiting_for = "starting"
        self._look_error: str | None = None
        self._step_error: str | None = None

    @property
    def idle(self) -> bool:
        """No round is open and the last look found no reason to start one."""
        return self._step is None and self._stepping is None

    @property
    def last_error(self) -> str | None:
        """What did not answer at the last look or the last step; None: everything did."""
        return self._step_error or self._look_error

    @property
    def leads(self) -> bool:
        """This process works as the leader."""
        return self._term is not None and self._lease.term == self._term

    async def run(self, stop: asyncio.Event) -> None:
        """Look around every half second while this process leads, until stopped."""
        try:
            while not stop.is_set():
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
            self.waiting_for = "the lease: another process leads"
            return False
        if term == self._term:
            return True
        await self._stop_step()
        self._lease.begin(term)
        await self._engine.remove_unfinished()
        await self._fleet.follow()
        self._term, self._backoff_s, self._next_try = term, 0.0, 0.0
        log.info("control: leads (epoch %d)", term)
        return True

    async def _stand_by(self) -> None:
        """Stop the running step (a training is stopped too) and forget what was being done."""
        self._term = self._stepping = self._step_error = None
        await self._stop_step()

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
        for request in await asyncio.to_thread(self._stores.requests.pending):
            await self._carry_out(request)
        if self._step is not None:
            return
        open_round = await asyncio.to_thread(self._stores.rounds.open)
        if open_round is None:
            open_round = await self._trigger()
        self._stepping = open_round
        if open_round is not None and asyncio.get_running_loop().time() >= self._next_try:
            self._step = asyncio.create_task(self._engine.advance(open_round), name=f"round-{open_round.number}")

    async def _collect_step(self) -> None:
        if self._step is None or not self._step.done():
            return
        step, self._step = self._step, None
        try:
            moved = step.result()
        except TransientError as error:
            self._backoff_s = min(MAX_BACKOFF_S, max(1.0, self._backoff_s * 2))
            self._next_try = asyncio.get_running_loop().time() + self._backoff_s * random.uniform(0.8, 1.2)
            self._step_error = str(error)
            log.warning("round step will be tried again in %.0f s: %s", self._backoff_s, error)
            return
        except StateConflict as error:  # an operator was faster; the next look starts from what is stored
            log.warning("round step: %s", error)
            self._stepping = None
            return
        self._backoff_s, self._step_error = 0.0, None
        if moved.ended:
            self._stepping = None

    async def _stop_step(self) -> None:
        if self._step is not None:
            self._step.cancel()
            with suppress(asyncio.CancelledError, SemiEvolError):
                await self._step
            self._step = None

    async def _trigger(self) -> Round | None:
        seen = await self._observe()
        decision = decide(seen, self._config.trigger)
        self.waiting_for = decision.reason
        if not isinstance(decision, Start):
            return None
        return await self._plan(decision.kind, decision.reason, {})

    async def _plan(self, kind: Any, reason: str, options: dict[str, Any]) -> Round:
        rounds = await asyncio.to_thread(self._stores.rounds.all, 1)
        number = rounds[0].number + 1 if rounds else 0
        seed = derive(self._config.seed, "round", number) % 2**31
        planned = await asyncio.to_thread(self._stores.rounds.plan, kind, reason, seed, self._alias.adapter, options)
        log.info("round %d planned (%s): %s", planned.number, kind, reason)
        return planned

    async def _observe(self) -> Observation:
        rounds = await asyncio.to_thread(self._stores.rounds.all)
        counts = await asyncio.to_thread(self._stores.examples.counts)
        labelled = (await asyncio.to_thread(self._stores.pseudo_labels.counts)).total
        last_change = await asyncio.to_thread(self._stores.examples.last_change)
        now = self._stores.database.now()
        decided = [r for r in rounds if r.ended and r.state not in UNDECIDED]
        at_last = max((r.snapshot["labelled_total"] for r in decided if r.snapshot), default=0)
        warm_ended = await asyncio.to_thread(self._stores.rounds.warm_ended) or self._alias.state.generation > 0
        failed = rounds[0].reason if rounds and rounds[0].state is RoundState.FAILED else None
        return Observation(
            training_examples=counts.training,
            holdout_examples=counts.holdout,
            min_holdout=self._config.gate.min_holdout,
            labels_lag=await self._labels_lag(),
            last_label_age_s=now - (last_change or 0.0),
            warm_ended=warm_ended,
            evolve_rounds=sum(r.kind == "evolve" for r in decided),
            new_pseudo_labels=labelled - at_last,
            last_round_age_s=now - max((r.updated_at for r in rounds), default=0.0),
            last_failure=failed,
        )

    async def _carry_out(self, request: OperatorRequest) -> None:
        """Answer one request; what cannot be done is refused with the reason, never dropped."""
        state: Literal["done", "refused"] = "done"
        try:
            answer = await getattr(self, f"_on_{request.kind}")(request)
        except (TransientError, LeaseLost):
            raise  # the request stays pending: it is tried at the next look, or by the next leader
        except SemiEvolError as error:
            answer, state = {"error": str(error)}, "refused"
        log.info("request %d (%s): %s %s", request.id, request.kind, state, answer)
        await asyncio.to_thread(self._stores.requests.answer, request.id, state, answer)

    async def _on_start_round(self, request: OperatorRequest) -> dict[str, Any]:
        payload = request.payload
        kind = payload.get("kind", "evolve")
        options = {"shuffle_labels": True} if payload.get("shuffle_labels") else {}
        planned = await self._plan(kind, str(payload.get("reason") or "by hand")[:200], options)
        return {"round": planned.number}

    async def _on_cancel_round(self, request: OperatorRequest) -> dict[str, Any]:
        payload = request.payload
        number = int(payload["round"])
        round_ = await asyncio.to_thread(self._stores.rounds.get, number)
        if round_ is None:
            raise StateConflict(f"there is no round {number}")
        if round_.state not in CANCELLABLE:
            raise StateConflict(f"round {number} is {round_.state}; only an open, unpromoted round can be cancelled")
        await self._stop_step()
        current = await asyncio.to_thread(self._stores.rounds.get, number)
        assert current is not None
        await self._engine.cancel(current, str(payload.get("reason") or "by hand"))
        self._stepping = None
        return {"round": number, "state": "cancelled"}

    async def _on_promote(self, request: OperatorRequest) -> dict[str, Any]:
        name = str(request.payload["adapter"])
        if name == self._alias.adapter:
            raise StateConflict(f"adapter {name} serves already")
        await self._fleet.load(name)
        attestation = await self._fleet.attest(name)
        if not attestation.passed:
            raise AdapterError(f"adapter {name} is not promoted: {attestation.reason}")
        return await self._move(name, request)

    async def _on_rollback(self, request: OperatorRequest) -> dict[str, Any]:
        state = self._alias.state
        if state.generation == 0:
            raise StateConflict("nothing was promoted yet; there is nothing to roll back to")
        if state.previous is not None:
            await self._fleet.load(state.previous)
        return await self._move(state.previous, request)

    async def _move(self, adapter: str | None, request: OperatorRequest) -> dict[str, Any]:
        before = self._alias.adapter
        self._alias.follow(await asyncio.to_thread(self._stores.alias.move, adapter, request.id))
        await self._fleet.settle()
        return {"from": before, "to": adapter}
