"""Compression: what each method removed and what that cost, one line a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.report._by_row import facts_by_row
from ssmbench.report._format import fixed, percent, significant
from ssmbench.report._table import Column, Shown, Table, missing
from ssmbench.report.quality import (
    CHANGE_PARTS,
    CHANGE_UNITS,
    INTERVAL,
    mean_scores,
    not_publishable,
    shown_difference,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssmbench.report._panels import Panel
    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row, Rows
    from ssmbench.report._scores import Score

TITLE = "Compression"
ORDER = 20

_FACTS = (
    "ratio_achieved",
    "compression_mixer",
    "compression_paper_percent",
    "compression_model",
    "state_bytes",
    "state_bytes_dense",
)
_COLUMNS = (
    Column("achieved", unit="%", parts=("ratio_achieved",)),
    Column("Comp.", unit="%", parts=("compression_mixer",)),
    Column("Comp. (paper)", unit="%", parts=("compression_paper_percent",)),
    Column("model", unit="%", parts=("compression_model",)),
    Column("state", unit="% change", parts=("state_change",)),
)
_FAMILY = "Holm's correction is that of the tables of quality: over all rows of a column."


def build(results: Results) -> list[Table]:
    """Build one table: what is gone beside what it cost, paired with dense.

    Args:
        results: the run's.
    """
    cells = results.cells
    rows = results.rows
    if not rows.rows:
        return []
    known = facts_by_row(cells, rows.frame, numbers=_FACTS)
    lines = [[*row.key, *_removed(known[row.index], row)] for row in rows.rows]
    columns = [*rows.columns, *_COLUMNS]
    panels = []
    for kind in ("fraction", "perplexity"):
        panel, found = mean_scores(results, rows, kind=kind)
        if panel is not None:
            panels.append(panel)
            columns.append(_cost_column(panel))
            for line, row in zip(lines, rows.rows, strict=True):
                line.append(_cost(panel, found.get(row.index), row))
    return [_table(columns, lines, rows, panels)]


def _table(
    columns: list[Column], lines: list[list[Shown]], rows: Rows, panels: list[Panel]
) -> Table:
    limits = {panel.limit for panel in panels} - {None}
    return Table(
        title=f"{TITLE}: what is gone, and what it cost",
        name="compression",
        columns=tuple(columns),
        rows=tuple(map(tuple, lines)),
        sections=rows.sections,
        notes=(
            "Achieved: zeros or removed units, of those that the (last) method targets. Comp.: the"
            " part of the SSM mixers' stored weights that is gone, exact; Comp. (paper): the same"
            ' as "On Pruning State-Space LLMs" rounds it, 100 − ⌊100 · after / before⌋. Model: of'
            " all stored weights. A method that only sets weights to zero removes none.",
            "State: change of what one sequence carries along, in bytes.",
            *(_quality_note(panel) for panel in panels),
            *((INTERVAL, _FAMILY) if panels else ()),
        ),
        warnings=tuple(not_publishable(limit) for limit in limits if limit is not None),
    )


def _removed(facts: Mapping[str, Any], row: Row) -> list[Shown]:
    def show(part: str, value: float | None, text: Callable[[float], str], why: str = "") -> Shown:
        if value is None:
            return missing(row.why_missing(why or "not told by the attempt"))
        return Shown(text(value), {part: value})

    def share(value: float) -> str:
        return significant(100 * value)

    before, after = facts["state_bytes_dense"], facts["state_bytes"]
    change = after / before - 1 if after is not None and before else None
    no_mixers = "" if facts["compression_model"] is None else "the model has no SSM mixers"
    paper = facts["compression_paper_percent"]
    none = "dense removes nothing" if row.is_dense else ""
    return [
        show("ratio_achieved", facts["ratio_achieved"], percent, none),
        show("compression_mixer", facts["compression_mixer"], share, no_mixers),
        show("compression_paper_percent", paper, lambda v: f"{v:g}", no_mixers),
        show("compression_model", facts["compression_model"], share),
        show("state_change", change, lambda v: fixed(100 * v, 1, sign=True)),
    ]


def _quality_note(panel: Panel) -> str:
    what = "mean over its tasks" if panel.kind == "fraction" else "perplexity of its text"
    return f"{panel.suite}: change of the {what}, {CHANGE_UNITS[panel.kind]}."


def _cost_column(panel: Panel) -> Column:
    unit = CHANGE_UNITS[panel.kind]
    return Column(panel.suite, unit=unit, parts=CHANGE_PARTS, prefix=panel.suite)


def _cost(panel: Panel, score: Score | None, row: Row) -> Shown:
    if score is None:
        otherwise = f"suite {panel.suite} has no score here"
        return missing(row.why_missing(otherwise, suite=panel.suite))
    shown = shown_difference(panel, score, row)
    return Shown(shown.text, score.difference.numbers, shown.note)
