"""Which queries of the stream a version on trial answers: those of its share of the sources, or of all queries.

Owns the names of who asks on the stream. Invariant: what the version on trial does not answer, what serves answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from semievold.rollout.answers import AnswerCounts
from semievold.serving.alias import Alias
from semievold.streams.protocol import CLIENT_HEADER


class StreamTrial:
    """The canary as the intake sees it."""

    def __init__(self, alias: Alias, counts: AnswerCounts) -> None:
        self._alias = alias
        self._counts = counts

    def takes(self, headers: Mapping[str, str] | None, query_id: str) -> bool:
        """Whether it answers this query, by whom its record names as its source, else by itself."""
        if self._alias.canary is None:
            return False
        source = (headers or {}).get(CLIENT_HEADER)
        return self._alias.tries(f"query {query_id}" if source is None else f"source {source}")

    def bind(self) -> AbstractAsyncContextManager[str | None]:
        """Hold it for one call; what serves, where it is on trial no longer."""
        canary = self._alias.canary
        return self._alias.bind(canary, pinned=canary is not None)

    def failed(self, adapter: str | None) -> None:
        """It could not be asked; once, however many queries were to be, for they failed of one cause. Or its answer to
        one query did not come in time.
        """
        self._counts.unlabelled(adapter)
