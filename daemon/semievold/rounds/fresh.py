"""Labels that arrived after a round's snapshot: nobody was taught them, so they prove as well as held-out ones do.

Owns which labels those are (`gate.late_labels: all`). Invariant: what was asked in the training of candidate or
incumbent, as an example or as a pseudo-label and under whichever id, is none of them, whatever the clocks say; nor is
what clients said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from semievol.examples.split import asked_key
from semievol.types import Example
from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.store.rounds import Round
from semievold.store.stores import Stores


class FreshLabels:
    """Looks them up for one round at a time."""

    def __init__(self, stores: Stores, place: RoundPlace) -> None:
        self._stores = stores
        self._place = place
        self._taught: tuple[int, frozenset[str] | None] | None = None

    def of(self, round_: Round) -> list[Example]:
        """Blocking. None of them where it is not known any more what was trained on."""
        taken_at = next(
            (e["at"] for e in self._stores.rounds.events(round_.number) if e["to_state"] == RoundState.SNAPSHOTTED),
            None,
        )
        taught = self._taught_in(round_)
        if taken_at is None or taught is None:
            return []
        arrived = self._stores.examples.arrived(taken_at)
        return [example for example in arrived if asked_key(example.query) not in taught]

    def _taught_in(self, round_: Round) -> frozenset[str] | None:
        """What was asked in the training of both models; None: for one of them nobody knows any more."""
        if self._taught is None or self._taught[0] != round_.number:
            manifests = [self._manifest(round_)]
            if round_.incumbent is not None:
                version = self._stores.adapters.get(round_.incumbent)
                made = None if version is None else self._stores.rounds.get(version.round)
                manifests.append(None if made is None else self._manifest(made))
            known = [each for each in manifests if each is not None]
            asked = (
                frozenset[str]().union(*(self._asked(each) for each in known)) if len(known) == len(manifests) else None
            )
            self._taught = (round_.number, asked)
        return self._taught[1]

    def _manifest(self, round_: Round) -> Mapping[str, Any] | None:
        try:
            found = json.loads((self._place.training(round_).snapshot / "manifest.json").read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _asked(self, manifest: Mapping[str, Any]) -> set[str]:
        examples = self._stores.examples.asked(manifest["example_ids"])
        queries = self._stores.pseudo_labels.asked(manifest["selected_ids"], asked_key)
        return {*examples.values(), *queries.values()}
