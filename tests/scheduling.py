"""Which process of pytest-xdist runs which tests.

By file, which is what fixtures are made for; and all files whose tests ask vLLM go to one process, as if they were one
file: another pair of servers would take a minute to start, and twice the memory. xdist's own groups (`loadgroup`) did
the same until pytest 9.2, whose ids they no longer reach.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

_ASKS_VLLM = re.compile(r"\bvllm_(server|servers|pair)\b|\btests\.servers\.vllm\b")
"""A fixture's name, or the module of those who start one themselves."""


class FilesOfOneServer(LoadFileScheduling):
    """Files to processes; those on vLLM together."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "on vLLM" if asks_vllm(self.config.rootpath / file) else file


@functools.cache
def asks_vllm(file: Path) -> bool:
    """Whether a server of tests.servers.vllm answers tests of the file."""
    return _ASKS_VLLM.search(file.read_text(encoding="utf-8")) is not None
