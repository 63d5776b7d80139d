"""Tables as text in a terminal, as a short Markdown page, or as CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from ssmbench.report import _markdown
from ssmbench.report._table import MISSING, Column, Shown, Table
from ssmbench.report._text import sentence, superscript, texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_GAP = 2  # One space of padding, one of rich's divider.


def terminal(table: Table, *, width: int) -> RenderableType:
    """Make something that rich prints within `width` columns.

    A table that is too wide becomes several under each other, each with the key columns.
    """
    shown = texts(table)
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    parts += [Text(sentence(warning), style="bold red") for warning in table.warnings]
    for block in blocks(table, shown.rows, width):
        parts += [Text(""), _block(table, shown.rows, block)]
    parts.append(Text(""))
    parts += [Text(note, style="dim") for note in table.notes]
    for number, note in enumerate(shown.footnotes, start=1):
        line = RichTable.grid(padding=(0, 1))
        line.add_row(Text(superscript(number)), Text(note))
        parts.append(line)
    return Group(*parts, Text(""))


def markdown(tables: Sequence[Table], *, title: str) -> str:
    """Make one Markdown page of a few tables."""
    return f"# {title}\n\n" + "\n".join(_markdown.table(table) for table in tables)


def csv_text(table: Table) -> str:
    """Make a CSV file: plain numbers, fractions 0–1, one column for each part of a cell.

    A table with warnings has them in a last column, since a file travels without its title.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [(i, c) for i, c in enumerate(table.columns) if c.parts]
    head = ["warning"] if table.warnings else []
    tail = ["; ".join(table.warnings)] if table.warnings else []
    writer.writerow([name for _, c in columns for name in _csv_names(c)] + head)
    for row in table.rows:
        writer.writerow([_plain(row[i], part) for i, c in columns for part in c.parts] + tail)
    return buffer.getvalue()


def blocks(table: Table, rows: list[list[str]], width: int) -> Iterator[list[int]]:
    """Share the columns out over blocks that fit; every block begins with the keys.

    Args:
        table: with its columns.
        rows: its texts, footnote marks included.
        width: of a block, in characters.

    Yields:
        Indices of columns.
    """
    widths = [
        max(cell_len(text) for text in (c.full_title, *(row[i] for row in rows)))
        for i, c in enumerate(table.columns)
    ]
    keys = [i for i, c in enumerate(table.columns) if c.key]
    taken = sum(widths[i] + _GAP for i in keys)
    block: list[int] = []
    used = taken
    for i in range(len(table.columns)):
        if i in keys:
            continue
        if block and used + widths[i] + _GAP > width:
            yield keys + block
            block, used = [], taken
        block.append(i)
        used += widths[i] + _GAP
    yield keys + block


def _block(table: Table, rows: list[list[str]], indices: list[int]) -> RichTable:
    columns = [table.columns[i] for i in indices]
    made = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for column in columns:
        made.add_column(Text(column.full_title), justify=column.align, overflow="fold")
    model = None
    for number, row in enumerate(rows):
        if number and number in table.sections:
            made.add_section()
        line = [row[i] for i in indices]
        if columns[0].key and number not in table.sections and line[0] == model:
            line[0] = ""  # The same model as above.
        model = row[indices[0]]
        made.add_row(*(Text(text) for text in line))
    return made


def _csv_names(column: Column) -> list[str]:
    return [f"{column.prefix}_{part}" if column.prefix else part for part in column.parts]


def _plain(cell: Shown, part: str) -> str:
    value = cell.numbers.get(part)
    if value is None or cell.text == MISSING:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
