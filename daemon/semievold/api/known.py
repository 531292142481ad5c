"""Rounds and adapters that operators name, or why there are none of that name."""

from __future__ import annotations

from semievold.errors import StateConflict
from semievold.store.adapters import AdapterVersion
from semievold.store.rounds import Round
from semievold.store.stores import Stores


def known_round(stores: Stores, number: int) -> Round:
    """The round.

    Raises:
        StateConflict: there is no such round.
    """
    found = stores.rounds.get(number)
    if found is None:
        raise StateConflict(f"there is no round {number}; `semievol rounds list` shows them")
    return found


def known_adapter(stores: Stores, name: str) -> AdapterVersion:
    """The version.

    Raises:
        StateConflict: there is no such adapter.
    """
    found = stores.adapters.get(name)
    if found is None:
        raise StateConflict(f"there is no adapter {name!r}; `semievol adapters list` shows them")
    return found
