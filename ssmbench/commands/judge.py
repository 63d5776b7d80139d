"""Commands that judge a run: against another, and against a policy."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Literal

from ssmbench import console
from ssmbench.errors import DONE

if TYPE_CHECKING:
    from ssmbench.report._results import Results


def compare(
    first: str,
    second: str,
    /,
    *,
    everything: bool = False,
    format: Literal["terminal", "md", "csv"] = "terminal",
    out: Path | None = None,
) -> int:
    """Show what changed between two runs, cell by cell, paired by document.

    Args:
        first: the run folder that differences are taken from.
        second: the run folder that is compared with it.
        everything: show cells that did not change, too.
        format: terminal, md (Markdown) or csv (plain numbers, one table after another).
        out: the file to write instead of printing.
    """
    from ssmbench.report import _compare_tables, _render
    from ssmbench.report._compare import Comparison

    comparison = Comparison(_results(first), _results(second), _names(first, second))
    tables = _compare_tables.build(comparison, everything=everything)
    lines = _compare_tables.summary(comparison)
    if format == "terminal" and out is None:
        console.renderables(_render.terminal(table, width=console.width()) for table in tables)
        console.result("\n".join(lines))
    elif format == "csv":
        console.write("\n".join(f"# {t.name}\n{_render.csv_text(t)}" for t in tables), to=out)
    else:
        page = _render.markdown(tables, title=" and ".join(comparison.names))
        console.write(page + "\n" + "".join(f"- {line}\n" for line in lines), to=out)
    return DONE


def gate(
    run_folder: str,
    /,
    *,
    policy: Path,
    against: str | None = None,
    format: Literal["terminal", "md", "csv"] = "terminal",
) -> int:
    """Judge a run by a policy: GO exits with 0, NO-GO with 1, INCONCLUSIVE with 4.

    Args:
        run_folder: the run folder.
        policy: the file with the rules: docs/compare.md.
        against: the run folder that changes `to: other` are taken from.
        format: terminal, md (Markdown) or csv.
    """
    from ssmbench.report import _gate, _render
    from ssmbench.report._compare import Comparison
    from ssmbench.report._policy import read_policy

    rules = read_policy(policy)
    results = _results(run_folder)
    other = None
    if against is not None:
        names = _names(against, run_folder)
        other = Comparison(_results(against), results, names)
    checks = _gate.judge(results, rules, against=other)
    table = _gate.table(checks)
    if format == "terminal":
        console.renderables([_render.terminal(table, width=console.width())])
        console.result(_gate.summary(checks))
    elif format == "md":
        console.write(_render.markdown([table], title=_gate.summary(checks)))
    else:
        console.write(_render.csv_text(table))
    return _gate.EXIT_CODES[_gate.overall(check.verdict for check in checks)]


def _results(location: str) -> Results:
    from ssmbench.report._results import Results
    from ssmbench.store.folder import RunFolder
    from ssmbench.store.read import tables

    return Results(tables(RunFolder.open(location)))


def _names(first: str, second: str) -> tuple[str, str]:
    """Name two runs by as little of their paths as tells them apart."""
    parts = [location.rstrip("/").split("/") for location in (first, second)]
    for n in range(1, max(map(len, parts)) + 1):
        one, two = ("/".join(p[-n:]) for p in parts)
        if one != two:
            return one, two
    return f"{parts[0][-1]} (first)", f"{parts[1][-1]} (second)"
