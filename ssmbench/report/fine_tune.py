"""Fine-tuning: what came back of what compression cost, paired with the same cell untrained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmbench.report._format import percent
from ssmbench.report._quality_notes import MARKS
from ssmbench.report._rows import UNTRAINED, Row, Rows
from ssmbench.report._scores import Difference, Score, Scores, no_score, scores
from ssmbench.report._table import Column, Shown, Table, missing
from ssmbench.report.quality import (
    CHANGE_PARTS,
    CHANGE_UNITS,
    NO_INTERVAL,
    change_text,
    header_of,
    mean,
    names_of,
    not_publishable,
    score_of,
    score_text,
    seeds_missing,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._results import Results

TITLE = "Fine-tuning"
ORDER = 60

_SCORE = ("value", "stderr")
_UNITS = {
    "fraction": "Scores ± standard error over documents, in %; differences in points.",
    "perplexity": "Perplexity ± standard error over documents; differences in nats per token, the"
    " sign turned: fewer nats are better.",
}
_BACK = (
    "Came back: w/ FT against w/o FT of the same cell, paired by document, with its 95 % interval"
    f" as in the tables of quality; positive is better. {MARKS}",
    "Of the loss: that, as a part of what compression took from the dense model. Given where the"
    " 95 % interval of the loss, paired likewise, excludes zero.",
)
_BETTER = (
    "kd − ce: trained towards the dense model's distribution against trained on the text itself,"
    " the same cell with otherwise equal settings, paired by document, with its 95 % interval as in"
    f" the tables of quality; positive: kd is better. {MARKS}"
)
_NO_TWIN = "the same cell without fine-tuning is not in this run: add none to fine_tune"
_NO_DENSE = "no dense cell of this model and dtype in this run"
_NO_LOSS = "compression cost nothing here that can be told from zero"


@dataclass(frozen=True)
class _Found:
    """Every score three times: paired with the dense row, the untrained one, the one of ce.

    `ces` maps the index of a row trained by kd to that of the same one trained by ce.
    """

    to_dense: Scores
    to_untrained: Scores
    to_ce: Scores
    ces: Mapping[int, int]


@dataclass(frozen=True)
class _View:
    """One column of a panel; None is the mean over its tasks."""

    panel: Panel
    column: tuple[str, str] | None

    @property
    def name(self) -> str:
        return "mean" if self.column is None else header_of(self.panel, self.column)

    def score(self, row: Row, found: Scores) -> Score:
        if self.column is None:
            return mean(self.panel, row, found)
        return score_of(self.panel, row, found, self.column)

    def better(self, change: Difference) -> Difference:
        """Turn a difference such that positive is better."""
        return change if self.panel.kind == "fraction" else change.negated()


def build(results: Results) -> list[Table]:
    """Build tables of what came back for each suite and metric, and of kd against ce.

    Args:
        results: the run's.
    """
    rows = results.rows
    trained = [row for row in rows.rows if row.fine_tune != UNTRAINED]
    if not trained:
        return []
    found = _find(results, rows, trained)
    panels = [p for p in results.panels if p.kind in _UNITS]
    suites = [p.suite for p in {p.suite_id: p for p in panels}.values()]
    made = []
    for panel in panels:
        several = suites.count(panel.suite) > 1
        measured = {row for row, suite_id, *_ in found.to_dense if suite_id == panel.suite_id}
        kept = [row for row in rows.wanted(measured).rows if row.fine_tune != UNTRAINED]
        if any(row.index in measured for row in kept):
            made += _panel_tables(panel, rows, kept, found, several=several)
    return made


def _find(results: Results, rows: Rows, trained: Sequence[Row]) -> _Found:
    """Pair the trained rows with the untrained ones, and those of kd with those of ce."""

    def paired(twins: Mapping[int, int | None], other: str) -> Scores:
        links = rows.paired(twins)
        found = scores(
            results["metrics"],
            results["samples"],
            links,
            other=other,
            documents=results.documents,
        )
        return found.adjusted(results.panels)

    ces = _ces(trained)
    return _Found(
        to_dense=results.scores,
        to_untrained=paired({row.index: row.untrained for row in trained}, "untrained"),
        to_ce=paired(dict(ces), "ce"),
        ces=ces,
    )


def _ces(trained: Sequence[Row]) -> dict[int, int]:
    """Find the rows trained by kd that are there trained by ce as well, all else being equal."""

    def settings(row: Row) -> tuple[object, ...]:
        return row.base, {k: v for k, v in row.recipe.items() if k != "temperature"}

    kds, ces = ([r for r in trained if r.fine_tune == kind] for kind in ("kd", "ce"))
    return {kd.index: ce.index for kd in kds for ce in ces if settings(kd) == settings(ce)}


def _panel_tables(
    panel: Panel, rows: Rows, kept: Sequence[Row], found: _Found, *, several: bool
) -> list[Table]:
    """Make the tables of one panel: the means, the tasks, and kd against ce."""
    about, name = names_of(panel, several=several)
    views = [_View(panel, column) for column in panel.columns]
    tasks = views if len(views) > 1 else []
    means = [_View(panel, None)] if len(panel.averaged) > 1 else views
    title, name = f"{TITLE}: {about}", f"fine-tune-{name}"
    made = [_came_back(title, name, rows, kept, means, found)]
    if tasks and means != tasks:
        made.append(_came_back(f"{title}, by task", f"{name}-tasks", rows, kept, tasks, found))
    both = [row for row in kept if row.index in found.ces]
    if both:
        views = [*means, *tasks] if means != tasks else means
        made.append(
            _kd_and_ce(f"{title}, kd against ce", f"{name}-kd-ce", rows, both, views, found)
        )
    return made


def _came_back(
    title: str,
    name: str,
    rows: Rows,
    kept: Sequence[Row],
    views: Sequence[_View],
    found: _Found,
) -> Table:
    unit = CHANGE_UNITS[views[0].panel.kind]
    columns = (
        Column("dense", parts=_SCORE, prefix="dense"),
        Column("w/o FT", parts=_SCORE, prefix="without"),
        Column("w/ FT", parts=_SCORE, prefix="with"),
        Column("came back", unit=unit, parts=CHANGE_PARTS, prefix="back"),
        Column("of the loss", unit="%", parts=("back_of_loss",)),
    )
    lines = [(row, view, _back_cells(view, row, rows, found)) for row in kept for view in views]
    return _table(title, name, rows, columns, lines, _BACK)


def _kd_and_ce(
    title: str,
    name: str,
    rows: Rows,
    kept: Sequence[Row],
    views: Sequence[_View],
    found: _Found,
) -> Table:
    unit = CHANGE_UNITS[views[0].panel.kind]
    columns = (
        Column("w/o FT", parts=_SCORE, prefix="without"),
        Column("ce", parts=_SCORE, prefix="ce"),
        Column("kd", parts=_SCORE, prefix="kd"),
        Column("kd − ce", unit=unit, parts=CHANGE_PARTS, prefix="kd_ce"),
    )
    lines = []
    for row in kept:
        ce = rows.rows[found.ces[row.index]]
        for view in views:
            change = _change(view, view.score(row, found.to_ce), view.score(ce, found.to_dense))
            cells = (
                _untrained(view, row, rows, found)[1],
                _score(view, view.score(ce, found.to_dense), ce),
                _score(view, view.score(row, found.to_dense), row),
                change,
            )
            lines.append((row, view, cells))
    return _table(title, name, rows, columns, lines, (_BETTER,))


def _table(
    title: str,
    name: str,
    rows: Rows,
    columns: Sequence[Column],
    lines: Sequence[tuple[Row, _View, Sequence[Shown]]],
    notes: Sequence[str],
) -> Table:
    """Put lines together; what a line is about stands beside its row where there are several."""
    panel = lines[0][1].panel
    several = len({view.name for _, view, _ in lines}) > 1
    starts = {i for i, (row, _, _) in enumerate(lines) if i == 0 or lines[i - 1][0] is not row}
    if not several:
        starts = {i for i in starts if i == 0 or lines[i - 1][0].key[0] != lines[i][0].key[0]}
    about = (Column("task", "left", parts=("task",), key=True),) if several else ()
    return Table(
        title=title,
        name=name,
        columns=(*rows.columns, *about, *columns),
        rows=tuple(
            (*row.key, *((Shown(view.name, {"task": view.name}),) if several else ()), *cells)
            for row, view, cells in lines
        ),
        sections=frozenset(starts),
        notes=(_UNITS[panel.kind], *notes),
        warnings=() if panel.limit is None else (not_publishable(panel.limit),),
    )


def _back_cells(view: _View, row: Row, rows: Rows, found: _Found) -> tuple[Shown, ...]:
    after = view.score(row, found.to_dense)
    dense = no_score(_NO_DENSE)
    if row.dense is not None:
        dense = view.score(rows.rows[row.dense], found.to_dense)
    before, shown_before = _untrained(view, row, rows, found)
    paired = no_score(_NO_TWIN) if before is None else view.score(row, found.to_untrained)
    change = _change(view, paired, after)
    return (
        _score(view, dense, row),
        shown_before,
        _score(view, after, row),
        change,
        _of_the_loss(view, before, change),
    )


def _untrained(view: _View, row: Row, rows: Rows, found: _Found) -> tuple[Score | None, Shown]:
    if row.untrained is None:
        return None, missing(_NO_TWIN)
    twin = rows.rows[row.untrained]
    score = view.score(twin, found.to_dense)
    return score, _score(view, score, twin)


def _score(view: _View, score: Score, row: Row) -> Shown:
    if score.value is None:
        return missing(score.reason or "no score")
    numbers = {"value": score.value, "stderr": score.stderr}
    text = score_text(view.panel, score.value, score.stderr)
    return Shown(text, numbers, seeds_missing(score, row))


def _change(view: _View, paired: Score, own: Score) -> Shown:
    """Show a paired difference, turned such that positive is better."""
    change = view.better(paired.difference)
    if change.value is None:
        return missing(own.reason or paired.reason or change.reason or "no score")
    note = None if change.interval else NO_INTERVAL
    return Shown(change_text(view.panel, change), change.numbers, note)


def _of_the_loss(view: _View, before: Score | None, back: Shown) -> Shown:
    value = back.numbers.get("diff")
    if before is None or not isinstance(value, float):
        return missing(back.note or _NO_TWIN)
    loss = view.better(before.difference)
    if loss.value is None:
        return missing("nothing was removed" if loss.reason == "dense" else str(loss.reason))
    if loss.verdict != "below":
        return missing(_NO_LOSS)
    part = -value / loss.value
    return Shown(percent(part, 0), {"back_of_loss": part})
