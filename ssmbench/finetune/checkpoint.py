"""A training half done, as files: tensors in safetensors, numbers in JSON, nothing pickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from ssmbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

_TENSORS, _NUMBERS = "training.safetensors", "training.json"
_RNG = "generator/"
# What AdamW holds of each parameter.
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Checkpoints(Protocol):
    """Where a training's checkpoints are, newest last."""

    def latest(self) -> tuple[int, Path] | None:
        """Give the newest whole one, its step and folder; None where there is none."""

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Add one, in one step; `write` fills an empty folder."""


@dataclass
class Numbers:
    """What a training knows beside its tensors.

    Attributes:
        step: optimiser steps done.
        loss_before: over the held-out windows, before the first step.
        start: the larger of that and the first step's, both of the untrained model: by it a
            divergence is known.
        recent: of each step since the last row: its loss and, where there are two, its parts.
        rows: the loss curve so far.
        seconds: the time that it took so far, that of killed attempts included.
    """

    step: int
    loss_before: float
    start: float
    recent: list[list[float]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def generators(device: torch.device) -> dict[str, Tensor]:
    """Give the states of the generators that dropout draws from."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def write(
    folder: Path,
    numbers: Numbers,
    trained: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    states: Mapping[str, Tensor],
) -> None:
    """Fill a folder with all that a training goes on from.

    Args:
        folder: empty.
        numbers: how far it is.
        trained: what trains, by name.
        optimiser: AdamW over it.
        states: of the generators, from `generators`.
    """
    tensors = {name: parameter.detach() for name, parameter in trained.items()}
    for name, parameter in trained.items():
        held = optimiser.state.get(parameter, {})
        tensors |= {f"{kind}/{name}": held[kind] for kind in _MOMENTS if kind in held}
    tensors |= {f"{_RNG}{device}": state for device, state in states.items()}
    own = {name: t.cpu().contiguous().clone() for name, t in tensors.items()}
    save_file(own, folder / _TENSORS)
    text = json.dumps(asdict(numbers), allow_nan=False)
    (folder / _NUMBERS).write_text(text, "utf-8")


def read(
    folder: Path, trained: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> Numbers:
    """Put a training back to where it was when `write` was called, generators included.

    Raises:
        DataError: the files are not those of this training.
    """
    try:
        tensors = load((folder / _TENSORS).read_bytes())
        numbers = Numbers(**json.loads((folder / _NUMBERS).read_bytes()))
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(tensors[name])
                held = {k: tensors[f"{k}/{name}"] for k in _MOMENTS if f"{k}/{name}" in tensors}
                # A fused AdamW wants its step where the parameter is.
                moved = {kind: t.to(parameter.device) for kind, t in held.items()}
                if moved:
                    optimiser.state[parameter] = moved
        torch.set_rng_state(tensors[f"{_RNG}cpu"])
        if f"{_RNG}cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[f"{_RNG}cuda"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as problem:
        raise DataError(
            f"{folder}: cannot be read as this training's checkpoint ({problem}). Delete this "
            "folder and run again: the training begins from an earlier one, or anew."
        ) from None
    return numbers
