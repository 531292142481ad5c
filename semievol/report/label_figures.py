"""The figures about pseudo-labels: how sure they are, which were selected, and what other settings would have taken.

Owns what is plotted of a run's pools. Does not compute (report.measures). Invariant: what no training was run for
says so in its caption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from semievol.report.charts import MARKS, Axis, Plot, Point, percent, swatch
from semievol.report.data import PoolPoint, ReportData, RoundReport, Score, ThetaPoint, VotePoint
from semievol.report.figure import SHARES, STYLES, Figure, histogram, line_style, reliability_diagram
from semievol.report.measures import calibration, coverage

TRUTH_UNKNOWN = "The truth about the queries is not known, so {} cannot be told."
WITHOUT_RETRAINING = "Of pseudo-labels, without retraining: nothing was trained or asked again for it."

_Point = TypeVar("_Point", ThetaPoint, VotePoint)


def entropy_of_selection(data: ReportData) -> Figure:
    """Histogram of the last round's pool, selected or not."""
    caption = "Entropy is the mean negative log-probability of the answer's tokens: small means sure. "
    pool, threshold = _last_pool(data)
    if data.ranked_by == "entropy":
        caption += (
            "The dashed line is the threshold; what is left of it and still not selected failed another rule "
            "(agreement, or no parseable answer)."
        )
    else:
        caption += f"Selection ranked by {_measure(data)}, so that no entropy parts the selected from the others."
    return histogram(
        "entropy-selected",
        "Entropy of pseudo-labels: selected or not",
        caption,
        {
            ("selected", "first"): [p.entropy for p in pool if p.selected],
            ("not selected", "muted"): [p.entropy for p in pool if not p.selected],
        },
        threshold,
        "No pseudo-label was made yet.",
    )


def entropy_of_truth(data: ReportData) -> Figure:
    """The same histogram, right or wrong where the truth is known."""
    caption = (
        "The same pseudo-labels against the truth, which the run itself never sees. The better entropy tells right "
        "from wrong, the further the wrong ones lie to the right."
    )
    pool, threshold = _last_pool(data)
    return histogram(
        "entropy-truth",
        "Entropy of pseudo-labels: right or wrong",
        caption,
        {
            ("right", "gain"): [p.entropy for p in pool if p.correct is True],
            ("wrong", "loss"): [p.entropy for p in pool if p.correct is False],
        },
        threshold,
        "The truth about the queries is not known, so right and wrong cannot be told apart.",
    )


def precision_against_coverage(data: ReportData) -> Figure:
    """For each round: how many of the surest pseudo-labels are right, the more of them are kept."""
    name, title = "precision", "Precision against coverage"
    caption = (
        f"Going right, pseudo-labels are taken from the surest on, by {_measure(data)}; the curve is the share of "
        "right ones so far. The large mark is what the round selected. A flat high curve means that more could have "
        "been taken."
    )
    curves: list[tuple[RoundReport, list[Point], Point | None]] = []
    for record in data.rounds:
        pool = [p for p in data.pool if p.round == record.number and p.correct is not None]
        if pool:
            few = min(len(pool), max(5, len(pool) // 50))  # the precision of the first few is noise
            curve = [(point.coverage, point.precision) for point in coverage(pool) if point.kept >= few]
            kept = [p for p in pool if p.selected]
            chosen = (len(kept) / len(pool), sum(p.correct is True for p in kept) / len(kept)) if kept else None
            curves.append((record, curve, chosen))
    if not curves:
        return Figure(name, title, caption, note=TRUTH_UNKNOWN.format("precision"))
    curves = curves[-len(STYLES) :]
    lows = [y for _, curve, _ in curves for _, y in curve] + [chosen[1] for *_, chosen in curves if chosen]
    plot = Plot(title, _share_of_pool("coverage: share of the pool that is kept"), Axis.share("precision", lows))
    for place, (_, curve, _) in enumerate(curves):
        plot.line(curve, line_style(place))
    for place, (record, _, chosen) in enumerate(curves):
        if chosen:
            hint = f"{record.name}: {percent(chosen[1])} right at {percent(chosen[0])}"
            plot.mark(chosen, STYLES[place], MARKS[place], size=6, hint=hint)
    legend = tuple(
        (swatch(line_style(place), MARKS[place]), _chosen_text(record, chosen))
        for place, (record, _, chosen) in enumerate(curves)
    )
    return Figure(name, title, caption, plot.svg(), legend)


def reliability(data: ReportData) -> Figure:
    """Mean confidence against accuracy in ten bins of the last round's pool."""
    name, title = "reliability", "Calibration of pseudo-labels"
    caption = (
        "Is the confidence, exp(-entropy) times agreement, earned? Pseudo-labels in ten groups of equal confidence "
        "range; larger marks hold more of them. On the dashed line, confidence equals accuracy; above it the model is "
        "too modest, below it too sure."
    )
    pool = [p for p in _last_pool(data)[0] if p.correct is not None]
    if not pool:
        return Figure(name, title, caption, note=TRUTH_UNKNOWN.format("calibration"))
    bins = calibration([(p.confidence, p.correct is True) for p in pool])
    return reliability_diagram(name, title, caption, [(_round_name(data, pool[0].round), bins)])


def precision_over_theta(data: ReportData) -> Figure:
    """For each round: how many of those that another theta would have selected are right."""
    name, title = "theta", "Sensitivity to θ: precision"
    caption = (
        "The share of right ones among what each θ would have selected from the round's pool, its other settings "
        f"unchanged; the large mark is the θ of the run. {WITHOUT_RETRAINING}"
    )
    rounds = _by_round(data.theta)
    known = [(number, [p for p in points if p.right]) for number, points in rounds]
    known = [(number, points) for number, points in known if points][-len(STYLES) :]
    if not known:
        missing = "No pseudo-label was made yet." if not rounds else TRUTH_UNKNOWN.format("precision")
        return Figure(name, title, caption, note=missing)
    lows = [_accuracy(p.right) for _, points in known for p in points]
    plot = Plot(title, _share_of_pool("θ"), Axis.share("precision of what is selected", lows))
    lines = [(_round_name(data, number), points) for number, points in known]
    legend = _draw_over_theta(
        plot, lines, lambda p: _accuracy(p.right), lambda p: f"{percent(_accuracy(p.right))} right"
    )
    return Figure(name, title, caption, plot.svg(), legend)


def count_over_theta(data: ReportData) -> Figure:
    """For each round: how many pseudo-labels another theta would have selected."""
    name, title = "theta-count", "Sensitivity to θ: how many are selected"
    caption = (
        "The number of pseudo-labels that each θ would have selected; less than θ times the pool where another rule "
        f"(agreement, no parseable answer) refuses some. The large mark is the θ of the run. {WITHOUT_RETRAINING}"
    )
    rounds = _by_round(data.theta)[-len(STYLES) :]
    if not rounds:
        return Figure(name, title, caption, note="No pseudo-label was made yet.")
    counts = [float(p.selected) for _, points in rounds for p in points]
    plot = Plot(title, _share_of_pool("θ"), Axis.around("pseudo-labels selected", counts, zero=True))
    lines = [(f"{_round_name(data, number)}, of {points[0].pool}", points) for number, points in rounds]
    legend = _draw_over_theta(plot, lines, lambda p: float(p.selected), lambda p: f"{p.selected} selected")
    return Figure(name, title, caption, plot.svg(), legend)


def _draw_over_theta(
    plot: Plot,
    lines: Sequence[tuple[str, Sequence[ThetaPoint]]],
    value: Callable[[ThetaPoint], float],
    said: Callable[[ThetaPoint], str],
) -> tuple[tuple[str, str], ...]:
    """One line a round with a mark at the theta that was used; returns the legend."""
    legend = []
    for place, (label, points) in enumerate(lines):
        plot.line([(p.theta, value(p)) for p in points], line_style(place))
        text = label
        for p in points:
            if p.used:
                hint = f"{label}, theta {p.theta:g}: {said(p)}"
                plot.mark((p.theta, value(p)), STYLES[place], MARKS[place], size=6, hint=hint)
                text += f": {said(p)} at θ = {p.theta:g}"
        legend.append((swatch(line_style(place), MARKS[place]), text))
    return tuple(legend)


def votes_over_n(data: ReportData) -> Figure:
    """Agreement and precision of a vote among the first 1, 2, ... n candidate answers, in the last round."""
    name, title = "n", "Sensitivity to n: the first n candidate answers"
    caption = (
        "A vote among the first n stored candidate answers of each pseudo-label of the last round, without "
        f"self-justification; agreement is 100 % at n = 1 wherever an answer parses. {WITHOUT_RETRAINING}"
    )
    rounds = _by_round(data.votes)
    if data.consensus:
        return Figure(
            name, title, caption, note="The consensus of all queries gave the answers, not a vote of candidates."
        )
    if not rounds:
        return Figure(name, title, caption, note="No pseudo-label with its candidate answers was gathered.")
    number, points = rounds[-1]
    lines: list[tuple[str, list[Point]]] = [
        ("right, of all", [(float(p.n), _accuracy(p.right)) for p in points if p.right]),
        (
            "right, of those that selection would keep",
            [(float(p.n), _accuracy(p.selected_right)) for p in points if p.selected_right],
        ),
        ("mean agreement", [(float(p.n), p.agreement) for p in points]),
    ]
    ticks = tuple(float(p.n) for p in points)
    axis = Axis("n: candidate answers heard", 0.5, ticks[-1] + 0.5, _thinned(ticks), lambda value: f"{value:.0f}")
    title = f"{title}, {_round_name(data, number)}"
    plot = Plot(title, axis, Axis.share("share of the pseudo-labels", [y for _, line in lines for _, y in line]))
    legend = []
    for place, (label, line) in enumerate(lines):
        if line:
            plot.line(line, line_style(place))
            for x, y in line:
                plot.mark((x, y), STYLES[place], MARKS[place], hint=f"{label}, n = {x:.0f}: {percent(y)}")
            legend.append((swatch(line_style(place), MARKS[place]), label))
    known = [p.correct for p in data.pool if p.round == number and p.correct is not None]
    if known:
        caption += f" As labelled, self-justification included: {100 * sum(known) / len(known):.1f} % right."
    return Figure(name, title, caption, plot.svg(), tuple(legend))


def _last_pool(data: ReportData) -> tuple[list[PoolPoint], float | None]:
    """The pool of the last round that had one, and its threshold in entropy, where that is what selection ranked by."""
    if not data.pool:
        return [], None
    last = max(p.round for p in data.pool)
    threshold = next((r.threshold for r in data.rounds if r.number == last), None)
    if data.ranked_by != "entropy":
        threshold = None  # it is one of another measure
    return [p for p in data.pool if p.round == last], threshold


def _measure(data: ReportData) -> str:
    return data.ranked_by.replace("_", " ")


def _chosen_text(record: RoundReport, chosen: Point | None) -> str:
    if chosen is None:
        return f"{record.name}: none selected"
    return f"{record.name}: {percent(chosen[1])} right at {percent(chosen[0])} kept"


def _by_round(points: Sequence[_Point]) -> list[tuple[int, list[_Point]]]:
    return [(number, [p for p in points if p.round == number]) for number in sorted({p.round for p in points})]


def _round_name(data: ReportData, number: int) -> str:
    return next((r.name for r in data.rounds if r.number == number), f"round {number}")


def _accuracy(score: Score | None) -> float:
    return score.accuracy if score else 0.0


def _share_of_pool(name: str) -> Axis:
    return Axis(name, 0, 1, SHARES, percent)


def _thinned(ticks: tuple[float, ...]) -> tuple[float, ...]:
    return ticks[:: max(1, -(-len(ticks) // 16))]
