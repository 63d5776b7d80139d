"""A report as files: every format that was asked for, in one folder.

    report.html                        one page, by itself
    report.md, figures/NAME.svg, .png  one page with its figures
    report.tex, tables/NAME.tex, figures/NAME.pdf
    csv/NAME.csv                       tables and what the figures draw
    report.json                        which of the folder's files are ours

Everything is made before the first file is touched; each file is replaced in one step; files of
an earlier report in the same format that this one lacks are removed, and nothing else is.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench.errors import CommandError, suggest
from ssmbench.report import _draw, _html, _latex, _markdown
from ssmbench.report._render import csv_text
from ssmbench.report._table import Table
from ssmbench.store import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ssmbench.report._build import Report
    from ssmbench.report._figure import Figure

# The file that people open, of each format.
MAIN = {"html": "report.html", "md": "report.md", "latex": "report.tex", "csv": "csv"}
_LIST = "report.json"
_KIND = "ssmbench report"


def formats_of(text: str) -> tuple[str, ...]:
    """Read a comma list of formats, `terminal` included.

    Raises:
        CommandError: one does not exist.
    """
    known = ("terminal", *MAIN)
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        if name not in known:
            raise CommandError(f"--format: there is no format '{name}'.{suggest(name, known)}")
    return found


def as_text(report: Report, name: str) -> str:
    """Give a report in one format as one text, to be piped; figures are left out but of html."""
    if name == "html":
        return _html.page(report, svg=_draw.svg)
    if name == "md":
        return _markdown.page(report)
    if name == "latex":
        return "\n".join(_tex(report).values())
    return "\n".join(f"# {name}\n{text}" for name, text in _csv(report))


def write(report: Report, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a report in these formats.

    Args:
        report: as `_build.build_report` gives it.
        folder: made if needed; may hold other things.
        formats: of `MAIN`.

    Returns:
        What to open, one for each format.

    Raises:
        CommandError: the folder cannot be written, or holds a file of such a name that is not
            of an earlier report.
    """
    files = _make(report, formats)
    try:
        _put(folder, files)
    except OSError as problem:
        raise CommandError(
            f"{problem.filename or folder}: cannot be written ({problem.strerror})."
            " Choose another folder with --out."
        ) from problem
    return [folder / MAIN[name] for name in formats]


def _make(report: Report, formats: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """Render everything: format -> file -> content."""
    drawn = [figure for figure in report.figures if figure.draw is not None]
    of_name = {figure.name: figure for figure in drawn}
    drawing = functools.cache(lambda name: _draw.svg(of_name[name]))

    def svg(figure: Figure) -> str:
        return drawing(figure.name)  # A figure itself has no hash.

    make: dict[str, Callable[[], dict[str, str | bytes]]] = {
        "html": lambda: {MAIN["html"]: _html.page(report, svg=svg)},
        "md": lambda: {
            MAIN["md"]: _markdown.page(report),
            **{f"figures/{f.name}.svg": svg(f) for f in drawn},
            **{f"figures/{f.name}.png": _draw.png(f) for f in drawn},
        },
        "latex": lambda: {
            MAIN["latex"]: _latex.document(report),
            **{f"tables/{name}.tex": text for name, text in _tex(report).items()},
            **{f"figures/{f.name}.pdf": _draw.pdf(f) for f in drawn},
        },
        "csv": lambda: {f"csv/{name}.csv": text for name, text in _csv(report)},
    }
    return {
        name: {
            path: content.encode() if isinstance(content, str) else content
            for path, content in make[name]().items()
        }
        for name in formats
    }


def _tex(report: Report) -> dict[str, str]:
    lines = report.provenance.lines
    return {table.name: _latex.table(table, comments=lines) for table in report.tables}


def _csv(report: Report) -> Iterator[tuple[str, str]]:
    for group in report.groups:
        for item in group.items:
            table = item if isinstance(item, Table) else item.data
            if table is not None and table.csv:
                yield item.name, csv_text(table)


def _put(folder: Path, files: Mapping[str, Mapping[str, bytes]]) -> None:
    """Replace the files of an earlier report; the list of what is ours is never short of one."""
    earlier = _earlier(folder)
    ours = {path for paths in earlier.values() for path in paths}
    for path in (path for made in files.values() for path in made):
        if path not in ours and (folder / path).exists():
            raise CommandError(
                f"{folder / path}: is not of an earlier report ({_LIST} does not list it)."
                " Move it, or choose another folder with --out."
            )
    after = earlier | {name: list(made) for name, made in files.items()}
    both = {name: sorted({*earlier.get(name, ()), *paths}) for name, paths in after.items()}
    atomic.write_bytes(folder / _LIST, _json(both), replace=True)
    for made in files.values():
        for path, content in made.items():
            atomic.write_bytes(folder / path, content, replace=True)
    kept = {path for paths in after.values() for path in paths}
    for path in ours - kept:
        (folder / path).unlink(missing_ok=True)
    atomic.write_bytes(folder / _LIST, _json(after), replace=True)


def _earlier(folder: Path) -> dict[str, list[str]]:
    """Read which files an earlier report wrote, by format; only names that one writes count.

    Raises:
        CommandError: the list is damaged or somebody else's.
    """
    path = folder / _LIST
    try:
        found: Any = json.loads(path.read_bytes())
        if found["kind"] != _KIND:
            raise ValueError(f"its kind is not '{_KIND}'")
        listed = {str(name): [str(p) for p in paths] for name, paths in found["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise CommandError(
            f"{path}: is not the list of a report's files ({problem}). Remove the earlier report,"
            " or choose another folder with --out."
        ) from None
    return {name: [p for p in paths if _is_ours(p)] for name, paths in listed.items()}


def _is_ours(path: str) -> bool:
    """Whether a report may write, and so remove, a file of this name."""
    parts = Path(path).parts
    if len(parts) == 1:
        return path in MAIN.values()
    return len(parts) == 2 and parts[0] in {"csv", "figures", "tables"} and parts[1] != ".."


def _json(files: Mapping[str, Sequence[str]]) -> bytes:
    return json.dumps({"kind": _KIND, "files": files}, indent=1).encode() + b"\n"
