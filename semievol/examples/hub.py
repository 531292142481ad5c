"""Data sets of the Hugging Face hub, and directories that `datasets` can load.

Owns the name `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:CONFIGURATION:SPLIT` and the one use of `datasets`, which is
imported when such a name is read. Runs no code that a data set brings. Invariant: one split is read, never a guessed
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from semievol.errors import ConfigError, DataError
from semievol.examples.records import Row
from semievol.examples.sources import Place

HUB = "hub:"


def hub_rows(address: str) -> Iterator[tuple[Place, Row]]:
    """(place, cells by column) of every row of `address`; numbers of a ClassLabel become its names.

    Raises:
        ConfigError: `datasets` is not installed.
        DataError: there is no such data set, or it has several splits or configurations and none is named.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"{address}: needs datasets; install it with: pip install 'semievol[hub]'") from None
    name, *rest = address.removeprefix(HUB).split(":")
    if not name or len(rest) > 2:
        raise DataError(f"{address}: is none of hub:NAME, hub:NAME:SPLIT and hub:NAME:CONFIGURATION:SPLIT")
    configuration = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else None
    try:
        found: Any = datasets.load_dataset(name, configuration, split=split)
    except Exception as error:  # `datasets` raises classes of half a dozen libraries
        raise DataError(f"{address}: cannot be loaded ({' '.join(str(error).split())[:300]})") from None
    if isinstance(found, dict):
        if len(found) != 1:
            named = ", ".join(f"{address}:{each}" for each in found)
            raise DataError(f"{address}: has {len(found)} splits; name one of {named}")
        (found,) = found.values()
    named_columns = {
        column: feature.names for column, feature in found.features.items() if isinstance(feature, datasets.ClassLabel)
    }
    for number, cells in enumerate(found, start=1):
        row = {column: cell for column, cell in cells.items() if cell is not None}
        for column, names in named_columns.items():
            label = row.pop(column, -1)
            if 0 <= label < len(names):  # -1: the row has no label
                row[column] = names[label]
        yield Place(address, number, "row"), row
