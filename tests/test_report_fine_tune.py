"""What came back by fine-tuning, and how it went: tables against numbers worked by hand."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from store_helpers import (
    acc_rows,
    fail,
    finish,
    latency_rows,
    make_cell,
    make_suite,
    new_run,
    nll_rows,
    training_rows,
)

from ssmbench.report import _bootstrap, _render
from ssmbench.report._build import build_all
from ssmbench.report.training import sparkline
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from ssmbench.plan.cells import Cell, Suite
    from ssmbench.report._table import Shown, Table
    from ssmbench.store.folder import RunFolder

ZERO, TEXT, TRAINING = make_suite(), make_suite("perplexity"), make_suite("training")
SETTINGS = {"data": "tinyworld", "steps": 40}
KD_SETTINGS = {**SETTINGS, "temperature": 1.0}

DENSE = make_cell(method="dense", ratio=0.0)
CUT = make_cell(method="state", ratio=0.5)
KD = make_cell(method="state", ratio=0.5, fine_tune="kd", recipe=KD_SETTINGS)
CE = make_cell(method="state", ratio=0.5, fine_tune="ce", recipe=SETTINGS)

# Of sixteen documents dense has all, compression leaves 4, kd brings back 8 and ce 4.
RIGHT = {DENSE: 16, CUT: 4, KD: 12, CE: 8}
Z2 = 1.959964**2
# Tango's limits where 8 of 16 were gained and none lost: (g − z²) / (n + z²), and Wilson's.
LOW = (8 - Z2) / (16 + Z2)
HIGH = (0.5 + Z2 / 32 + math.sqrt(Z2 * (1 / 64 + Z2 / 1024))) / (1 + Z2 / 16)
BACK = "▲+50.0 [+21.0, +72.0]"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run")


def first(n: int, of: int = 16) -> list[int]:
    return [1] * n + [0] * (of - n)


def report(folder: RunFolder, *made: tuple[Cell, Suite, dict[str, Any]]) -> list[Table]:
    with Ledger.open(folder) as ledger:
        for i, (cell, suite, rows) in enumerate(made):
            finish(folder, ledger, cell, suite, rows, attempt=f"a{i}")
    return build_all(folder)


def named(tables: list[Table], name: str) -> Table:
    return next(t for t in tables if t.name == name)


def lines(table: Table) -> list[dict[str, Shown]]:
    return [
        {c.header: shown for c, shown in zip(table.columns, row, strict=True)} for row in table.rows
    ]


def one_task(*cells: Cell) -> list[tuple[Cell, Suite, dict[str, Any]]]:
    return [(cell, ZERO, acc_rows({"ending": first(RIGHT[cell])})) for cell in cells]


def texts(line: dict[str, Shown]) -> dict[str, str]:
    return {name: shown.text for name, shown in line.items()}


def test_what_came_back_by_hand(folder):
    table = named(report(folder, *one_task(DENSE, CUT, KD)), "fine-tune-zero_shot-acc")
    (line,) = lines(table)
    assert [c.title for c in table.columns] == [
        "model", "method", "ratio", "fine-tune",
        "dense", "w/o FT", "w/ FT", "came back [points]", "of the loss [%]",
    ]  # fmt: skip
    # Half of sixteen documents came back. Twelve were lost: 8 of 12.
    assert texts(line) == {
        "model": "zoo-mamba-s",
        "method": "state",
        "ratio": "0.5",
        "fine-tune": "kd",
        "dense": "100.0 ±0.0",
        "w/o FT": "25.0 ±11.2",
        "w/ FT": "75.0 ±11.2",
        "came back": BACK,
        "of the loss": "67",
    }
    assert line["came back"].numbers["diff"] == 0.5
    assert line["came back"].numbers["low"] == pytest.approx(LOW)
    assert line["came back"].numbers["high"] == pytest.approx(HIGH)
    assert line["came back"].numbers["p"] == pytest.approx(2 / 2**8)
    assert line["of the loss"].numbers["back_of_loss"] == pytest.approx(4 / 6)


def test_nats_that_came_back_are_positive(folder):
    nats = {DENSE: [10.0, 20.0], CUT: [16.0, 29.0], KD: [12.0, 26.0]}
    rows = [(cell, TEXT, nll_rows(10 * v, 10 * [5.0, 10.0])) for cell, v in nats.items()]
    (line,) = lines(named(report(folder, *rows), "fine-tune-perplexity-perplexity"))
    # 4 and 3 nats of 15 tokens, ten times; residuals ±5/3. Draws again of 20 documents say no less
    # than Student's 2.093 standard errors, and not much more.
    change = line["came back"].numbers
    error = math.sqrt(20 / 19 * 20 * 25 / 9) / 150
    assert change["diff"] == pytest.approx(7 / 15)
    assert 2.093 <= (7 / 15 - change["low"]) / error < 2.4
    assert change["high"] == pytest.approx(14 / 15 - change["low"])
    assert line["came back"].text.startswith("▲+0.467 [+0.3")
    # Lost were 6 and 9 of 15: 1 nat a token, of which 7/15 came back.
    assert line["of the loss"].numbers["back_of_loss"] == pytest.approx(7 / 15)
    assert line["w/ FT"].text == f"{math.exp(38 / 15):.1f}"


def test_perplexities_of_several_texts_have_a_line_each_and_no_mean(folder):
    def both(one: list[float], two: list[float]) -> dict[str, Any]:
        first = nll_rows(10 * one, 10 * [5.0, 10.0], task="c64")
        second = nll_rows(two, [9.0], task="c256")
        return {name: first[name] + second[name] for name in first}

    nats = {DENSE: ([10, 20], [9]), CUT: ([16, 29], [18]), KD: ([12, 26], [12])}
    rows = [(cell, TEXT, both(*values)) for cell, values in nats.items()]
    tables = report(folder, *rows)
    short, long = lines(named(tables, "fine-tune-perplexity-perplexity"))
    assert (short["task"].text, long["task"].text) == ("c64", "c256")
    assert short["came back"].text.startswith("▲+0.467 [+0.3")
    assert (long["came back"].text, long["came back"].note) == (
        "+0.667",
        "one document has no spread: no interval",
    )
    assert not [t for t in tables if t.name.endswith("-tasks")]


def test_a_training_that_made_it_worse_is_marked_so(folder):
    worse = {DENSE: 16, CUT: 12, KD: 4}
    rows = [(cell, ZERO, acc_rows({"ending": first(n)})) for cell, n in worse.items()]
    (line,) = lines(named(report(folder, *rows), "fine-tune-zero_shot-acc"))
    assert line["came back"].text == "▼−50.0 [−72.0, −21.0]"


def test_a_loss_that_may_be_none_has_no_part_that_came_back(folder):
    right = {DENSE: 6, CUT: 4, KD: 12}  # Two documents of sixteen, both lost: p is a half.
    rows = [(cell, ZERO, acc_rows({"ending": first(n)})) for cell, n in right.items()]
    (line,) = lines(named(report(folder, *rows), "fine-tune-zero_shot-acc"))
    assert line["came back"].text == BACK
    assert line["of the loss"].text == "–"
    assert line["of the loss"].note == "compression cost nothing here that can be told from zero"


def test_several_tasks_have_a_mean_and_a_table_of_their_own(folder):
    right = {DENSE: (16, 16), CUT: (4, 16), KD: (12, 16)}
    rows = [
        (cell, ZERO, acc_rows({"ending": first(a), "choice": first(b)}))
        for cell, (a, b) in right.items()
    ]
    tables = report(folder, *rows)
    (mean,) = lines(named(tables, "fine-tune-zero_shot-acc"))
    assert (mean["w/o FT"].text, mean["w/ FT"].text) == ("62.5 ±5.6", "87.5 ±5.6")
    # The second task did not change, which leaves it z² / (n + z²).
    low = math.hypot(0.5 - LOW, Z2 / (16 + Z2)) / 2
    assert mean["came back"].numbers["low"] == pytest.approx(0.25 - low)
    assert mean["of the loss"].text == "67"
    ending, choice = lines(named(tables, "fine-tune-zero_shot-acc-tasks"))
    assert (ending["task"].text, choice["task"].text) == ("ending", "choice")
    assert ending["came back"].text == BACK
    assert choice["came back"].text == "≈0.0 [−19.4, +19.4]"
    assert choice["of the loss"].text == "–"
    assert choice["of the loss"].note == "compression cost nothing here that can be told from zero"


def test_kd_is_paired_with_ce_of_the_same_settings(folder):
    other = make_cell(method="state", fine_tune="ce", recipe={**SETTINGS, "steps": 80})
    extra = (other, ZERO, acc_rows({"ending": first(8)}))
    tables = report(folder, *one_task(DENSE, CUT, KD, CE), extra)
    (line,) = lines(named(tables, "fine-tune-zero_shot-acc-kd-ce"))
    assert texts(line)["ce"] == "50.0 ±12.9"
    assert texts(line)["kd"] == "75.0 ±11.2"
    # Four of sixteen documents and none back: McNemar's p is 1/8, so that zero is not left out,
    # though Tango's interval would. The upper limit is Wilson's.
    high = (1 / 4 + Z2 / 32 + math.sqrt(Z2 * (3 / 256 + Z2 / 1024))) / (1 + Z2 / 16)
    change = line["kd − ce"].numbers
    assert (4 - Z2) / (16 + Z2) > 0
    assert (change["low"], change["p"]) == (0, pytest.approx(1 / 8))
    assert change["high"] == pytest.approx(high)
    assert line["kd − ce"].text == "≈+25.0 [0.0, +49.5]"


def test_kd_without_its_like_is_not_paired(folder):
    tables = report(folder, *one_task(DENSE, CUT, KD))
    assert not [t.name for t in tables if t.name.endswith("kd-ce")]


def test_without_the_untrained_cell_nothing_can_have_come_back(folder):
    (line,) = lines(named(report(folder, *one_task(DENSE, KD)), "fine-tune-zero_shot-acc"))
    assert line["w/ FT"].text == "75.0 ±11.2"
    for name in ("w/o FT", "came back", "of the loss"):
        assert line[name].text == "–"
        assert "add none to fine_tune" in line[name].note


def test_without_the_dense_cell_the_loss_is_not_known(folder):
    (line,) = lines(named(report(folder, *one_task(CUT, KD)), "fine-tune-zero_shot-acc"))
    assert line["came back"].text == BACK
    assert line["dense"].note == "no dense cell of this model and dtype in this run"
    assert line["of the loss"].note == "no dense cell of this model and dtype in this run"


def test_other_documents_are_not_paired(folder):
    rows = [*one_task(DENSE, CUT), (KD, ZERO, acc_rows({"ending": first(4, of=6)}))]
    (line,) = lines(named(report(folder, *rows), "fine-tune-zero_shot-acc"))
    assert line["came back"].text == line["of the loss"].text == "–"
    assert "other documents than untrained (6 documents here, 16" in line["came back"].note


def test_a_training_that_failed_says_why(folder):
    with Ledger.open(folder) as ledger:
        for i, cell in enumerate((DENSE, CUT, KD)):
            rows = acc_rows({"ending": first(RIGHT[cell])})
            finish(folder, ledger, cell, ZERO, rows, attempt=f"a{i}")
        ledger.cell(CE, [ZERO, TRAINING])
        fail(ledger, CE, [ZERO, TRAINING], error_class="numerical", message="step 7: the loss")
    tables = build_all(folder)
    why = "failed: training, zero_shot: numerical: step 7: the loss"
    (_, ce) = lines(named(tables, "fine-tune-zero_shot-acc"))
    assert [ce[name].note for name in ("w/ FT", "came back", "of the loss")] == [why] * 3
    (_, ce) = lines(named(tables, "training"))
    assert ce["steps"].note == why


def test_a_trained_dense_model_is_compared_with_the_dense_one(folder):
    trained = make_cell(method="dense", ratio=0.0, fine_tune="ce", recipe=SETTINGS)
    rows = [
        (DENSE, ZERO, acc_rows({"ending": first(8)})),
        (trained, ZERO, acc_rows({"ending": first(16)})),
    ]
    tables = report(folder, *rows)
    (line,) = lines(named(tables, "fine-tune-zero_shot-acc"))
    assert line["came back"].text == BACK
    assert line["of the loss"].note == "nothing was removed"
    shown = {line["fine-tune"].text: line for line in lines(named(tables, "compression"))}
    assert shown["ce"]["zero_shot"].text == BACK
    quality = lines(named(tables, "quality-zero_shot-acc"))
    assert [(r["fine-tune"].text, r["to dense"].text) for r in quality if r["ratio"].text] == [
        ("none", "dense"),
        ("ce", BACK),
    ]


def test_seeds_of_a_training_are_averaged_over_documents_first(folder):
    again = make_cell(method="state", fine_tune="kd", recipe=KD_SETTINGS, seed=1)
    rows = [*one_task(DENSE, CUT, KD), (again, ZERO, acc_rows({"ending": first(8)}))]
    (line,) = lines(named(report(folder, *rows), "fine-tune-zero_shot-acc"))
    # Four documents came back in both seeds, four in one: mean 6/16.
    low, high = _bootstrap.bounded(np.array([[1.0] * 4 + [0.5] * 4 + [0.0] * 8]))
    assert line["seeds"].text == "2"
    change = line["came back"].numbers
    assert change["diff"] == 6 / 16
    assert (change["low"], change["high"]) == pytest.approx((low[0], high[0]), rel=1e-5)


def test_a_trained_row_stands_under_its_untrained_one(folder):
    less = make_cell(method="state", ratio=0.25)
    less_kd = make_cell(method="state", ratio=0.25, fine_tune="kd", recipe=KD_SETTINGS)
    cells = (DENSE, CUT, less, KD, less_kd)
    rows = [(cell, ZERO, acc_rows({"ending": first(4)})) for cell in cells]
    rows.append((CUT, make_suite("latency", device="cpu"), latency_rows(0.01, 0.02)))
    for table in report(folder, *rows):
        if table.name.startswith(("quality", "compression", "cost-size")):
            told = [(r["ratio"].text, r["fine-tune"].text) for r in lines(table)]
            assert told[:5] == [
                ("0", "none"), ("0.25", "none"), ("0.25", "kd"), ("0.5", "none"), ("0.5", "kd"),
            ]  # fmt: skip


def test_trainings_of_one_kind_tell_in_what_they_differ(folder):
    longer = make_cell(method="state", fine_tune="kd", recipe={**KD_SETTINGS, "steps": 80})
    rows = [*one_task(DENSE, CUT, KD, CE), (longer, ZERO, acc_rows({"ending": first(7)}))]
    told = [line["fine-tune"].text for line in lines(named(report(folder, *rows), "cost-size"))]
    assert told == ["none", "none", "kd (steps=40)", "ce", "kd (steps=80)"]


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([{"steps": 80, "warmup": 4}], ["kd (steps=40)", "kd (steps=80)"]),
        ([{"warmup": 4}], ["kd (warmup=2)", "kd (warmup=4)"]),
        ([{"data": "c4", "split": "train"}], ["kd (data=tinyworld)", "kd (data=c4)"]),
        (
            [{"steps": 80, "warmup": 4}, {"steps": 80, "warmup": 0}],
            ["kd (steps=40, warmup=2)", "kd (steps=80, warmup=4)", "kd (steps=80, warmup=0)"],
        ),
    ],
)
def test_what_follows_from_something_else_is_not_told(folder, others, told):
    base = {**KD_SETTINGS, "warmup": 2, "split": "fine_tune"}
    recipes = [base, *({**base, **other} for other in others)]
    cells = [make_cell(method="state", fine_tune="kd", recipe=recipe) for recipe in recipes]
    rows = [(cell, ZERO, acc_rows({"ending": first(4)})) for cell in cells]
    table = named(report(folder, *rows), "cost-size")
    assert [line["fine-tune"].text for line in lines(table)] == told


def test_a_run_without_training_has_none_of_these_tables(folder):
    names = [t.name for t in report(folder, *one_task(DENSE, CUT))]
    assert names == ["quality-zero_shot-acc", "compression", "cost-size"]


# --- how it went --------------------------------------------------------------------------


def curve(folder: RunFolder, *losses: list[float], before: float = 2.0) -> list[Table]:
    cells = (KD, make_cell(method="state", fine_tune="kd", recipe=KD_SETTINGS, seed=1))
    rows = [
        (cell, TRAINING, training_rows(values, before=before, after=0.5))
        for cell, values in zip(cells, losses, strict=False)
    ]
    return report(folder, *rows)


def test_how_a_training_went(folder):
    tables = curve(folder, [1.5, 1.0, 0.75, 0.5])
    (line,) = lines(named(tables, "training"))
    shown = texts(line)
    assert {name: shown[name] for name in list(shown)[4:]} == {
        "text": "tinyworld",
        "steps": "40",
        "before": "2.00",
        "after": "0.500",
        "first": "1.50",
        "last": "0.500",
        # (x − 0.5) · 7: 7, 3.5, 1.75, 0; Python rounds 3.5 to 4.
        "curve": "█▅▃▁",
        "tokens": "2.56 k",
        "tokens/s": "128",
        "time": "20.0 s",
    }
    assert not [t for t in tables if t.name.startswith("quality")]


def test_a_training_in_csv_has_its_whole_curve(folder):
    table = named(curve(folder, [1.5, 1.0, 0.75, 0.5]), "training")
    (row,) = csv.DictReader(io.StringIO(_render.csv_text(table)))
    assert row["curve"] == "10:1.5 20:1 30:0.75 40:0.5"
    assert (float(row["loss_before"]), float(row["loss_after"])) == (2.0, 0.5)
    assert (int(row["steps"]), int(row["tokens"])) == (40, 2560)
    assert float(row["tokens_per_s"]) == 128.0


def test_the_curves_of_two_seeds_are_averaged(folder):
    (line,) = lines(named(curve(folder, [1.5, 0.5], [2.5, 1.0]), "training"))
    assert line["seeds"].text == "2"
    assert (line["first"].text, line["last"].text) == ("2.00", "0.750")


def test_the_parts_of_two_losses_are_told(folder):
    both = make_cell(method="simba", ratio=0.9, fine_tune="dense+sparse", recipe=SETTINGS)
    rows = training_rows([5.0, 3.0], before=5.0, after=3.0)
    for row in rows["training"]:
        row |= {"dense_loss": 0.4 * row["loss"], "sparse_loss": 0.6 * row["loss"]}
    (line,) = lines(named(report(folder, (both, TRAINING, rows)), "training"))
    assert line["last"].text == "3.00 (1.20 + 1.80)"
    assert line["last"].numbers["sparse_loss_last"] == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([1.0], "▁"),
        ([2.0, 2.0, 2.0], "▁▁▁"),
        ([0.0, 7.0], "▁█"),
        ([float(i) for i in range(8)], "▁▂▃▄▅▆▇█"),
        ([float(i) for i in range(160)], "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"),
        ([0.0] * 16 + [7.0] * 16, "▁▁▁▁▁▁▁▁████████"),
        # Sixteen bins of 17 values: the ninth has two, 0 and 7, and is their mean.
        ([0.0] * 9 + [7.0] * 8, "▁▁▁▁▁▁▁▁▅███████"),
    ],
)
def test_a_curve_in_small(values, drawn):
    assert sparkline(values) == drawn
