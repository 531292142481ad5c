"""`semievold`, but killed by SIGKILL right after (or right before) a round's move into the state DIE_AT is committed.

The move itself is the real one; only the instant of death is chosen here, so that every state is met for certain.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from sqlalchemy import event

from semievold.commands.cli import main
from semievold.store import rounds

DIE_AT = os.environ["DIE_AT"]
DIE_BEFORE_COMMIT = os.environ.get("DIE_BEFORE_COMMIT") == "1"

real_event = rounds.RoundStore._event


def dying_event(
    self: rounds.RoundStore, connection: Any, number: int, current: Any, following: Any, *rest: Any
) -> None:
    real_event(self, connection, number, current, following, *rest)
    if following.value != DIE_AT:
        return

    if DIE_BEFORE_COMMIT:
        os.kill(os.getpid(), signal.SIGKILL)
    # The pool gets the connection back only after the commit has reached the file. Others come back meanwhile.
    mine = connection.connection.dbapi_connection

    def die(returned: Any, *_: Any) -> None:
        if returned is mine:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(connection.engine.pool, "reset", die)


rounds.RoundStore._event = dying_event  # type: ignore[method-assign]
main()
