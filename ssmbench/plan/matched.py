"""A grid's `match_flops`, settled before anything runs: plain ratios, for each model by itself."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench import plugins
from ssmbench.errors import GridError, MethodError
from ssmbench.grid.catalogue import catalogue
from ssmbench.grid.check_match import has_power, place
from ssmbench.grid.forms import MatchFlops
from ssmbench.grid.scope import Scope
from ssmbench.grid.yaml_source import read_document
from ssmbench.models import source
from ssmbench.models.token_flops import count
from ssmbench.plan.match import FLOOR_RATIO, STEPS, Match, match_flops
from ssmbench.plan.resolve import describe, resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ssmbench.grid.schema import GridFile, MethodEntry
    from ssmbench.models.description import Description
    from ssmbench.models.token_flops import Drop


class Matched(NamedTuple):
    """What was asked of one model, and what was found.

    Attributes:
        asked: as the grid says it.
        target: FLOPs of the model that it names.
        found: the answer.
    """

    asked: MatchFlops
    target: int
    found: Match


class Settled(NamedTuple):
    """An entry of `methods` with plain ratios alone; `match` where one was found."""

    entry: MethodEntry
    match: Matched | None = None


def settle(file: GridFile) -> list[Settled]:
    """Give a grid's methods, each `match_flops` replaced by a ratio a model.

    Raises:
        GridError: no ratio will do, or an architecture is not known; all such mistakes are listed.
    """
    settler = _Settler(file)
    found = [s for i in range(len(file.grid.methods)) for s in settler.settle(i)]
    if settler.wrong:
        document, _ = read_document(file.path)
        scope = Scope(document, file.folder)
        problems = [
            scope.problem(place(scope, ("methods", i), j), text) for i, j, text in settler.wrong
        ]
        raise GridError(document.lines(problems))
    return found


@dataclass
class _Settler:
    """Settles one entry after another.

    Attributes:
        file: the grid.
        wrong: (number of the entry, of its ratio, what is wrong).
    """

    file: GridFile
    wrong: list[tuple[int, int, str]] = field(default_factory=list)

    def settle(self, i: int) -> Iterator[Settled]:
        entry = self.file.grid.methods[i]
        if not any(isinstance(ratio, MatchFlops) for ratio in entry.ratio or ()):
            yield Settled(entry)
            return
        for j, ratio in enumerate(entry.ratio or ()):
            if not isinstance(ratio, MatchFlops):
                yield Settled(entry.model_copy(update={"ratio": (ratio,)}))
                continue
            for model in self.file.grid.models:
                if entry.is_for(model.label):
                    try:
                        match = self._match(entry, ratio, model.label)
                    except _Unsettled as why:
                        self.wrong.append((i, j, str(why)))
                    else:
                        yield Settled(_plain(entry, model.label, match.found), match)

    def _match(self, entry: MethodEntry, asked: MatchFlops, label: str) -> Matched:
        """Find the ratio for one model.

        Raises:
            _Unsettled: there is none; the message says why.
        """
        description, other = self._describe(label), self._describe(asked.match_flops)
        target = count(other, prompt=asked.prompt, answer=asked.answer).total(asked.head)
        plugin = plugins.load("method", entry.steps[-1])
        given = {k: v for k, v in _params(entry).items() if k != "ratio"}
        params = plugin.Params.model_validate_json(json.dumps(given), strict=True)

        def by_ratio(ratio: float) -> Drop:
            drop: Drop = plugin.drops(description, ratio=ratio, params=params)
            return drop

        def by_power(power: float) -> Drop:
            changed = params.model_copy(update={"schedule": "power", "power": power})
            drop: Drop = plugin.drops(description, ratio=FLOOR_RATIO, params=changed)
            return drop

        sought = partial(
            match_flops,
            description,
            target,
            schedule=by_ratio,
            prompt=asked.prompt,
            answer=asked.answer,
            head=asked.head,
        )
        try:
            found = sought(power=by_power if asked.otherwise == "power" else None)
            if found.status == "infeasible":
                steeper = sought(power=by_power) if has_power(plugin) else found
                matched = Matched(asked, target, found)
                raise _Unsettled(_infeasible(entry.method, label, matched, steeper))
        except MethodError as error:
            raise _Unsettled(str(error)) from None
        return Matched(asked, target, found)

    def _describe(self, name: str) -> Description:
        """Give the architecture of a model of the grid or the catalogue.

        Raises:
            _Unsettled: only the hub knows it.
        """
        entries = {entry.label: entry for entry in self.file.grid.models}
        if name in entries:
            found = describe(resolve_model(entries[name], self.file.folder))
        else:
            known = catalogue()[name]
            found = known.describe() or source.description(known.source)
        if found is None:
            raise _Unsettled(
                f"the architecture of '{name}' is known to the hub alone; expected a model of the "
                "catalogue or a folder"
            )
        return found


class _Unsettled(Exception):
    """A `match_flops` that gives no ratio."""


def _params(entry: MethodEntry) -> Mapping[str, Any]:
    """Give the parameters of an entry's last step, which is the one that is matched."""
    if len(entry.steps) == 1:
        return entry.params
    own = entry.params.get(entry.steps[-1], {})
    return own if isinstance(own, dict) else {}


def _plain(entry: MethodEntry, label: str, found: Match) -> MethodEntry:
    """Give the entry with the ratio that was found, for the one model that it was found for."""
    params = dict(entry.params)
    if found.power is not None:
        own = {**_params(entry), "schedule": "power", "power": found.power}
        params = own if len(entry.steps) == 1 else {**params, entry.steps[-1]: own}
    update = {"ratio": (found.ratio,), "models": (glob.escape(label),), "params": params}
    return entry.model_copy(update=update)


def giga(flops: float) -> str:
    """Write FLOPs as people compare them."""
    return f"{flops / 1e9:.5g} GFLOPs"


def percent(error: float) -> str:
    """Write how far off a match is."""
    return f"{100 * error:+.2g} %" if abs(error) < 1 else f"{100 * error:+.0f} %"


def _infeasible(method: str, label: str, matched: Matched, steeper: Match) -> str:
    """Say what was asked, what comes nearest, and what would help.

    Args:
        method: as the grid names it.
        label: the model that is to cost less.
        matched: what was asked and found.
        steeper: what is found with the power schedule, where the method has it.
    """
    asked, target, found = matched
    head = f"prompt {asked.prompt}, answer {asked.answer}, head {asked.head}"
    start = f"{label} cannot cost as much as {asked.match_flops} by '{method}' ({head})"
    if found.ratio == 0:
        text = f"found {giga(found.flops)} with all its tokens, fewer than the {giga(target)}"
        return f"{start}: {text}; expected a smaller model to match, or other 'models'"
    how = f"ratio {found.ratio:g}"
    if found.power is not None:
        how = f"{how} and power {found.power:g}"
    elif found.ratio == 1 - 1 / STEPS:
        how = "one token left at the last layer"
    text = f"found {giga(found.flops)} with {how}, the nearest to {giga(target)}"
    hint = "expected another model to match, another schedule, or other 'models'"
    if steeper.status == "floor":
        hint = f"{hint}. 'otherwise: power' does it with ratio {steeper.ratio:g} and power"
        hint = f"{hint} {steeper.power:g}"
    return f"{start}: {text} ({percent(found.relative_error)}); {hint}"
