"""Writes the four dashboards: `python -m deploy.grafana.boards` (`make dashboards`).

deploy/grafana/dashboards/ holds what this writes, and a test compares. What is asked is in the modules beside this one.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.building import BOARDS, board
from deploy.grafana.on_call import DRIFT, ON_CALL
from deploy.grafana.pipeline import PIPELINE
from deploy.grafana.rounds import ROUNDS

HERE = Path(__file__).parent / "dashboards"
ROWS = dict(zip(BOARDS, (ON_CALL, DRIFT, ROUNDS, PIPELINE), strict=True))


def rendered(uid: str) -> str:
    """The file of a dashboard."""
    return JSONEncoder(sort_keys=True, indent=1).encode(board(uid, ROWS[uid]).build()) + "\n"


def main() -> None:
    """Write all four."""
    for uid in BOARDS:
        (HERE / f"{uid}.json").write_text(rendered(uid), encoding="utf-8")


if __name__ == "__main__":
    main()
