"""Several runs as one, and where the numbers of a report are from."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from report_helpers import make_figure, make_table, outcome
from store_helpers import acc_rows, fail, finish, make_cell, make_suite, new_run

from ssmbench import __version__
from ssmbench.commands.reports import default_folder
from ssmbench.plan.cells import Model
from ssmbench.report import _html, _join, _write
from ssmbench.report._build import _Names, build_report
from ssmbench.report._results import Results
from ssmbench.report._source import Source, open_results, results_of
from ssmbench.store.columns import SUITE_TABLES, schema
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from ssmbench.plan.cells import Cell
    from ssmbench.report._provenance import Provenance

ZERO, OTHER = make_suite(), make_suite("few_shot")


def real(cell: Cell) -> Cell:
    """The same cell of a model that is no toy."""
    model = Model("mamba2-130m", "hub:state-spaces/mamba2-130m", "rev", family="mamba2")
    object.__setattr__(cell, "model", model)
    return cell


DENSE, CUT = real(make_cell(method="dense", ratio=0.0)), real(make_cell())


# --- joining ------------------------------------------------------------------------------


def rows_of(frames: Any, table: str) -> list[dict[str, Any]]:
    return list(frames[table].collect().iter_rows(named=True))


def naive(runs: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """The join in plain loops."""
    joined: dict[str, list[dict[str, Any]]] = {"cells": [], "attempts": []}
    for i, run in enumerate(runs):
        for cell in rows_of(run, "cells"):
            known = [c for c in joined["cells"] if c["cell_id"] == cell["cell_id"]]
            if not known:
                joined["cells"].append({**cell, "run": i})
                continue
            if rank(cell) < rank(known[0]):
                joined["cells"][joined["cells"].index(known[0])] = {**cell, "run": i}
        seen = {a["attempt_id"] for a in joined["attempts"]}
        joined["attempts"] += [a for a in rows_of(run, "attempts") if a["attempt_id"] not in seen]
    for cell in joined["cells"]:
        del cell["run"]
    for table in SUITE_TABLES:
        joined[table] = []
        for i, run in enumerate(runs):
            for row in rows_of(run, table):
                pair = (row["cell_id"], row["suite_id"])
                if not any(has(earlier, pair) for earlier in runs[:i]):
                    joined[table].append(row)
    return joined


def rank(cell: dict[str, Any]) -> tuple[int, bool]:
    return ["done", "failed", "to do"].index(cell["status"]), cell["params_model"] is None


def has(run: Any, pair: tuple[str, str]) -> bool:
    return any(
        (row["cell_id"], row["suite_id"]) == pair for t in SUITE_TABLES for row in rows_of(run, t)
    )


def made_up(rng: random.Random, name: str) -> dict[str, pl.LazyFrame]:
    """A run of a few cells with whatever statuses and suites."""
    rows: dict[str, list[dict[str, Any]]] = {t: [] for t in ("cells", *SUITE_TABLES, "attempts")}
    for c in rng.sample(range(6), k=rng.randint(0, 5)):
        size = rng.choice([None, 100])
        state = {"status": rng.choice(["done", "failed", "to do"]), "params_model": size}
        rows["cells"].append({"cell_id": f"c{c}", "label": name, **state})
        attempt = f"a{rng.randint(0, 9)}"
        if attempt not in {a["attempt_id"] for a in rows["attempts"]}:
            rows["attempts"].append({"attempt_id": attempt, "cell_id": f"c{c}", "message": name})
        for s in range(3):
            if rng.random() < 0.5:
                ids = {"cell_id": f"c{c}", "suite_id": f"s{s}"}
                rows["metrics"].append({**ids, "task": "t", "metric": "acc", "value": rng.random()})
                rows["samples"] += [{**ids, "doc_id": str(i)} for i in range(rng.randint(0, 2))]
            elif rng.random() < 0.3:
                rows["latency"].append({"cell_id": f"c{c}", "suite_id": f"s{s}", "device": name})
    return {t: pl.DataFrame(r, schema=schema(t), orient="row").lazy() for t, r in rows.items()}


@pytest.mark.parametrize("seed", range(12))
def test_joining_is_what_plain_loops_give(seed):
    rng = random.Random(seed)
    runs = [made_up(rng, f"run{i}") for i in range(rng.randint(2, 4))]
    joined, expected = _join.join(runs), naive(runs)
    for table in expected:
        assert rows_of(joined, table) == expected[table], table


def test_a_cell_that_one_run_finished_is_done_and_its_numbers_are_shown_once(tmp_path):
    one, two = new_run(tmp_path / "one"), new_run(tmp_path / "two")
    with Ledger.open(one) as ledger:
        finish(one, ledger, DENSE, ZERO, acc_rows({"t": [1, 1, 0, 1]}), attempt="a")
        ledger.cell(CUT, [ZERO])
        fail(ledger, CUT, [ZERO])
    with Ledger.open(two) as ledger:
        finish(two, ledger, CUT, ZERO, acc_rows({"t": [0, 1, 0, 0]}), attempt="b")
    results = open_results([str(one.path), str(two.path), str(one.path)])
    assert [s.name for s in results.sources] == ["one", "two"]
    assert results.cells["status"].to_list() == ["done", "done"]
    assert results["metrics"].collect().height == 2
    # Paired with the dense cell of the other run.
    table = next(t for t in build_report(results).tables if t.name == "quality-zero_shot-acc")
    numbers = next(c.numbers for c in table.rows[1] if "diff" in c.numbers)
    assert numbers["diff"] == -0.5


def test_runs_of_one_name_are_told_apart_by_their_place(tmp_path):
    for name in ("a", "b"):
        new_run(tmp_path / name / "run")
    results = open_results([str(tmp_path / "a/run"), str(tmp_path / "b/run")])
    assert [s.name for s in results.sources] == [str(tmp_path / "a/run"), str(tmp_path / "b/run")]


def measured(path: Path, correct: dict[str, list[int]], *, suite: Any = ZERO) -> RunFolder:
    folder = new_run(path)
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, DENSE, suite, acc_rows(correct), attempt=path.name)
    outcome(folder, DENSE, path.name, suites=[suite.id])
    return folder


def test_two_runs_that_disagree_are_told_with_their_number(tmp_path):
    one = measured(tmp_path / "one", {"t": [1, 1], "u": [1, 0]})
    two = measured(tmp_path / "two", {"t": [1, 0], "u": [1, 0]})
    same = measured(tmp_path / "same", {"t": [1, 1], "u": [1, 0]})
    other = measured(tmp_path / "other", {"t": [0, 0]}, suite=OTHER)
    (told,) = results_of([one, two, other]).provenance.warnings
    assert told == (
        "one, two, other: suites of a cell that more than one run measured: 1, of these with"
        " different scores: 1; the scores of the run that was named first are shown"
    )
    for folders in ([one, same], [one, other], [one]):
        assert results_of(folders).provenance.warnings == ()
    values = results_of([two, one])["metrics"].filter(task="t").collect()["value"].to_list()
    assert values == [0.5]


# --- provenance ---------------------------------------------------------------------------


def found(folder: RunFolder) -> Provenance:
    return results_of([folder]).provenance


def test_a_clean_run_has_nothing_against_it(tmp_path):
    folder = measured(tmp_path / "run", {"t": [1, 0]})
    assert found(folder).unpublishable == ()
    assert found(folder).lines == ()
    report = build_report(results_of([folder]))
    for name in ("md", "latex", "html", "csv"):
        assert "UNPUBLISHABLE" not in _write.as_text(report, name).upper()


def test_the_facts_of_a_run_are_told(tmp_path):
    folder = measured(tmp_path / "run", {"t": [1, 0]})
    outcome(folder, CUT, "x", status="failed", error_class="gpu_oom", host="node-2", suites=["s"])
    ((source, facts),) = found(folder).facts
    assert source.grid == "models: []\n"
    told: dict[str, list[Any]] = {}
    for fact in facts:
        told.setdefault(fact.about, []).append((fact.value, fact.n, fact.of))
    assert told.pop("created")[0][0].endswith(f"by ssmbench {__version__}")
    assert told == {
        "folder": [(str(folder.path), None, None)],
        "measured": [("2023-11-14 22:13 UTC to 2023-11-14 22:14 UTC", None, None)],
        "cells": [("done", 1, "cells")],
        "attempts": [("done", 1, "attempts"), ("failed: gpu_oom", 1, "attempts")],
        "seeds": [("0", None, None)],
        "code": [("commit aaaaaaaaaaaa", 2, "attempts")],
        "python": [("3.11.7", 2, "attempts")],
        "torch": [("2.13.0", 2, "attempts")],
        "device": [("H200", 2, "attempts")],
        "hosts": [("2: node-1, node-2", None, None)],
    }


def with_attempt(folder: RunFolder, **facts: Any) -> RunFolder:
    outcome(folder, DENSE, "second", **facts)
    return folder


def run_of(tmp_path: Path, cell: Cell, **suite: Any) -> RunFolder:
    folder = new_run(tmp_path / "run")
    with Ledger.open(folder) as ledger:
        rows = acc_rows({"t": [1, 0]})
        finish(folder, ledger, cell, make_suite(**suite), rows, attempt="a")
    outcome(folder, cell, "a")
    return folder


def test_toy_models_and_limits_are_not_for_publication(tmp_path):
    folder = run_of(tmp_path, make_cell(), limit=2)
    assert found(folder).unpublishable == (
        "toy models (zoo-mamba-s)",
        "--limit: first 2 documents only (zero_shot)",
    )


def test_missing_and_failed_cells_are_not_for_publication(tmp_path):
    folder = run_of(tmp_path, DENSE)
    with Ledger.open(folder) as ledger:
        ledger.cell(CUT, [ZERO])
        fail(ledger, CUT, [ZERO])
        ledger.cell(real(make_cell(ratio=0.7)), [ZERO])
    reasons = found(folder).unpublishable
    assert reasons[:2] == ("1 of 3 cells failed", "1 of 3 cells not run")
    assert found(new_run(tmp_path / "empty")).unpublishable == ("no cells",)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"git_dirty": True}, "code with uncommitted changes (1 of 2 attempts)"),
        ({"git_commit": "b" * 40}, "code of 2 commits"),
        (
            {"git_commit": None, "git_dirty": None},
            "code of no known commit (1 of 2 attempts)",
        ),
        (
            {"versions": {"python": "3.11.7", "torch": "2.14.0"}},
            "mixed versions (torch 2.13.0 and 2.14.0)",
        ),
        # It failed with the only suite that it had to run: no number can be of it.
        ({"git_commit": "b" * 40, "status": "failed"}, None),
        ({"git_commit": "b" * 40, "status": "failed", "suites": ["s", "t"]}, "code of 2 commits"),
    ],
)
def test_what_ran_is_looked_at_for_every_attempt_that_can_have_left_numbers(
    tmp_path, facts, reason
):
    folder = with_attempt(measured(tmp_path / "run", {"t": [1, 0]}), **facts)
    assert found(folder).unpublishable == ((reason,) if reason else ())


def test_one_dtype_computed_in_two_types_is_told(tmp_path):
    half = make_cell(dtype="bfloat16")
    folder = run_of(tmp_path, half)
    outcome(folder, half, "b", compute_dtype="bfloat16")
    assert found(folder).warnings == ()
    outcome(folder, half, "c", compute_dtype="float32")
    # Another dtype's is no difference.
    outcome(folder, DENSE, "d", compute_dtype="float32")
    assert found(folder).warnings == (
        "bfloat16 cells were computed in bfloat16 (1 attempts) and in float32 (1 attempts);"
        " scores and times differ by it",
    )
    (facts,) = (facts for _, facts in found(folder).facts)
    told = [(f.value, f.n) for f in facts if f.about == "computed in"]
    assert told == [("float32", 2), ("bfloat16", 1)]


def test_every_run_of_a_report_has_its_section(tmp_path):
    folders = [measured(tmp_path / name, {"t": [1, 0]}) for name in ("one", "two")]
    report = build_report(results_of(folders))
    table = report.tables[-1]
    assert table.name == "provenance"
    assert table.sections == {0, len(report.provenance.facts[0][1])}
    files = dict(_write._csv(report))
    rows = list(csv.DictReader(io.StringIO(files["provenance"])))
    assert {r["run"] for r in rows} == {"one", "two"}
    assert {"run", "about", "value", "n", "of"} == set(rows[0])
    assert [r["n"] for r in rows if r["about"] == "code"] == ["1", "1"]
    page = _html.page(report, svg=lambda _: "<svg></svg>")
    assert page.count("<summary>The grid of") == 2
    assert "<b>one</b> · cells 1 done" in page


def test_tables_and_figures_of_one_name_get_files_of_their_own():
    names = _Names()
    items = [make_table("a-2"), make_table("a"), make_figure("A"), make_table("a"), make_table("b")]
    assert [names.distinct(item).name for item in items] == ["a-2", "a", "A-3", "a-4", "b"]


@pytest.mark.parametrize(
    ("sources", "folder"),
    [
        ([Source("a", "runs/a", report_folder=Path("runs/a/report"))], "runs/a/report"),
        ([Source("a", "s3://b/a")], "report-a"),
        (
            [Source("a", "a", report_folder=Path("a/report")), Source("x/b c", "x/b c")],
            "report-a+x-b-c",
        ),
    ],
)
def test_a_report_lies_in_its_run_or_here(sources, folder):
    assert default_folder(Results({}, tuple(sources))) == Path(folder)


def test_a_report_folder_is_no_foreign_thing_in_a_run_folder(tmp_path):
    folder = measured(tmp_path / "run", {"t": [1, 0]})
    before = folder.path / "run.json"
    _write.write(build_report(results_of([folder])), folder.path / "report", ("csv",))
    assert results_of([folder])["metrics"].collect().height == 1
    before.unlink()
    for name in ("ledger", "attempts", "LOCK"):
        assert (folder.path / name).is_dir()
    RunFolder.create(folder.path, grid_text="", resolved={})
