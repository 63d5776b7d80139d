"""Quality: scores with standard errors, and what compression changed, paired with dense."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ssmbench.report._format import fixed, percent, significant
from ssmbench.report._quality_notes import MARKS as MARKS
from ssmbench.report._quality_notes import family, notes
from ssmbench.report._scores import Difference, Key, Score, Scores, mean_score, no_score
from ssmbench.report._table import Column, Shown, Table, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row, Rows

TITLE = "Quality"
ORDER = 10

CHANGE_UNITS = {"fraction": "points", "perplexity": "nats/token", "number": ""}
CHANGE_PARTS = ("diff", "low", "high", "p", "p_holm")
_PARTS = ("value", "stderr", *CHANGE_PARTS, "seed_sd")


def build(results: Results) -> list[Table]:
    """Build one or two tables for each suite and metric of a run.

    Args:
        results: the run's.
    """
    rows = results.rows
    found = results.scores
    made = []
    panels = results.panels
    names = [p.suite for p in {p.suite_id: p for p in panels}.values()]
    for panel in panels:
        several = names.count(panel.suite) > 1
        measured = {row for row, suite_id, *_ in found if suite_id == panel.suite_id}
        made += _panel_tables(panel, rows.wanted(measured), found, several=several)
    return made


def mean_scores(
    results: Results, rows: Rows, *, kind: str = "fraction"
) -> tuple[Panel | None, dict[int, Score]]:
    """Give the first suite's mean score of every row that has one, and that suite's panel.

    For tables that must not stand without quality.

    Args:
        results: as for `build`.
        rows: the table's.
        kind: "fraction" for the mean over a suite's tasks, "perplexity" for its first text.
    """
    for panel in results.panels:
        if panel.kind == kind:
            means = {row.index: mean(panel, row, results.scores) for row in rows.rows}
            return panel, {i: s for i, s in means.items() if s.value is not None}
    return None, {}


def _panel_tables(
    panel: Panel, rows: Rows, found: Mapping[Key, Score], *, several: bool
) -> list[Table]:
    """Make the table of scores and, unless it fits beside them, that of differences."""
    names = [header_of(panel, column) for column in panel.columns]
    grid = [[score_of(panel, row, found, column) for column in panel.columns] for row in rows.rows]
    if len(panel.averaged) > 1:  # The mean first: a narrow terminal shows it before it splits.
        names.insert(0, "mean")
        for line, row in zip(grid, rows.rows, strict=True):
            line.insert(0, mean(panel, row, found))
    pairs = list(zip(rows.rows, grid, strict=True))
    cells = [[_shown_score(panel, score, row) for score in line] for row, line in pairs]
    changes = [[shown_difference(panel, score, row) for score in line] for row, line in pairs]
    change_unit = CHANGE_UNITS[panel.kind]
    columns = [Column(name, parts=_PARTS, prefix=name) for name in names]
    beside = len(names) == 1
    if beside:
        columns.append(Column("to dense", unit=change_unit))
        cells = [line + change for line, change in zip(cells, changes, strict=True)]
    if any(len(row.cells) > 1 for row in rows.rows):
        columns.insert(1, Column("seed sd"))
        for texts, (_, line) in zip(cells, pairs, strict=True):
            texts.insert(1, _shown_seed_sd(panel, line[0]))
    about, name = names_of(panel, several=several)
    title, name = f"{TITLE}: {about}", f"quality-{name}"
    warnings = () if panel.limit is None else (not_publishable(panel.limit),)
    extra = _reference_rows(panel, rows, [c.header for c in columns])
    table = Table(
        title=title,
        name=name,
        columns=(*rows.columns, *columns),
        rows=(*_joined(rows, cells), *extra),
        sections=rows.sections | ({len(cells)} if extra else set()),
        notes=(*notes(panel, rows), family(panel, found)),
        warnings=warnings,
    )
    if beside:
        return [table]
    differences = Table(
        title=_difference_title(title, change_unit),
        name=f"{name}-difference",
        columns=(*rows.columns, *(Column(name) for name in names)),
        rows=_joined(rows, changes),
        sections=rows.sections,
        notes=(INTERVAL, family(panel, found)),
        warnings=warnings,
        csv=False,
    )
    return [table, differences]


NO_INTERVAL = "one document has no spread: no interval"
INTERVAL = (
    "Compressed minus dense, paired by document, with its 95 % interval. Of right and wrong"
    " answers it is Tango's, and leaves out zero only where McNemar's exact test does; of nats,"
    " and of means over seeds, documents are drawn again (bootstrap-t), each with all its seeds."
    " A mean's is made of its tasks' (MOVER). It says what other documents would change, and takes"
    " the seeds as they are. Of nats, an interval without width says only that all documents"
    " changed alike. " + MARKS
)


def _joined(rows: Rows, cells: Iterable[Sequence[Shown]]) -> tuple[tuple[Shown, ...], ...]:
    return tuple((*row.key, *line) for row, line in zip(rows.rows, cells, strict=True))


def names_of(panel: Panel, *, several: bool) -> tuple[str, str]:
    """Name a panel for people and as part of a file's name."""
    metrics = {m for _, m in panel.columns}
    what = metrics.pop() if len(metrics) == 1 else panel.metric or panel.kind
    words = [] if what in {panel.suite, "number"} else [what]
    words += ["%"] * (panel.kind == "fraction") + [f"suite {panel.suite_id}"] * several
    about = panel.suite + (f" ({', '.join(words)})" if words else "")
    name = f"{panel.suite}-{what}" + (f"-{panel.suite_id}" if several else "")
    return about, re.sub(r"[^0-9A-Za-z_-]+", "-", name)


def _difference_title(title: str, unit: str) -> str:
    name = title.replace(", %)", ")")
    return f"{name}, difference to dense" + (f", {unit}" if unit else "")


def not_publishable(limit: int) -> str:
    """Warn of a trial run."""
    return f"not publishable: first {limit} documents only"


def header_of(panel: Panel, column: tuple[str, str]) -> str:
    """Name a column of a panel by what tells it from the others: its task, its metric or both."""
    task, metric = column
    if len({m for _, m in panel.columns}) == 1:
        return task
    return metric if len({t for t, _ in panel.columns}) == 1 else f"{task} {metric}"


def score_of(
    panel: Panel,
    row: Row,
    found: Mapping[Key, Score],
    column: tuple[str, str],
) -> Score:
    """Give a row's score in one column of a panel, or none with the reason."""
    score = found.get((row.index, panel.suite_id, *column))
    if score is not None:
        return score
    reason = row.why_missing(f"suite {panel.suite} was not run on this cell", suite=panel.suite)
    return no_score(reason)


def mean(panel: Panel, row: Row, found: Mapping[Key, Score]) -> Score:
    """Give a row's mean over a panel's tasks; of another kind, its first column."""
    if panel.kind != "fraction":
        return score_of(panel, row, found, panel.columns[0])
    parts = [score_of(panel, row, found, c) for c in panel.columns if c[0] in panel.averaged]
    without = [p for p in parts if p.value is None]
    if without and len(without) == len(parts):
        return without[0]
    means = found.means(panel) if isinstance(found, Scores) else {}
    return means.get(row.index) or mean_score(parts)


def _shown_score(panel: Panel, score: Score, row: Row) -> Shown:
    if score.value is None:
        return missing(score.reason or "no score")
    numbers = {"value": score.value, "stderr": score.stderr, "seed_sd": score.seed_sd}
    text = score.difference.mark + score_text(panel, score.value, score.stderr)
    return Shown(text, numbers | score.difference.numbers, seeds_missing(score, row))


def score_text(panel: Panel, value: float, stderr: float | None) -> str:
    """Write a score of a panel and its standard error: `41.2 ±1.3`."""
    digits: Callable[[float], str] = percent if panel.kind == "fraction" else significant
    text = digits(value)
    if stderr is None:
        return text
    if "e" in text:
        return f"{text} ±{stderr:.2g}"
    # The error is told to the same place as the score that it belongs to.
    places = len(text.partition(".")[2])
    error = 100 * stderr if panel.kind == "fraction" else stderr
    return f"{text} ±{fixed(error, places)}"


def _shown_seed_sd(panel: Panel, score: Score) -> Shown:
    """Show the spread over seeds of a row's first score: the mean, if there is one."""
    sd = score.seed_sd
    if sd is None:
        return Shown("")
    return Shown(percent(sd) if panel.kind == "fraction" else significant(sd))


def seeds_missing(score: Score, row: Row) -> str | None:
    """Say why a score is the mean of fewer seeds than its row has; None if it is not."""
    if len(score.seeds) >= len(row.cells):
        return None
    why = row.why_missing("the others were not run", but=score.seeds)
    return f"mean of {len(score.seeds)} of {len(row.cells)} seeds: {why}"


def shown_difference(panel: Panel, score: Score, row: Row) -> Shown:
    """Show what compression changed, with its 95 % interval."""
    change = score.difference
    if row.is_dense and row.dense == row.index and score.value is not None:
        return Shown("dense")
    if change.value is None:
        return missing(score.reason or change.reason or "no score")
    return Shown(change_text(panel, change), note=None if change.interval else NO_INTERVAL)


def change_text(panel: Panel, change: Difference) -> str:
    """Write a difference that has a value, with its 95 % interval and mark if it has one.

    A limit that would be rounded to a zero that the interval leaves out gets more digits.
    """
    assert change.value is not None
    scale, digits = (100.0, 1) if panel.kind == "fraction" else (1.0, 3)
    if change.interval is None:
        return fixed(scale * change.value, digits, sign=True)
    low, high = (scale * v for v in change.interval)
    if low > 0 or high < 0:
        nearest = min(abs(low), abs(high))
        digits = next((d for d in range(digits, digits + 9) if round(nearest, d)), digits)
    texts = [fixed(v, digits, sign=True) for v in (scale * change.value, low, high)]
    return f"{change.mark}{texts[0]} [{texts[1]}, {texts[2]}]"


def _reference_rows(panel: Panel, rows: Rows, headers: Sequence[str]) -> list[tuple[Shown, ...]]:
    """Make the rows "chance" and "best", where any of it is known."""
    made = []
    for name, known in (("chance", panel.chance), ("best", panel.best)):
        if panel.kind != "fraction" or not known:
            continue
        told = [known[task] for task in panel.averaged if task in known]
        values = {header_of(panel, column): known.get(column[0]) for column in panel.columns}
        values["mean"] = sum(told) / len(told) if len(told) == len(panel.averaged) else None
        cells = [_reference(name, values[h]) if h in values else Shown("") for h in headers]
        keys = [Shown(""), Shown(name, {"method": name}), *[Shown("")] * (len(rows.columns) - 2)]
        made.append((*keys, *cells))
    return made


def _reference(name: str, value: float | None) -> Shown:
    if value is None:
        return missing(f"{name} is not known here")
    return Shown(percent(value), {"value": value})
