"""What `ssmbench plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench import console
from ssmbench.execute.prepare import Prepared, Request, prepare
from ssmbench.execute.progress import duration
from ssmbench.plan.decide import Decision, decide
from ssmbench.plan.history import History
from ssmbench.plan.matched import giga, percent
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import read_history

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.plan.cells import Entry


def show_plan(request: Request) -> None:
    """Print one line a cell, what is to do first and the longest of that, then the totals."""
    prepared = prepare(request)
    decisions = decide(prepared.entries, _history(prepared))
    console.rows(
        ["cell", "", "suites", "state", "FLOPs", "time"],
        (_line(decision) for decision in decisions),
        right=["FLOPs", "time"],
    )
    _show_matches(prepared.entries)
    console.result(_totals(decisions))
    console.note(f"run folder {prepared.out}")


def _show_matches(entries: Sequence[Entry]) -> None:
    """Print what was asked of each ratio that matches FLOPs, and what was found."""
    body = []
    for entry in entries:
        if entry.match is not None:
            asked, target, found = entry.match
            given = f"{asked.prompt} + {asked.answer} tokens, head {asked.head}"
            aim = f"{asked.match_flops}, {giga(target)}"
            off = percent(found.relative_error)
            line = [entry.cell.label, aim, giga(found.flops), off, found.status, given]
            body.append([entry.cell.id, *line])
    if body:
        header = ["cell", "", "to cost as much as", "found", "off by", "status", "for"]
        console.rows(header, body, right=["found", "off by"])


def _history(prepared: Prepared) -> History:
    """Read what the run folder holds; a folder that is not there yet holds nothing."""
    if not (prepared.out / "run.json").exists():
        return History()
    return read_history(RunFolder.open(prepared.out))


def _line(decision: Decision) -> list[str]:
    cell = decision.entry.cell
    suites = ", ".join(s.name for s in decision.suites_to_do)
    if not decision.suites_to_do:
        return [cell.id, cell.label, "", decision.text, "", ""]
    seconds = "?" if decision.seconds is None else duration(decision.seconds)
    flops = "?" if decision.flops is None else f"{decision.flops:.1e}"
    return [cell.id, cell.label, suites, decision.text, flops, seconds]


def _totals(decisions: Sequence[Decision]) -> str:
    todo = [d for d in decisions if d.suites_to_do]
    n_failed = sum(d.state == "failed" for d in todo)
    parts = [console.count(len(decisions), "cell"), f"{len(decisions) - len(todo)} done"]
    if n_failed:
        parts.append(f"{n_failed} failed before (run with --retry-failed)")
    parts.append(f"{len(todo) - n_failed} to do")
    flops = [d.flops for d in todo if d.flops is not None]
    seconds = [d.seconds for d in todo if d.seconds is not None]
    if flops:
        parts.append(f"{sum(flops):.1e} FLOPs")
    if seconds:
        parts.append(f"about {duration(sum(seconds))} one after another")
    if len(seconds) < len(todo):
        parts.append(f"no estimate for {console.count(len(todo) - len(seconds), 'cell')}")
    return " · ".join(parts)
