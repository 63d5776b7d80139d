"""The tables that people read: what is in them, why something is not, and how they look."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

import polars as pl
import pytest
from rich.console import Console
from store_helpers import (
    TASKS,
    acc_rows,
    fail,
    finish,
    latency_rows,
    make_cell,
    make_suite,
    new_run,
    nll_rows,
    synthetic_run,
)

from ssmbench.plan.cells import Calibration
from ssmbench.report import _format, _render
from ssmbench.report._build import build_all, build_items
from ssmbench.report._panels import Panel
from ssmbench.report._rows import Row, Rows
from ssmbench.report._scores import Difference
from ssmbench.report._source import results_of
from ssmbench.report._table import Column, Shown, Table
from ssmbench.report.quality import change_text, score_text
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.store.folder import RunFolder

DENSE = make_cell(method="dense", ratio=0.0)
CUT = make_cell(method="wanda", ratio=0.5)
ZERO, SPEED = make_suite(), make_suite("latency", device="cpu")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> list[Table]:
    return build_all(synthetic_run(tmp_path_factory.mktemp("report") / "run", limit=30, n_docs=30))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run")


def test_a_report_is_the_same_whichever_cell_ended_first(tmp_path):
    folder = synthetic_run(tmp_path / "run", n_docs=20)
    before = numbers_of(folder)
    (segment,) = folder.ledger_dir.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    commits = [line for line in lines if b'"event":"commit"' in line.replace(b" ", b"")]
    assert len(commits) > 50
    planned = [line for line in lines if line not in commits]
    segment.write_bytes(b"".join([*planned, *reversed(commits)]))
    after = numbers_of(folder)
    assert [name for name, _ in after] == [name for name, _ in before]
    for (name, one), (_, other) in zip(before, after, strict=True):
        assert one == other, name


def numbers_of(folder: RunFolder) -> list[tuple[str, Table | None]]:
    """Every table, and what every figure draws."""
    items = build_items(results_of([folder]))
    found = [(i.name, i if isinstance(i, Table) else i.data) for i in items]
    return [(name, table) for name, table in found if name != "provenance"]


def named(tables: list[Table], name: str) -> Table:
    return next(t for t in tables if t.name == name)


def cell(table: Table, method: str, header: str) -> Shown:
    column = [c.header for c in table.columns].index(header)
    rows = [r for r in table.rows if r[1].text == method]
    assert len(rows) == 1
    return rows[0][column]


def printed(table: Table, width: int) -> list[str]:
    console = Console(width=width, force_terminal=False, file=io.StringIO())
    console.print(_render.terminal(table, width=width))
    return console.file.getvalue().splitlines()


# --- quality ------------------------------------------------------------------------------


def measured(folder: RunFolder) -> list[Table]:
    with Ledger.open(folder) as ledger:
        rows = acc_rows({"ending": [1, 1, 1, 0], "choice": [1, 1, 0, 1]})
        finish(folder, ledger, DENSE, ZERO, rows, attempt="a")
        rows = acc_rows({"ending": [1, 0, 0, 0], "choice": [0, 0, 0, 1]})
        finish(folder, ledger, CUT, ZERO, rows, attempt="b")
    return build_all(folder)


def test_a_row_has_scores_errors_and_the_difference_to_dense(folder):
    tables = measured(folder)
    table = named(tables, "quality-zero_shot-acc")
    assert [c.header for c in table.columns] == [
        "model",
        "method",
        "ratio",
        "mean",
        "ending",
        "choice",
    ]
    shown = cell(table, "wanda", "ending")
    assert shown.text == "≈25.0 ±25.0"
    assert shown.numbers["diff"] == -0.5
    # Two of four documents were lost, none gained: Tango's interval, and p a half.
    assert (shown.numbers["low"], shown.numbers["high"]) == pytest.approx(
        (-0.84996, 0.23484), abs=1e-5
    )
    assert (shown.numbers["p"], shown.numbers["p_holm"]) == (0.5, 1.0)
    mean = cell(table, "wanda", "mean")
    # Differences −0.5 each, and the limits above: theirs from the mean, over the root of two.
    assert mean.text == "≈25.0 ±17.7"
    assert mean.numbers["high"] == pytest.approx(-0.5 + 0.73484 / 2**0.5, abs=1e-5)
    differences = named(tables, "quality-zero_shot-acc-difference")
    assert cell(differences, "wanda", "mean").text == "≈−50.0 [−74.7, +2.0]"
    assert cell(differences, "dense", "mean").text == "dense"


def test_chance_stands_under_the_scores(folder):
    table = named(measured(folder), "quality-zero_shot-acc")
    assert [c.text for c in table.rows[-1]] == ["", "chance", "", "37.5", "25.0", "50.0"]
    assert len(table.rows) - 1 in table.sections


def test_a_single_task_has_its_difference_beside_it(folder):
    suite = make_suite("perplexity")
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, DENSE, suite, nll_rows([10, 20], [5, 10]), attempt="a")
        finish(folder, ledger, CUT, suite, nll_rows([12, 26], [5, 10]), attempt="b")
    table = named(build_all(folder), "quality-perplexity-perplexity")
    assert cell(table, "wanda", "wikitext").text == "≈12.6"
    # Two documents: 8 / 15 ± 12.7 standard errors.
    assert cell(table, "wanda", "to dense").text == "≈+0.533 [−0.596, +1.663]"


def test_one_of_many_differences_is_told_from_one_that_holds(folder):
    lost = {"wanda": 16, "random": 6, "magnitude": 0, "state": 1}
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, DENSE, ZERO, acc_rows({"ending": [1] * 40}), attempt="a")
        for method, n in lost.items():
            rows = acc_rows({"ending": [0] * n + [1] * (40 - n)})
            finish(folder, ledger, make_cell(method=method), ZERO, rows, attempt=method)
    tables = build_all(folder)
    table = named(tables, "quality-zero_shot-acc")
    shown = {method: cell(table, method, "ending").text for method in lost}
    # p is 2 / 2ⁿ; by Holm the second smallest of four is three times itself: 0.094.
    assert {method: text[0] for method, text in shown.items()} == {
        "wanda": "▼", "random": "▽", "magnitude": "≈", "state": "≈",
    }  # fmt: skip
    for method in lost:
        other = cell(named(tables, "compression"), method, "zero_shot")
        assert other.text == cell(table, method, "to dense").text
    # That nothing changed does not say that nothing would: z² / (n + z²).
    assert cell(table, "magnitude", "to dense").text == "≈0.0 [−8.8, +8.8]"
    assert "Holm's correction: over the 4 differences of all rows here." in table.notes
    (row,) = [
        r for r in csv.DictReader(io.StringIO(_render.csv_text(table))) if r["method"] == "random"
    ]
    assert float(row["ending_p"]) == pytest.approx(2 / 2**6)
    assert float(row["ending_p_holm"]) == pytest.approx(6 / 2**6)


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (1234.5, 20.4, "1234 ±20"),
        (3.333, 0.04, "3.33 ±0.04"),
        (1.05e6, 25_458.9, "1.05e+06 ±2.5e+04"),
    ],
)
def test_an_error_is_told_to_the_place_of_its_score(value, stderr, text):
    panel = Panel("s", "text", "perplexity", "", (("t", "perplexity"),), (), None, {}, {})
    assert score_text(panel, value, stderr) == text


def test_a_limit_that_leaves_out_zero_is_not_shown_as_zero():
    panel = Panel("s", "zero_shot", "fraction", "acc", (("t", "acc"),), ("t",), None, {}, {})
    change = Difference(0.021, interval=(0.0002, 0.042), p=0.04, p_holm=0.04)
    assert change_text(panel, change) == "▲+2.10 [+0.02, +4.20]"
    change = Difference(-0.021, interval=(-0.042, 0.0002), p=0.06, p_holm=0.06)
    assert change_text(panel, change) == "≈−2.1 [−4.2, 0.0]"


def test_what_is_missing_is_a_dash_with_its_reason(folder):
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, DENSE, ZERO, acc_rows({"ending": [1, 0]}), attempt="a")
        ledger.cell(CUT, [ZERO])
        fail(ledger, CUT, [ZERO])
        ledger.cell(make_cell(method="random", ratio=0.3), [ZERO])
    table = named(build_all(folder), "quality-zero_shot-acc")
    assert cell(table, "wanda", "ending").text == "–"
    assert cell(table, "wanda", "ending").note == "failed: zero_shot: gpu_oom: CUDA out of memory"
    assert cell(table, "random", "ending").note == "not run"
    assert cell(table, "wanda", "ending").numbers == {}


def test_a_metric_without_a_value_shows_its_own_reason(folder):
    rows = nll_rows([10, 20], [5, 10])
    rows["metrics"][0] |= {"value": None, "reason": "the value is not a finite number (inf)"}
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CUT, make_suite("perplexity"), rows, attempt="a")
    shown = cell(build_all(folder)[0], "wanda", "wikitext")
    assert (shown.text, shown.note) == ("–", "the value is not a finite number (inf)")


def test_a_trial_run_is_marked_in_every_form(synthetic):
    table = named(synthetic, "quality-zero_shot-acc")
    warning = "not publishable: first 30 documents only"
    assert table.warnings == (warning,)
    assert printed(table, 100)[1] == "Not publishable: first 30 documents only."
    assert "**Not publishable: first 30 documents only.**" in _render.markdown([table], title="t")
    assert all(
        r["warning"] == warning for r in csv.DictReader(io.StringIO(_render.csv_text(table)))
    )


def test_rows_that_differ_by_a_parameter_say_which(synthetic):
    methods = [row[1].text for row in named(synthetic, "cost-size").rows]
    assert methods[0] == "dense"
    assert methods.count("wanda (targets=in_proj)") == 6
    assert methods.count("wanda (targets=out_proj)") == 6
    assert methods.count("random") == 6  # Three seeds make one row.


def test_a_parameter_that_is_the_methods_default_is_not_told(folder):
    params = [{"targets": "in_proj", "gone": 0}, {"targets": "both", "gone": 1}]
    with Ledger.open(folder) as ledger:
        for i, given in enumerate(params):
            row = make_cell(method="wanda", ratio=0.5, params=given)
            finish(folder, ledger, row, ZERO, acc_rows({"t": [1, 0]}), attempt=str(i))
    table = named(build_all(folder), "cost-size")
    methods = {row[1].text for row in table.rows}
    assert methods == {"wanda (targets=in_proj, gone=0)", "wanda (gone=1)"}


def test_an_incomplete_set_of_seeds_is_told(synthetic):
    table = named(synthetic, "quality-zero_shot-acc")
    rows = [r for r in table.rows if (r[1].text, r[2].text) == ("random", "0.7")]
    assert [r[3].text for r in rows] == ["3", "3"]
    assert {r[4].note for r in rows} == {"mean of 2 of 3 seeds: not run"}


def test_two_models_of_one_name_are_two_rows(folder):
    other = make_cell(method="dense", ratio=0.0)
    object.__setattr__(other.model, "fingerprint", "trained again")
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, DENSE, ZERO, acc_rows({"ending": [1, 1]}), attempt="a")
        finish(folder, ledger, other, ZERO, acc_rows({"ending": [0, 0]}), attempt="b")
    table = named(build_all(folder), "quality-zero_shot-acc")
    assert [r[3].text for r in table.rows] == ["100.0 ±0.0", "0.0 ±0.0", "25.0"]


def test_suites_of_one_name_and_other_parameters_are_two_tables(folder):
    with Ledger.open(folder) as ledger:
        for limit in (None, 2):
            suite = make_suite(limit=limit)
            finish(folder, ledger, DENSE, suite, acc_rows({"t": [1, 0]}), attempt=f"a{limit}")
    tables = [t for t in build_all(folder) if t.name.startswith("quality")]
    assert len({t.name for t in tables}) == 2
    assert [bool(t.warnings) for t in tables] == [False, True]


def test_a_group_of_tasks_is_shown_and_not_averaged_again(folder):
    rows = acc_rows({"ending": [1, 1, 1, 0], "choice": [1, 1, 0, 0]})
    rows["metrics"].append(
        {"task": "both", "metric": "acc", "value": 0.625, "n": 8, "higher_is_better": True}
    )
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CUT, ZERO, rows, attempt="a")
    table = named(build_all(folder), "quality-zero_shot-acc")
    assert cell(table, "wanda", "both").text == "62.5"
    assert cell(table, "wanda", "mean").text.startswith("62.5 ±")
    assert "The mean leaves out groups: both." in table.notes


@pytest.mark.parametrize("with_dense", [True, False])
def test_a_task_that_nobody_got_right_counts_in_the_mean(folder, with_dense):
    rows = acc_rows({"ending": [1, 1, 1, 0], "choice": [0, 0, 0, 0]})
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CUT, ZERO, rows, attempt="a")
        if with_dense:
            finish(folder, ledger, DENSE, ZERO, rows, attempt="b")
    table = named(build_all(folder), "quality-zero_shot-acc")
    assert cell(table, "wanda", "mean").text.lstrip("≈").startswith("37.5 ±")
    assert not [note for note in table.notes if "leaves out" in note]


def test_seeds_that_draw_other_calibration_windows_are_one_row(folder):
    with Ledger.open(folder) as ledger:
        for base, seed in ((0, 0), (0, 1), (7, 0)):
            windows = Calibration("c4", 128, 128, seed=base + seed)
            drawn = make_cell(seed=seed, calibration=windows)
            finish(folder, ledger, drawn, ZERO, acc_rows({"t": [1, 0]}), attempt=f"{base}{seed}")
    table = named(build_all(folder), "quality-zero_shot-acc")
    seeds = [c.header for c in table.columns].index("seeds")
    assert sorted(row[seeds].text for row in table.rows) == ["1", "2"]


def test_a_run_without_results_has_no_tables(folder):
    assert build_all(folder) == []


# --- cost ---------------------------------------------------------------------------------


def test_sizes_are_those_of_the_committed_attempt(folder):
    measured(folder)
    table = named(build_all(folder), "cost-size")
    texts = [c.text for c in table.rows[1]]
    assert texts[3:] == ["250 k", "150 k", "50.0", "37.5", "50.0", "500 k", "0.625", "6.0 KiB"]


def test_a_time_never_stands_without_its_quality(folder):
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, DENSE, ZERO, acc_rows({"t": [1, 0, 1]}), attempt="a")
        finish(folder, ledger, DENSE, SPEED, latency_rows(0.02, 0.02), attempt="b")
        finish(folder, ledger, CUT, SPEED, latency_rows(0.0125, 0.02), attempt="c")
    table = named(build_all(folder), "cost-decode")
    assert [c.header for c in table.columns[3:]] == ["zero_shot mean", "1×512", "16×512"]
    assert cell(table, "dense", "zero_shot mean").text == "66.7 ±33.3"
    assert cell(table, "wanda", "1×512").text == "80/s ×1.60"
    quality = cell(table, "wanda", "zero_shot mean")
    assert quality.text == "–"
    assert quality.note == "nothing to judge these times by: suite zero_shot was not run"


def test_times_without_any_quality_suite_say_so(folder):
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CUT, SPEED, latency_rows(0.0125, 0.02), attempt="c")
    shown = cell(named(build_all(folder), "cost-decode"), "wanda", "quality mean")
    assert shown.note == "nothing to judge these times by: no suite measured quality"


# --- compression --------------------------------------------------------------------------


def test_what_is_gone_stands_beside_what_it_cost(folder):
    perplexity = make_suite("perplexity")
    with Ledger.open(folder) as ledger:
        for attempt, row, scores, nats in (
            ("a", DENSE, {"ending": [1, 1, 1, 0], "choice": [1, 1, 0, 1]}, [100.0, 60.0]),
            ("b", CUT, {"ending": [1, 0, 0, 0], "choice": [0, 0, 0, 1]}, [130.0, 75.0]),
        ):
            finish(folder, ledger, row, ZERO, acc_rows(scores), attempt=attempt)
            rows = nll_rows(nats, [50.0, 25.0])
            finish(folder, ledger, row, perplexity, rows, attempt=f"{attempt}p")
    table = named(build_all(folder), "compression")
    texts = {c.title: x.text for c, x in zip(table.columns, table.rows[1], strict=True)}
    assert texts == {
        "model": "zoo-mamba-s",
        "method": "wanda",
        "ratio": "0.5",
        "achieved [%]": "50.0",
        "Comp. [%]": "50.0",
        "Comp. (paper) [%]": "50",
        "model [%]": "37.5",
        "state [% change]": "−25.0",
        "zero_shot [points]": "≈−50.0 [−74.7, +2.0]",
        "perplexity [nats/token]": "▲+0.600 [+0.600, +0.600]",
    }
    quality = named(build_all(folder), "quality-zero_shot-acc-difference")
    assert cell(quality, "wanda", "mean").text == texts["zero_shot [points]"]
    assert cell(table, "dense", "zero_shot").text == "dense"


def test_a_plain_number_of_the_compression_table_is_not_rounded(folder):
    measured(folder)
    table = named(build_all(folder), "compression")
    (_, wanda) = csv.DictReader(io.StringIO(_render.csv_text(table)))
    assert float(wanda["compression_mixer"]) == 0.5
    assert float(wanda["state_change"]) == -0.25
    assert float(wanda["zero_shot_diff"]) == -0.5
    assert float(wanda["zero_shot_low"]) == pytest.approx(-0.74746, abs=1e-5)


def test_a_cell_without_quality_shows_what_is_gone_and_why_its_cost_is_not_known(folder):
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, DENSE, ZERO, acc_rows({"t": [1, 0, 1]}), attempt="a")
        finish(folder, ledger, CUT, SPEED, latency_rows(0.0125, 0.02), attempt="c")
    table = named(build_all(folder), "compression")
    assert cell(table, "wanda", "Comp.").text == "50.0"
    assert cell(table, "wanda", "zero_shot").note == "suite zero_shot has no score here"


# --- renderers ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_of_any_width_shows_whole_numbers_and_every_column(synthetic, width):
    for table in synthetic:
        lines = printed(table, width)
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert "…" not in text
        for row in table.rows:
            for column, shown in zip(table.columns, row, strict=True):
                assert shown.text in text, (column, shown)
        for column in table.columns:
            assert column.title in text
        # No cell is folded: every line of a block is a row.
        blocks = text.count("─\n")
        body = [line for line in lines if re.search(r"\d +\d|chance|dense|–", line)]
        assert len(body) >= blocks * len(table.rows)


def test_a_narrow_terminal_repeats_the_keys_in_every_block(synthetic):
    lines = printed(named(synthetic, "quality-zero_shot-acc"), 80)
    heads = [line for line in lines if line.startswith("model ")]
    assert len(heads) > 2
    assert all("method" in h and "ratio" in h for h in heads)
    assert "mean" in heads[0]
    assert all(any(task in h for h in heads) for task in TASKS)


def test_markdown_tables_have_as_many_cells_in_every_row(synthetic):
    page = _render.markdown(synthetic, title="A run")
    blocks = re.findall(r"(?:^\|.*\n)+", page, flags=re.M)
    assert len(blocks) == len(synthetic)
    for block, table in zip(blocks, synthetic, strict=True):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert counts == {len(table.columns) + 1}
    assert "far\\_word" in page


def test_names_do_not_break_a_markdown_table():
    table = Table("T", "t", (Column("a", key=True),), ((Shown("x|y_z*\n<b>", note="n|o"),),))
    page = _render.markdown([table], title="A")
    assert "| x\\|y\\_z\\* \\<b>¹ |" in page
    assert "¹ n\\|o" in page


def test_csv_has_plain_full_numbers_and_empty_cells_for_what_is_missing(folder):
    table = named(measured(folder), "quality-zero_shot-acc")
    rows = list(csv.DictReader(io.StringIO(_render.csv_text(table))))
    assert rows[1]["method"] == "wanda"
    assert float(rows[1]["ending_value"]) == 0.25
    assert float(rows[1]["ending_low"]) == pytest.approx(-0.84996, abs=1e-5)
    assert float(rows[1]["mean_diff"]) == -0.5
    assert rows[0]["ending_diff"] == ""
    assert rows[2]["method"] == "chance"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (_format.percent(0.12345), "12.3"),
        (_format.fixed(-0.04, 1, sign=True), "0.0"),
        (_format.fixed(-1.25, 2), "−1.25"),
        (_format.significant(1234.5), "1234"),
        (_format.significant(0.0012345), "0.00123"),
        (_format.significant(3.2e7), "3.2e+07"),
        (_format.significant(0.0), "0"),
        (_format.seconds(0.0123), "12.3 ms"),
        (_format.seconds(2.5e-7), "250 ns"),
        (_format.size(8192), "8.0 KiB"),
        (_format.size(12), "12 B"),
        (_format.count(1_340_000), "1.34 M"),
        (_format.count(12), "12"),
    ],
)
def test_numbers_are_written_for_people(made, text):
    assert made == text


def test_rows_that_nobody_wanted_measured_are_left_out_and_waiting_ones_are_not():
    def row(index, reason=None):
        return Row(index, (), {f"cell{index}": (0, reason)}, None, is_dense=False)

    rows = (row(0), row(1, "not run"), row(2, "failed: x"), row(3), row(4), row(5))
    found = Rows((), rows, frozenset({0, 3}), pl.DataFrame()).wanted({5})
    assert [r.index for r in found.rows] == [1, 2, 5]
    assert found.sections == {0, 2}
    alone = Rows((), rows, frozenset({0, 3, 4}), pl.DataFrame()).wanted({0})
    assert [r.index for r in alone.rows] == [0, 1, 2]
    assert alone.sections == {0}
