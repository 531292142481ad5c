"""Labels that arrived after a round's snapshot: nobody was taught them, so they prove as well as held-out ones do.

Owns which labels those are (`gate.late_labels: all`). Invariant: what was asked in the training of candidate or
incumbent, or of a version that the incumbent's went on from, as an example or as a pseudo-label and under whichever id,
is none of them, whatever the clocks say; nor is what clients said.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from semievol.examples.split import asked_key
from semievol.types import Example
from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.store.rounds import Round
from semievold.store.stores import Stores

log = logging.getLogger(__name__)


class FreshLabels:
    """Looks them up for one round at a time."""

    def __init__(self, stores: Stores, place: RoundPlace) -> None:
        self._stores = stores
        self._place = place
        self._taught: tuple[int, frozenset[str]] | None = None
        self._said: int | None = None  # the round of which it was said that it is not known

    def of(self, round_: Round, since: float | None = None) -> list[Example]:
        """Blocking. Those that arrived `since` (UTC seconds; None: the round's snapshot). None of them where it is not
        known any more what was trained on.
        """
        since = self.taken_at(round_) if since is None else since
        return [] if since is None else self.untaught(round_, self._stores.examples.arrived(since))

    def paired(self, round_: Round, since: float | None = None) -> list[Example]:
        """Blocking. Labels of queries that were drawn as shadow pairs of the round, and arrived `since` (None: its
        snapshot): who labels did not choose which those are, whatever order labels come in.
        """
        since = self.taken_at(round_) if since is None else since
        arrived = [] if since is None else self._stores.examples.arrived(since, clients=True)
        pairs = self._stores.shadow_pairs.among(round_.number, [each.id for each in arrived])
        return self.untaught(round_, [each for each in arrived if each.id in pairs])

    def untaught(self, round_: Round, examples: Sequence[Example]) -> list[Example]:
        """Blocking. Those of the examples that neither model was taught; none where that is not known any more."""
        taught = self.taught_in(round_) if examples else None
        return [] if taught is None else [each for each in examples if asked_key(each.query) not in taught]

    def taken_at(self, round_: Round) -> float | None:
        """Blocking. When the round took its snapshot, UTC seconds; None: it has not."""
        moves = self._stores.rounds.events(round_.number)
        return next((move["at"] for move in moves if move["to_state"] == RoundState.SNAPSHOTTED), None)

    def taught_in(self, round_: Round) -> frozenset[str] | None:
        """Blocking. What was asked (`asked_key`) in the training of both models; None: of one nobody knows any more."""
        if self._taught is None or self._taught[0] != round_.number:
            made, name = [round_], round_.incumbent
            while name is not None:
                version = self._stores.adapters.get(name)
                by = None if version is None else self._stores.rounds.get(version.round)
                if version is None or by is None:
                    self._say_unknown(round_, f"the round of {name} is not in the state")
                    return None
                made.append(by)
                name = version.parent
            asked: set[str] = set()
            for each in made:
                taught = self._taught_by(each)
                if taught is None:
                    self._say_unknown(round_, f"neither state nor manifest of round {each.number} says so any more")
                    return None
                asked |= self._asked(*taught)
            self._taught = (round_.number, frozenset(asked))
        return self._taught[1]

    def _say_unknown(self, round_: Round, why: str) -> None:
        """Looked up again at the next look, and said once."""
        if self._said != round_.number:
            log.warning(
                "round %d: late labels do not count, for what was trained on is not known: %s", round_.number, why
            )
        self._said = round_.number

    def _taught_by(self, round_: Round) -> tuple[Sequence[str], Sequence[str]] | None:
        """Ids of the examples and of the pseudo-labels in a round's mix; None: nobody knows them any more."""
        examples = [id_ for id_, role in self._stores.lineage.examples_of(round_.number).items() if role == "training"]
        if examples:
            members = self._stores.rounds.members(round_.number)
            return examples, [id_ for id_, selected in members.items() if selected]
        manifest = self._manifest(round_)  # before schema 0011 the state does not say it
        return None if manifest is None else (manifest["example_ids"], manifest["selected_ids"])

    def _manifest(self, round_: Round) -> Mapping[str, Any] | None:
        try:
            found = json.loads((self._place.training(round_).snapshot / "manifest.json").read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _asked(self, example_ids: Sequence[str], query_ids: Sequence[str]) -> set[str]:
        examples = self._stores.examples.asked(example_ids)
        queries = self._stores.pseudo_labels.asked(query_ids, asked_key)
        return {*examples.values(), *queries.values()}
