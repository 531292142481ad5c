"""One cluster for the whole story, and its transcript."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import running
from tests.cluster.story import Story


@pytest.fixture(scope="session")
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """The cluster, from before anything is applied until all is gone; then the transcript, if everything passed."""
    with running() as node:
        told = Story(node)
        yield told
        if request.session.testsfailed == 0 and told.finished:
            told.write()
