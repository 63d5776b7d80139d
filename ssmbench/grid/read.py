"""The way in: a grid file becomes a checked `GridFile`, or one error that lists all mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ssmbench.errors import CommandError, GridError, suggest
from ssmbench.grid.check import check, may_exist
from ssmbench.grid.messages import explain
from ssmbench.grid.schema import Grid, GridFile, ModelEntry
from ssmbench.grid.scope import Scope
from ssmbench.grid.yaml_source import Problem, read_document
from ssmbench.paths import is_folder

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_grid(
    path: Path,
    *,
    models: Mapping[str, str] | None = None,
    tokenizers: Mapping[str, str] | None = None,
) -> GridFile:
    """Read and check a grid file.

    Args:
        path: the file.
        models: for a model that the grid names, the folder or hub id to take instead;
            relative folders start from the working folder.
        tokenizers: likewise for its tokenizer.

    Raises:
        GridError: the file has mistakes; all of them are listed, in the order of the file.
        CommandError: `models` or `tokenizers` names a model that the grid does not, or a folder
            that does not exist.
    """
    models, tokenizers = models or {}, tokenizers or {}
    document, problems = read_document(path)
    grid, found = None, list[Problem]()
    try:
        grid = Grid.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        found += explain(error, document, Grid)
    found += check(Scope(document, path.absolute().parent, frozenset(models)))
    # What YAML already refused was seen as null from there on: say it once.
    refused = {problem.mark for problem in problems}
    problems += [p for p in found if p.mark not in refused]
    if problems or grid is None:
        raise GridError(document.lines(problems))
    return GridFile(path, document.text, _replaced(grid, models, tokenizers))


def _replaced(grid: Grid, models: Mapping[str, str], tokenizers: Mapping[str, str]) -> Grid:
    """Take models and tokenizers from where the command line says."""
    labels = [entry.label for entry in grid.models]
    for name in [*models, *tokenizers]:
        if name not in labels:
            raise CommandError(f"the grid names no model '{name}'.{suggest(name, labels)}")

    def replace(entry: ModelEntry) -> ModelEntry:
        update = {"name": entry.label}
        if entry.label in models:
            update["path"] = _from_here("--model", entry.label, models[entry.label])
        if entry.label in tokenizers:
            update["tokenizer"] = _from_here("--tokenizer", entry.label, tokenizers[entry.label])
        return entry.model_copy(update=update)

    chosen = {*models, *tokenizers}
    entries = tuple(replace(e) if e.label in chosen else e for e in grid.models)
    return grid.model_copy(update={"models": entries})


def _from_here(flag: str, name: str, text: str) -> str:
    """Make a folder that exists absolute; leave a hub id or zoo name as it is."""
    if not may_exist(Path.cwd(), text):
        raise CommandError(
            f"{flag} {name}={text}: there is no folder '{text}'; expected a folder (relative to "
            "the working folder) or a hub id, OWNER/NAME"
        )
    folder = Path(text).expanduser()
    return str(folder.absolute()) if is_folder(folder) else text
