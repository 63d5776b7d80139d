"""Whether the trainings that a grid names fit each other, the methods and the texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ssmbench import plugins
from ssmbench.grid.check_methods import own_ratios
from ssmbench.grid.check_targets import check_targets
from ssmbench.grid.check_texts import check_text
from ssmbench.grid.fine_tune import OF_KIND, OF_LORA, PRESETS, SPLITS, TEXTS, presets_for
from ssmbench.grid.fine_tune_entry import FineTuneEntry, settings
from ssmbench.grid.forms import DENSE, among
from ssmbench.grid.scope import check_patterns, check_repeats, unknown_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ssmbench.grid.fine_tune import Kind
    from ssmbench.grid.schema import MethodEntry, ModelEntry, SuiteEntry
    from ssmbench.grid.scope import Scope
    from ssmbench.grid.yaml_source import Loc, Problem

Located = tuple["Loc", FineTuneEntry]


def check_fine_tune(
    scope: Scope,
    trainings: Sequence[Located],
    methods: Sequence[tuple[Loc, MethodEntry]],
    models: Mapping[str, ModelEntry],
    suites: Sequence[SuiteEntry],
) -> Iterator[Problem]:
    """Check a grid's `fine_tune`.

    Args:
        scope: the grid.
        trainings: its entries with their places.
        methods: those of `methods`, likewise.
        models: the grid's, by name.
        suites: what the grid measures.
    """
    compressed = [method for _, method in methods]
    chains = dict.fromkeys([DENSE, *(method.method for method in compressed)])
    for loc, entry in trainings:
        if entry.kind is None:
            yield from _nothing_to_set(scope, loc, entry)
        else:
            yield from _recipe(scope, loc, entry, entry.kind)
            yield from _split(scope, loc, entry)
            yield from check_text(scope, loc, suites, known=TEXTS)
    yield from check_repeats(scope, ((loc, _same(entry)) for loc, entry in trainings), "training")
    unmeant: list[Problem] = []
    for loc, entry in trainings:
        wrong = [*check_patterns(scope, (*loc, "methods"), "method", entry.methods, chains)]
        wrong += check_patterns(scope, (*loc, "models"), "model", entry.models, models)
        wrong += _unfit(scope, loc, entry, chains)
        unmeant += wrong or _unused(scope, loc, entry, compressed, models)
    yield from unmeant
    if not trainings or unmeant or len(trainings) != len(scope.raw(("fine_tune",))):
        return  # what is meant by these may be what the others leave out
    for loc, entry in trainings:
        used = {name: m for name, m in models.items() if _trains(entry, compressed, (name,))}
        yield from check_targets(scope, loc, entry, used)
    for loc, method in methods:
        yield from _left_out(scope, loc, method, trainings, models)


def drops_tokens(chain: str) -> bool:
    """Whether any method of a chain, as a grid writes it, drops tokens."""
    known = plugins.names("method")
    names = (name.strip() for name in chain.split("+"))
    return any(name in known and hasattr(plugins.load("method", name), "drops") for name in names)


def _same(entry: FineTuneEntry) -> str:
    given = entry.model_dump(mode="json")
    if entry.kind is not None and entry.preset is None:
        given["preset"] = presets_for(entry.kind)[0]
    return json.dumps(given, sort_keys=True)


def _nothing_to_set(scope: Scope, loc: Loc, entry: FineTuneEntry) -> Iterator[Problem]:
    for key in ("preset", *settings()):
        if getattr(entry, key) is not None:
            text = f"'none' trains nothing; expected no {key}"
            yield scope.problem((*loc, key), text, key=True)


def _recipe(scope: Scope, loc: Loc, entry: FineTuneEntry, kind: Kind) -> Iterator[Problem]:
    """Check the preset, that each value means something, and that all fit together."""
    usual = presets_for(kind)
    if entry.preset is not None and entry.preset not in usual:
        yield _wrong_preset(scope, (*loc, "preset"), entry.preset, kind)
        entry = entry.model_copy(update={"preset": None})
    for key, owner in OF_KIND.items():
        if getattr(entry, key) is not None and kind != owner:
            text = f"{kind} has no {key}, only {owner} has; expected none"
            yield scope.problem((*loc, key), text, key=True)
    adapters = entry.adapters or PRESETS[entry.preset or usual[0]].values["adapters"]
    for key in OF_LORA if adapters != "lora" else ():
        if getattr(entry, key) is not None:
            text = f"every weight is trained, so that there is no {key}; expected none"
            yield scope.problem((*loc, key), f"{text}, or 'adapters: lora'", key=True)
    raw = scope.raw(loc)
    if isinstance(raw, dict) and not set(raw) <= entry.model_fields_set:
        return  # a value that is wrong by itself, told elsewhere, may be why they do not fit
    try:
        entry.recipe(zoo=False)
    except ValidationError as error:
        for detail in error.errors():
            key = "ratios" if detail["msg"].startswith("found ratios") else "warmup"
            yield scope.problem((*loc, key), detail["msg"])


def _wrong_preset(scope: Scope, at: Loc, preset: str, kind: Kind) -> Problem:
    if preset not in PRESETS:
        return unknown_name(scope, at, "preset", preset, presets_for(kind))
    text = f"'{preset}' is for {' and '.join(PRESETS[preset].kinds)}"
    return scope.problem(at, f"{text}; expected {' or '.join(presets_for(kind))} for {kind}")


def _split(scope: Scope, loc: Loc, entry: FineTuneEntry) -> Iterator[Problem]:
    """Check that no split is named but the one that nothing is evaluated on."""
    if entry.split is None:
        return
    at = (*loc, "split")
    if entry.data is None:
        yield scope.problem(at, f"found '{entry.split}' without data; expected 'data' beside it")
    elif entry.data not in SPLITS:
        text = f"'{entry.data}' is no text with known splits; expected no split"
        yield scope.problem(at, text, key=True)
    elif entry.split != SPLITS[entry.data]:
        text = f"found '{entry.split}'; expected '{SPLITS[entry.data]}' or nothing"
        yield scope.problem(at, f"{text}: other splits of {entry.data} are for evaluation")


def _unfit(
    scope: Scope, loc: Loc, entry: FineTuneEntry, chains: Iterable[str]
) -> Iterator[Problem]:
    """Find methods that are named, or meant by a pattern, though the training is not for them."""
    kind, at = entry.kind, (*loc, "methods")
    is_list = isinstance(scope.raw(at), list)
    for i, pattern in enumerate(entry.methods or ()):
        meant = [chain for chain in chains if among(chain, (pattern,))]
        named = pattern in meant
        considered = meant if named else [chain for chain in meant if chain != DENSE]
        if not meant or any(entry.applies(c, drops=drops_tokens(c)) for c in considered):
            continue
        who = f"'{pattern}'" if named else f"every method that matches '{pattern}'"
        if not considered:
            text = f"'{pattern}' matches 'dense' alone; expected it by its name, to be trained"
        elif pattern == DENSE and kind == "kd":
            text = "'dense' is its own teacher, of whom it can learn nothing; expected ce"
        elif kind == "dense+sparse":
            text = f"{who} drops no tokens, as dense+sparse does; expected kd or ce"
        else:
            text = f"{who} drops tokens, but {kind} trains with all of them; expected dense+sparse"
        yield scope.problem((*at, i) if is_list else at, text)


def _unused(
    scope: Scope,
    loc: Loc,
    entry: FineTuneEntry,
    methods: Sequence[MethodEntry],
    models: Collection[str],
) -> Iterator[Problem]:
    """Find an entry by which nothing would be trained."""
    if entry.kind is None or _trains(entry, methods, models):
        return
    text = f"by this {entry.fine_tune} nothing is trained"
    if entry.methods is not None or entry.models is not None:
        text = f"{text}: no method that it is for is used on a model that it is for; expected one"
    elif entry.kind == "dense+sparse":
        text = f"{text}: no method of the grid drops tokens; expected one that does"
    else:
        text = f"{text}: no method of the grid removes anything but tokens; expected one"
    yield scope.problem((*loc, "fine_tune"), text)


def _left_out(
    scope: Scope,
    loc: Loc,
    method: MethodEntry,
    trainings: Sequence[Located],
    models: Collection[str],
) -> Iterator[Problem]:
    """Find a method that is used on a model neither trained nor untrained."""
    if not _removes(method):
        return
    for model in filter(method.is_for, models):
        if not any(_pairs(entry, method, (model,)) for _, entry in trainings):
            text = f"no entry of fine_tune is for '{method.method}' on '{model}'"
            hint = "'none', kd or ce"
            if drops_tokens(method.method):
                text = f"{text}, which drops tokens"
                hint = "'none' or dense+sparse"
            text = f"{text}, so that it would never be measured; expected {hint} for it"
            yield scope.problem((*loc, "method"), text)
            return


def _trains(entry: FineTuneEntry, methods: Iterable[MethodEntry], models: Collection[str]) -> bool:
    """Whether an entry is for any cell of some methods, or of dense, and some models."""
    dense = any(entry.is_for(model, DENSE, drops=False) for model in models)
    return dense or any(_pairs(entry, method, models) for method in methods)


def _pairs(entry: FineTuneEntry, method: MethodEntry, models: Iterable[str]) -> bool:
    """Whether a method compresses any of some models of those that an entry trains."""
    drops = drops_tokens(method.method)
    return _removes(method) and any(
        method.is_for(model) and entry.is_for(model, method.method, drops=drops) for model in models
    )


def _removes(method: MethodEntry) -> bool:
    """Whether anything is compressed: at ratio 0 alone, nothing is."""
    own = own_ratios(method).values()
    return method.method != DENSE and any(ratio != 0 for ratio in (*(method.ratio or ()), *own))
