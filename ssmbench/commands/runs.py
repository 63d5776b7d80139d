"""Commands on a run folder: where it stands, and what it found."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from ssmbench import console
from ssmbench.errors import DONE


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
    *more: str,
    format: str | None = None,
    table: str | None = None,
    out: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    open: bool = False,
) -> int:
    """Show what runs found, in tables and figures, several runs joined.

    Args:
        run_folder: the run folder.
        more: further run folders: their cells are joined, and one that several planned counts
            once.
        format: write files: html (one page), md, latex, csv, or several joined by commas. Without
            it the tables are printed (terminal).
        table: print these tables alone: names or patterns such as 'quality-*', joined by commas.
        out: the folder for these files, or - to print one of them. By default RUN/report, and
            report-NAME here for several runs or an object store.
        open: open the HTML page in the browser.
    """
    from ssmbench.commands import reports

    return reports.report([run_folder, *more], format=format, table=table, out=out, browse=open)
