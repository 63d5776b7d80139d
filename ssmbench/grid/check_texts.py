"""Whether the texts that methods and trainings look at exist, and are none that a suite scores."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ssmbench import plugins
from ssmbench.errors import suggest
from ssmbench.paths import exists

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ssmbench.grid.schema import SuiteEntry
    from ssmbench.grid.scope import Scope
    from ssmbench.grid.yaml_source import Loc, Problem

# Texts that calibration knows by name; anything else is a file or folder.
TEXTS = ("c4", "tinyworld", "wikitext")

# What a calibration folder is read for.
_SUFFIXES = (".txt", ".jsonl")


def check_text(
    scope: Scope, loc: Loc, suites: Sequence[SuiteEntry], *, known: Collection[str] = TEXTS
) -> Iterator[Problem]:
    """Check the `data` of one `calibration` of the grid, its own or a method's, or of a training.

    Args:
        scope: the grid.
        loc: where it stands.
        suites: the grid's.
        known: the texts that it may name.
    """
    at = (*loc, "data")
    data = scope.raw(at)
    if not isinstance(data, str) or not data or data in known:
        return
    path = scope.folder / Path(data).expanduser()
    if not exists(path):
        text = f"there is no text called '{data}', nor a file or folder beside the grid"
        yield scope.problem(at, f"{text}.{suggest(data, known)}")
        return
    for suite in suites:
        scored = scored_files(suite.suite, suite.params_from(scope.folder), None)
        if (found := overlap(path, scored)) is not None:
            text = f"the suite {suite.suite} scores {found}; expected a text that no suite scores"
            yield scope.problem(at, text)


def scored_files(suite: str, params: Mapping[str, Any], data: Path | None) -> list[Path]:
    """Give the local files that a suite scores, as its plugin says; none if it does not.

    Args:
        suite: its name; of an unknown one nothing is known.
        params: its parameters, paths absolute; of wrong ones nothing follows.
        data: the folder of local data; None where there is none.
    """
    if suite not in plugins.names("suite"):
        return []
    plugin = plugins.load("suite", suite)
    if not hasattr(plugin, "files"):
        return []
    try:
        checked = plugin.Params.model_validate_json(json.dumps(dict(params)), strict=True)
    except ValidationError:
        return []
    found: list[Path] = plugin.files(checked, data)
    return found


def overlap(text: Path, scored: Iterable[Path]) -> Path | None:
    """Give the first scored file that a text to look at holds, itself or a copy of it.

    Args:
        text: a file, or a folder of .txt and .jsonl files.
        scored: files; those that do not exist hold nothing.
    """
    mine = [text] if text.is_file() else [p for p in text.rglob("*") if p.suffix in _SUFFIXES]
    for path in scored:
        if path.is_file() and any(filecmp.cmp(own, path, shallow=False) for own in mine):
            return path
    return None
