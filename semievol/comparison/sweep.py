"""SemiEvol with one number changed at a time: n, theta, the ratio of queries to examples.

Owns which settings a sweep stands for and how its points are put together over seeds; a point is a row like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from semievol.comparison.rows import ComparedMethod, with_candidates, with_theta
from semievol.comparison.rows_run import World, run_method, with_ratio
from semievol.comparison.table import correct_answers
from semievol.config.method import MethodConfig
from semievol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """SemiEvol with one number changed. `ratio` None: all queries."""

    parameter: str
    value: float
    config: MethodConfig
    ratio: float | None = None


def sweep_points(config: MethodConfig, sweeps: Mapping[str, Sequence[float]]) -> list[SweepPoint]:
    """What is swept, checked before anything runs."""
    points = []
    for parameter, values in sweeps.items():
        for value in values:
            if parameter == "n":
                if value != int(value):
                    raise ConfigError(f"--sweep n={value:g}: needs whole numbers from 1")
                points.append(SweepPoint(parameter, value, with_candidates(config, int(value))))
            elif parameter == "theta":
                points.append(SweepPoint(parameter, value, with_theta(config, value)))
            else:
                points.append(SweepPoint(parameter, value, config, value))
    return points


async def swept(seed: int, points: Sequence[SweepPoint], world: World) -> list[dict[str, Any]]:
    """SemiEvol over values of n, theta and the ratio of queries to examples; closed book."""
    results = []
    for point in points:
        here = world
        if point.ratio is not None:
            here = replace(world, queries=with_ratio(world.queries, len(world.examples), point.ratio, seed))
        config = point.config.model_copy(update={"seed": seed})
        title = f"SemiEvol, {point.parameter} = {point.value:g}"
        method = ComparedMethod(f"{point.parameter}-{point.value:g}", title, config, "rounds", open_book=False)
        result = await run_method(method, here)
        correct = list(correct_answers(world.directory, result, "closed_book").values())
        accuracy = {"correct": sum(correct), "total": len(correct)}
        results.append({"parameter": point.parameter, "value": point.value, "accuracy": accuracy})
    return results


def averaged(points: Sequence[Mapping[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """One point a value, the mean over seeds of one test set, as the report reads them."""
    sums: dict[tuple[str, float], list[int]] = {}
    for point in points:
        counts = sums.setdefault((point["parameter"], point["value"]), [0, 0])
        counts[0] += point["accuracy"]["correct"]
        counts[1] += point["accuracy"]["total"]
    return [
        {
            "parameter": parameter,
            "value": value,
            # The same questions for every seed: their number is what the interval of the figure is about.
            "accuracy": {"correct": round(correct / seeds), "total": total // seeds},
        }
        for (parameter, value), (correct, total) in sums.items()
    ]
