"""Which of the four things that `explain` can be asked for is meant."""

from __future__ import annotations

from typing import Any

from semievol.errors import ConfigError
from semievold.api import lineage, operations
from semievold.store.stores import Stores


def explained(
    stores: Stores,
    query_id: str | None,
    round_: int | None,
    adapter: str | None,
    label: str | None,
    *,
    descendants: bool = False,
) -> dict[str, Any]:
    """The one that is given; of a query all that descends from it only where `descendants` are asked for.

    Raises:
        ConfigError: none is given, or several.
        StateConflict: it is not known.
    """
    given = [each for each in (query_id, round_, adapter, label) if each is not None]
    if len(given) != 1:
        raise ConfigError("explain: give one of a query's id, --round N, --adapter NAME and --label ID")
    if query_id is not None:
        return operations.explain(stores, query_id, descendants)
    if round_ is not None:
        return lineage.explain_round(stores, round_)
    if adapter is not None:
        return lineage.explain_adapter(stores, adapter)
    assert label is not None
    return lineage.explain_label(stores, label)
