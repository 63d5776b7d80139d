"""`ssmbench flops`: what one input costs a model, from its configuration alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench import console, plugins
from ssmbench.errors import DONE, CommandError, UnknownName, suggest
from ssmbench.execute.compress import chain
from ssmbench.grid.catalogue import by_source, catalogue
from ssmbench.grid.forms import DENSE
from ssmbench.models import source
from ssmbench.models.token_flops import Count, Drop, count, flow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.models.description import Description
    from ssmbench.plan.cells import Step

_PARTS = {
    "layers": "layers",
    "scores": "ranking tokens",
    "norm": "final norm",
    "head_all": "head, all positions",
    "head_scored": "head, scored positions",
    "total_all": "total, head on all",
    "total_scored": "total, head on scored",
    "per_token_all": "per token, head on all",
    "per_token_scored": "per token, head on scored",
}


@dataclass(frozen=True)
class Request:
    """Which model, what is dropped, and for how long an input; as on the command line."""

    model: str
    method: str = DENSE
    ratio: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    prompt: int = 1000
    answer: int = 10


class Costs(NamedTuple):
    """One input's FLOPs by part, without and with dropping, and prompt tokens by layer.

    `reduced` is None where nothing is dropped.
    """

    dense: dict[str, float]
    reduced: dict[str, float] | None
    tokens: list[int]


def show_flops(request: Request, *, as_json: bool) -> int:
    """Print what one input costs, and give the exit code.

    Raises:
        CommandError: the model's architecture is not known without a download, or the method or
            a number does not fit.
        UnknownName: no such model or method.
        CheckpointError: a folder that is not a model.
        MethodError: the method cannot drop tokens of this model.
    """
    description = _describe(request.model)
    for name, least in (("prompt", 1), ("answer", 0)):
        if getattr(request, name) < least:
            raise CommandError(f"--{name} {getattr(request, name)}: expected {least} or more.")
    steps = chain(request.method, request.ratio, request.params)
    found = _costs(description, request, _drop(description, steps))
    if as_json:
        record = {
            "model": request.model,
            "family": description.family,
            "prompt": request.prompt,
            "answer": request.answer,
            "method": request.method,
            "steps": [{"name": s.name, "ratio": s.ratio, "params": dict(s.params)} for s in steps],
            "dense": found.dense,
            "reduced": found.reduced,
            "prompt_tokens": found.tokens,
        }
        console.write(json.dumps(record, indent=1))
    else:
        _show(request, steps, found)
    return DONE


def _describe(model: str) -> Description:
    """Find an architecture by a catalogue name, a folder, zoo:NAME or a known hub id.

    Raises:
        CommandError: a hub id that the catalogue does not know.
        UnknownName: nothing of this name.
    """
    known = catalogue().get(model) or by_source().get(model)
    if known is not None and (found := known.describe()) is not None:
        return found
    text = known.source if known else model
    if text.startswith("zoo:"):
        return source.describe(source.zoo_folder(text.removeprefix("zoo:")))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return source.describe(folder)
    if "/" in model:
        raise CommandError(
            f"{model}: found no such folder, nor a hub id of the catalogue; expected a model whose "
            "configuration is on this machine. Download its config.json to a folder and name that, "
            "or see `ssmbench models`."
        )
    raise UnknownName("model", model, catalogue())


def _drop(description: Description, steps: Sequence[Step]) -> Drop | None:
    """Give what the last step drops; None for the dense model.

    Raises:
        CommandError: it drops no tokens, or what goes before it changes sizes.
    """
    *before, last = steps
    if last.name == DENSE:
        return None
    plugin = plugins.load("method", last.name)
    if not hasattr(plugin, "drops"):
        able = [n for n in plugins.names("method") if hasattr(plugins.load("method", n), "drops")]
        raise CommandError(
            f"--method {last.name}: found a method that drops no tokens; expected one that does. "
            f"What it removes is known when it has run: see `ssmbench compress`.{suggest('', able)}"
        )
    for step in before:
        if not getattr(plugins.load("method", step.name), "KEEPS_SIZES", False):
            raise CommandError(
                f"--method: found '{step.name}' before '{last.name}'; expected methods that leave "
                "every size as it is. What it removes is known when it has run: name the folder "
                "that `ssmbench compress` writes as the model."
            )
    params = plugin.Params.model_validate(dict(last.params))
    drop: Drop = plugin.drops(description, ratio=last.ratio, params=params)
    return drop


def _costs(description: Description, request: Request, drop: Drop | None) -> Costs:
    n = request.prompt + request.answer
    dense = _parts(count(description, prompt=request.prompt, answer=request.answer), n)
    found = count(description, prompt=request.prompt, answer=request.answer, drop=drop)
    tokens = [step.entering for step in flow(description, request.prompt, drop)]
    return Costs(dense, None if drop is None else _parts(found, n), tokens)


def _parts(found: Count, n_tokens: int) -> dict[str, float]:
    """Give the parts by name; those per token are by the input's tokens, dropped or not."""
    parts: dict[str, float] = {
        name: getattr(found, name)
        for name in ("layers", "scores", "norm", "head_all", "head_scored")
    }
    parts |= {"total_all": found.total("all"), "total_scored": found.total("scored")}
    return parts | {
        "per_token_all": parts["total_all"] / n_tokens,
        "per_token_scored": parts["total_scored"] / n_tokens,
    }


def _show(request: Request, steps: Sequence[Step], found: Costs) -> None:
    """Print a table in GFLOPs, or in MFLOPs for a model of toy size."""
    unit, size = ("GFLOPs", 1e9) if found.dense["total_all"] >= 1e10 else ("MFLOPs", 1e6)
    header, body = [unit, "dense"], []
    if found.reduced is not None:
        header += [" + ".join(f"{step.name} {step.ratio:g}" for step in steps), "ratio"]
    for key, name in _PARTS.items():
        line = [name, f"{found.dense[key] / size:,.3f}"]
        if found.reduced is not None:
            share = f"{found.reduced[key] / found.dense[key]:.4f}" if found.dense[key] else "–"
            line += [f"{found.reduced[key] / size:,.3f}", share]
        body.append(line)
    console.rows(header, body, right=header[1:])
    console.result(f"{request.model}, one input of {request.prompt} + {request.answer} tokens")
    if found.reduced is not None:
        mean = sum(found.tokens) / len(found.tokens) / request.prompt
        console.result(
            f"prompt tokens: {found.tokens[0]} enter the first layer, {found.tokens[-1]} the last, "
            f"{100 * mean:.1f} % on average"
        )
