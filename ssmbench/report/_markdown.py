"""A report as one Markdown page, figures as files beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report._table import Table
from ssmbench.report._text import heading, prose, sentence, superscript, texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ssmbench.report._build import Report
    from ssmbench.report._figure import Figure
    from ssmbench.report._source import Source

_SPECIAL = "\\|*_`<["


def page(report: Report) -> str:
    """Make the page; figures are shown from `figures/NAME.svg`."""
    lines = [f"# {_escaped(report.title)}", ""]
    for line in report.provenance.lines:
        lines += [f"**{_prose(line)}**", ""]
    for group in report.groups:
        lines += [f"## {_escaped(group.title)}", ""]
        for item in group.items:
            title = heading(item.title, group.title)
            lines += _table(item, title) if isinstance(item, Table) else _figure(item, title)
    lines += [line for source, _ in report.provenance.facts for line in _grid(source)]
    return "\n".join(lines).rstrip() + "\n"


def table(item: Table) -> str:
    """Make one table with its title, notes and footnotes."""
    return "\n".join(_table(item, item.title, level=2))


def _table(item: Table, title: str, *, level: int = 3) -> list[str]:
    shown = texts(item)
    lines = [f"{'#' * level} {_escaped(title)}", "", *_warnings(item.warnings)]
    rule = ("---:" if c.align == "right" else "---" for c in item.columns)
    lines += [_row([c.full_title for c in item.columns]), f"|{'|'.join(rule)}|"]
    lines += [_row(row) for row in shown.rows]
    lines += ["", *(f"{_prose(note)}  " for note in item.notes)]
    if shown.footnotes:
        numbered = enumerate(shown.footnotes, start=1)
        lines += ["", *(f"{superscript(i)} {_prose(note)}  " for i, note in numbered)]
    return [*lines, ""]


def _figure(item: Figure, title: str) -> list[str]:
    lines = [f"### {_escaped(title)}", "", *_warnings(item.warnings)]
    if item.draw is None:
        return [*lines, f"*No figure:* {_prose(item.reason or 'nothing to draw')}", ""]
    image = f"![{_escaped(item.alt or item.title)}](figures/{item.name}.svg)"
    return [*lines, image, "", _prose(item.caption), ""]


def _grid(source: Source) -> Iterable[str]:
    """Show the grid file, folded where the reader's program can fold."""
    if not source.grid.strip():
        return
    fence = "```"
    while fence in source.grid:
        fence += "`"
    yield from ("<details>", f"<summary>The grid of {_escaped(source.name)}</summary>", "")
    yield from (f"{fence}yaml", source.grid.rstrip(), fence, "", "</details>", "")


def _warnings(warnings: Sequence[str]) -> Iterable[str]:
    for warning in warnings:
        yield from (f"**{_prose(sentence(warning))}**", "")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _prose(text: str) -> str:
    return prose(text, _escaped, lambda code: f"`{code}`")


def _escaped(text: str) -> str:
    """Keep names as they are: `_` and `*` between letters would turn into emphasis."""
    for sign in _SPECIAL:
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split("\n"))
