"""The part of a plan that `--only` means."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ssmbench.errors import CommandError, suggest
from ssmbench.grid.filters import FIELDS, Filter, Term, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ssmbench.plan.cells import Cell, Entry, Suite


def select(entries: Sequence[Entry], chosen: Filter) -> list[Entry]:
    """Keep the cells that a filter means, each with the suites that it means.

    Raises:
        CommandError: nothing is left.
    """
    if not chosen.groups:
        return list(entries)
    kept = []
    for entry in entries:
        values = _cell_values(entry.cell)
        suites = tuple(s for s in entry.suites if chosen.matches(_with(values, s)))
        if suites:
            kept.append(dataclasses.replace(entry, suites=suites))
    if not kept:
        raise CommandError(_nothing(entries, chosen))
    return kept


def _cell_values(cell: Cell) -> dict[str, Value]:
    return {
        "model": cell.model.name,
        "method": cell.method,
        "ratio": cell.ratio,
        "seed": cell.seed,
        "fine_tune": cell.fine_tune.kind,
        "family": cell.model.family,
        "id": cell.id,
    }


def _with(values: dict[str, Value], suite: Suite) -> dict[str, Value]:
    return {**values, "suite": suite.name}


def _nothing(entries: Iterable[Entry], chosen: Filter) -> str:
    """Say which term alone leaves nothing, and what it could have been."""
    pairs = [_with(_cell_values(e.cell), s) for e in entries for s in e.suites]
    found = {field: sorted({v[field] for v in pairs}, key=str) for field in FIELDS}
    for term in (term for group in chosen.groups for term in group):
        if not any(term.holds(values) for values in pairs):
            return f"--only: no cell of the grid has {term}.{_hint(term, found[term.field])}"
    groups = " or ".join(",".join(map(str, group)) for group in chosen.groups)
    return f"--only: no cell of the grid matches {groups}"


def _hint(term: Term, values: Sequence[Value]) -> str:
    if term.field == "id":
        return " `ssmbench plan GRID` lists the ids."
    known = (f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return suggest(str(term.value), known)
