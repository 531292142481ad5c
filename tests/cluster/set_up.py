"""Brings what a cluster needs: Debian's packages, by root on Debian alone, and the programs that no package has.

`make cluster-test` runs `python -m tests.cluster.set_up` first. What is there is left alone; what cannot be had is
named in one line, and the test is skipped for it.
"""

from __future__ import annotations

from tests.cluster import programs
from tests.cluster.cluster import lacking, missing_programs
from tests.servers import set_up


def main() -> int:
    """Bring everything; returns the exit code."""
    if missing_programs() and set_up.may_install():
        set_up.install([set_up.Need(name, (name,), "", lambda: False) for name in programs.PACKAGES])
    if not missing_programs():
        programs.build()
    if (reason := lacking()) is not None:
        print(f"cluster: {reason}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
