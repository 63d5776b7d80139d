"""One table as HTML: its header, its rows under their model, its notes."""

from __future__ import annotations

from html import escape
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.report._table import MISSING
from ssmbench.report._text import parts, prose, texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ssmbench.report._table import Table
    from ssmbench.report._text import Texts

# Key columns stay in sight while the rest scrolls, as long as they leave room for it.
_MAX_STUCK, _MAX_KEY, _MOST_STUCK = 36, 24, 4


class _View(NamedTuple):
    """A table as it is laid out: which column, if any, becomes headings between the rows."""

    table: Table
    shown: Texts
    columns: tuple[int, ...]
    heading: int | None
    stuck: Sequence[float]  # widths of the key columns that stay in sight, in characters
    seen: set[int]  # footnotes that have been referred to


def table_html(table: Table) -> str:
    """Make the table with its notes; what stands above it is the page's business."""
    view = _view(table)
    head = "\n".join(_head(view))
    body = "\n".join(_bodies(view))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">\n'
        f"<table{_widths(view)}>\n<caption>{escape(table.title)}</caption>\n"
        f"<thead>\n{head}\n</thead>\n{body}\n</table>\n</div>\n{_notes(view)}"
    )


def prose_html(text: str) -> str:
    """Make HTML of a sentence; what stands between backticks is code."""
    return prose(text, escape, lambda code: f"<code>{escape(code)}</code>")


def _view(table: Table) -> _View:
    """Choose the layout: a first key that repeats from row to row stands above its rows once."""
    shown = texts(table)
    every = tuple(range(len(table.columns)))
    first = [row[0] for row in shown.rows]
    repeats = any(a == b for a, b in pairwise(first))
    keys = [c.key for c in table.columns[:2]]
    heading = 0 if keys == [True, True] and repeats else None
    columns = every if heading is None else every[1:]
    return _View(table, shown, columns, heading, _stuck(table, shown, columns), set())


def _stuck(table: Table, shown: Texts, columns: Sequence[int]) -> list[float]:
    """Give the widths of the first key columns, as many as leave room for the rest."""
    widths: list[float] = []
    for i in columns:
        column = table.columns[i]
        longest = max(len(text) for text in (column.title, *(row[i] for row in shown.rows)))
        width = min(longest, _MAX_KEY) + 1.5
        if not column.key or sum(widths) + width > _MAX_STUCK:
            break
        widths.append(width)
    return widths[:_MOST_STUCK]


def _widths(view: _View) -> str:
    """Say how wide the columns are that stay in sight: each one's place follows from it."""
    places = [sum(view.stuck[:i]) for i in range(len(view.stuck))]
    pairs = enumerate(zip(view.stuck, places, strict=True))
    styles = ";".join(f"--w{i}:{width:g}ch;--x{i}:{place:g}ch" for i, (width, place) in pairs)
    return f' style="{styles}"' if styles else ""


def _head(view: _View) -> Iterator[str]:
    columns = [view.table.columns[i] for i in view.columns]
    grouped = any(c.group for c in columns)
    if grouped:
        yield '<tr class="groups">' + "".join(_group_cells(view)) + "</tr>"
    lower = [place for place, c in enumerate(columns) if not grouped or c.group]
    row = (_head_cell(view, place) for place in lower)
    yield "<tr>" + "".join(row) + "</tr>"


def _group_cells(view: _View) -> Iterator[str]:
    """Give the upper row: groups over their columns, and the other columns over both rows."""
    place = 0
    columns = (view.table.columns[i] for i in view.columns)
    for group, members in groupby(columns, key=lambda c: c.group):
        found = list(members)
        if group:
            yield f'<th scope="colgroup" colspan="{len(found)}">{escape(group)}</th>'
        else:
            yield "".join(_head_cell(view, place + i, rows=2) for i in range(len(found)))
        place += len(found)


def _head_cell(view: _View, place: int, *, rows: int = 1) -> str:
    column = view.table.columns[view.columns[place]]
    unit = f" <small>[{escape(column.unit)}]</small>" if column.unit else ""
    span = f' rowspan="{rows}"' if rows > 1 else ""
    if not column.header:
        return f"<td{span}{_class(view, place)}>{unit}</td>"
    return f'<th scope="col"{span}{_class(view, place)}>{escape(column.header)}{unit}</th>'


def _bodies(view: _View) -> Iterator[str]:
    """Give one body for each section; a new model begins with its heading."""
    above = None
    starts = sorted({0, *view.table.sections} & set(range(len(view.table.rows))))
    for start, end in zip(starts, [*starts[1:], len(view.table.rows)], strict=True):
        lines = []
        for number in range(start, end):
            if view.heading is not None:
                name = view.table.rows[number][view.heading].text
                if name and name != above:
                    lines.append(_heading(view, number))
                above = name
            lines.append(_row(view, number))
        yield "<tbody>\n" + "\n".join(lines) + "\n</tbody>"


def _heading(view: _View, number: int) -> str:
    assert view.heading is not None
    text = _cell_text(view, number, view.heading)
    span = len(view.columns)
    return f'<tr class="over"><th scope="rowgroup" colspan="{span}"><span>{text}</span></th></tr>'


def _row(view: _View, number: int) -> str:
    cells = []
    named = False
    for place, i in enumerate(view.columns):
        column = view.table.columns[i]
        text = _cell_text(view, number, i)
        if column.key and not named:
            named = True
            cells.append(f'<th scope="row"{_class(view, place)}>{text}</th>')
        else:
            cells.append(f"<td{_class(view, place, view.table.rows[number][i].text)}>{text}</td>")
    return "<tr>" + "".join(cells) + "</tr>"


def _class(view: _View, place: int, text: str = "") -> str:
    column = view.table.columns[view.columns[place]]
    names = ["k"] if column.key else []
    names += [f"s{place}"] if place < len(view.stuck) else []
    names += ["edge"] if place == len(view.stuck) - 1 else []
    names += ["t"] if column.align == "left" else []
    names += [certainty] if (certainty := parts(text).certainty) else []
    names += ["none"] if text == MISSING else []
    return f' class="{" ".join(names)}"' if names else ""


def _cell_text(view: _View, number: int, i: int) -> str:
    found = parts(view.table.rows[number][i].text)
    mark = f'<span class="mark">{found.mark}</span>' if found.mark else ""
    spread = f'<span class="pm">{escape(found.spread)}</span>' if found.spread else ""
    return f"{mark}{escape(found.value)}{spread}{_reference(view, number, i)}"


def _reference(view: _View, number: int, i: int) -> str:
    note = view.shown.numbers[number][i]
    if note is None:
        return ""
    name = view.table.name
    anchor = "" if note in view.seen else f' id="{name}.r{note}"'
    view.seen.add(note)
    return f'<sup><a href="#{name}.n{note}"{anchor}>{note}</a></sup>'


def _notes(view: _View) -> str:
    notes: Iterable[str] = (f"<p>{prose_html(note)}</p>\n" for note in view.table.notes)
    name = view.table.name
    # A note that only a repeated heading refers to is referred to by none.
    feet = []
    for number, note in enumerate(view.shown.footnotes, start=1):
        back = f' <a href="#{name}.r{number}" aria-label="back to the table">↑</a>'
        told = back if number in view.seen else ""
        feet.append(f'<li id="{name}.n{number}">{prose_html(note)}{told}</li>\n')
    listed = f'<ol class="feet">\n{"".join(feet)}</ol>\n' if feet else ""
    text = "".join(notes) + listed
    return f'<div class="notes">\n{text}</div>\n' if text else ""
