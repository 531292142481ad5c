"""Two of the stories of tests/scenarios, told once: a daemon in which trainings forget, and one that is flooded."""

from __future__ import annotations

import pytest

from tests.scenarios.table import unreadable
from tests.scenarios.telling import Tell, tell  # noqa: F401

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(("name", "exits"), [("candidate_forgets", "rejected"), ("one_query_floods", "frozen")])
def test_a_whole_daemon_that_is_left_alone_serves_no_worse_and_says_why_it_refused(
    tell: Tell,  # noqa: F811
    name: str,
    exits: str,
) -> None:
    told = tell(name, 0)
    assert told.ended >= told.began - 0.01
    assert exits in {each.state for each in told.refused}
    assert [fault for each in told.refused if (fault := unreadable(each.reason))] == []
