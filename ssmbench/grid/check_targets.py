"""Whether the models that a training is for have anything of the kind that it adapts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.errors import SsmbenchError
from ssmbench.grid.catalogue import by_source, catalogue
from ssmbench.grid.fine_tune import PRESETS, presets_for
from ssmbench.models import source
from ssmbench.models.description import SSD, SelectiveScan
from ssmbench.paths import is_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ssmbench.grid.fine_tune_entry import FineTuneEntry
    from ssmbench.grid.schema import ModelEntry
    from ssmbench.grid.scope import Scope
    from ssmbench.grid.yaml_source import Loc, Problem
    from ssmbench.models.description import Description

_CALLED = {"mixers": "SSM mixers", "mlps": "MLPs", "all": "SSM mixers or MLPs"}


def check_targets(
    scope: Scope, loc: Loc, entry: FineTuneEntry, models: Mapping[str, ModelEntry]
) -> Iterator[Problem]:
    """Find a model without the projections that an entry of `fine_tune` adapts.

    Args:
        scope: the grid.
        loc: where the entry stands.
        entry: what it says.
        models: those that it trains, by name.
    """
    if entry.kind is None:
        return
    own = presets_for(entry.kind)
    preset = PRESETS[entry.preset if entry.preset in own else own[0]].values
    targets = entry.targets or str(preset["targets"])
    if (entry.adapters or preset["adapters"]) != "lora":
        return
    for name, model in models.items():
        found = None if name in scope.overridden else _describe(scope, model)
        if found is not None and not _has(found, targets):
            text = f"'{name}' has no {_CALLED[targets]} to adapt; expected other targets, or"
            yield scope.problem((*loc, "targets"), f"{text} 'models' without it")


def _has(description: Description, targets: str) -> bool:
    layers = description.layers
    mixers = any(isinstance(layer.mixer, SSD | SelectiveScan) for layer in layers)
    mlps = any(layer.mlp is not None for layer in layers)
    return {"mixers": mixers, "mlps": mlps, "all": mixers or mlps}[targets]


def _describe(scope: Scope, entry: ModelEntry) -> Description | None:
    """Give a model's architecture; None where only the hub knows it, or where it is no model."""
    known = by_source().get(entry.path) if entry.path else catalogue().get(entry.label)
    try:
        if known is not None:
            return known.describe() or source.description(known.source)
        folder = (scope.folder / Path(entry.path or "").expanduser()).resolve()
        return source.describe(folder) if entry.path and is_folder(folder) else None
    except SsmbenchError:
        return None  # which is told where the model stands
