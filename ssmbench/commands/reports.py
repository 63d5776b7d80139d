"""What `ssmbench report` does with its options."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench import console
from ssmbench.errors import DONE, CommandError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.report._build import Report
    from ssmbench.report._results import Results
    from ssmbench.report._table import Table

_STDOUT = "-"
_ENDINGS = {".html", ".md", ".tex", ".csv", ".txt"}


def report(
    runs: Sequence[str],
    *,
    format: str | None = None,
    table: str | None = None,
    out: str | None = None,
    browse: bool = False,
) -> int:
    """Print a report or write it.

    Args:
        runs: the run folders.
        format: as on the command line.
        table: likewise.
        out: likewise.
        browse: open the HTML page.
    """
    from ssmbench.report import _write
    from ssmbench.report._build import build_report
    from ssmbench.report._source import open_results

    formats = _write.formats_of("terminal" if format is None else format)
    if browse:
        formats = tuple(dict.fromkeys([*(formats if format else ()), "html"]))
    files = tuple(name for name in formats if name != "terminal")
    _check(formats, files, out, browse=browse)
    if table is not None and files:
        raise CommandError("--table: expected the terminal with it, no --format and no --open.")
    results = open_results(runs)
    made = build_report(results)
    if "terminal" in formats:
        _print(made, runs, table)
    if out == _STDOUT:
        console.write(_write.as_text(made, files[0]))
    elif files:
        folder = Path(out) if out else default_folder(results)
        for path in _write.write(made, folder, files):
            console.result(str(path))
            if browse and path.suffix == ".html":
                _browse(path)
    return DONE


def _check(formats: Sequence[str], files: Sequence[str], out: str | None, *, browse: bool) -> None:
    """Refuse what cannot be meant, before anything is read."""
    if out is None:
        return
    if not files:
        raise CommandError("--out: expected --format html, md, latex or csv with it.")
    if out == _STDOUT and (len(formats) > 1 or browse):
        raise CommandError("--out -: expected one format with it, and no --open.")
    if out.startswith("-") and out != _STDOUT:
        raise CommandError(f"--out: expected a folder, or - to print; found '{out}'.")
    if Path(out).suffix in _ENDINGS and not Path(out).is_dir():
        raise CommandError(
            f"--out: found the name of a file, '{out}'; expected a folder. To name the file"
            f" yourself, print it: --out - > {out}"
        )


def _print(made: Report, runs: Sequence[str], wanted: str | None) -> None:
    """Print what is not for publication, the tables, and where there is more."""
    from rich.text import Text

    from ssmbench.report import _render

    width = console.width()
    lines = [Text(line, style="bold red") for line in made.provenance.lines]
    found = [table for g in made.groups if g.name != "provenance" for table in g.tables]
    chosen = found if wanted is None else _named(found, wanted)
    console.renderables([*lines, *([Text("")] if lines else [])])
    console.renderables(_render.terminal(table, width=width) for table in chosen)
    if len(chosen) < len(found):
        console.result(
            f"{len(found) - len(chosen)} more tables: ssmbench report {shlex.join(runs)}"
        )
    drawn = sum(figure.draw is not None for figure in made.figures)
    if drawn:
        figures = "1 figure" if drawn == 1 else f"{drawn} figures"
        console.result(f"{figures} and the page: ssmbench report {shlex.join(runs)} --open")


def _named(tables: Sequence[Table], wanted: str) -> list[Table]:
    """Find the tables that a comma list of names, or patterns of names, means."""
    chosen = []
    for pattern in map(str.strip, wanted.split(",")):
        found = [table for table in tables if fnmatchcase(table.name, pattern)]
        if not found:
            names = (table.name for table in tables)
            raise CommandError(f"--table: there is no '{pattern}'.{suggest(pattern, names)}")
        chosen += [table for table in found if table not in chosen]
    return chosen


def default_folder(results: Results) -> Path:
    """Put a local run's report into its folder, any other here."""
    places = {source.location: source.report_folder for source in results.sources}
    (first, *others) = places.values()
    if first is not None and not others:
        return first
    names = "+".join(source.name for source in results.sources)
    return Path("report-" + re.sub(r"[^0-9A-Za-z_.+-]+", "-", names))


def _browse(path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.absolute().as_uri()):
        console.note("no browser could be opened")
