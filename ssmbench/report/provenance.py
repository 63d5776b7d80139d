"""Provenance: what code, packages, machines and dates the numbers are from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report._table import Column, Shown, Table

if TYPE_CHECKING:
    from ssmbench.report._results import Results

TITLE = "Provenance"
ORDER = 1000


def build(results: Results) -> list[Table]:
    """Build one table of facts, a section for each run folder; none without known folders.

    Args:
        results: the runs', with their sources.
    """
    found = results.provenance
    rows: list[tuple[Shown, ...]] = []
    sections = set()
    for source, facts in found.facts:
        sections.add(len(rows))
        for fact in facts:
            count = "" if fact.n is None else f"{fact.n} {fact.of}"
            numbers = {"n": fact.n, "of": fact.of}
            cells = (
                Shown(source.name, {"run": source.name}),
                Shown(fact.about, {"about": fact.about}),
                Shown(fact.value, {"value": fact.value}),
                Shown(count, numbers),
            )
            rows.append(cells)
    if not rows:
        return []
    columns = (
        Column("run", "left", parts=("run",), key=True),
        Column("about", "left", parts=("about",), key=True),
        Column("value", "left", parts=("value",)),
        Column("of", parts=("n", "of")),
    )
    return [
        Table(
            title=f"{TITLE}: what the numbers were made with",
            name="provenance",
            columns=columns,
            rows=tuple(rows),
            sections=frozenset(sections),
            warnings=found.warnings,
        )
    ]
