"""Which known key somebody may have meant who wrote one that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any


def nearest(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(sorted(known))}"
