"""Pruning at random: what any score has to beat, for weights and for each structured unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, model_validator

from ssmbench.surgery import units
from ssmbench.surgery.projections import (
    Layers,
    Targets,
    apply_mask,
    keep_largest,
    projections,
    zero_fraction,
)

if TYPE_CHECKING:
    import torch

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext
else:
    from ssmbench.lazy import torch

VERSION = 1
SOURCE = "baseline"


class Params(BaseModel, frozen=True, extra="forbid"):
    """What is removed, and where."""

    unit: Literal["weight", "state", "head_dim", "head", "block"] = Field(
        default="weight",
        description="What is removed: weights of projections, or what the method of that name "
        "removes.",
    )
    targets: Targets = Field(
        default="both", description="Which projections are pruned, where the unit is `weight`."
    )
    layers: Layers = Field(default="ssm", description="Which layers are pruned.")
    granularity: int = Field(
        default=1, ge=1, description=f"{units.GRANULARITY} Not of weights and blocks."
    )

    @model_validator(mode="after")
    def _fit(self) -> Params:
        if self.unit != "weight" and self.targets != "both":
            raise ValueError(f"`targets` is for the unit `weight`; found unit {self.unit!r}")
        if self.unit in {"weight", "block"} and self.granularity != 1:
            raise ValueError(
                "`granularity` is for the units `state`, `head_dim` and `head`; found"
                f" {self.unit!r}"
            )
        possible = {"state": ("ssm",), "head_dim": ("ssm",)}.get(
            self.unit, ("ssm", "attention", "all")
        )
        if self.unit != "weight" and self.layers not in possible:
            raise ValueError(
                f"found layers {self.layers!r} for the unit {self.unit!r}; expected "
                f"{' or '.join(possible)}"
            )
        return self


def needs(params: Params) -> frozenset[str]:
    """Give "seed", the only thing that chooses."""
    return frozenset({"seed"})


def zeros(model: Decoder, params: Params) -> float | None:
    """Measure the fraction of zeros among the targeted weights; None where units are removed."""
    if params.unit != "weight":
        return None
    return zero_fraction(model, params.targets, params.layers)


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Remove units that the seed alone chooses, in place.

    Weights go as WANDA's do, floor(in · ratio) of every output row. States, channels and heads
    go as from the methods `state`, `head_dim` and `head`; of whole mixers, floor(layers · ratio).

    Returns:
        The fraction of zeros among the targeted weights; else removed units / all units.
    """
    if params.unit == "weight":
        return _weights(model, ratio, params, context.seed)
    assert params.layers != "mlp"
    if params.unit == "block":
        return _blocks(model, ratio, params.layers, context)
    axes = units.axes_of(model, params.unit, layers=params.layers)
    return units.remove_lowest(
        model,
        axes,
        ratio=ratio,
        score="random",
        context=context,
        granularity=params.granularity,
    )


def _weights(model: Decoder, ratio: float, params: Params, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    for projection in projections(model, params.targets, params.layers):
        weight = projection.module.weight
        scores = torch.rand(weight.shape, generator=generator)
        apply_mask(weight, keep_largest(scores, ratio).to(weight.device))
    return zero_fraction(model, params.targets, params.layers)


def _blocks(model: Decoder, ratio: float, which: units.Mixers, context: MethodContext) -> float:
    layers = list(units.mixers(model, which))
    if ratio == 0:
        return 0.0
    n = units.count(len(layers), ratio, units="mixers", where=model.description.family)
    generator = torch.Generator().manual_seed(context.seed)
    order = torch.randperm(n.all, generator=generator).tolist()
    for i in sorted(order[: n.gone]):
        context.remove_mixer(model, layers[i])
    return n.gone / n.all
