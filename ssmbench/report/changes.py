"""Changes: what compression cost, row by row, against what chance may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.report._axes import Entry
from ssmbench.report._figure import Figure
from ssmbench.report._forest import Forest, Mark, Panel
from ssmbench.report._points import by_model, data_table, file_name, fill, means, warnings
from ssmbench.report._style import FAINT, INK, STYLES, Style
from ssmbench.report.quality import CHANGE_UNITS, change_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._panels import Panel as Suite
    from ssmbench.report._points import ByModel
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score

TITLE = "Changes"
ORDER = 25

_TITLE = "What compression changed"
_HOLDS = Style(STYLES[1].colour, "s", ())
_MAYBE = Style(STYLES[0].colour, "o", (), filled=False)
_NOISE = Style(FAINT, "X", ())
_BARE = Style(INK, "d", (), filled=False)
_LOOKS = {
    "changed, after Holm's correction too": _HOLDS,
    "changed, if it were the only comparison": _MAYBE,
    "cannot be told from dense": _NOISE,
    "no interval": _BARE,
}


def build(results: Results) -> list[Figure]:
    """Build one figure for each model: a panel for the first suite of accuracies, one for a text.

    Args:
        results: the run's.
    """
    suites = [
        next((p for p in results.panels if p.kind == kind), None)
        for kind in ("fraction", "perplexity")
    ]
    found = [(p, means(results, p, results.facts)) for p in suites if p is not None]
    made = [_figure(group, found) for group in by_model(results.facts)]
    figures = [figure for figure in made if figure is not None]
    if figures:
        return figures
    why = "No compressed model was scored on the same documents as its dense one"
    return [Figure(_TITLE, "changes", "", reason=fill(results, why, toy="quickstart", real="full"))]


def _figure(group: ByModel, found: Sequence[tuple[Suite, Mapping[int, Score]]]) -> Figure | None:
    known = [(p, _changed(group, scores)) for p, scores in found]
    known = [(p, changed) for p, changed in known if changed]
    if not known:
        return None
    rows = [f for f in group.rows if any(f.row.index in changed for _, changed in known)]
    places = {f.row.index: at for at, f in enumerate(rows)}
    panels = [
        Panel(
            title=f"{p.suite}, {'mean' if p.kind == 'fraction' else p.columns[0][0]}",
            x=f"change, {CHANGE_UNITS[p.kind]}",
            none=0.0,
            marks={places[i]: _mark(score) for i, score in changed.items()},
            is_fraction=p.kind == "fraction",
        )
        for p, changed in known
    ]
    used = {mark.style for panel in panels for mark in panel.marks.values()}
    entries = [Entry(text, look, line=False) for text, look in _LOOKS.items() if look in used]
    forest = Forest([f.label for f in rows], panels, entries)
    name = file_name("changes", group.model)
    title = f"{_TITLE}: {group.model}"
    return Figure(
        title=title,
        name=name,
        caption=(
            "Compressed minus dense, paired document by document, with 95 % intervals: accuracies"
            " in points, perplexities in nats per token. Left of the line at 0 is worse for"
            " accuracies, right of it for perplexities. Holm's correction is over the rows of the"
            " table of quality. Not in either paper."
        ),
        alt=_alt(group, known),
        draw=forest.draw,
        data=data_table(name, title, _records(group, known)),
        size=forest.size,
        warnings=warnings([p for p, _ in known], rows),
    )


def _changed(group: ByModel, scores: Mapping[int, Score]) -> dict[int, Score]:
    """Give the scores that differ from dense by a number."""
    wanted = [f.row.index for f in group.rows if not f.is_plain_dense]
    return {i: scores[i] for i in wanted if i in scores and scores[i].difference.value is not None}


def _mark(score: Score) -> Mark:
    change = score.difference
    assert change.value is not None
    if change.interval is None:
        return Mark(change.value, None, None, _BARE)
    look = _NOISE if change.verdict == "unclear" else _HOLDS if change.holds else _MAYBE
    return Mark(change.value, *change.interval, look)


def _records(
    group: ByModel, known: Sequence[tuple[Suite, Mapping[int, Score]]]
) -> list[dict[str, Any]]:
    made = []
    for suite, changed in known:
        for f in group.rows:
            if f.row.index in changed:
                change = changed[f.row.index].difference
                low, high = change.interval or (None, None)
                made.append(
                    {"model": f.model, "method": f.name, "ratio": f.ratio, "suite": suite.suite}
                    | {"change": change.value, "low": low, "high": high}
                    | {"p": change.p, "p_holm": change.p_holm, "mark": change.mark or "none"}
                    | {"reason": "one document has no spread: no interval"}
                )
    return made


def _alt(group: ByModel, known: Sequence[tuple[Suite, Mapping[int, Score]]]) -> str:
    told = []
    for suite, changed in known:
        noise = sum(s.difference.verdict == "unclear" for s in changed.values())
        worse = -1.0 if suite.kind == "fraction" else 1.0
        order = sorted(
            (f for f in group.rows if f.row.index in changed),
            key=lambda f: worse * (changed[f.row.index].difference.value or 0.0),
        )
        ends = [
            f"{f.label} {change_text(suite, changed[f.row.index].difference)}"
            for f in dict.fromkeys((order[0], order[-1]))
        ]
        told.append(
            f"{suite.suite}: {noise} of {len(changed)} cannot be told from dense; least and most"
            f" is lost by {' and '.join(ends)} {CHANGE_UNITS[suite.kind]}"
        )
    return f"{group.model}. {'. '.join(told)}."
