"""Commands on a run folder: where it stands, and what it found."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import Literal

from ssmbench import console
from ssmbench.errors import DONE, CommandError


def status(run_folder: str, /, *, follow: bool = False, plain: bool = False) -> int:
    """Show where a run stands; safe while it runs, from any machine that sees the folder.

    Args:
        run_folder: the run folder.
        follow: go on until nobody drives it; then exit with 0 if all cells are done, else 1.
        plain: plain lines, no live display.
    """
    from ssmbench.execute import watch
    from ssmbench.store.folder import RunFolder

    folder = RunFolder.open(run_folder)
    if follow:
        return watch.follow(folder, plain=plain)
    watch.show_status(folder)
    return DONE


def logs(run_folder: str, cell: str, /, *, attempt: int | None = None, follow: bool = False) -> int:
    """Show what a cell's last attempt printed.

    Args:
        run_folder: the run folder.
        cell: the cell's id, or the beginning of it.
        attempt: which attempt, from 1 in the order in which they began; the last by default.
        follow: go on printing until the attempt has ended.
    """
    from ssmbench.execute.logs import show_logs
    from ssmbench.store.folder import RunFolder

    return show_logs(RunFolder.open(run_folder), cell, attempt=attempt, follow=follow)


def cancel(run_folder: str, /, *, now: bool = False) -> int:
    """Ask whoever drives a run to stop, wherever it does; the same command continues later.

    Args:
        run_folder: the run folder.
        now: end what runs, too; without it that may finish.
    """
    from ssmbench.execute.cancel import cancel as ask
    from ssmbench.store.folder import RunFolder

    return ask(RunFolder.open(run_folder), at_once=now)


def sql(
    run_folder: str, query: str, /, *, format: Literal["table", "csv", "json"] = "table"
) -> int:
    """Query a run's tables: cells, metrics, samples, latency, layers, attempts.

    Args:
        run_folder: the run folder.
        query: one SELECT, such as "select * from metrics".
        format: how to print the result.
    """
    from ssmbench.store.folder import RunFolder
    from ssmbench.store.sql import query as run_query

    console.frame(run_query(RunFolder.open(run_folder), query), format=format)
    return DONE


def report(
    run_folder: str,
    /,
    *,
    format: Literal["terminal", "md", "csv"] = "terminal",
    out: Path | None = None,
) -> int:
    """Show a run's tables of quality and cost.

    Args:
        run_folder: the run folder.
        format: terminal, md (Markdown) or csv (plain numbers, one table after another).
        out: write instead of printing: a file for md, a folder of files for csv.
    """
    from ssmbench.report import _build, _render
    from ssmbench.store.folder import RunFolder

    folder = RunFolder.open(run_folder)
    tables = _build.build_all(folder)
    if format == "terminal":
        if out is not None:
            raise CommandError("--out: expected --format md or csv with it.")
        console.renderables(_render.terminal(table, width=console.width()) for table in tables)
    elif format == "md":
        console.write(_render.markdown(tables, title=folder.path.name), to=out)
    elif out is None:
        console.write("\n".join(f"# {t.name}\n{_render.csv_text(t)}" for t in tables if t.csv))
    else:
        _render.write(tables, out, title=folder.path.name)
    return DONE
