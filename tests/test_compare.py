"""Two runs side by side: what met what, what changed, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from store_helpers import acc_rows, fail, finish, latency_rows, make_cell, make_suite, new_run

from ssmbench import cli
from ssmbench.report._compare import Comparison
from ssmbench.report._compare_tables import build, summary
from ssmbench.report._results import Results
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.plan.cells import Cell, Suite
    from ssmbench.report._table import Table

DENSE = make_cell(method="dense", ratio=0.0)
CUT = make_cell()
ZERO = make_suite()
N = 200


def run(path: Path, cells: dict[Cell, list[int] | None], *, suite: Suite = ZERO) -> Results:
    folder = new_run(path)
    with Ledger.open(folder) as ledger:
        for i, (cell, correct) in enumerate(cells.items()):
            if correct is None:
                ledger.cell(cell, [suite])
                fail(ledger, cell, [suite])
            else:
                rows = acc_rows({"choice": correct})
                finish(folder, ledger, cell, suite, rows, attempt=f"a{i}")
    return Results(tables(folder))


def right(n_right: int, *, n: int = N) -> list[int]:
    return [1] * n_right + [0] * (n - n_right)


def compared(first: Results, second: Results) -> Comparison:
    return Comparison(first, second, ("before", "after"))


def only(comparison: Comparison, name: str) -> Table:
    (found,) = [t for t in build(comparison) if t.name == name]
    return found


def test_a_run_compared_with_itself_has_nothing_to_show(tmp_path):
    both = run(tmp_path / "a", {DENSE: right(150), CUT: right(90)})
    comparison = compared(both, both)
    assert build(comparison) == []
    assert summary(comparison) == ["2 cells in both", "zero_shot: 2 identical"]
    shown = build(comparison, everything=True)
    assert [len(t.rows) for t in shown] == [2]


def test_a_change_is_paired_by_document(tmp_path):
    first = run(tmp_path / "a", {DENSE: right(150), CUT: right(100)})
    second = run(tmp_path / "b", {DENSE: right(150), CUT: right(60)})
    comparison = compared(first, second)
    table = only(comparison, "compare-zero_shot-acc")
    (row,) = table.rows
    assert row[0].numbers["cell_id"] == CUT.id
    change = row[4].numbers
    assert change["diff"] == pytest.approx(-0.2)
    assert change["low"] < -0.2 < change["high"] < 0
    assert row[5].text == f"40 of {N}"
    assert row[6].text == "worse"
    assert "1 cells are left out" in table.notes[0]
    assert summary(comparison)[-1] == "zero_shot: 1 identical, 1 worse"
    assert summary(compared(second, first))[-1] == "zero_shot: 1 identical, 1 better"


def test_noise_is_neither_better_nor_worse(tmp_path):
    swapped = right(100)
    swapped[0], swapped[-1] = 0, 1
    first = run(tmp_path / "a", {CUT: right(100)})
    comparison = compared(first, run(tmp_path / "b", {CUT: swapped}))
    (row,) = only(comparison, "compare-zero_shot-acc").rows
    assert row[5].text == f"2 of {N}"
    assert row[6].text == ""
    assert summary(comparison)[-1] == "zero_shot: 1 unclear"


def test_cells_of_other_versions_and_weights_meet_by_what_they_say(tmp_path):
    newer = replace(CUT, steps=(replace(CUT.steps[0], version=2),))
    newer = replace(newer, model=replace(CUT.model, fingerprint="other"))
    assert newer.id != CUT.id
    other = make_cell(ratio=0.25)
    first = run(tmp_path / "a", {CUT: right(100), other: right(90)})
    second = run(tmp_path / "b", {newer: right(100), make_cell(ratio=0.75): right(10)})
    comparison = compared(first, second)
    assert [(p.first["cell_id"], p.second["cell_id"]) for p in comparison.pairs] == [
        (CUT.id, newer.id)
    ]
    assert [c["cell_id"] for c in comparison.only_first] == [other.id]
    assert [c["ratio"] for c in comparison.only_second] == [0.75]
    assert "1 only in before: zoo-mamba-s · wanda 0.25" in summary(comparison)


def test_a_suite_of_another_version_meets_by_name(tmp_path):
    first = run(tmp_path / "a", {CUT: right(100)})
    second = run(tmp_path / "b", {CUT: right(60)}, suite=make_suite(version=2))
    assert only(compared(first, second), "compare-zero_shot-acc").rows[0][6].text == "worse"


def test_other_documents_are_not_compared(tmp_path):
    first = run(tmp_path / "a", {CUT: right(100)})
    comparison = compared(first, run(tmp_path / "b", {CUT: right(100, n=N - 1)}))
    (row,) = only(comparison, "compare-zero_shot-acc").rows
    assert row[4].text == "–"
    assert "scored on other documents" in row[4].note
    assert row[6].text == "not comparable"


def test_a_cell_that_failed_in_one_run(tmp_path):
    first = run(tmp_path / "a", {CUT: right(100)})
    comparison = compared(first, run(tmp_path / "b", {CUT: None}))
    (row,) = only(comparison, "compare-states").rows
    assert row[2].text == "done"
    assert row[3].text.startswith("failed: ")
    assert row[3].text.count("CUDA out of memory") == 1


def test_times_are_compared_by_their_speed_up(tmp_path):
    def timed(name: str, factor: float, dense: float) -> Results:
        folder = new_run(tmp_path / name)
        speed = make_suite("latency", device="cpu")
        rows = latency_rows(0.02, 0.02, points=[("prefill", 1, 512)])
        (row,) = rows["latency"]
        noise = [1 + 0.01 * ((7 * i) % 5 - 2) for i in range(20)]
        row["raw_s"] = [dense / factor * x for x in noise]
        row["dense_raw_s"] = [dense * x for x in reversed(noise)]
        row["speedup"] = factor
        with Ledger.open(folder) as ledger:
            finish(folder, ledger, CUT, speed, rows, attempt="t")
        return Results(tables(folder))

    # The second day the whole machine is half as fast: that alone is no change.
    slow = compared(timed("a", 1.2, 0.02), timed("b", 1.2, 0.04))
    assert [t.name for t in build(slow)] == []
    faster = compared(timed("c", 1.2, 0.02), timed("d", 1.5, 0.04))
    (row,) = only(faster, "compare-times").rows
    assert row[-1].numbers["ratio"] == pytest.approx(1.25)
    assert 1 < row[-1].numbers["low"] < 1.25 < row[-1].numbers["high"]


def test_the_command(tmp_path, capsys):
    run(tmp_path / "a/run", {CUT: right(100)})
    run(tmp_path / "b/run", {CUT: right(60)})
    first, second = str(tmp_path / "a/run"), str(tmp_path / "b/run")
    assert cli.main(["compare", first, second]) == 0
    printed = capsys.readouterr().out
    assert "b/run − a/run" in printed
    assert printed.splitlines()[-1] == "zero_shot: 1 worse"
    assert cli.main(["compare", first, second, "--format", "csv"]) == 0
    header = capsys.readouterr().out.splitlines()[1]
    assert header.startswith("cell_id,seed,first_value,second_value,diff,low,high,p,p_holm,")
    page = tmp_path / "page.md"
    assert cli.main(["compare", first, second, "--format", "md", "--out", str(page)]) == 0
    assert "- zero_shot: 1 worse" in page.read_text()
    assert cli.main(["compare", first, str(tmp_path / "nowhere")]) == 2
