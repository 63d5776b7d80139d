"""Whether a `match_flops` in place of a ratio can be meant: what needs no architecture to see.

Whether the FLOPs can be met is found when the grid is planned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench import plugins
from ssmbench.grid.catalogue import catalogue
from ssmbench.grid.forms import MatchFlops
from ssmbench.grid.scope import Scope, unknown_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from types import ModuleType

    from ssmbench.grid.schema import MethodEntry
    from ssmbench.grid.yaml_source import Loc, Problem


def check_match(
    scope: Scope, loc: Loc, entry: MethodEntry, models: Collection[str]
) -> Iterator[Problem]:
    """Check every `match_flops` of one entry of `methods`.

    Args:
        scope: the grid.
        loc: where the entry stands.
        entry: what it says.
        models: the names of the grid's models.
    """
    asked = [(i, r) for i, r in enumerate(entry.ratio or ()) if isinstance(r, MatchFlops)]
    for i, match in asked:
        at = place(scope, loc, i)
        known = {*models, *catalogue()}
        if match.match_flops not in known:
            yield unknown_name(scope, (*at, "match_flops"), "model", match.match_flops, known)
        yield from _dropping(scope, at, entry, match)
    if asked:
        yield from _before(scope, place(scope, loc, asked[0][0]), entry)


def place(scope: Scope, loc: Loc, i: int) -> Loc:
    """Say where the i-th ratio of an entry stands: one may be given without its list."""
    at = (*loc, "ratio")
    return (*at, i) if isinstance(scope.raw(at), list) else at


def _dropping(scope: Scope, at: Loc, entry: MethodEntry, match: MatchFlops) -> Iterator[Problem]:
    last = entry.steps[-1]
    if last not in plugins.names("method"):
        return  # which is told elsewhere
    plugin = plugins.load("method", last)
    if not hasattr(plugin, "drops"):
        able = [n for n in plugins.names("method") if hasattr(plugins.load("method", n), "drops")]
        text = f"'{last}' drops no tokens, so that no ratio of it costs as much as another model"
        yield scope.problem(at, f"{text}; expected a number, or one of {', '.join(able)}")
    elif match.otherwise == "power" and not has_power(plugin):
        text = f"'{last}' has no power schedule; expected no 'otherwise'"
        yield scope.problem((*at, "otherwise"), text, key=True)


def has_power(method: ModuleType) -> bool:
    """Whether a method has the power schedule."""
    return {"schedule", "power"} <= set(method.Params.model_fields)


def _before(scope: Scope, at: Loc, entry: MethodEntry) -> Iterator[Problem]:
    """Check that the steps before the last leave every size as it is, and set their own ratios."""
    for name in dict.fromkeys(entry.steps[:-1]):
        if name not in plugins.names("method"):
            continue
        params = entry.params.get(name)
        if not getattr(plugins.load("method", name), "KEEPS_SIZES", False):
            text = f"the FLOPs after '{name}' are not known before it ran"
            yield scope.problem(at, f"{text}; expected a number in a chain with it")
        elif not isinstance(params, dict) or "ratio" not in params:
            text = f"'{name}' would take the ratio that is found for '{entry.steps[-1]}'; expected"
            yield scope.problem(at, f"{text} one of its own, as in {name}: {{ratio: 0.5}}")
