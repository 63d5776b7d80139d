"""Whether what a grid names exists and fits.

Each part is looked at by itself, so that one wrong part hides no mistake in another.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ssmbench import plugins
from ssmbench.errors import SsmbenchError
from ssmbench.grid.catalogue import Known, catalogue
from ssmbench.grid.check_fine_tune import check_fine_tune, drops_tokens
from ssmbench.grid.check_methods import check_method
from ssmbench.grid.check_texts import check_text
from ssmbench.grid.fine_tune_entry import NONE, TRAINING, FineTuneEntry
from ssmbench.grid.schema import SUITE_KEYS, MethodEntry, ModelEntry, SuiteEntry
from ssmbench.grid.scope import (
    FOLDER_OR_HUB,
    Scope,
    check_params,
    check_patterns,
    check_repeats,
    unknown_name,
)
from ssmbench.models import source
from ssmbench.paths import exists, is_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ssmbench.grid.yaml_source import Loc, Problem

Entry = TypeVar("Entry", bound=BaseModel)


def check(scope: Scope) -> Iterator[Problem]:
    """Give everything in a grid that does not exist or does not fit."""
    models = list(_entries(scope, "models", ModelEntry))
    methods = list(_entries(scope, "methods", MethodEntry))
    suites = list(_entries(scope, "suites", SuiteEntry))
    trainings = list(_entries(scope, "fine_tune", FineTuneEntry))
    kinds = dict.fromkeys([NONE, *(training.fine_tune for _, training in trainings)])
    for loc, model in models:
        if model.label not in scope.overridden:
            yield from _model(scope, loc, model)
    names = {model.label: model for _, model in models}
    for loc, method in methods:
        yield from check_method(scope, loc, method, names)
    chains = dict.fromkeys(method.method for _, method in methods)
    for loc, suite in suites:
        yield from _suite(scope, loc, suite)
        yield from check_patterns(scope, (*loc, "methods"), "method", suite.methods, chains)
        yield from check_patterns(scope, (*loc, "models"), "model", suite.models, names)
        yield from check_patterns(scope, (*loc, "fine_tune"), "training", suite.fine_tune, kinds)
    for loc, method in methods if suites else ():
        yield from _measured(scope, loc, method, names, trainings, [suite for _, suite in suites])
    yield from check_repeats(scope, ((loc, m.label) for loc, m in models), "model")
    yield from check_repeats(scope, ((loc, _same(m)) for loc, m in methods), "method")
    yield from check_repeats(scope, ((loc, _same(s)) for loc, s in suites), "suite")
    yield from check_repeats(scope, scope.items(("seeds",)), "seed")
    yield from _backend(scope)
    yield from check_fine_tune(scope, trainings, methods, names, [suite for _, suite in suites])
    for loc in (("calibration",), *((*loc, "calibration") for loc, _ in methods)):
        yield from check_text(scope, loc, [suite for _, suite in suites])


def _measured(
    scope: Scope,
    loc: Loc,
    method: MethodEntry,
    models: Iterable[str],
    trainings: Sequence[tuple[Loc, FineTuneEntry]],
    suites: Sequence[SuiteEntry],
) -> Iterator[Problem]:
    """Find cells of a method that no suite is for."""
    drops = drops_tokens(method.method)
    for name in filter(method.is_for, models):
        found = [t.fine_tune for _, t in trainings if t.is_for(name, method.method, drops=drops)]
        for kind in dict.fromkeys(found) if trainings else (NONE,):
            if not any(suite.is_for(name, method.method, kind) for suite in suites):
                after = "" if kind == NONE else f" after {kind}"
                text = f"no suite of the grid measures '{method.method}'{after} on '{name}'"
                yield scope.problem((*loc, "method"), f"{text}; expected at least one")


def _backend(scope: Scope) -> Iterator[Problem]:
    """Find attempts on a processor that would need a GPU's kernels."""
    name = scope.raw(("backend",))
    if name not in ("mamba_ssm", "triton"):
        return
    common = scope.raw(("resources", "num_gpus"))
    timing = scope.raw(("resources", "timing", "num_gpus"))
    for key, n_gpus in (("num_gpus", common or 0), ("timing.num_gpus", timing)):
        if n_gpus == 0:
            text = f"'{name}' needs a GPU, but resources.{key} is 0"
            yield scope.problem(("backend",), f"{text}; expected num_gpus: 1, or backend: auto")
            return


def _entries(scope: Scope, key: str, kind: type[Entry]) -> Iterator[tuple[Loc, Entry]]:
    """Give the entries under a key that can be read, if need be without their wrong keys."""
    listed = scope.raw((key,))
    for i, raw in enumerate(listed if isinstance(listed, list) else ()):
        entry = _salvage(kind, raw)
        if entry is not None:
            yield (key, i), entry


def _salvage(kind: type[Entry], raw: Any) -> Entry | None:
    try:
        return kind.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors() if detail["loc"]}
    if not isinstance(raw, dict) or not wrong & set(raw):
        return None
    return _salvage(kind, {k: v for k, v in raw.items() if k not in wrong})


def _same(entry: BaseModel) -> str:
    return json.dumps(entry.model_dump(mode="json"), sort_keys=True)


def _model(scope: Scope, loc: Loc, entry: ModelEntry) -> Iterator[Problem]:
    known, families = catalogue().get(entry.label), plugins.names("family")
    if entry.path is not None:
        yield from _path(scope, (*loc, "path"), entry)
    elif known is None:
        yield unknown_name(scope, (*loc, "name"), "model", entry.label, catalogue())
    else:
        yield from _catalogued(scope, loc, entry, known)
    if entry.family is not None and entry.family not in families:
        yield unknown_name(scope, (*loc, "family"), "family", entry.family, families)
    if entry.tokenizer and not may_exist(scope.folder, entry.tokenizer):
        text = f"there is no folder '{entry.tokenizer}'; {FOLDER_OR_HUB}"
        yield scope.problem((*loc, "tokenizer"), text)


def _catalogued(scope: Scope, loc: Loc, entry: ModelEntry, known: Known) -> Iterator[Problem]:
    families = plugins.names("family")
    if known.family not in families:
        text = (
            f"'{known.name}' is of the family {known.family}, which this version of ssmbench "
            f"cannot run yet; expected a model of {', '.join(families)}"
        )
        yield scope.problem((*loc, "name"), text)
    elif entry.family in families and entry.family != known.family:
        text = f"found '{entry.family}', but '{known.name}' is of the family {known.family}"
        yield scope.problem((*loc, "family"), f"{text}; expected that or nothing")
    if known.is_zoo:
        yield from _recognised(scope, (*loc, "name"), known.source, None)
        if entry.revision:
            text = f"'{known.name}' comes with the package; expected no revision"
            yield scope.problem((*loc, "revision"), text)


def _path(scope: Scope, loc: Loc, entry: ModelEntry) -> Iterator[Problem]:
    path = str(entry.path)
    if path.startswith("zoo:") or exists(scope.folder / Path(path).expanduser()):
        yield from _recognised(scope, loc, path, entry.family)
    elif not may_exist(scope.folder, path):
        yield scope.problem(loc, f"there is no folder '{path}'; {FOLDER_OR_HUB}")


def may_exist(folder: Path, text: str) -> bool:
    """Say whether a text is a folder that exists, a zoo model, or can be a hub id.

    Args:
        folder: where relative paths start.
        text: what the user wrote.
    """
    if text.startswith("zoo:") or is_folder(folder / Path(text).expanduser()):
        return True
    owner, _, name = text.partition("/")
    # `models/small` beside an existing folder `models` is a slip, not an owner called models.
    is_local = owner[:1] in {"", ".", "~"} or is_folder(folder / owner)
    return bool(name) and "/" not in name and not is_local


def _recognised(scope: Scope, loc: Loc, text: str, family: str | None) -> Iterator[Problem]:
    """Check that a folder is a model, and of the family that the grid says, if it says one."""
    try:
        if text.startswith("zoo:"):
            folder = source.zoo_folder(text.removeprefix("zoo:"))
        else:
            folder = (scope.folder / Path(text).expanduser()).resolve()
        found = source.recognise(folder)
    except SsmbenchError as error:
        yield scope.problem(loc, str(error))
        return
    if family in plugins.names("family") and family != found:
        text = f"found a model of the family {found}; expected {family}, as 'family' says"
        yield scope.problem(loc, text)


def _suite(scope: Scope, loc: Loc, entry: SuiteEntry) -> Iterator[Problem]:
    if entry.suite == TRAINING:
        text = "every trained cell has 'training' by itself; expected it not to be listed"
        yield scope.problem((*loc, "suite"), text)
        return
    names = [name for name in plugins.names("suite") if name != TRAINING]
    if entry.suite not in names:
        yield unknown_name(scope, (*loc, "suite"), "suite", entry.suite, names)
        return
    params = entry.params_from(scope.folder)
    wrong = list(check_params(scope, ("suite", entry.suite), params, loc, also=SUITE_KEYS))
    yield from wrong
    if not wrong:
        plugin = plugins.load("suite", entry.suite)
        try:
            plugin.provides(plugin.Params.model_validate_json(json.dumps(params), strict=True))
        except SsmbenchError as error:
            yield scope.problem(loc, str(error))
