"""Brings what a cluster needs: Debian's packages, by root on Debian alone, and the programs that no package has.

`make cluster-test` runs `python -m tests.cluster.set_up` first. What is there is left alone; what cannot be had is
named in one line, and the test is skipped for it.
"""

from __future__ import annotations

from tests.cluster import machine, programs
from tests.cluster.cluster import lacking, missing_programs
from tests.servers import set_up


def main() -> int:
    """Bring everything; returns the exit code."""
    if set_up.may_install() and machine.other_node() is None:
        set_up.install(needs(missing_programs()))
    if not missing_programs():
        programs.build()
    if (reason := lacking()) is not None:
        print(f"cluster: {reason}", flush=True)
    return 0


def needs(missing: list[str]) -> list[set_up.Need]:
    """The packages of these programs alone: what is there may be of another origin, as containerd and runc of Docker's
    containerd.io, which Debian's packages would take the place of.
    """
    return [
        set_up.Need(
            package, (package,), "", lambda package=package: package not in programs.packages(missing_programs())
        )
        for package in programs.packages(missing)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
