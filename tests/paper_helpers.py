"""Run folders for the papers' tables, and ways to read these."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from store_helpers import acc_rows, facts_of, make_cell, make_suite

from ssmbench.plan.labels import default_params
from ssmbench.report import _paper
from ssmbench.report._source import results_of
from ssmbench.report._table import MISSING, Shown, Table
from ssmbench.report.published import Place
from ssmbench.store import attempts
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ssmbench.plan.cells import Cell, Suite
    from ssmbench.report._results import Results
    from ssmbench.store.folder import RunFolder

TASKS = [task.name for task in _paper.TASKS]
TOYS = [task.toy for task in _paper.TASKS]
ZERO, TINY = make_suite("zero_shot"), make_suite("tinyworld")
FEW, LONG, SPEED = make_suite("few_shot"), make_suite("long_context"), make_suite("latency")
DENSE = Place("mamba2-2.7b", "dense", 0.0, "none")
STATE = Place("mamba2-2.7b", "state", 0.5, "none")


def a_cell(place: Place, *, family: str = "mamba2", **options: Any) -> Cell:
    params = {**default_params(place.method), **options.pop("params", {})}
    cell = make_cell(
        model=place.model,
        method=place.method,
        ratio=place.ratio,
        fine_tune=place.fine_tune,
        params=params,
        recipe={} if place.fine_tune == "none" else {"steps": 10},
        **options,
    )
    return dataclasses.replace(cell, model=dataclasses.replace(cell.model, family=family))


def scored(values: Mapping[str, float], *, metric: str = "acc", **extra: Any) -> dict[str, Any]:
    """Metrics without samples: a mean that no documents can have."""
    told = {"stderr": None, "n": 100, "higher_is_better": True, "chance": None, **extra}
    return {
        "metrics": [{"task": t, "metric": metric, "value": v, **told} for t, v in values.items()]
    }


class Maker:
    """Fills a run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.ledger = Ledger.open(folder).__enter__()
        self.n = 0

    def __enter__(self) -> Maker:
        return self

    def __exit__(self, *error: object) -> None:
        self.ledger.__exit__(*error)

    def want(self, cell: Cell, *suites: Suite) -> None:
        self.ledger.cell(cell, list(suites))

    def add(self, cell: Cell, rows: Mapping[Suite, dict], *, comp: float | None = None) -> None:
        """Add a cell that is done, with the rows of its suites."""
        self.want(cell, *rows)
        facts = facts_of(cell) | ({} if comp is None else {"compression_mixer": comp})
        for suite, found in rows.items():
            self.n += 1
            mark = attempts.write_suite(
                self.folder,
                cell_id=cell.id,
                attempt_id=f"a{self.n:05d}",
                suite=suite,
                result_rows=found,
                facts=facts,
                seconds=1.0,
            )
            self.ledger.commit(mark)


def results(folder: RunFolder) -> Results:
    return results_of([folder])


def line(table: Table, *keys: str) -> dict[str, Shown]:
    """The line that begins with these keys, by the prefix or the header of its columns."""
    found = [row for row in table.rows if tuple(c.text for c in row[: len(keys)]) == keys]
    assert len(found) == 1, (keys, len(found))
    named = [c.prefix or c.header for c in table.columns]
    return dict(zip(named, found[0], strict=True))


def named(tables: Iterable[Table], name: str) -> Table:
    return next(table for table in tables if table.name.endswith(name))


def documents(right: int, *, of: int = 50, names: Iterable[str] = TASKS) -> dict[str, Any]:
    """Right answers to the first so many documents of every task."""
    return acc_rows({name: [int(i < right) for i in range(of)] for name in names})


def missing(tables: Iterable[Table]) -> Iterable[tuple[Table, tuple[Shown, ...], Shown]]:
    for table in tables:
        for row in table.rows:
            yield from ((table, row, cell) for cell in row if cell.text == MISSING)
