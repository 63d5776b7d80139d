"""One table as terminal text, Markdown or CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from ssmbench.report._table import MISSING, Column, Shown, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_GAP = 2  # One space of padding, one of rich's divider.


@dataclass(frozen=True)
class Texts:
    """A table's cells as text with footnote marks, and the footnotes in order."""

    rows: list[list[str]]
    footnotes: list[str]


def texts(table: Table) -> Texts:
    """Number the notes of a table's cells: the same note has one number."""
    numbers: dict[str, int] = {}
    rows = []
    for row in table.rows:
        line = []
        for cell in row:
            mark = ""
            if cell.note:
                number = numbers.setdefault(cell.note, len(numbers) + 1)
                mark = str(number).translate(_SUPERSCRIPT)
            line.append(cell.text + mark)
        rows.append(line)
    return Texts(rows, list(numbers))


def terminal(table: Table, *, width: int) -> RenderableType:
    """Make something that rich prints within `width` columns.

    A table that is too wide becomes several under each other, each with the key columns.
    """
    shown = texts(table)
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    parts += [Text(_sentence(warning), style="bold red") for warning in table.warnings]
    for block in _blocks(table, shown.rows, width):
        parts += [Text(""), _block(table, shown.rows, block)]
    parts.append(Text(""))
    parts += [Text(note, style="dim") for note in table.notes]
    for number, note in enumerate(shown.footnotes, start=1):
        line = RichTable.grid(padding=(0, 1))
        line.add_row(Text(str(number).translate(_SUPERSCRIPT)), Text(note))
        parts.append(line)
    return Group(*parts, Text(""))


def markdown(tables: Sequence[Table], *, title: str) -> str:
    """Make one Markdown page of all tables."""
    return f"# {title}\n\n" + "\n".join(_markdown_table(table) for table in tables)


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


def write(tables: Sequence[Table], folder: Path, *, title: str) -> list[Path]:
    """Write report.md and one CSV file for each table; files of an earlier report are replaced.

    Args:
        tables: as `_build.build_all` gives them.
        folder: made if needed.
        title: the page's heading.

    Returns:
        The files, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"report.md": markdown(tables, title=title)}
    files |= {f"{table.name}.csv": csv_text(table) for table in tables if table.csv}
    paths = []
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _blocks(table: Table, rows: list[list[str]], width: int) -> Iterator[list[int]]:
    """Share the columns out over blocks that fit; every block begins with the keys."""
    widths = [
        max(cell_len(text) for text in (c.title, *(row[i] for row in rows)))
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
        made.add_column(Text(column.title), justify=column.align, overflow="fold")
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


def _markdown_table(table: Table) -> str:
    shown = texts(table)
    lines = [f"## {table.title}", ""]
    for warning in table.warnings:
        lines += [f"**{_sentence(warning)}**", ""]
    lines.append(_markdown_row([c.title for c in table.columns]))
    lines.append(
        "|" + "|".join("---:" if c.align == "right" else "---" for c in table.columns) + "|"
    )
    lines += [_markdown_row(row) for row in shown.rows]
    lines += ["", *(f"{note}  " for note in table.notes)]
    if shown.footnotes:
        marks = (str(n).translate(_SUPERSCRIPT) for n in range(1, len(shown.footnotes) + 1))
        lines += [
            "",
            *(f"{m} {_escaped(n)}  " for m, n in zip(marks, shown.footnotes, strict=True)),
        ]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Keep names as they are: `_` and `*` between letters would turn into emphasis."""
    for sign in "\\|*_`<[":
        text = text.replace(sign, "\\" + sign)
    return text.replace("\n", " ")


def _csv_names(column: Column) -> list[str]:
    return [f"{column.prefix}_{part}" if column.prefix else part for part in column.parts]


def _plain(cell: Shown, part: str) -> str:
    value = cell.numbers.get(part)
    if value is None or cell.text == MISSING:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
