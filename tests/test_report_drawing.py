"""How figures are drawn: legible in grey, nothing over anything else, the same every time."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
from figure_helpers import (
    METHODS,
    build_figures,
    full_run,
    naive_front,
    shared_figures,
    svg_of,
    texts_of,
)
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import TASKS, finish, make_cell, make_suite, new_run

from ssmbench.report import _front, _points, _style, _ticks, changes
from ssmbench.report._front import Box, front, place
from ssmbench.report._lines import Chart, Dot, Line, Plot
from ssmbench.report._results import Results
from ssmbench.report._scores import Difference, Score
from ssmbench.report.flow import shade
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from ssmbench.report._figure import Figure


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict[str, list[Figure]]:
    """Twelve methods and more on one model: what is hardest to read."""
    return shared_figures(tmp_path_factory)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> dict[str, list[Figure]]:
    run = full_run(tmp_path_factory.mktemp("few") / "run", methods=METHODS[-4:-2], others=None)
    return build_figures(Results(tables(run)))


def test_a_missing_task_leaves_a_gap_in_the_radar(tmp_path):
    from matplotlib.figure import Figure as Canvas

    folder = new_run(tmp_path / "run")
    with Ledger.open(folder) as ledger:
        for i, cell in enumerate((make_cell(method="dense", ratio=0.0), make_cell())):
            metrics = [
                {"task": t, "metric": "acc", "value": 0.5, "n": 9, "higher_is_better": True}
                for t in TASKS
            ]
            if i:
                metrics[2] |= {"value": None, "reason": "not finite"}
            finish(folder, ledger, cell, make_suite(), {"metrics": metrics}, attempt=f"a{i}")
    figure = build_figures(Results(tables(folder)))["radar"][0]
    canvas = Canvas(figsize=figure.size)
    figure.draw(canvas)
    found = [line for line in canvas.axes[0].lines if line.get_marker() in ("o", "s")]
    dense, cut = ([math.hypot(x, y) for x, y in line.get_xydata()] for line in found)
    assert dense == pytest.approx([0.5] * 7)
    assert [math.isnan(y) for y in cut] == [False, False, True, False, False, False, False]


def test_a_line_has_a_gap_where_there_is_no_number():
    from matplotlib.figure import Figure as Canvas

    dots = [Dot(0, 1.0, 0.5, 2.0), Dot(1, None), Dot(2, 3.0)]
    canvas = Canvas()
    Chart([Plot("one", [Line("a", _style.style(0), dots)])], x="x", y="y").draw(canvas)
    (line,) = (one for one in canvas.axes[0].lines if one.get_marker() == "o")
    assert [None if math.isnan(y) else y for y in line.get_ydata()] == [1.0, None, 3.0]
    assert len(canvas.axes[0].lines) == 2, "one interval"


# --- texts and bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pareto", "radar", "context", "speedups"])
def test_drawing_is_the_same_twice(few, name):
    figure = few[name][0]
    assert svg_of(figure) == svg_of(figure)


def test_texts_are_large_enough_inside_and_apart(figures):
    for figure in [group[0] for group in figures.values()]:
        written, (width, height) = texts_of(figure)
        found = [(text, size, box) for text, size, box in written if text.strip()]
        assert found
        for text, size, box in found:
            assert size >= _style.SMALL, (figure.name, text)
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert inside, (figure.name, text, box)
        for (a, _, one), (b, _, other) in itertools.combinations(found, 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            # Boxes have the height of letters that go below the line; one pixel is no overlap.
            assert across <= 1 or up <= 2, (figure.name, a, b)


def test_drawing_leaves_matplotlibs_settings_alone(few):
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg_of(few["pareto"][0])
    assert dict(matplotlib.rcParams) == before


def test_ticks_of_a_logarithmic_axis_are_few_and_inside():
    for low, high in [(1, 1.02), (3, 3), (0.8, 9), (1e-29, 1), (2e5, 3e6), (64, 4096)]:
        ticks = _ticks.log_ticks(low, high)
        assert 1 <= len(ticks) <= 8, (low, high, ticks)
        assert ticks == sorted(set(ticks))
        if high > 2 * low:
            assert all(0.97 * low <= t <= 1.03 * high for t in ticks), (low, high, ticks)


def test_ticks_are_plain_numbers():
    shown = [_ticks.number(v) for v in (3, 0.5, 1000, 2048, 1e-4, 1e-27, 3e7, 0)]
    assert shown == ["3", "0.5", "1000", "2048", "10⁻⁴", "10⁻²⁷", "3·10⁷", "0"]


# --- looks --------------------------------------------------------------------------------


def test_series_are_told_apart_without_colour():
    """Twelve methods on one page: markers all differ, and so does the line, in grey."""
    for a, b in itertools.combinations(_style.STYLES[:12], 2):
        assert (a.marker, a.filled) != (b.marker, b.filled)
        light = abs(_style.luminance(a.colour) - _style.luminance(b.colour))
        assert a.dashes != b.dashes or light >= 0.04, (a, b)
    marks = [(look.marker, look.filled) for look in _style.STYLES]
    assert len(set(marks)) == len(marks)


def test_no_series_is_too_light_for_white_paper():
    for colour in (*_style.COLOURS, _style.REFERENCE):
        assert 1.05 / (_style.luminance(colour) + 0.05) >= 2.0, colour


def test_parts_of_a_text_go_from_dark_to_light():
    lights = [_style.luminance(shade(i, 5).colour) for i in range(5)]
    assert lights == sorted(lights)
    assert min(b - a for a, b in itertools.pairwise(lights)) >= 0.01


@pytest.mark.parametrize(
    ("interval", "p_holm", "look"),
    [
        ((-0.2, -0.1), 0.01, "changed, after Holm's correction too"),
        ((-0.2, -0.1), 0.3, "changed, if it were the only comparison"),
        ((-0.2, 0.1), 1.0, "cannot be told from dense"),
        (None, None, "no interval"),
    ],
)
def test_noise_looks_like_noise(interval, p_holm, look):
    change = Difference(-0.15, interval=interval, p_holm=p_holm)
    mark = changes._mark(Score(0.5, 0.01, {}, change, 9))
    assert mark.style is changes._LOOKS[look]
    assert (mark.low, mark.high) == (interval or (None, None))


@pytest.mark.parametrize(
    ("model", "source", "toy"),
    [
        ("mine", "zoo:zoo-mamba-s", True),
        ("zoo-mamba-s", "folder:x", False),
        ("zoo-mamba-s", None, True),
        ("mamba2-2.7b", None, False),
        ("mine", None, False),
    ],
)
def test_toys_are_known_by_their_source_or_in_older_runs_by_name(model, source, toy):
    assert _points._is_toy(model, source) is toy


# --- front and labels ---------------------------------------------------------------------


_FEW = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(st.lists(st.tuples(_FEW, _FEW), max_size=30))
def test_front_is_what_nothing_beats_ties_and_all(points):
    assert front(points) == naive_front(points)


@given(
    st.lists(
        st.tuples(st.floats(0, 200), st.floats(0, 150), st.sampled_from(["a 0.5", "method 0.25"])),
        max_size=14,
    )
)
def test_labels_cover_neither_each_other_nor_a_point_nor_the_edge(found):
    room = Box(0, 0, 200, 150)
    points = [(x, y) for x, y, _ in found]
    texts = [text for *_, text in found]
    boxes = [
        _front._box(*at, text)
        for at, text in zip(place(points, texts, room), texts, strict=True)
        if at is not None
    ]
    for box in boxes:
        assert room.holds(box)
        assert not any(box.left < x < box.right and box.bottom < y < box.top for x, y in points)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.meets(other)


def test_a_lonely_label_stands_right_of_its_point():
    (at,) = place([(50.0, 50.0)], ["a 0.5"], Box(0, 0, 200, 150))
    assert at is not None
    assert at[0] > 50
    assert at[1] == 50
