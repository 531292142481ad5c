"""A controller over a real state that looks when it is told to; its engine and its fleet do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semievold.config.daemon import DaemonConfig
from semievold.round_states import RoundState
from semievold.rounds.control import Control
from semievold.rounds.lease import ControlLease
from semievold.rounds.places import RoundPlace
from semievold.serving.alias import Alias
from semievold.store.rounds import Round
from semievold.store.stores import Stores


class NoEngine:
    """Advances nothing: a round stays where it is."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.place = RoundPlace(Path("no-rounds"), Path("no-adapters"))

    async def advance(self, round_: Round) -> Round:
        return round_

    async def cancel(self, round_: Round, reason: str) -> Round:
        return self._stores.rounds.leave(round_.number, round_.state, RoundState.CANCELLED, reason)

    async def remove_unfinished(self) -> None:
        pass


class Fleet:
    """Loads what is asked for, unless `failure` is set."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    @contextmanager
    def sparing(self, name: str) -> Iterator[None]:
        yield

    async def load(self, name: str) -> None:
        if self.failure is not None:
            raise self.failure

    async def follow(self) -> None:
        pass


async def looking(stores: Stores, fleet: Fleet | None = None) -> Control:
    """A controller that has looked around once."""
    config = DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}})

    async def no_lag() -> int:
        return 0

    lease = ControlLease(stores.leases, 60.0)
    control = Control(
        config,
        stores,
        lease,
        NoEngine(stores),
        fleet or Fleet(),
        Alias(stores.alias.get()),
        no_lag,  # type: ignore[arg-type]
    )
    await control.look()
    return control
