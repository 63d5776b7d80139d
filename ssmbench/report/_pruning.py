"""What the first paper's tables are made of: their models, their cells, and whole tables."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ssmbench.report._paper import TASKS, TOYS, Grid
from ssmbench.report._paper_cells import (
    COMPARED,
    PARTS,
    WHOSE,
    Cell,
    compression_cell,
    score_cell,
)
from ssmbench.report._rows import UNTRAINED
from ssmbench.report._scores import no_score
from ssmbench.report._table import Column, Shown, Table, missing
from ssmbench.report.published import NAMES, Number, Place, by_place
from ssmbench.report.quality import not_publishable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssmbench.report._paper import PaperRun, Task
    from ssmbench.report._paper_cells import Body

SUITES = ("zero_shot", "tinyworld")
FULL = Grid("grids/full.yaml", tuple(NAMES.values()), SUITES)
LOSSES = Grid("grids/loss-choice.yaml", ("phi-mamba-1.5b",), SUITES)
LEFT = {0.5: "1/2", 0.75: "1/4"}
"""Where heads are merged: the fraction removed, and what is left."""

_TRAINED = ("state", "head_dim", "merge")
_NOT_TRAINED = "the paper does not fine-tune after it"
_PAPER = "On Pruning State-Space LLMs"


def models(run: PaperRun, table: str, methods: Sequence[str]) -> Iterator[str]:
    """Name a table's models: of the paper's those that were run, the run's own, then the rest."""
    have = run.models(methods)
    paper = list(dict.fromkeys(n.place.model for n in by_place().values() if n.table == table))
    yield from (model for model in paper if model in have)
    yield from (model for model in have if model not in paper)
    yield from (model for model in paper if model not in have)


def is_there(run: PaperRun, table: str, places: Sequence[Place]) -> bool:
    """Whether a row has anything to show: a cell of the run, or a published number."""
    return any(place in run.at or (table, place) in _printed() for place in places)


@cache
def _printed() -> frozenset[tuple[str, Place]]:
    return frozenset((n.table, n.place) for n in by_place().values())


def mean_cell(run: PaperRun, table: str, place: Place) -> Cell:
    """Make the cell of a mean."""
    number = by_place().get((table, place, "average"))
    trained = place.fine_tune != UNTRAINED
    if trained and place.method not in _TRAINED and place not in run.at and number is None:
        return Cell(missing(_NOT_TRAINED))
    return _score(run, place, None, number, 2, FULL)


def task_cells(run: PaperRun, table: str, place: Place, grid: Grid) -> list[Cell]:
    """Make the cells of the six tasks and of their mean."""
    digits = 3 if table == "T3" else 2
    numbers = [by_place().get((table, place, task.name)) for task in TASKS]
    main = {"T3": "T3", "T6": "T2"}.get(table, "T1")
    average = by_place().get((main, place, "average"))
    return [
        *(
            _score(run, place, task, number, digits, grid)
            for task, number in zip(TASKS, numbers, strict=True)
        ),
        _score(run, place, None, average, digits, grid),
    ]


def _score(
    run: PaperRun,
    place: Place,
    task: Task | None,
    number: Number | None,
    digits: int,
    grid: Grid,
) -> Cell:
    score = run.score(place, grid.suites, task)
    rows = run.at.get(place, [])
    if score.value is None and not score.reason:
        score = no_score(run.why(place, grid))
    note = f"the first of {len(rows)} such rows of this run" if len(rows) > 1 else None
    return score_cell(score, rows[0] if rows else None, number, digits=digits, note=note)


def compression(run: PaperRun, table: str, place: Place) -> Cell:
    """Make the cell of Comp."""
    number = by_place().get((table, place, "compression"))
    rows = run.at.get(place)
    if not rows:
        return Cell(missing(run.why(place, FULL)), number)
    fraction = run.facts[rows[0].index]["compression_mixer"]
    return compression_cell(fraction, number, why=run.why(place, FULL))


def task_columns() -> list[Column]:
    """Give the columns of the six tasks and of their mean."""
    columns = [Column(t.header, parts=PARTS, prefix=t.name) for t in TASKS]
    return [*columns, Column("mean", parts=PARTS, prefix="mean")]


def key(name: str, header: str | None = None) -> Column:
    """Give a key's column; its part has its name."""
    return Column(name if header is None else header, "left", parts=(name,), key=True)


def named(text: str, part: str) -> Shown:
    """Show a part of a row's key."""
    return Shown(text, {part: text})


def removed(place: Place, table: str) -> Shown:
    """Show how much is removed, or how many heads are left as the paper says it."""
    if place.method != "merge":
        return Shown(f"{place.ratio:g}", {"ratio": place.ratio})
    what = "average" if table == "T2" else TASKS[0].name
    number = by_place().get((table, place, what))
    text = LEFT[place.ratio] if number is None else str(number.heads_kept)
    return Shown(text, {"heads_kept": text})


def table(
    run: PaperRun,
    number: int,
    what: str,
    keys: Sequence[Column],
    columns: Sequence[Column],
    body: Body,
    *notes: str,
) -> Table:
    """Put a table together, with a note on the zoo and a warning of trials where they are in it."""
    models = {row[0].text for row in body.rows}
    limits = {
        panel.limit
        for place, found in run.at.items()
        if place.model in models
        for row in found
        if (panel := run.panel(row, SUITES)) is not None and panel.limit is not None
    }
    toys = any(model.startswith("zoo-") for model in models)
    return Table(
        title=f"{_PAPER}, Table {number}: {what}",
        name=f"pruning-table-{number}",
        columns=(*keys, WHOSE, *columns),
        rows=tuple(body.rows),
        sections=frozenset(body.sections),
        notes=(*COMPARED, *notes, *([TOYS] if toys else [])),
        warnings=tuple(not_publishable(limit) for limit in sorted(limits)),
    )
