"""Empty cells of the papers' tables: why, and the command that would fill them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from paper_helpers import (
    DENSE,
    FEW,
    STATE,
    TINY,
    TOYS,
    ZERO,
    Maker,
    a_cell,
    documents,
    line,
    missing,
    named,
    results,
    scored,
)
from store_helpers import fail, make_suite, new_run

from ssmbench.grid.filters import parse_filter
from ssmbench.grid.read import read_grid
from ssmbench.plan.expand import expand
from ssmbench.plan.select import select
from ssmbench.report import pruning_paper, simba_paper
from ssmbench.report.published import Place

if TYPE_CHECKING:
    from ssmbench.store.folder import RunFolder

GRIDS = Path(__file__).parents[1] / "grids"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run")


def only(note: str | None) -> tuple[str, list[str]]:
    """The grid and the filters of the command in a note."""
    found = re.search(r"`ssmbench run (\S+)(.*)`", note or "")
    assert found, note
    return found[1], re.findall(r"--only '([^']*)'", found[2])


def test_every_empty_cell_has_a_reason(folder):
    with Maker(folder) as run:
        run.add(a_cell(STATE), {ZERO: documents(10)})
        run.add(a_cell(STATE._replace(model="zoo-mamba2")), {TINY: documents(10, names=TOYS)})
    tables = pruning_paper.build(results(folder))
    assert len(tables) == 9
    assert all(cell.note for *_, cell in missing(tables))


def test_what_was_not_run_names_a_grid_that_has_it(folder):
    """Every command, as it is printed, means cells of the grid that it names: those of its line."""
    with Maker(folder) as run:
        run.add(a_cell(STATE), {ZERO: documents(10)})
        run.add(a_cell(Place("mamba-2.8b", "simba", 0.9, "none")), {FEW: documents(10)})
    found = results(folder)
    planned = {p.name: expand(read_grid(p)) for p in GRIDS.glob("*.yaml")}
    seen = set()
    for table, row, cell in missing([*pruning_paper.build(found), *simba_paper.build(found)]):
        if "ssmbench run grids/" not in (cell.note or ""):
            continue
        grid, filters = only(cell.note)
        chosen = select(planned[Path(grid).name], parse_filter(filters))
        if row[0].text in {entry.cell.model.name for entry in chosen}:
            seen.add(table.name)
            continue
        assert table.name == "simba-table-3", (table.name, row[0].text, cell.note)
    assert {f"pruning-table-{n}" for n in range(1, 10)} <= seen
    assert {"simba-table-2", "simba-table-4", "simba-table-6"} <= seen


def test_the_command_is_as_narrow_as_what_is_missing(folder):
    with Maker(folder) as run:
        run.add(a_cell(STATE), {ZERO: documents(10)})
    tables = pruning_paper.build(results(folder))
    there, other = (
        line(named(tables, "table-9"), STATE.model, "0.25", "w/ FT", "ours"),
        line(named(tables, "table-4"), STATE.model, "0.5", "w/o FT", "ours"),
    )
    absent = line(named(tables, "table-4"), "hlm-3b", "0.5", "w/o FT", "ours")
    filters = [only(cells["piqa"].note)[1] for cells in (there, other, absent)]
    assert filters == [
        [f"model={STATE.model},method=state,ratio=0.25,fine_tune=kd"],
        [f"model={STATE.model},method=head_dim"],
        ["model=hlm-3b"],
    ]


def test_table_3_names_the_grid_of_the_losses(folder):
    with Maker(folder) as run:
        run.add(a_cell(STATE), {ZERO: documents(10)})
    table = named(pruning_paper.build(results(folder)), "table-3")
    shown = line(table, "phi-mamba-1.5b", "cross-entropy", "ours")["piqa"]
    assert only(shown.note)[0] == "grids/loss-choice.yaml"


def test_a_cell_that_failed_tells_its_class_its_message_and_how_to_run_it_again(folder):
    with Maker(folder) as run:
        cell = a_cell(STATE)
        run.want(cell, ZERO)
        fail(run.ledger, cell, [ZERO])
    table = named(pruning_paper.build(results(folder)), "table-9")
    note = line(table, STATE.model, "0.5", "w/o FT", "ours")["piqa"].note or ""
    assert "gpu_oom" in note
    assert "CUDA out of memory" in note
    grid, filters = only(note)
    assert (grid, filters) == (
        "GRID",
        [f"model={STATE.model},method=state,ratio=0.5,fine_tune=none"],
    )
    assert f"--out {folder.path} " in note
    assert "--retry-failed`" in note


def test_a_cell_that_is_still_to_run_has_its_own_grids_command(folder):
    with Maker(folder) as run:
        run.want(a_cell(STATE), ZERO)
    table = named(pruning_paper.build(results(folder)), "table-9")
    note = line(table, STATE.model, "0.5", "w/o FT", "ours")["piqa"].note or ""
    assert note.startswith("not run: `ssmbench run GRID --out ")
    assert "--retry-failed" not in note


def test_of_several_seeds_one_that_failed_and_one_that_was_not_run_are_both_told(folder):
    with Maker(folder) as run:
        cells = [a_cell(STATE, seed=seed) for seed in (0, 1)]
        for cell in cells:
            run.want(cell, ZERO)
        fail(run.ledger, cells[1], [ZERO])
    table = named(pruning_paper.build(results(folder)), "table-9")
    note = line(table, STATE.model, "0.5", "w/o FT", "ours")["piqa"].note or ""
    assert note.startswith("not run; failed: ")
    assert "--retry-failed`" in note


def test_a_cell_without_the_suite_says_which(folder):
    with Maker(folder) as run:
        run.add(a_cell(STATE), {make_suite("perplexity"): scored({"wikitext": 0.5})})
    table = named(pruning_paper.build(results(folder)), "table-9")
    note = line(table, STATE.model, "0.5", "w/o FT", "ours")["piqa"].note
    assert note == "suite zero_shot was not run: add it to the grid's suites and run that again"


def test_what_cannot_be_done_is_not_applicable(folder):
    with Maker(folder) as run:
        for model, family in (("zoo-mamba-l", "mamba"), ("zoo-mamba2", "mamba2")):
            for ratio in (0.25, 0.5):
                place = Place(model, "state", ratio, "none")
                run.add(a_cell(place, family=family), {TINY: documents(10, names=TOYS)})
    table = named(pruning_paper.build(results(folder)), "table-1")
    notes = [
        line(table, model, "w/o FT", "ours")["ssm_flap_0.25"].note
        for model in ("zoo-mamba-l", "zoo-mamba2")
    ]
    assert notes == [
        "not applicable: Mamba-1 has no heads",
        "not in the grid: add `{method: ssm_flap, ratio: 0.25}` and run it again",
    ]
    trained = line(table, "phi-mamba-1.5b", "w/ FT", "ours")
    assert trained["wanda_0.25"].note == "the paper does not fine-tune after it"


def test_a_run_without_the_papers_methods_has_none_of_its_tables(folder):
    with Maker(folder) as run:
        run.add(a_cell(DENSE), {ZERO: documents(10)})
        run.add(a_cell(DENSE._replace(method="magnitude", ratio=0.5)), {ZERO: documents(10)})
    found = results(folder)
    assert pruning_paper.build(found) == []
    assert simba_paper.build(found) == []


def test_other_tasks_of_other_models_are_none_of_the_papers(folder):
    toy = STATE._replace(model="zoo-mamba2")
    with Maker(folder) as run:
        run.add(a_cell(toy), {ZERO: documents(10, names=["sciq"])})
    assert pruning_paper.build(results(folder)) == []


def test_an_empty_run_has_no_tables(folder):
    assert pruning_paper.build(results(folder)) == []
    assert simba_paper.build(results(folder)) == []
