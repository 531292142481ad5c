"""The migrations are one chain: two that claim the same place would keep every state from being opened."""

from __future__ import annotations

import ast
from pathlib import Path

VERSIONS = Path(__file__).parents[3] / "daemon" / "semievold" / "store" / "migrations" / "versions"


def named(path: Path) -> dict[str, object]:
    """What a migration assigns to `revision` and `down_revision`."""
    return {
        target.id: ast.literal_eval(each.value)
        for each in ast.parse(path.read_text()).body
        if isinstance(each, ast.Assign)
        for target in each.targets
        if isinstance(target, ast.Name)
    }


def test_each_migration_follows_the_one_before_it() -> None:
    files = sorted(VERSIONS.glob("v*.py"))
    found = [named(path) for path in files]
    numbers = [f"{place:04d}" for place in range(1, len(files) + 1)]
    assert [each["revision"] for each in found] == numbers
    assert [each["down_revision"] for each in found] == [None, *numbers[:-1]]
    assert [path.name[1:5] for path in files] == numbers
