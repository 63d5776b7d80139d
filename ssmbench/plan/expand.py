"""A grid becomes cells: every model × method × ratio × training × seed, each one once.

* Each model's dense cell is always there, since every comparison needs it; a ratio of 0 is the
  dense cell, and a step with ratio 0 is left out of a chain.
* A training makes a cell of every compressed model that it applies to: `dense+sparse` of those
  that drop tokens, `kd` and `ce` of the others; of the dense model where that is named.
* A seed counts only where something is drawn: by a method that needs one, by a training, or from
  the calibration text, whose windows are drawn with the grid's calibration seed plus the cell's.
  Everything else is planned once, with seed 0.
* A cell has a calibration only where one of its steps needs one.
* A method's entry that is for some models only makes cells of these alone; a suite's entry that
  is for some models or methods only measures cells of these, and these models' dense ones.
* A ratio that is to match another model's FLOPs is settled first, for each model by itself.

What a method needs follows from its parameters: `needs(params)` in its file.
"""

from __future__ import annotations

import itertools
import json
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench import plugins
from ssmbench.grid.check_fine_tune import drops_tokens
from ssmbench.grid.check_methods import own_ratios
from ssmbench.grid.fine_tune import SPLITS
from ssmbench.grid.fine_tune_entry import NONE, TRAINING, ZOO_TEXT, FineTuneEntry
from ssmbench.grid.forms import DENSE
from ssmbench.grid.schema import SuiteEntry
from ssmbench.plan.cells import Calibration, Cell, Entry, FineTune, Model, Resources, Step, Suite
from ssmbench.plan.matched import Matched, Settled, settle
from ssmbench.plan.resolve import Text, resolve_model, resolve_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssmbench.grid.fine_tune import Dtype
    from ssmbench.grid.resources import ResourcesEntry
    from ssmbench.grid.schema import CalibrationEntry, GridFile, MethodEntry

TEXT = "wikitext"


class Compression(NamedTuple):
    """How models are compressed.

    `steps` are those that remove something, `needs` is what they need together, `calibration`
    the text for it; `entry` says for which models, None for all; `match` says how the ratio was
    found, where it was not given.
    """

    steps: tuple[Step, ...]
    needs: frozenset[str]
    calibration: CalibrationEntry
    entry: MethodEntry | None = None
    match: Matched | None = None

    @property
    def method(self) -> str:
        """The chain as it is written in a grid."""
        return "+".join(step.name for step in self.steps)

    def is_for(self, model: str) -> bool:
        """Whether the model of this name is compressed so."""
        return self.entry is None or self.entry.is_for(model)


def expand(file: GridFile, *, limit: int | None = None, device: str | None = None) -> list[Entry]:
    """Give the cells of a grid with their suites, in the grid's order, the dense ones first.

    Args:
        file: a checked grid.
        limit: score the first N documents of each task only; part of the suites' identity.
        device: the name of the device that times are measured on, likewise.

    Raises:
        CheckpointError: a model's folder has changed or vanished since the grid was checked.
        GridError: FLOPs that are to be matched cannot be.
    """
    grid = file.grid
    suites = list(_suites(file, limit=limit, device=device))
    resources, timing = _resources(grid.resources)
    entries: dict[str, Entry] = {}
    for cell, match in _cells(file):
        entries.setdefault(
            cell.id,
            Entry(
                cell=cell,
                suites=_meant(suites, cell),
                resources=resources,
                timeout_s=60 * grid.timeout_min,
                batch_tokens=grid.batch_tokens,
                timing=timing,
                checkpoint_s=60 * grid.checkpoint_min,
                match=match,
                backend=grid.backend,
            ),
        )
    return list(entries.values())


def _meant(suites: list[tuple[SuiteEntry, Suite]], cell: Cell) -> tuple[Suite, ...]:
    """Give the suites that are to measure a cell, each once."""
    name, method, kind = cell.model.name, cell.method, cell.fine_tune.kind
    meant = {s.id: s for entry, s in suites if entry.is_for(name, method, kind)}
    if kind != NONE:
        curve = _suite(SuiteEntry(suite=TRAINING), Path(), limit=None, device=None)
        meant[curve.id] = curve
    return tuple(meant.values())


def _cells(file: GridFile) -> Iterator[tuple[Cell, Matched | None]]:
    grid = file.grid
    compressions = [_dense(grid.calibration)]
    for method in settle(file):
        compressions += _compressions(method, grid.calibration.with_own(method.entry.calibration))
    resolve = cache(partial(resolve_text, folder=file.folder))
    train = cache(partial(_fine_tune, folder=file.folder, dtype=grid.dtype))
    untrained = FineTuneEntry(fine_tune="none", methods=(DENSE,))
    for entry in grid.models:
        model = resolve_model(entry, file.folder)
        meant = [how for how in compressions if how.is_for(entry.label)]
        for training, how in itertools.product((untrained, *grid.fine_tune), meant):
            if not training.is_for(entry.label, how.method, drops=drops_tokens(how.method)):
                continue
            tuned = train(training, zoo=model.source.startswith("zoo:"))
            draws = bool(how.needs & {"seed", "calibration"}) or tuned.kind != NONE
            for seed in grid.seeds if draws else (0,):
                text = None
                if "calibration" in how.needs:
                    found = resolve(_text(how.calibration, model))
                    text = _calibration(how.calibration, found, seed)
                cell = Cell(
                    model=model,
                    steps=how.steps,
                    calibration=text,
                    fine_tune=tuned,
                    seed=seed,
                    dtype=grid.dtype,
                )
                yield cell, how.match


def _fine_tune(entry: FineTuneEntry, *, zoo: bool, folder: Path, dtype: Dtype) -> FineTune:
    """Give a training with every value filled in and its text found."""
    recipe = entry.recipe(zoo=zoo)
    if recipe is None:
        return FineTune()
    text = resolve_text(recipe.data, folder, splits=SPLITS)
    found = {
        "data": text.data,
        "split": text.split,
        "data_version": text.version,
        "dtype": recipe.dtype or dtype,
    }
    return FineTune(recipe.kind, recipe.model_copy(update=found).params, text.path)


def _text(calibration: CalibrationEntry, model: Model) -> str:
    return calibration.data or (ZOO_TEXT if model.source.startswith("zoo:") else TEXT)


def _calibration(entry: CalibrationEntry, text: Text, seed: int) -> Calibration:
    return Calibration(
        **text._asdict(), samples=entry.samples, length=entry.length, seed=entry.seed + seed
    )


def _compressions(method: Settled, calibration: CalibrationEntry) -> Iterator[Compression]:
    """Give one compression a ratio."""
    entry, match = method
    own = own_ratios(entry)
    single = len(entry.steps) == 1
    params = {n: entry.params if single else entry.params.get(n, {}) for n in entry.steps}
    for ratio in entry.ratio or (0.0,):
        ratios = {name: float(str(own.get(name, ratio))) for name in entry.steps}
        removing = [name for name in entry.steps if name != DENSE and ratios[name] > 0]
        if not removing:
            yield _dense(calibration)
            continue
        made = [_step(name, ratios[name], params[name]) for name in removing]
        needs = frozenset[str]().union(*(need for _, need in made))
        yield Compression(tuple(step for step, _ in made), needs, calibration, entry, match)


def _dense(calibration: CalibrationEntry) -> Compression:
    return Compression((_step(DENSE, 0.0, {})[0],), frozenset(), calibration)


def _step(name: str, ratio: float, params: Any) -> tuple[Step, frozenset[str]]:
    """Give a step and what it needs.

    Defaults are filled in, so that leaving a parameter out and giving its default are the same.
    """
    method = plugins.load("method", name)
    given = {key: value for key, value in params.items() if key != "ratio"}
    checked = method.Params.model_validate_json(json.dumps(given), strict=True)
    filled: dict[str, Any] = checked.model_dump(mode="json")
    step = Step(name=name, version=method.VERSION, ratio=ratio, params=filled)
    return step, method.needs(checked)


def _suites(
    file: GridFile, *, limit: int | None, device: str | None
) -> Iterator[tuple[SuiteEntry, Suite]]:
    for entry in file.grid.suites:
        yield entry, _suite(entry, file.folder, limit=limit, device=device)


def _suite(entry: SuiteEntry, folder: Path, *, limit: int | None, device: str | None) -> Suite:
    plugin = plugins.load("suite", entry.suite)
    params = plugin.Params.model_validate_json(json.dumps(entry.params_from(folder)), strict=True)
    is_timing = plugin.KIND == "timing"
    return Suite(
        name=entry.suite,
        kind=plugin.KIND,
        version=plugin.VERSION,
        params=params.model_dump(mode="json"),
        provides=plugin.provides(params),
        # A time does not depend on how many documents there are, nor a score on the device.
        limit=None if is_timing else limit,
        device=device if is_timing else None,
    )


def _resources(entry: ResourcesEntry) -> tuple[Resources, Resources | None]:
    common = entry.model_dump(exclude={"timing"})
    if entry.timing is None:
        return Resources(**common), None
    differs = entry.timing.model_dump(exclude_none=True)
    return Resources(**common), Resources(**{**common, **differs})
