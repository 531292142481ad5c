"""How long a training has run, kept beside its checkpoints: a change of leader does not reset it, waiting adds nothing.

Owns `running_time.json` of a working directory. Time is counted while the same pods, all of them, were seen running at
two looks: what happened between is then known, also when another leader looked before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from semievol.durable_files import write_whole

RAN_FILE = "running_time.json"


class RunningTime:
    """The seconds that a Job's pods have run together. Blocking."""

    def __init__(self, work: Path, job_name: str) -> None:
        self._path = work / RAN_FILE
        self._name = job_name

    def seen(self, running: frozenset[str], now: float) -> float:
        """Count up to `now` and return the seconds so far.

        Args:
            running: the uids of the pods when all of them run; none: it waits.
            now: UTC seconds.
        """
        record = self._read()
        ran_s, before = float(record.get("ran_s", 0.0)), set(record.get("running", ()))
        if running and before == running:
            ran_s += max(0.0, now - float(record.get("seen_at", now)))
        if running or before:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = {"name": self._name, "ran_s": round(ran_s, 3), "running": sorted(running), "seen_at": now}
            write_whole(self._path, json.dumps(content) + "\n")
        return ran_s

    def _read(self) -> dict[str, Any]:
        """What was counted; nothing, of another training."""
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            return record if isinstance(record, dict) and record.get("name") == self._name else {}
        except (OSError, ValueError):
            return {}
