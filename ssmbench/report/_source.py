"""The run folders that a report is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench.report._join import join
from ssmbench.report._results import Results
from ssmbench.store.folder import RunFolder
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl


@dataclass(frozen=True)
class Source:
    """One run folder of a report.

    Attributes:
        name: what people call it: the folder's name, or its place where names repeat.
        location: the folder as it was given, for commands.
        grid: the first grid's text.
        resolved: the same grid with every default filled in.
        created_s: when the folder was made, Unix time; None where it does not say.
        created_by: `ssmbench` and its version; "" where it does not say.
        report_folder: where its reports lie by default; None for an object store.
        frames: this run's own tables.
    """

    name: str
    location: str
    grid: str = ""
    resolved: Any = None
    created_s: float | None = None
    created_by: str = ""
    report_folder: Path | None = None
    frames: Mapping[str, pl.LazyFrame] = field(default_factory=dict, compare=False, repr=False)


def open_results(locations: Sequence[str]) -> Results:
    """Open run folders and join their tables; a folder that is named twice counts once.

    Raises:
        StoreError: one is missing, not a run folder, or damaged.
    """
    folders = {folder.location: folder for folder in map(RunFolder.open, locations)}
    return results_of(list(folders.values()))


def results_of(folders: Sequence[RunFolder]) -> Results:
    """Join the tables of opened run folders."""
    names = [folder.path.name for folder in folders]
    sources = []
    for name, folder in zip(names, folders, strict=True):
        facts = folder.facts()
        created = facts.get("created_s")
        sources.append(
            Source(
                name=name if names.count(name) == 1 else str(folder.path),
                location=str(folder.path),
                grid=str(facts.get("grid") or ""),
                resolved=facts.get("resolved"),
                created_s=created if isinstance(created, int | float) else None,
                created_by=str(facts.get("created_by") or ""),
                report_folder=place if isinstance(place := folder.report_dir, Path) else None,
                frames=tables(folder),
            )
        )
    return Results(join([s.frames for s in sources]), tuple(sources))
