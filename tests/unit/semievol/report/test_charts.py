from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from hypothesis import example, given
from hypothesis import strategies as st

from semievol.report.charts import Axis, Plot, dumbbells, number

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(FINITE, max_size=20), st.booleans())
@example([5e-324], True)  # a fifth of the span is 0
@example([1e6, 1e6 + 2**-33], False)  # no float lies between two ticks
def test_axis_ends_enclose_all_values_with_few_evenly_spaced_ticks(values: list[float], zero: bool) -> None:
    if zero:
        values = [abs(value) for value in values]
    axis = Axis.around("x", values, zero=zero)
    rounding = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - rounding <= value <= axis.high + rounding for value in values)
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 9


@given(st.lists(st.floats(0, 1), max_size=8))
def test_share_axis_ends_at_100_percent_and_holds_all_values(values: list[float]) -> None:
    axis = Axis.share("x", values)
    assert axis.high == 1.0
    assert all(axis.low <= value for value in values)
    assert 3 <= len(axis.ticks) <= 7
    assert abs(axis.ticks[-1] - 1.0) < 1e-9


@given(FINITE, FINITE)
def test_marks_outside_of_the_axes_are_drawn_at_the_edge(x: float, y: float) -> None:
    plot = Plot("t", Axis.around("x", [0, 1]), Axis.around("y", [0, 1]))
    assert plot.left <= plot.x(x) <= plot.width
    assert 0 <= plot.y(y) <= plot.height


def test_many_category_labels_are_thinned_out_so_that_they_do_not_overlap() -> None:
    axis = Axis.categories("", [f"round {n}" for n in range(60)])
    assert len(axis.ticks) < 12
    assert axis.text(axis.ticks[1]) == f"round {int(axis.ticks[1])}"


def test_long_category_names_are_shortened_and_escaped() -> None:
    svg = dumbbells("t", [("<" * 80, 0.1, 0.2), ("short & sweet", 0.5, 0.4)], "before", "after")
    ElementTree.fromstring(svg)
    assert "…" in svg
    assert "short &amp; sweet" in svg


def test_tick_labels_have_no_float_noise() -> None:
    assert [number(0.1 + 0.2), number(1e-17), number(12_000.0), number(2.5)] == ["0.3", "0", "12,000", "2.5"]
