"""The figures about answers to labelled questions: how sure adapters are and how rightly so, and runs compared.

Owns what is plotted of evaluations and sweeps. Invariant: the test set is shown where it was kept, else the holdout,
and the caption says which.
"""

from __future__ import annotations

from semievol.report.charts import MARKS, Axis, Plot, number, percent, swatch
from semievol.report.data import Evaluated, ReportData, SweepPoint
from semievol.report.figure import Figure, outlines, reliability_diagram
from semievol.report.measures import calibration

NOT_KEPT = "No answers to test or holdout were kept with their entropy."
SWEPT = {
    "n": ("Accuracy over n", "n: candidate answers of a query"),
    "theta": ("Accuracy over θ", "θ: share of the pool that may be selected"),
    "ratio": ("Accuracy over unlabeled data", "unlabeled queries for each labelled example"),
}


def entropy_of_answers(data: ReportData) -> Figure:
    """Entropy of what the base model, the warm adapter and the last one answer (the paper's figure 4)."""
    shown = _shown(data)
    where = _where(shown)
    caption = (
        f"How sure each is of its answers to the {where}, closed book, right or wrong. Training moves the answers to "
        "the left; one that moves wrong ones as well has become too sure, which the calibration shows."
    )
    groups = [(e.name, [answer.entropy for answer in e.answers]) for e in shown]
    return outlines("entropy-answers", f"Entropy of answers to the {where}", caption, groups, NOT_KEPT)


def reliability_of_answers(data: ReportData) -> Figure:
    """Confidence, exp(-entropy), against accuracy of the same three."""
    shown = _shown(data)
    where = _where(shown)
    name, title = "reliability-answers", f"Calibration on the {where}"
    caption = (
        "Confidence is exp(-entropy), one answer a question. Ten groups of equal confidence range; larger marks hold "
        "more answers. Below the dashed line the model is too sure."
    )
    if not shown:
        return Figure(name, title, caption, note=NOT_KEPT)
    groups = [(e.name, calibration([(a.confidence, a.correct) for a in e.answers])) for e in shown]
    return reliability_diagram(name, title, caption, groups)


def sweeps(data: ReportData) -> list[Figure]:
    """Accuracy of whole runs over one setting, one figure for each that was varied."""
    if not data.sweep:
        note = "No runs with other n, θ or amounts of unlabeled data were recorded (sweep.json)."
        return [Figure("sweep", "Accuracy over n, θ and unlabeled data", "", note=note)]
    names = sorted(
        {p.parameter for p in data.sweep}, key=lambda name: (name not in SWEPT, [*SWEPT, name].index(name), name)
    )
    return [
        _sweep(name, sorted((p for p in data.sweep if p.parameter == name), key=lambda p: p.value)) for name in names
    ]


def _sweep(parameter: str, points: list[SweepPoint]) -> Figure:
    title, axis_name = SWEPT.get(parameter, (f"Accuracy over {parameter}", parameter))
    caption = (
        "Each point is a whole run with this one setting changed, measured on the same questions; whiskers are 95 % "
        "intervals."
    )
    values = [p.value for p in points]
    spread = Axis.around(axis_name, values)
    margin = 0.06 * (max(values) - min(values)) or 0.5
    ticks = tuple(dict.fromkeys(values)) if len(set(values)) <= 8 else spread.ticks
    axis = Axis(axis_name, min(values) - margin, max(values) + margin, ticks, number)
    intervals = [p.accuracy.interval() for p in points]
    ends = [end for interval in intervals for end in interval]
    plot = Plot(title, axis, Axis.around("accuracy", ends, lambda share: f"{100 * share:.3g} %"))
    plot.line([(p.value, p.accuracy.accuracy) for p in points], "first")
    for p, (low, high) in zip(points, intervals, strict=True):
        plot.interval(p.value, low, high, "first")
        hint = f"{parameter} {number(p.value)}: {percent(p.accuracy.accuracy)} of {p.accuracy.total}"
        plot.mark((p.value, p.accuracy.accuracy), "first", MARKS[0], hint=hint)
        plot.text((p.value, p.accuracy.accuracy), f"{100 * p.accuracy.accuracy:.1f}", dx=20, dy=-6)
    return Figure(f"sweep-{parameter}", title, caption, plot.svg(), ((swatch("first", MARKS[0]), "accuracy"),))


def _shown(data: ReportData) -> list[Evaluated]:
    """Base model, warm adapter and the last evolved one (promoted, if any was), on the test set, else holdout."""
    promoted = {r.adapter for r in data.rounds if r.promoted}
    for examples in ("test", "holdout"):
        found = [e for e in data.evaluated if e.examples == examples and e.answers]
        first = [e for e in found if e.name in ("base", "warm")]
        evolved = [e for e in found if e not in first]
        last = [e for e in evolved if e.adapter in promoted][-1:] or evolved[-1:]
        if found:
            return [*first, *last]
    return []


def _where(shown: list[Evaluated]) -> str:
    return "holdout" if shown and shown[0].examples == "holdout" else "test set"
