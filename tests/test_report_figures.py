"""The figures: what they draw is what the tables hold, or why there is nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from figure_helpers import (
    METHODS,
    MODULES,
    build_figures,
    full_run,
    records,
    shared_figures,
    shared_results,
    svg_of,
)
from store_helpers import TASKS, finish, make_cell, make_suite, new_run

from ssmbench.report import _style
from ssmbench.report._results import Results
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from ssmbench.report._figure import Figure

GRIDS = Path(__file__).parents[1] / "grids"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return shared_results(tmp_path_factory)


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict[str, list[Figure]]:
    return shared_figures(tmp_path_factory)


@pytest.fixture(scope="module")
def every(figures) -> list[Figure]:
    return [figure for group in figures.values() for figure in group]


def test_a_run_with_everything_fills_every_figure(figures):
    assert {name: [f.reason for f in found if f.reason] for name, found in figures.items()} == {
        name: [] for name in MODULES
    }


def test_names_are_distinct_and_every_figure_says_what_it_is(every):
    assert len({f.name for f in every}) == len(every)
    for figure in every:
        assert figure.caption.endswith("."), figure.name
        assert (
            "arXiv" in figure.caption
            or "either paper" in figure.caption
            or "faster" in (figure.caption)
        )
        assert any(c.isdigit() for c in figure.alt), figure.name
        assert figure.data is not None
        assert figure.data.rows, figure.name
        assert figure.size[0] == _style.WIDTH


def test_toy_models_are_told(every):
    for figure in every:
        assert any("toy models" in w for w in figure.warnings), figure.name


def test_a_limit_is_told(tmp_path):
    folder = new_run(tmp_path / "run")
    with Ledger.open(folder) as ledger:
        for i, cell in enumerate((make_cell(method="dense", ratio=0.0), make_cell())):
            rows = {
                "metrics": [
                    {"task": t, "metric": "acc", "value": 0.5, "n": 7} | {"higher_is_better": True}
                    for t in TASKS
                ]
            }
            finish(folder, ledger, cell, make_suite(limit=7), rows, attempt=f"a{i}")
    found = build_figures(Results(tables(folder)))
    for name in ("pareto", "radar"):
        assert found[name][0].warnings[0] == "not publishable: first 7 documents only"


def test_an_empty_run_says_how_to_fill_each_figure(tmp_path):
    found = build_figures(Results(tables(new_run(tmp_path / "run"))))
    for name, group in found.items():
        assert len(group) == 1, name
        figure = group[0]
        assert figure.draw is None
        assert figure.data is None
        assert figure.reason is not None
        _, _, command = figure.reason.partition("To fill it: `ssmbench run grids/")
        assert (GRIDS / command.removesuffix("`")).is_file(), figure.reason


def test_a_run_with_one_model_and_one_method_draws(tmp_path):
    run = full_run(tmp_path / "run", methods=METHODS[:1], others=None, n=5)
    found = build_figures(Results(tables(run)))
    drawn = {name for name, group in found.items() for figure in group if figure.draw}
    assert drawn == set(MODULES) - {"targets", "criteria", "flops_accuracy"}
    for group in found.values():
        for figure in group:
            if figure.draw:
                assert b"</svg>" in svg_of(figure), figure.name


def test_figures_do_not_depend_on_the_order_of_the_tables(results, figures):
    """Which worker finishes first is chance."""
    mixed = {
        n: f.collect().sample(fraction=1, shuffle=True, seed=3).lazy() for n, f in results.items()
    }
    kept = {name: results[name] for name in ("cells", "metrics", "samples")}
    found = build_figures(Results(mixed | kept))
    for name, group in figures.items():
        assert [f.name for f in found[name]] == [f.name for f in group]
        assert [f.alt for f in found[name]] == [f.alt for f in group]
        for one, other in zip(found[name], group, strict=True):
            assert records(one) == records(other), one.name
