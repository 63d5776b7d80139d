"""A report as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from ssmbench.report._html_table import prose_html, table_html
from ssmbench.report._render import csv_text
from ssmbench.report._table import Table
from ssmbench.report._text import heading, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssmbench.report._build import Group, Report
    from ssmbench.report._figure import Figure
    from ssmbench.report._source import Source

# With more entries than this, the contents begin folded.
_MANY = 30
_HEADLINE_FACTS = ("cells", "attempts", "measured", "code", "device")


def page(report: Report, *, svg: Callable[[Figure], str]) -> str:
    """Make the page.

    Args:
        report: what is on it.
        svg: draws a figure, as `_draw.svg` does.
    """
    style = resources.files("ssmbench.report").joinpath("page.css").read_text("utf-8")
    body = "\n".join(
        [
            '<a class="skip" href="#page.main">Skip the contents</a>',
            *_header(report),
            '<div class="page">',
            *_contents(report),
            '<main id="page.main">',
            *(line for group in report.groups for line in _group(group, report, svg)),
            "</main>",
            "</div>",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)} · ssmbench report</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _header(report: Report) -> Iterator[str]:
    yield f"<header>\n<h1>{escape(report.title)}</h1>"
    for source, facts in report.provenance.facts:
        told: dict[str, list[str]] = {}
        for fact in facts:
            count = "" if fact.n is None else f"{fact.n} "
            counted = fact.about in {"cells", "attempts"}
            value = f"{count}{fact.value}" if counted else fact.value
            told.setdefault(fact.about, []).append(value)
        parts = [f"{about} {', '.join(told[about])}" for about in _HEADLINE_FACTS if about in told]
        name = f"<b>{escape(source.name)}</b> · " if len(report.provenance.facts) > 1 else ""
        yield f'<p class="facts">{name}{escape(" · ".join(parts))}</p>'
    for line in report.provenance.lines:
        word, _, rest = line.partition(":")
        yield f'<p class="warn"><strong>{escape(word)}:</strong>{prose_html(rest)}</p>'
    yield "</header>"


def _contents(report: Report) -> Iterator[str]:
    opened = "" if sum(len(g.items) for g in report.groups) > _MANY else " open"
    yield '<nav aria-label="Contents">'
    for group in report.groups:
        yield f"<details{opened}>"
        yield f'<summary><a href="#group.{group.name}">{escape(group.title)}</a></summary>\n<ul>'
        for item in group.items:
            title = escape(heading(item.title, group.title))
            yield f'<li><a href="#{item.name}">{title}</a></li>'
        yield "</ul>\n</details>"
    yield "</nav>"


def _group(group: Group, report: Report, svg: Callable[[Figure], str]) -> Iterator[str]:
    label = f"group.{group.name}"
    yield f'<section aria-labelledby="{label}">\n<h2 id="{label}">{escape(group.title)}</h2>'
    for item in group.items:
        yield f'<section aria-labelledby="{item.name}">'
        title = escape(heading(item.title, group.title))
        yield f'<h3 id="{item.name}">{title}{_download(item)}</h3>'
        yield from (f'<p class="warn">{prose_html(sentence(w))}</p>' for w in item.warnings)
        yield table_html(item) if isinstance(item, Table) else _figure(item, svg)
        yield "</section>"
    if group.name == "provenance":
        yield from (_grid(source) for source, _ in report.provenance.facts if source.grid.strip())
    yield "</section>"


def _download(item: Table | Figure) -> str:
    """Link to the plain numbers, which are in the page itself."""
    table = item if isinstance(item, Table) else item.data
    if table is None or not table.csv:
        return ""
    data = base64.b64encode(csv_text(table).encode()).decode()
    return f' <a class="data" download="{item.name}.csv" href="data:text/csv;base64,{data}">CSV</a>'


def _figure(figure: Figure, svg: Callable[[Figure], str]) -> str:
    if figure.draw is None:
        reason = prose_html(sentence(figure.reason or "nothing to draw"))
        return f'<figure class="empty">\n<p>No figure: {reason}</p>\n</figure>'
    width = f"max-width:{figure.size[0] * 96 * 1.1:g}px"
    return (
        f'<figure style="{width}">\n<div class="drawn">\n{svg(figure)}</div>\n'
        f"<figcaption>{prose_html(figure.caption)}</figcaption>\n</figure>"
    )


def _grid(source: Source) -> str:
    return (
        f"<details>\n<summary>The grid of {escape(source.name)}</summary>\n"
        f"<pre><code>{escape(source.grid)}</code></pre>\n</details>"
    )
