"""Compressing one model outside of any run: what the command and the Python interface share.

A chain means what it means in a grid, and the same code as a cell's applies it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ssmbench import plugins
from ssmbench.errors import CommandError
from ssmbench.grid.fine_tune_entry import ZOO_TEXT
from ssmbench.grid.forms import DENSE
from ssmbench.plan.cells import Step
from ssmbench.plan.expand import TEXT
from ssmbench.surgery.context import silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails
    from transformers import PreTrainedTokenizerBase

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import Report


@dataclass(frozen=True)
class Windows:
    """The text that methods may look at, as a grid's `calibration` has it, and the seed.

    Attributes:
        data: a known text, a file or a folder; the zoo's or WikiText where None.
        samples: how many windows.
        length: tokens of each.
        seed: of the windows' places and of methods that draw at random, as a cell's seed.
        folder: the folder of local data (`--data`); None reads the hub.
    """

    data: str | None = None
    samples: int = 128
    length: int = 128
    seed: int = 0
    folder: Path | None = None

    def text(self, model: Decoder) -> str:
        """Name the text that windows for a model are drawn from."""
        zoo = model.origin is not None and model.origin.source.startswith("zoo:")
        return self.data or (ZOO_TEXT if zoo else TEXT)


def chain(method: str, ratio: float | None, params: Mapping[str, Any]) -> tuple[Step, ...]:
    """Check a method or a chain `a+b` and give its steps; those that remove nothing are left out.

    Args:
        method: a method's name, or several joined by "+".
        ratio: the fraction that each step removes which has no `ratio` of its own, in [0, 1).
        params: the method's parameters; a chain's by step name, as in a grid.

    Raises:
        UnknownName: no such method.
        CommandError: a ratio or parameter is missing, does not exist or does not fit.
    """
    names = [name.strip() for name in method.split("+")]
    for name in names:
        plugins.load("method", name)
    own = _own_ratios(names, params)
    if len(names) == 1:
        params = {names[0]: params}
    steps = []
    for name in names:
        given = {k: v for k, v in params.get(name, {}).items() if len(names) == 1 or k != "ratio"}
        checked_params = checked(plugins.load("method", name), f"method {name}", given)
        fraction = _fraction(name, own.get(name, ratio))
        if name != DENSE and fraction > 0:
            filled = checked_params.model_dump(mode="json")
            steps.append(Step(name, plugins.load("method", name).VERSION, fraction, filled))
    if own and ratio is not None and names[-1] in own:
        raise CommandError(
            f"method {method}: the last step, '{names[-1]}', sets a ratio of its own; expected it "
            "to take the chain's."
        )
    return tuple(steps) or (Step(DENSE, plugins.load("method", DENSE).VERSION, 0.0, {}),)


def _own_ratios(names: Sequence[str], params: Mapping[str, Any]) -> dict[str, Any]:
    """Check a chain's form and give the ratios that its steps set for themselves."""
    if len(names) == 1:
        return {}
    chained = "+".join(names)
    if DENSE in names:
        raise CommandError(f"method {chained}: 'dense' removes nothing; expected it alone.")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise CommandError(f"method {chained}: found '{twice[0]}' twice; expected it once.")
    for key, value in params.items():
        if key not in names or not isinstance(value, dict):
            raise CommandError(
                f"method {chained}: found the parameter {key}={value!r}; expected a chain's "
                f"parameters under the names of its steps, as in {names[0]}.NAME=VALUE."
            )
    return {name: value["ratio"] for name, value in params.items() if "ratio" in value}


def _fraction(name: str, ratio: Any) -> float:
    """Check a step's ratio; dense needs none."""
    if name == DENSE:
        if ratio:
            raise CommandError(f"ratio: found {ratio} for 'dense', which removes nothing.")
        return 0.0
    if ratio is None:
        raise CommandError(f"ratio: found none for '{name}'; expected the fraction to remove.")
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not number or not 0 <= ratio < 1:
        raise CommandError(f"ratio: found {ratio}; expected the fraction removed, in [0, 1).")
    return float(ratio)


def needs(steps: Sequence[Step]) -> frozenset[str]:
    """Give what a chain depends on besides the model: any of "calibration" and "seed"."""
    found: frozenset[str] = frozenset()
    for step in steps:
        plugin = plugins.load("method", step.name)
        found |= plugin.needs(plugin.Params.model_validate(dict(step.params)))
    return found


def compress(
    model: Decoder, steps: Sequence[Step], windows: Windows, *, report: Report = silent
) -> float | None:
    """Compress a model in place, and give the last step's achieved ratio.

    Args:
        model: as loaded.
        steps: as `chain` gives them.
        windows: what methods may look at, where a step needs it.
        report: called with (step, done, total) as work goes on.

    Raises:
        MethodError: a method cannot do its job on this model.
        DataError: the calibration text is missing or too short.
    """
    from ssmbench.surgery import calibration
    from ssmbench.surgery import compress as surgery
    from ssmbench.surgery.context import MethodContext

    tokens = None
    if "calibration" in needs(steps):
        report("calibrate", 0, 0)
        tokens = calibration.windows(
            windows.text(model),
            samples=windows.samples,
            length=windows.length,
            seed=windows.seed,
            tokenizer=tokenizer_of(model, data=windows.folder),
            folder=windows.folder,
        )
    context = MethodContext(seed=windows.seed, calibration=tokens, report=report)
    return surgery.apply(model, steps, context)


def tokenizer_of(model: Decoder, *, data: Path | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a loaded model.

    Args:
        model: as loaded.
        data: the folder of local data, whose `tokenizers/NAME` stands for the hub's OWNER/NAME.

    Raises:
        CommandError: the model was not loaded from anywhere.
        CheckpointError: nothing there can be read as a tokenizer.
    """
    from ssmbench.models.tokenizer import load_tokenizer

    origin = model.origin
    if origin is None or origin.tokenizer is None:
        raise CommandError("the model has no tokenizer: load it with tokenizer=FOLDER.")
    # A revision is of the model's own repository, not of another that lends its tokenizer.
    own = origin.source == f"hub:{origin.tokenizer}"
    return load_tokenizer(origin.tokenizer, revision=origin.revision if own else None, data=data)


def _mistake(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"]))
    if place:
        return f"{place}: found {error['input']!r}; {error['msg'].lower()}"
    # Of several parameters together: the plugin's own sentence.
    return f"{error['msg'].removeprefix('Value error, ')}"


def checked(plugin: ModuleType, where: str, given: Mapping[str, Any]) -> BaseModel:
    """Check a plugin's parameters and fill in the others.

    Raises:
        CommandError: one does not exist or does not fit; the message names them all.
    """
    try:
        params: BaseModel = plugin.Params.model_validate(dict(given))
    except ValidationError as error:
        known = ", ".join(plugin.Params.model_fields) or "none"
        lines = [f"{where}: {_mistake(e)}" for e in error.errors()]
        raise CommandError("\n".join([*lines, f"{where} takes: {known}."])) from None
    return params
