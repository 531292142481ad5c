"""One GPU for both: the replicas sleep while a round trains on it, and are woken whatever became of the training.

Owns the order: who is to sleep is named in the state first, so that every process lends it no more; then it sleeps,
then the training begins. Owns neither the calls to a replica (serving.replicas) nor the training (another Launcher).
Invariant: the row stays until all that it names have woken; a row that nobody trains for is the leader's to clear, also
where another process wrote it and died.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import replace

from semievol.errors import ConfigError, SemiEvolError, TransientError
from semievold.errors import LeaseLost
from semievold.round_states import RoundState
from semievold.rounds.launch import Launcher, Trained, TrainingPlace, made_before
from semievold.serving.following import FOLLOW_S
from semievold.serving.replicas import ReplicaSet
from semievold.serving.resting import RestFollower
from semievold.store.rollout.rests import Rest
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

HEARD_S = 2 * FOLLOW_S
"""After so long every process that knows the state has read the row."""
SILENCE_S = 30.0
"""Who has not answered for so long when a training is to begin is not waited for: it is named, and rests."""
RELEASE_S = 10.0
"""So long the end of a training waits for the replicas to wake, and a stop of the daemon too; later looks go on."""
LOOK_S = 1.0
LATE_S = 5.0
"""So long one that came back during a training may take to end what it was asked; a later look tries again."""
ASK_S = 30.0
"""So often a replica is asked whether it sleeps that has not been away since it was last asked: somebody may have put
it to sleep by hand, or woken it."""


class SharingLauncher:
    """Another launcher, around whose trainings the replicas sleep.

    Args:
        stores: those whose writes are checked against the lease.
        rests: takes over in this process what is written.
        names: of the replicas that share the GPU; empty: all; None: nothing is shared any more, and whom a former
            setting had put to sleep is woken.
        patience_s: how long what they answer may take to end.
        heard_s: after so long every process has read a new row.
        silence_s: how long one that does not answer is waited for before a training.
    """

    def __init__(
        self,
        launcher: Launcher,
        stores: Stores,
        replicas: ReplicaSet,
        rests: RestFollower,
        names: Collection[str] | None,
        patience_s: float,
        *,
        heard_s: float = HEARD_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._launcher = launcher
        self._stores = stores
        self._replicas = replicas
        self._rests = rests
        self._shared = names is not None
        self._named = tuple(names or ())
        self._patience_s = patience_s
        self._heard_s = heard_s
        self._silence_s = silence_s
        self._turn = asyncio.Lock()
        self._trains = False
        self._said: dict[str, str] = {}
        self._asked: dict[str, tuple[int, float]] = {}

    async def train(self, place: TrainingPlace) -> Trained:
        """Have the replicas sleep, and train. A training that has ended already wakes nobody up.

        Raises:
            AdapterError: as the launcher.
            ConfigError: a replica cannot sleep, or may not.
            LeaseLost: another process leads.
            TransientError: as the launcher; or a replica that answers does not sleep.
        """
        if await asyncio.to_thread(made_before, place) is not None:
            return await self._launcher.train(place)
        self._trains = True
        try:
            async with self._turn:
                await self._put_to_sleep()
            return await self._launcher.train(place)
        finally:
            self._trains = False
            await self._release()

    async def retire(self, open_round: int | None) -> None:
        await self._launcher.retire(open_round)

    async def trains(self) -> bool:
        return await self._launcher.trains()

    async def look(self) -> None:
        """Wake who sleeps while nothing trains: after a stop or a death in the middle, who did not wake at first, who
        was away from the replicas meanwhile. While a round trains, put to sleep who came back awake, or joined.

        Raises:
            SemiEvolError: not now.
        """
        async with self._turn:
            if self._trains:
                await self._keep_asleep()
            else:
                await self._wake_unless_training()

    def _names(self) -> tuple[str, ...]:
        return self._named or self._replicas.names

    async def _put_to_sleep(self) -> None:
        names = self._names()
        asleep = await self._asleep(names)  # before anything is written: nobody rests for one that cannot
        self._forget_asked(names)
        rest, open_round = (
            await asyncio.to_thread(self._stores.rests.get),
            await asyncio.to_thread(self._stores.rounds.open),
        )
        number = -1 if open_round is None else open_round.number
        if rest is None or rest.round != number or not set(names) <= set(rest.replicas) or rest.waking:
            both = tuple(sorted({*names, *(rest.replicas if rest is not None else ())}))
            rest = Rest(number, both, self._stores.rests.now, await asyncio.to_thread(self._expected_s))
            await asyncio.to_thread(self._stores.rests.write, rest)
        await self._rests.look()
        if not all(asleep.values()):
            await asyncio.sleep(self._heard_s)

        async def check_lease() -> None:  # the next leader may have woken them meanwhile
            await asyncio.to_thread(self._stores.rests.write, rest)

        await self._replicas.put_to_sleep(asleep, self._patience_s, check_lease)

    async def _keep_asleep(self) -> None:
        """Have those sleep too that came back, or joined, while a round trains. One that cannot is lent to nobody."""
        rest = await asyncio.to_thread(self._stores.rests.get)
        if rest is None or rest.waking:
            return
        joined = set(self._names()) - set(rest.replicas)
        joined -= await asyncio.to_thread(self._stores.rests.of_others) if joined else set()
        if joined:
            rest = replace(rest, replicas=tuple(sorted({*rest.replicas, *joined})))
            await asyncio.to_thread(self._stores.rests.write, rest)
            await self._rests.look()
            await asyncio.sleep(self._heard_s)

        async def check_training() -> None:
            await asyncio.to_thread(self._stores.rests.write, rest)  # refused where this process leads no more
            if not self._trains and not await self._launcher.trains():
                raise TransientError("the training is over")

        to_ask = self._to_ask(rest.replicas)
        for place, name in enumerate(to_ask):
            try:
                asleep, _ = await self._replicas.asleep((name,))
                if name not in asleep:
                    self._forget_asked((name,))
                elif not asleep[name]:
                    log.warning("replica %s is awake while round %d trains on its GPU", name, rest.round)
                    await self._replicas.put_to_sleep((name,), LATE_S, check_training)
            except (LeaseLost, asyncio.CancelledError):
                self._forget_asked(to_ask[place:])
                raise
            except SemiEvolError as error:
                self._forget_asked((name,))
                if self._said.get(name) != str(error):
                    log.warning("replica %s does not sleep: %s", name, error)
                self._said[name] = str(error)

    def _to_ask(self, names: Collection[str]) -> list[str]:
        """Those of whom it is not known whether they sleep; from now on it is, unless they are forgotten again."""
        there, now = self._replicas.appearances(), time.monotonic()
        asked = {name: self._asked.get(name, (-1, 0.0)) for name in names if name in there}
        due = [name for name, (seen, at) in asked.items() if seen != there[name] or now >= at + ASK_S]
        self._asked |= {name: (there[name], now) for name in due}
        return due

    def _forget_asked(self, names: Collection[str]) -> None:
        for name in names:
            self._asked.pop(name, None)

    async def _asleep(self, names: Collection[str]) -> dict[str, bool]:
        """Whether each of these that answer sleeps already."""
        if others := sorted(set(names) & await asyncio.to_thread(self._stores.rests.of_others)):
            raise ConfigError(
                f"training.share_gpu: replica {others[0]} makes way for a training of another workload; servers that "
                "sleep are one workload's"
            )
        deadline = time.monotonic() + self._silence_s
        while True:
            asleep, silent = await self._replicas.asleep(names)
            if not silent or time.monotonic() >= deadline:
                break
            await asyncio.sleep(LOOK_S)
        for name, why in silent.items():
            log.warning("replica %s does not answer, and the training does not wait for its sleep: %s", name, why)
        return asleep

    async def _release(self) -> None:
        """Wake them, unless the training goes on elsewhere. What does not succeed is left to the looks."""
        try:
            async with asyncio.timeout(RELEASE_S), self._turn:
                if not await self._launcher.trains():
                    await self._wake()
        except LeaseLost as lost:
            log.info("the replicas are left to the next leader: %s", lost)
        except (SemiEvolError, TimeoutError) as error:
            log.warning("the replicas are not all awake yet: %s", str(error) or f"{RELEASE_S:.0f} s are over")

    async def _wake_unless_training(self) -> None:
        if await asyncio.to_thread(self._stores.rests.get) is None and not await self._give_rest_to_sleepers():
            return
        if await self._launcher.trains():
            open_round, frozen = (
                await asyncio.to_thread(self._stores.rounds.open),
                await asyncio.to_thread(self._stores.freezes.get),
            )
            if open_round is not None and open_round.state is RoundState.TRAINING and frozen is None:
                await self._keep_asleep()
                return  # elsewhere, and whoever advances the round waits for it in a moment
            await self._launcher.retire(None)
            if await self._launcher.trains():
                return
        await self._wake()

    async def _give_rest_to_sleepers(self) -> bool:
        """Write a row for those that sleep without one; whether there are any."""
        to_ask = self._to_ask(self._names()) if self._shared else []
        try:
            sleepers, unsaid = await self._replicas.sleepers(to_ask)
            self._forget_asked(unsaid)
            if sleepers:
                sleepers -= await asyncio.to_thread(self._stores.rests.of_others)
            if not sleepers:
                return False
            newest = await asyncio.to_thread(self._stores.rounds.all, 1)
            number = newest[0].number if newest else 0
            rest = Rest(number, tuple(sorted(sleepers)), self._stores.rests.now, waking=True)
            await asyncio.to_thread(self._stores.rests.write, rest)
        except BaseException:  # a look that was cancelled too: the next one asks again
            self._forget_asked(to_ask)
            raise
        await self._rests.look()
        return True

    async def _wake(self) -> None:
        rest = await asyncio.to_thread(self._stores.rests.get)
        if rest is None or not self._replicas.names:  # not known yet: nobody could be woken
            return
        rest = replace(rest, waking=True)
        await asyncio.to_thread(self._stores.rests.write, rest)  # refused where this process leads no more
        failing = await self._replicas.wake(rest.replicas)
        for name, error in failing.items():
            if self._said.get(name) != error:
                log.warning("replica %s does not wake: %s", name, error)
        self._said = failing
        if not failing:
            await asyncio.to_thread(self._stores.rests.clear)
        elif set(failing) != set(rest.replicas):
            await asyncio.to_thread(self._stores.rests.write, replace(rest, replicas=tuple(failing)))
        await self._rests.look()

    def _expected_s(self) -> float | None:
        """How long the last training took. Blocking."""
        took = ((round_.training or {}).get("wall_s") for round_ in self._stores.rounds.all(20))
        return next((float(each) for each in took if each is not None), None)
