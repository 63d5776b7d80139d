"""Whether the methods that a grid names exist, and what their entries say fits."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ssmbench import plugins
from ssmbench.grid.check_match import check_match
from ssmbench.grid.forms import DENSE
from ssmbench.grid.messages import unknown_key
from ssmbench.grid.schema import METHOD_KEYS
from ssmbench.grid.scope import (
    Scope,
    check_params,
    check_patterns,
    check_repeats,
    unknown_name,
)
from ssmbench.grid.yaml_source import Loc, Problem, describe, where

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pydantic import JsonValue

    from ssmbench.grid.schema import MethodEntry


def check_method(
    scope: Scope, loc: Loc, entry: MethodEntry, models: Collection[str]
) -> Iterator[Problem]:
    """Check one entry of `methods`.

    Args:
        scope: the grid.
        loc: where the entry stands.
        entry: what it says.
        models: the names of the grid's models.
    """
    names = plugins.names("method")
    for name in entry.steps:
        if name not in names:
            yield unknown_name(scope, (*loc, "method"), "method", name, names)
    if len(entry.steps) > 1:
        yield from _chain(scope, loc, entry)
    elif entry.method in names:
        yield from check_params(
            scope, ("method", entry.method), entry.params, loc, also=METHOD_KEYS
        )
        yield from _ratio(scope, loc, entry)
    yield from check_repeats(scope, scope.items((*loc, "ratio")), "ratio")
    yield from check_match(scope, loc, entry, models)
    if entry.models is not None and entry.method == DENSE:
        text = "the dense model of every model is always measured; expected no models"
        yield scope.problem((*loc, "models"), text, key=True)
    else:
        yield from check_patterns(scope, (*loc, "models"), "model", entry.models, models)
    yield from _calibration(scope, loc, entry)


def _calibration(scope: Scope, loc: Loc, entry: MethodEntry) -> Iterator[Problem]:
    """Check that who is given a text looks at one."""
    if entry.calibration is None:
        return
    needs: set[str] = set()
    single = len(entry.steps) == 1
    for name in entry.steps:
        params = entry.params if single else entry.params.get(name, {})
        if name not in plugins.names("method") or not isinstance(params, dict):
            return  # which is told elsewhere
        plugin = plugins.load("method", name)
        given = json.dumps({k: v for k, v in params.items() if k != "ratio"})
        try:
            needs |= plugin.needs(plugin.Params.model_validate_json(given, strict=True))
        except ValidationError:
            return
    if "calibration" not in needs:
        text = f"'{entry.method}' with these parameters looks at no text; expected no calibration"
        yield scope.problem((*loc, "calibration"), text, key=True)


def _ratio(scope: Scope, loc: Loc, entry: MethodEntry) -> Iterator[Problem]:
    given = scope.raw((*loc, "ratio")) is not None
    if entry.method == DENSE and given:
        yield scope.problem((*loc, "ratio"), "'dense' removes nothing; expected no ratio", key=True)
    if entry.method != DENSE and not given:
        text = f"'{entry.method}' has no ratio; expected one or a list, each in [0, 1)"
        text = f"{text}, as in {{method: {entry.method}, ratio: 0.5}}"
        yield scope.problem((*loc, "ratio"), text)


def _chain(scope: Scope, loc: Loc, entry: MethodEntry) -> Iterator[Problem]:
    """Check a chain: its steps once each, parameters under their names, who takes the ratio."""
    at = (*loc, "method")
    if DENSE in entry.steps:
        yield scope.problem(at, "'dense' removes nothing; expected it alone, not in a chain")
    for name, n in Counter(entry.steps).items():
        if n > 1:
            yield scope.problem(at, f"'{name}' stands {n} times in the chain; expected it once")
    for key in entry.params:
        if key not in entry.steps:
            mark = scope.document.mark((*loc, key), key=True)
            yield Problem(mark, f"{where(loc)}: {unknown_key(key, (*METHOD_KEYS, *entry.steps))}")
    for name in dict.fromkeys(entry.steps):
        if name in entry.params:
            yield from _step(scope, (*loc, name), name, entry.params[name])
    yield from _swept(scope, loc, entry)


def _step(scope: Scope, loc: Loc, name: str, params: JsonValue) -> Iterator[Problem]:
    if not isinstance(params, dict):
        text = f"found {describe(params)}; expected a mapping of {name}'s parameters"
        yield scope.problem(loc, text)
        return
    ratio = params.get("ratio", 0)
    is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not (is_number and 0 <= ratio < 1):  # type: ignore[operator]
        text = f"found {describe(ratio)}; expected one number in [0, 1), the same for every cell"
        yield scope.problem((*loc, "ratio"), text)
    if name in plugins.names("method"):
        rest = {k: v for k, v in params.items() if k != "ratio"}
        yield from check_params(scope, ("method", name), rest, loc, also=("ratio",))


def _swept(scope: Scope, loc: Loc, entry: MethodEntry) -> Iterator[Problem]:
    """Check that the chain's ratio has a taker, above all the last step: tables show its ratio."""
    own = own_ratios(entry)
    given = scope.raw((*loc, "ratio")) is not None
    without = [name for name in entry.steps if name not in own]
    if not given and without:
        text = f"{' and '.join(without)} without a ratio; expected 'ratio', one or a list"
        yield scope.problem(loc, f"found {text}, each in [0, 1)")
    if given and entry.steps[-1] in own:
        text = f"the last step, '{entry.steps[-1]}', sets a ratio of its own"
        yield scope.problem((*loc, "ratio"), f"{text}; expected it to take this one", key=True)


def own_ratios(entry: MethodEntry) -> dict[str, JsonValue]:
    """Give the ratios that a chain's steps set for themselves: step name to ratio."""
    given = ((name, entry.params.get(name)) for name in entry.steps)
    return {name: p["ratio"] for name, p in given if isinstance(p, dict) and "ratio" in p}
