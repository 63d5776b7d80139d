"""The figures' numbers: those that the tables of a run hold, and no others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import polars as pl
import pytest
from figure_helpers import (
    CONTEXTS,
    LENGTHS,
    RATIOS,
    SIZES,
    naive_front,
    records,
    shared_figures,
    shared_results,
)
from store_helpers import TASKS

from ssmbench.report import flow
from ssmbench.report._scores import Z95
from ssmbench.report.flops_accuracy import find_pairs
from ssmbench.report.quality import mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.report._figure import Figure
    from ssmbench.report._results import Results


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return shared_results(tmp_path_factory)


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict[str, list[Figure]]:
    return shared_figures(tmp_path_factory)


def scores_of(results: Results) -> Mapping[tuple[str, str, float], float | None]:
    panel = next(p for p in results.panels if p.kind == "fraction")
    return {
        tuple(next(iter(k.numbers.values())) for k in row.key[:3]): mean(
            panel, row, results.scores
        ).value
        for row in results.rows.rows
    }


@pytest.mark.parametrize(
    ("module", "column"), [("pareto", "quality"), ("speedups", "quality"), ("times", "quality")]
)
def test_quality_is_the_tables(results, figures, module, column):
    known = scores_of(results)
    lines = [line for figure in figures[module] for line in records(figure)]
    assert lines
    for line in lines:
        assert line[column] == known[line["model"], line["method"], line["ratio"]]


def test_radar_has_every_task_with_its_interval(results, figures):
    panel = next(p for p in results.panels if p.kind == "fraction")
    lines = {
        (r["model"], r["method"], r["ratio"], r["task"]): r
        for figure in figures["radar"]
        for r in records(figure)
    }
    assert len(lines) == len(results.rows.rows) * len(TASKS)
    for row in results.rows.rows:
        key = tuple(next(iter(k.numbers.values())) for k in row.key[:3])
        for task, metric in panel.columns:
            score = results.scores[row.index, panel.suite_id, task, metric]
            line = lines[*key, task]
            assert line["value"] == score.value
            assert line["low"] == score.value - Z95 * score.stderr
            assert line["high"] == score.value + Z95 * score.stderr


def test_pareto_costs_are_those_of_the_run(results, figures):
    cells = {(c["model"], c["method"], c["ratio"]): c for c in results.cells.iter_rows(named=True)}
    lines = [r for figure in figures["pareto"] for r in records(figure)]
    kinds = {r["cost"] for r in lines}
    assert kinds == {
        "prefill time, 1×2048, cpu",
        "decode time, 1×2048, cpu",
        "weights and state, bytes",
        "FLOPs of a 512-token prompt",
    }
    for line in lines:
        cell = cells[line["model"], line["method"].split(" ")[0], line["ratio"]]
        expected = {
            "w": (4 * cell["params_model"] + cell["state_bytes"])
            / (4 * cell["params_model_dense"] + cell["state_bytes_dense"]),
            "F": cell["flops_per_token"] / cell["flops_per_token_dense"],
            "p": 1 - 0.4 * cell["ratio"],
            "d": 1 - 0.4 * cell["ratio"],
        }[line["cost"][0]]
        assert line["of_dense"] == pytest.approx(expected)
        if line["cost"][0] in "pd":
            assert line["of_dense_low"] == pytest.approx(0.95 * expected)
            assert line["of_dense_high"] == pytest.approx(1.1 * expected)


def test_pareto_front_is_that_of_the_numbers_in_its_table(figures):
    for figure in figures["pareto"]:
        lines = records(figure)
        for cost in {r["cost"] for r in lines}:
            own = [r for r in lines if r["cost"] == cost]
            beaten = naive_front([(r["quality"], r["of_dense"]) for r in own])
            assert [bool(r["on_front"]) for r in own] == beaten


def test_pairs_that_cost_the_same_are_told_with_their_residual(figures):
    lines = records(figures["flops_accuracy"][0])
    flops = {(r["model"], r["method"], r["ratio"], r["task"]): r["flops"] for r in lines}
    paired = [r for r in lines if "costs_as" in r]
    # Half of the tokens of the model that costs twice as much, and by nothing but dropping them.
    assert {(r["model"], r["ratio"], r["costs_as"]) for r in paired} == {
        ("zoo-mamba-m", 0.5, "zoo-mamba-s")
    }
    for line in paired:
        dense = flops["zoo-mamba-s", "dense", 0.0, line["task"]]
        assert line["residual"] == pytest.approx(line["flops"] / dense - 1, abs=1e-9)
        assert line["residual"] == pytest.approx(0.01)


@pytest.mark.parametrize(("cost", "residual"), [(51.0, 0.02), (49.0, -0.02), (99.0, None)])
def test_what_costs_the_same_is_another_model_and_a_smaller_one(results, cost, residual):
    """A row that drops next to nothing costs what its own dense model does."""
    rows = [f for f in results.facts if f.is_plain_dense or f.label == "simba 0.25"]
    costs = {f.row.index: 50.0 if f.model == "zoo-mamba-s" else 100.0 for f in rows}
    (reduced,) = (f for f in rows if not f.row.is_dense)
    costs[reduced.row.index] = cost
    found = [(p.reduced, p.dense.model, p.residual) for p in find_pairs(rows, costs)]
    wanted = [] if residual is None else [(reduced, "zoo-mamba-s", pytest.approx(residual))]
    assert found == wanted


def test_times_and_raw_repeats_are_those_of_the_run(figures):
    lines = [r for figure in figures["times"] for r in records(figure)]
    assert {r["length"] for r in lines} == set(LENGTHS)
    for line in lines:
        raw = [float(v) for v in str(line["raw_s"]).split()]
        seeds = 2 if "random)" in line["method"] else 1
        repeats = [line["median_s"] * f for f in (0.93, 1.0, 1.12)] * seeds
        assert raw == pytest.approx(repeats, rel=1e-5)
        assert line["p10_s"] == pytest.approx(0.95 * line["median_s"])
        assert line["speedup"] == pytest.approx(1 / (1 - 0.4 * line["ratio"]))


def test_context_has_perplexities_and_paired_differences(results, figures):
    panel = next(p for p in results.panels if p.suite == "long_context")
    lines = records(figures["context"][0])
    assert {r["context"] for r in lines} == set(CONTEXTS)
    told = {(r["model"], r["method"], r["ratio"], r["context"]): r for r in lines}
    for row in results.rows.rows:
        key = tuple(next(iter(k.numbers.values())) for k in row.key[:3])
        for task, metric in panel.columns:
            score = results.scores.get((row.index, panel.suite_id, task, metric))
            if score is None:
                assert (*key, CONTEXTS[0]) not in told
                continue
            line = told[*key, int(task.removeprefix("context_"))]
            assert line["perplexity"] == score.value
            assert math.log(line["high"] / line["perplexity"]) == pytest.approx(
                Z95 * score.stderr / score.value
            )
            if not row.is_dense:
                assert line["nats_to_dense"] == score.difference.value


def test_targets_compares_the_projections(figures):
    (figure,) = figures["targets"]
    assert [(r["target"], r["ratio"]) for r in records(figure)] == [
        ("none", 0.0),
        *((t, r) for t in ("both", "in_proj", "out_proj") for r in RATIOS),
    ]


def test_criteria_and_readings_are_apart(figures):
    by_kind = {f.name.split("-")[0]: {r["series"] for r in records(f)} for f in figures["criteria"]}
    levels = {f"dense {m}" for m in SIZES}
    assert by_kind["criteria"] & levels == {"dense zoo-mamba-m"}
    assert by_kind["criteria"] - levels == {"influence", "uniform", "random", "utrc"}
    assert by_kind["readings"] - levels == {"default", "aggregate=absmax"}
    influence = [r for r in records(figures["criteria"][0]) if r["series"] == "influence"]
    assert [r["ratio"] for r in influence] == list(RATIOS)
    seeds = {
        r["series"]: len(str(r["seeds"]).split()) for f in figures["criteria"] for r in records(f)
    }
    assert seeds["random"] == 2
    assert seeds["uniform"] == 1


def test_what_is_missing_is_no_number(figures):
    lines = [
        (f, r) for figure in figures["flow"] for f, r in [(figure, r) for r in records(figure)]
    ]
    gone = [r for _, r in lines if r["method"] == "simba" and r["ratio"] == 0.5]
    missing = [r for r in gone if "influence" not in r]
    assert {(r["layer"], r["part"]) for r in missing} == {(2, "0-0.2"), (3, "0-0.2")}
    assert all(r["influence"] > 0 for r in lines if "influence" in r)


def test_alt_tells_which_method_keeps_most(results, figures):
    known = scores_of(results)
    for figure in figures["radar"]:
        model = records(figure)[0]["model"]
        at = {k[1]: v for k, v in known.items() if k[0] == model and k[2] == 0.5}
        best = max(at, key=lambda method: at[method])
        assert f"at ratio 0.5, {best} {100 * at[best]:.1f} % keeps most" in figure.alt


def test_an_influence_of_nothing_has_no_place_on_a_logarithmic_axis():
    frame = pl.DataFrame({"place": ["0-1"] * 3, "layer": [0, 1, 2], "value": [0.0, 1e-3, None]})
    (line,) = flow._lines(frame, ["0-1"])
    assert [dot.y for dot in line.dots] == [None, 1e-3, None]


def test_changes_are_the_paired_differences_with_holms_correction(results, figures):
    panel = next(p for p in results.panels if p.kind == "fraction")
    lines = [r for figure in figures["changes"] for r in records(figure)]
    told = {(r["model"], r["method"], r["ratio"]): r for r in lines if r["suite"] == panel.suite}
    for row in results.rows.rows:
        key = tuple(next(iter(k.numbers.values())) for k in row.key[:3])
        if row.is_dense:
            assert key not in told
            continue
        change = mean(panel, row, results.scores).difference
        assert (told[key]["change"], told[key]["p_holm"]) == (change.value, change.p_holm)
        assert (told[key]["low"], told[key]["high"]) == change.interval
        assert told[key]["mark"] == change.mark


def test_changes_say_how_many_are_noise(figures):
    for figure in figures["changes"]:
        own = [r for r in records(figure) if r["suite"] == "few_shot"]
        noise = sum(r["mark"] == "≈" for r in own)
        assert f"few_shot: {noise} of {len(own)} cannot be told from dense" in figure.alt
