"""What the running daemons of a configuration tell that no state holds: counts of their processes.

Owns whom to ask: those that wrote down, under artifacts.directory, where they listen. Invariant: a command says what it
can without them; one that does not answer is as one that does not run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from semievol.engines.plain.tally import PLACES
from semievol.errors import SemiEvolError
from semievol.http.client import BlockingHttpClient
from semievol.http.server_address import ServerAddress
from semievold.config.daemon import DaemonConfig

ANSWER_S = 2.0


def neutralised(config: DaemonConfig) -> dict[str, int] | None:
    """By place, how many texts were kept from becoming control tokens since the daemons here started; None: none runs
    here that says so.
    """
    total: Counter[str] | None = None
    for told in _statuses(config):
        counts = told.get("neutralised")
        if isinstance(counts, Mapping):
            total = total or Counter(dict.fromkeys(PLACES, 0))
            total.update({str(place): count for place, count in counts.items() if isinstance(count, int)})
    return None if total is None else dict(total)


def _statuses(config: DaemonConfig) -> Iterator[Mapping[str, Any]]:
    """`/v1/status` of each process."""
    directory = config.artifacts.directory
    for file in sorted(directory.glob("endpoints*.json")):
        try:
            token = config.api.token or (directory / "api.token").read_text(encoding="utf-8").strip()
            address = str(json.loads(file.read_text(encoding="utf-8")).get("api", ""))
            with BlockingHttpClient(proxies=False) as http:
                answer = http.ask(ServerAddress.at(address, token), "GET", "/v1/status", timeout_s=ANSWER_S)
            yield answer.object()
        except (OSError, ValueError, SemiEvolError):
            continue
