"""What `run` and `plan` share: from a command line to the cells that it means."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.errors import CommandError
from ssmbench.execute import environment
from ssmbench.grid.check_texts import overlap, scored_files
from ssmbench.grid.filters import parse_filter
from ssmbench.grid.read import read_grid
from ssmbench.plan.expand import expand
from ssmbench.plan.select import select
from ssmbench.store.address import place
from ssmbench.surgery.texts import local_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.grid.schema import Grid, GridFile
    from ssmbench.plan.cells import Entry
    from ssmbench.store.address import Place


@dataclass(frozen=True)
class Request:
    """Which cells of which grid, with what data, into which folder; as on the command line."""

    grid: Path
    out: str | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    data: Path | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    inline: bool = False
    address: str | None = None

    def command(self, *, only: str | None = None, retry_failed: bool = False) -> str:
        """Write the `ssmbench run` line that asks for the same again.

        Args:
            only: a cell's id, in place of the filters given.
            retry_failed: also run what has failed before.
        """
        words = ["ssmbench", "run", str(self.grid)]
        if self.out is not None:
            words += ["--out", str(self.out)]
        for value in self.only if only is None else (only,):
            words += ["--only", value]
        if self.limit is not None:
            words += ["--limit", str(self.limit)]
        if self.data is not None:
            words += ["--data", str(self.data)]
        for name, path in self.models.items():
            words += ["--model", f"{name}={path}"]
        for name, path in self.tokenizers.items():
            words += ["--tokenizer", f"{name}={path}"]
        if self.inline:
            words.append("--inline")
        if self.address is not None:
            words += ["--address", self.address]
        if retry_failed:
            words.append("--retry-failed")
        return shlex.join(words)


class Prepared(NamedTuple):
    """A checked grid, the cells of it that are meant, and where their results belong."""

    file: GridFile
    entries: list[Entry]
    out: Place


def prepare(request: Request) -> Prepared:
    """Read and check everything that a command line names; nothing is written or run.

    Raises:
        GridError: the grid has mistakes, all listed.
        CommandError: a filter, model or folder of the command line does not exist.
        StoreError: the run folder's address cannot be meant.
    """
    file = read_grid(request.grid, models=request.models, tokenizers=request.tokenizers)
    if request.data is not None and not request.data.is_dir():
        raise CommandError(
            f"--data {request.data}: found no such folder; expected one laid out as in"
            " docs/local-data.md."
        )
    if request.limit is not None and request.limit < 1:
        raise CommandError(f"--limit {request.limit}: expected 1 or more documents.")
    chosen = parse_filter(request.only)
    entries = expand(file, limit=request.limit, device=timing_device(file.grid))
    if request.data is not None:
        _refuse_scored_text(entries, request.data)
    out = Path("runs") / file.name if request.out is None else place(request.out)
    return Prepared(file, select(entries, chosen), out)


def _refuse_scored_text(entries: Sequence[Entry], data: Path) -> None:
    """Refuse to calibrate or train on one of the local files which the suites score.

    Raises:
        CommandError: it is; the message names both.
    """
    texts = {("calibration", e.cell.calibration) for e in entries if e.cell.calibration}
    read = {(use, text.path or local_path(text.data, data)) for use, text in texts}
    for tuned in (e.cell.fine_tune for e in entries if e.cell.fine_tune.recipe):
        read.add(("training", tuned.path or local_path(tuned.params["data"], data)))
    named = sorted((use, Path(path)) for use, path in read if path)
    suites = {suite.id: suite for entry in entries for suite in entry.suites}
    for (use, text), suite in itertools.product(named, suites.values()):
        found = overlap(text, scored_files(suite.name, suite.params, data))
        if found is not None:
            raise CommandError(
                f"{use} text {text}: the suite {suite.name} scores {found}; expected a text"
                " that no suite scores."
            )


def timing_device(grid: Grid) -> str:
    """Name the device that a grid's times are measured on, and the backend if one is named."""
    asked = grid.resources.model_dump(exclude={"timing"})
    if grid.resources.timing is not None:
        asked |= grid.resources.timing.model_dump(exclude_none=True)
    name = environment.device_name(
        num_cpus=asked["num_cpus"],
        num_gpus=asked["num_gpus"],
        accelerator_type=asked["accelerator_type"],
    )
    return name if grid.backend == "auto" else f"{name}, backend {grid.backend}"


def is_offline(prepared: Prepared, data: Path | None) -> bool:
    """Whether nothing may be asked of the hub: the data is local and so is every model."""
    return data is not None and not any(
        e.cell.model.source.startswith("hub:") for e in prepared.entries
    )
