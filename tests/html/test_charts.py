"""Charts are valid SVG whose ticks span the data, whatever the data is."""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.html.charts import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    Series,
    line_chart,
    log_ticks,
    loss_chart,
    points_chart,
    scatter_chart,
    smooth,
    ticks,
)

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def draw(*series: Series, title: str = "loss") -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(title, "step", "nats", series))


def lines(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The points of every line, in pixels."""
    texts = [line.get("points", "") for line in root.iter(f"{SVG}polyline")]
    return [[tuple(float(n) for n in pair.split(",")) for pair in text.split()] for text in texts]  # type: ignore[misc]


def test_a_line_goes_through_its_points_in_order() -> None:
    root = draw(Series("loss", [(0.0, 4.0), (5.0, 2.0), (10.0, 0.0)]))
    (points,) = lines(root)
    assert points == [
        (LEFT, TOP),
        ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2),
        (WIDTH - RIGHT, HEIGHT - BOTTOM),
    ]


def test_series_are_named_marked_and_coloured_apart() -> None:
    root = draw(Series("train", [(0, 1), (1, 2)], faint=True), Series("held out", [(0, 3), (1, 1)], marked=True))
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"loss", "step", "nats", "train", "held out"} <= texts
    assert len(list(root.iter(f"{SVG}circle"))) == 2
    strokes = [line.get("stroke") for line in root.iter(f"{SVG}polyline")]
    assert len(set(strokes)) == 2
    assert [line.get("stroke-opacity") for line in root.iter(f"{SVG}polyline")] == ["0.45", "1"]


def test_no_two_of_twenty_series_look_alike_in_the_chart_and_in_its_legend() -> None:
    series = [Series(f"series {number}", [(0.0, 1.0 + number), (1.0, 2.0)]) for number in range(20)]
    dots = ElementTree.fromstring(points_chart("t", "x", "y", series))
    for root, tag in ((draw(*series), "polyline"), (dots, "circle")):
        marks = root.iter(f"{SVG}{tag}")
        looks = [(one.get("stroke"), one.get("fill"), one.get("stroke-dasharray")) for one in marks]
        assert len(set(looks)) == 20
        keys = [(one.get("stroke"), one.get("stroke-dasharray")) for one in root.iter(f"{SVG}line")]
        assert len({key for key in keys if key[0] in COLOURS}) == 20


def test_a_name_that_is_longer_than_the_legend_is_cut() -> None:
    root = draw(Series("a=" + "x" * 300, [(0, 1)]), Series("b", [(0, 1)]))
    (cut,) = [text for text in root.iter(f"{SVG}text") if (text.text or "").startswith("a=")]
    assert (cut.text or "").endswith("x…")
    assert 0 <= float(cut.get("x", "nan")) <= WIDTH - 7 * len(cut.text or "")


def test_names_are_escaped() -> None:
    name = "<b>\"a\" & 'b'</b>"
    root = draw(Series(name, [(0, 1)]), title=name)
    assert [text.text for text in root.iter(f"{SVG}text")].count(name) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite_are_left_out(bad: float) -> None:
    clean = draw(Series("a", [(0, 1), (2, 3)]))
    broken = draw(Series("a", [(0, 1), (1, bad), (bad, 1), (2, 3), (bad, bad)]))
    assert lines(broken) == lines(clean)
    assert ElementTree.tostring(broken) == ElementTree.tostring(clean)


@pytest.mark.parametrize(
    "points", [[], [(3.0, 2.0)], [(0.0, 0.0)], [(1.0, -2.0), (1.0, -2.0)], [(0, math.nan)], [(5, 5), (5, 5)]]
)
def test_few_points_still_make_a_chart(points: list[tuple[float, float]]) -> None:
    root = draw(Series("a", points), Series("b", []))
    assert len(lines(root)) == 2
    assert draw() is not None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8))
def test_any_numbers_make_a_chart_with_every_point_inside(points: list[tuple[float, float]]) -> None:
    bounded = [(x, y) for x, y in points if not (abs(x) > 1e300 or abs(y) > 1e300) or math.isnan(x) or math.isnan(y)]
    for x, y in lines(draw(Series("a", bounded)))[0]:
        assert LEFT - 0.01 <= x <= WIDTH - RIGHT + 0.01
        assert TOP - 0.01 <= y <= HEIGHT - BOTTOM + 0.01


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 4.1, [0, 1, 2, 3, 4, 5]),
        (-3, 3, [-4, -2, 0, 2, 4]),
        (0, 0.0023, [0, 0.0005, 0.001, 0.0015, 0.002, 0.0025]),
        (0, 1500, [0, 500, 1000, 1500]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 3e-14, [0, 1e-14, 2e-14, 3e-14]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_ticks_span_the_data_in_equal_steps(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    size = max(abs(low), abs(high))
    assert found[0] <= low + 1e-9 * size
    assert found[-1] >= high - 1e-9 * size
    assert found[0] < found[-1]
    assert 2 <= len(found) <= 12
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert max(steps) - min(steps) <= 1e-6 * max(steps) + 1e-9 * size


@pytest.mark.parametrize("value", [1e-300, 5e-324, 1e15, 1e-13, -7.5, 2**60])
def test_equal_and_nearly_equal_numbers_have_ticks(value: float) -> None:
    for high in (value, math.nextafter(value, math.inf)):
        found = ticks(value, high)
        assert found[0] < found[-1]
        assert len(found) <= 12


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.06, 4.2, [0.05, 0.1, 0.2, 0.5, 1, 2, 5]),
        (1, 10, [1, 2, 5, 10]),
        (0.1, 0.1, [0.01, 0.1, 1]),
        (3, 3, [2, 5]),
        (2e-5, 30, [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100]),
    ],
)
def test_ticks_of_a_log_axis_are_round(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-290, 1e290), st.floats(1e-290, 1e290))
def test_ticks_of_a_log_axis_span_the_data(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = log_ticks(low, high)
    assert found == sorted(set(found))
    assert found[0] <= low * (1 + 1e-9)
    assert found[-1] >= high * (1 - 1e-9)


def test_equal_ratios_are_equal_lengths_on_a_log_axis_and_what_has_no_place_is_left_out() -> None:
    points = [(0.0, 10.0), (1.0, 1.0), (2.0, 0.0), (3.0, -1.0), (4.0, 0.1)]
    (found,) = lines(ElementTree.fromstring(line_chart("t", "x", "y", [Series("a", points)], Scale.LOG)))
    assert [y for _, y in found] == [TOP, (TOP + HEIGHT - BOTTOM) / 2, HEIGHT - BOTTOM]
    assert "<svg" in line_chart("t", "x", "y", [Series("a", [(0.0, -1.0)])], Scale.LOG)


def test_names_that_do_not_fit_beside_the_title_are_below_the_chart() -> None:
    series = [Series(f"rank={rank}, alpha={alpha}", [(0, 1), (1, 2)]) for rank in (4, 8, 16) for alpha in (8, 16, 32)]
    root = draw(*series)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    named = [text for text in root.iter(f"{SVG}text") if (text.text or "").startswith("rank=")]
    places = [(float(text.get("x", "")), float(text.get("y", ""))) for text in named]
    assert len(set(places)) == len(series)
    assert all(0 <= x <= width and (y == 24 or HEIGHT <= y <= height) for x, y in places)
    assert width == WIDTH
    few = draw(*series[:2])
    assert few.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"


def names(root: ElementTree.Element) -> list[str]:
    """What the legend names."""
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    return [text for text in texts if text in ("step", "evaluation") or text.startswith("mean of")]


def test_a_loss_chart_shows_every_step_beside_the_mean() -> None:
    steps = {step: 2.0 + (-1) ** step for step in range(1, 101)}
    root = ElementTree.fromstring(loss_chart(steps, {50: 2.0, 100: 1.9}, "nats"))
    assert sorted(names(root)) == ["evaluation", "mean of 4 steps", "step", "step"]  # the axis is called step, too
    single, mean, evaluation = lines(root)
    assert (len(single), len(mean), len(evaluation)) == (100, 100, 2)
    assert len(list(root.iter(f"{SVG}circle"))) == 100 + 2
    # The steps go up and down by the whole of their range; the mean of the last four hides that.
    assert max(y for _, y in single[4:]) - min(y for _, y in single[4:]) > 200
    assert max(y for _, y in mean[4:]) - min(y for _, y in mean[4:]) < 1


def test_a_loss_chart_has_losses_of_either_sign_whatever_they_span() -> None:
    below = ElementTree.fromstring(loss_chart({1: -0.5, 2: 0.001, 3: 0.5, 4: -0.3}, {4: 0.0}, ""))
    assert [len(points) for points in lines(below)] == [4, 1]
    assert "loss" in {text.text for text in below.iter(f"{SVG}text")}
    zero = ElementTree.fromstring(loss_chart({1: 0.0, 2: 0.001, 3: 0.5}, {}, "nats"))
    assert [len(points) for points in lines(zero)] == [3]
    assert "nats" in {text.text for text in zero.iter(f"{SVG}text")}


def test_a_loss_chart_of_few_steps_has_no_mean_and_of_many_no_dots() -> None:
    few = ElementTree.fromstring(loss_chart({step: 1.0 / step for step in range(1, 7)}, {}, "nats"))
    assert sorted(names(few)) == ["step", "step"]
    many = ElementTree.fromstring(loss_chart(dict.fromkeys(range(1, 2001), 1.0), {}, "nats"))
    assert list(many.iter(f"{SVG}circle")) == []
    assert len(lines(many)[0]) == 2000
    assert "<svg" in loss_chart({}, {}, "nats")


@pytest.mark.parametrize(("last", "scale"), [(0.11, Scale.LINEAR), (0.09, Scale.LOG)])
def test_a_loss_chart_has_a_log_axis_where_losses_span_more_than_a_decade(last: float, scale: Scale) -> None:
    steps = {1: 1.0, 2: 0.5, 3: last}
    expected = line_chart(
        "Loss", "step", "nats",
        [Series("step", [(float(step), loss) for step, loss in steps.items()], marked=True)], scale,
    )  # fmt: skip
    assert loss_chart(steps, {}, "nats") == expected


def test_a_loss_chart_of_very_many_steps_draws_means_of_them() -> None:
    steps = {step: 1.0 + (step % 2) for step in range(1, 9_001)}
    root = ElementTree.fromstring(loss_chart(steps, {}, "nats"))
    drawn = lines(root)
    assert [len(one) for one in drawn] == [3_000, 3_000]
    assert len({y for _, y in drawn[0]}) == 2, "means of three steps: 4/3 and 5/3"
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"mean of 3 steps", "mean of 360 steps"} <= texts


def test_smoothing_is_the_mean_of_the_last_values() -> None:
    points = [(float(x), float(x * x)) for x in range(6)]
    assert smooth(points, 1) == points
    for window in (2, 3, 100):
        for index, (x, y) in enumerate(smooth(points, window)):
            recent = [b for _, b in points[: index + 1]][-window:]
            assert x == points[index][0]
            assert y == pytest.approx(sum(recent) / len(recent))
    assert smooth([], 3) == []


def test_a_scatter_has_a_dot_for_every_finite_point_and_the_diagonal() -> None:
    points = [(100.0, 120.0), (250.0, 240.0), (math.nan, 3.0)]
    root = ElementTree.fromstring(scatter_chart("T", "x", "y", [Series("a", points), Series("b", [(50.0, 50.0)])]))
    dots = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(dots) == 3
    (diagonal,) = [element for element in root.iter() if element.get("stroke-dasharray")]
    x = [float(diagonal.get(name, "nan")) for name in ("x1", "x2")]
    y = [float(diagonal.get(name, "nan")) for name in ("y1", "y2")]
    equal = dots[2]  # x = y lies on the line
    share = (float(equal.get("cx", "nan")) - x[0]) / (x[1] - x[0])
    assert float(equal.get("cy", "nan")) == pytest.approx(y[0] + share * (y[1] - y[0]), abs=0.02)
    assert "<svg" in scatter_chart("empty", "x", "y", [])


def test_points_stand_over_axes_of_their_own() -> None:
    series = [Series("full", [(1800.0, 1.31), (1810.0, 1.35)]), Series("lora", [(900.0, 1.5), (math.nan, 1.0)])]
    root = ElementTree.fromstring(points_chart("T", "x", "y", series))
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter(f"{SVG}circle")]
    assert len(dots) == 3
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in dots)
    # x begins at 0; y spans the points alone, so that 1.31 and 1.5 are far apart.
    assert dots[2][0] - LEFT == pytest.approx((dots[0][0] - LEFT) / 2, abs=0.1)
    assert dots[0][1] - dots[2][1] > 0.6 * (HEIGHT - TOP - BOTTOM)
    assert "<svg" in points_chart("empty", "x", "y", [])
