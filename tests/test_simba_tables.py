"""Simba's tables: ours beside the few numbers of it that are public."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from paper_helpers import (
    FEW,
    LONG,
    SPEED,
    TASKS,
    TINY,
    TOYS,
    Maker,
    a_cell,
    documents,
    line,
    missing,
    named,
    results,
)
from store_helpers import latency_rows, new_run

from ssmbench.report import _simba, simba_paper
from ssmbench.report._table import MISSING, Table
from ssmbench.report.published import Place
from ssmbench.report.quality import build as quality_tables

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.report._results import Results
    from ssmbench.store.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run")


BIG, SMALL = "mamba-2.8b", "mamba-1.4b"


def nats(value: float, *, length: int, n: int = 5) -> dict[str, Any]:
    """Perplexity of snippets of ten tokens after a context."""
    task = f"context_{length}"
    return {
        "metrics": [
            {"task": task, "metric": "perplexity", "value": value, "stderr": 0.5, "n": n}
            | {"higher_is_better": False}
        ]
    }


def costs(task: str, flops: float) -> list[dict[str, Any]]:
    told = {"prompt_tokens": 100.0, "answer_tokens": 2.5, "flops_all": flops, "flops_scored": 1.0}
    return [
        {"task": task, "metric": name, "value": value, "stderr": None, "n": 5}
        | {"higher_is_better": False}
        for name, value in told.items()
    ]


@pytest.fixture(scope="module")
def simba_run(tmp_path_factory) -> tuple[Results, list[Table]]:
    folder = new_run(tmp_path_factory.mktemp("simba") / "run")
    right = {(BIG, "dense"): 40, (BIG, "simba"): 34, (SMALL, "dense"): 30, (SMALL, "simba"): 31}
    with Maker(folder) as run:
        for (model, method), n in right.items():
            for ratio in (0.3, 0.9) if method == "simba" else (0.0,):
                cell = a_cell(Place(model, method, ratio, "none"), family="mamba")
                few = documents(n - int(10 * ratio))
                few["metrics"] += [c for i, t in enumerate(TASKS) for c in costs(t, (i + 1) * 1e12)]
                long: dict[str, Any] = {"metrics": []}
                for length in (2048, 512):
                    long["metrics"] += nats(8.0 + ratio + length / 1000, length=length)["metrics"]
                    long["metrics"] += costs(f"context_{length}", 3e9)
                time = latency_rows(0.010, 0.018, points=[("prefill", 1, 512), ("decode", 1, 512)])
                run.add(cell, {FEW: few, LONG: long, SPEED: time})
        tuned = a_cell(Place(SMALL, "simba", 0.9, "dense+sparse"), family="mamba")
        run.add(tuned, {LONG: nats(7.25, length=512)})
        pythia = a_cell(Place("pythia-1.4b", "dense", 0.0, "none"), family="gpt_neox")
        run.add(pythia, {FEW: documents(25)})
    found = results(folder)
    return found, simba_paper.build(found)


def test_simba_has_seven_tables(simba_run):
    assert [table.name for table in simba_run[1]] == [f"simba-table-{n}" for n in range(1, 8)]
    assert all(cell.note for *_, cell in missing(simba_run[1]))


def test_simbas_changes_are_those_of_the_quality_tables(simba_run):
    found, tables = simba_run
    differences = named(quality_tables(found), "few_shot-acc-difference")
    theirs = line(differences, BIG, "simba", "0.3")
    ours = line(named(tables, "table-1"), BIG, "simba − dense")
    for name in (*TASKS, "mean"):
        assert ours[name].text == theirs[name].text
        assert "−18.0 [" in ours[name].text
    assert ours["mean"].numbers["diff"] == pytest.approx(-0.18)
    scales = line(named(tables, "table-7"), BIG)
    assert scales["change"].text == ours["mean"].text
    assert scales["dense"].numbers["value"] == pytest.approx(0.8)
    assert scales["state"].text == "8.0 KiB"


def test_the_two_published_means_stand_beside_ours(simba_run):
    table = named(simba_run[1], "table-4")
    mean = [c.group for c in table.columns].index("mean")
    rows = {(r[0].text, r[1].text): r[mean] for r in table.rows}
    published = [
        (m, r) for m, r in ((k[0], v.text) for k, v in rows.items() if k[1] == "published")
    ]
    assert published == [(SMALL, "58.8"), (BIG, "62.5")]
    after = [r for r in table.rows if r[0].text == BIG]
    assert [r[1].text for r in after] == ["dense", "simba", "published", "difference"]
    # 34 − 9 of 50 documents are right: 50 %.
    assert after[3][mean].text == "−12.5"


def test_flops_are_of_the_tasks_mean_input_and_their_mean(simba_run):
    table = named(simba_run[1], "table-4")
    groups = [(c.group, c.header) for c in table.columns]
    row = next(r for r in table.rows if (r[0].text, r[1].text) == (BIG, "simba"))
    assert row[groups.index(("ARC-C", "FLOPs"))].text == "1.00 T"
    assert row[groups.index(("WinoGrande", "FLOPs"))].text == "6.00 T"
    assert row[groups.index(("mean", "FLOPs"))].numbers["flops_all"] == 3.5e12
    pythia = next(r for r in table.rows if r[0].text == "pythia-1.4b")
    assert pythia[groups.index(("mean", "score"))].numbers["value"] == 0.5


def test_settings_are_the_papers_beside_ours(simba_run):
    table = named(simba_run[1], "table-3")
    rows = {
        r[1].text: [c.text for c in r[2:]] for r in table.rows if r[0].text.startswith(SMALL[:5])
    }
    assert rows["hellaswag"][:2] == ["10", "acc_norm"]
    assert rows["arc_easy"] == ["25", "acc", "25", "acc", "100.0", "2.500"]


def test_the_papers_settings_are_shown_beside_a_toys(folder):
    with Maker(folder) as run:
        cell = a_cell(Place("zoo-mamba-s", "dense", 0.0, "none"), family="mamba")
        rows = documents(20, names=TOYS)
        rows["metrics"] += costs("tw_pair", 1e6)
        run.add(cell, {FEW: rows})
        run.add(a_cell(Place("zoo-mamba-s", "simba", 0.9, "none"), family="mamba"), {FEW: rows})
    table = named(simba_paper.build(results(folder)), "table-3")
    rows = {(r[0].text, r[1].text): [c.text for c in r[2:]] for r in table.rows}
    assert rows["zoo-mamba-s", "tw_pair"] == ["", "", "2", "acc", "100.0", "2.500"]
    assert rows["", "hellaswag"] == ["10", "acc_norm", *[MISSING] * 4]
    assert len(rows) == 12


def test_perplexities_stand_by_length_whatever_their_order(simba_run):
    table = named(simba_run[1], "table-5")
    assert [c.group for c in table.columns[2:]] == ["512 tokens"] * 2 + ["2048 tokens"] * 2
    row = next(r for r in table.rows if (r[0].text, r[1].text) == (BIG, "simba"))
    assert [c.text for c in row[2:]] == ["9.41 ±0.50", "3.00 G", "10.9 ±0.5", "3.00 G"]


def test_training_stands_under_its_untrained_self(simba_run):
    table = named(simba_run[1], "table-2")
    rows = {r[1].text: r[2:] for r in table.rows}
    assert {r[0].text for r in table.rows} == {SMALL}
    assert rows["simba, trained"][0].numbers["value"] == 7.25
    assert rows["simba, trained"][1].text == MISSING
    assert rows["simba"][0].numbers["value"] == pytest.approx(9.412)


def test_a_time_stands_beside_the_quality_it_was_bought_with(simba_run):
    table = named(simba_run[1], "table-6")
    rows = {r[1].text: r[2:] for r in table.rows if r[0].text == BIG}
    assert [c.header for c in table.columns[2:]] == ["few_shot mean", "1×512"]
    assert [c.text for c in rows["dense"]] == ["80.0 ±2.3", "18.0 ms"]
    assert rows["simba"][0].text.startswith("▼50.0")
    assert rows["simba"][1].text == "10.0 ms"
    assert rows["speed-up [%]"][1].text == "80.0"
    assert any("+80 % for mamba-2.8b" in note for note in table.notes)


def test_a_time_without_quality_says_so(folder):
    with Maker(folder) as run:
        rows = latency_rows(0.010, 0.018, points=[("prefill", 1, 512)])
        run.add(a_cell(Place(BIG, "simba", 0.9, "none"), family="mamba"), {SPEED: rows})
    table = named(simba_paper.build(results(folder)), "table-6")
    row = next(r for r in table.rows if r[1].text == "simba")
    assert row[2].text == MISSING
    assert row[2].note
    assert row[3].text == "10.0 ms"


def test_tinyworld_takes_the_part_of_the_six_where_few_shot_did_not_measure_more(folder):
    models = ("zoo-mamba-s", "zoo-mamba-m")
    with Maker(folder) as run:
        for model in models:
            for method, ratio in (("dense", 0.0), ("simba", 0.3)):
                rows = {TINY: documents(20, names=TOYS)}
                if model == models[0]:
                    rows[FEW] = documents(30, names=TOYS)
                run.add(a_cell(Place(model, method, ratio, "none"), family="mamba"), rows)
    table = named(simba_paper.build(results(folder)), "table-7")
    assert [line(table, m)["simba"].text[:5] for m in models] == ["≈40.0"] * 2
    assert any("zero-shot" in note for note in table.notes)


def test_the_papers_order_of_tasks():
    assert [t.header for t in _simba.SIX] == [
        "LAMBADA",
        "HellaSwag",
        "PIQA",
        "ARC-E",
        "ARC-C",
        "WinoGrande",
    ]
