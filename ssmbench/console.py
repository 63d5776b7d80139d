"""The only place that prints: results to stdout, everything about the run to stderr.

Nothing is cut to a terminal's width that is not there: piped tables are as wide as they need
to be. rich is imported at the first call.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Literal

from ssmbench.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import polars as pl
    from rich.console import Console, RenderableType

Format = Literal["table", "csv", "json"]

_PIPED_WIDTH = 10_000
_GAP = "  "


@functools.cache
def out() -> Console:
    """Give the console for results (stdout)."""
    return _console(stderr=False)


@functools.cache
def err() -> Console:
    """Give the console for progress, notes and errors (stderr)."""
    return _console(stderr=True)


def is_live(*, plain: bool) -> bool:
    """Whether a live display makes sense: stderr is a terminal that can move its cursor."""
    console = err()
    return not plain and console.is_terminal and not console.is_dumb_terminal


def result(text: str) -> None:
    """Print a result as it is."""
    out().print(text, markup=False, highlight=False, soft_wrap=True)


def write(text: str, *, to: Path | None = None) -> None:
    """Write text that is a file's content (CSV, JSON, Markdown), to stdout or a file.

    Raises:
        CommandError: the file cannot be written.
    """
    text = text if text.endswith("\n") else text + "\n"
    if to is None:
        sys.stdout.write(text)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise CommandError(f"{to}: cannot be written ({problem.strerror}).") from problem


def width() -> int:
    """Give the columns that results may use: the terminal's, or as many as it takes."""
    return out().width


def renderables(items: Iterable[RenderableType]) -> None:
    """Print what rich can print, without blanks at the ends of lines."""
    for item in items:
        with out().capture() as captured:
            out().print(item)
        lines = captured.get().splitlines()
        out().file.write("".join(f"{line.rstrip()}\n" for line in lines))


def note(text: str) -> None:
    """Print a remark about the run."""
    _line(text, style=None)


def warn(text: str) -> None:
    """Print a remark that deserves a look."""
    _line(f"! {text}", style="yellow")


def done(text: str) -> None:
    """Print that something is done."""
    _line(f"✓ {text}", style="green")


def failed(text: str) -> None:
    """Print that something failed for good."""
    _line(f"✗ {text}", style="red")


def error(text: str) -> None:
    """Print a user's mistake."""
    _line(text, style="red")


def rows(
    header: Sequence[str], body: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    """Print a table without lines; too wide for the terminal, its columns are folded.

    Args:
        header: column names.
        body: rows of text.
        right: names of the columns to align to the right.
    """
    from rich.cells import cell_len

    lines = [list(header), *(list(row) for row in body)]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(header))]
    if sum(widths) + len(_GAP) * len(widths) > out().width:
        _folded(lines, right)
        return
    for line in lines:
        cells = (
            " " * (width - cell_len(text)) + text
            if name in right
            else text + " " * (width - cell_len(text))
            for name, text, width in zip(header, line, widths, strict=True)
        )
        out().file.write(_GAP.join(cells).rstrip() + "\n")


def _folded(lines: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    header, *body = lines
    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0))
    for name in header:
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(Text(name), justify=justify)
    for row in body:
        table.add_row(*(Text(text) for text in row))
    renderables([table])


def frame(data: pl.DataFrame, *, format: Format) -> None:
    """Print a data frame as an aligned table, as CSV or as JSON (a list of objects)."""
    if format == "csv":
        write(data.write_csv())
    elif format == "json":
        write(data.write_json())
    else:
        numbers = [name for name, dtype in data.schema.items() if dtype.is_numeric()]
        rows(data.columns, ([cell(v) for v in row] for row in data.iter_rows()), right=numbers)


def count(n: int, noun: str) -> str:
    """Write a number of things: `1 cell`, `2 cells`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def cell(value: Any) -> str:
    """Write one value of a table; null is a dash, not a number."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _line(text: str, *, style: str | None) -> None:
    err().print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console
