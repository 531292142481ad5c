"""A real one-node cluster on this machine, made by `make cluster-test` and taken away again after it.

Everything that is built is kept in .cache/cluster: programs in `bin`, images in `containers` (buildah's) and
`containerd`. What a run needs of the machine (bridges, mounts, firewall rules, kernel settings) is gone when it ends.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PLACE = (ROOT / ".cache" / "cluster").resolve()
BIN = PLACE / "bin"
