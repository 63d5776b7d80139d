"""Training after compression, as a grid may ask for it: kinds, presets and their values.

A preset is how a paper trained. It fills in whatever an entry of `fine_tune` leaves out, so that
a `Recipe` has no defaults: what is not said of a training is not part of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from pydantic.functional_validators import BeforeValidator
from pydantic_core import PydanticCustomError

from ssmbench.grid.forms import Name, Part, Seed

Kind = Literal["kd", "ce", "dense+sparse"]
Adapters = Literal["lora", "all"]
Targets = Literal["all", "mixers", "mlps"]
Schedule = Literal["linear", "cosine", "constant"]
Dtype = Literal["float32", "bfloat16", "float16"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Length = Annotated[int, Field(ge=2)]


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Pair = Annotated[tuple[Share, ...], Field(min_length=2, max_length=2), BeforeValidator(_listed)]

KINDS: tuple[Kind, ...] = ("kd", "ce", "dense+sparse")

# The part of each known text that is trained on; evaluation reads others.
SPLITS = {
    "c4": "train",
    "minipile": "train",
    "tinyworld": "fine_tune",
    "wikitext": "train",
    "wikitext-103": "train",
}
TEXTS = tuple(SPLITS)

# What means something for one kind, or for low-rank adapters alone.
OF_KIND: dict[str, Kind] = {"temperature": "kd", "ratios": "dense+sparse"}
OF_LORA = ("rank", "alpha", "dropout", "targets")


class Recipe(Part):
    """One training, every value filled in.

    What does not apply is None: `rank`, `alpha`, `dropout` and `targets` unless `adapters` is
    "lora", `temperature` unless `kind` is "kd", `ratios` unless it is "dense+sparse".

    Attributes:
        kind: the loss. "kd": the teacher's and the student's distributions, KL(teacher‖student),
            the teacher being the uncompressed model; "ce": cross-entropy of the next token;
            "dense+sparse": cross-entropy with all tokens plus cross-entropy with tokens dropped.
        data: a known text, or "sha256:" and the hash of the user's own.
        split: the part of a known text that is read; None for the user's own.
        data_version: of a text that the package generates; else None.
        seed: of the order of the data, the adapters and dropout; the cell's seed is added to it.
        adapters: "lora" trains low-rank adapters and merges them, "all" trains every weight.
        rank, alpha, dropout: of the adapters; their product is scaled by alpha / rank.
        targets: which projections have adapters. "mixers": in_proj and out_proj of the SSM
            mixers, "mlps": those of the MLPs, "all": both.
        learning_rate, weight_decay, beta1, beta2: AdamW's.
        clip: the largest norm of all gradients together; larger ones are scaled down to it.
        schedule: how the learning rate falls after warm-up: to 0 by a line or half a cosine, or
            not at all.
        warmup: steps over which the learning rate rises from 0 to its full value.
        steps: optimiser steps.
        batch: windows a step.
        length: tokens of a window.
        dtype: the type that is computed in, forwards and backwards; None: the cell's. A plan
            fills it in.
        temperature: that both distributions are taken at.
        ratios: (lowest, highest) fraction of the tokens that are dropped; drawn uniformly, for
            every window by itself.
        log_every: steps that one row of the loss curve is the mean of.
    """

    kind: Kind
    data: Name
    split: Name | None = None
    data_version: int | None = None
    seed: Seed
    adapters: Adapters
    rank: Count | None = None
    alpha: Positive | None = None
    dropout: Share | None = None
    targets: Targets | None = None
    learning_rate: Positive
    weight_decay: NotNegative
    beta1: Share
    beta2: Share
    clip: Positive
    schedule: Schedule
    warmup: Annotated[int, Field(ge=0)]
    steps: Count
    batch: Count
    length: Length
    dtype: Dtype | None = None
    temperature: Positive | None = None
    ratios: Pair | None = None
    log_every: Count

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.warmup >= self.steps:
            raise _wrong(
                f"the warm-up of {self.warmup} steps is not shorter than the training of "
                f"{self.steps}; expected fewer"
            )
        if self.ratios and self.ratios[0] > self.ratios[1]:
            raise _wrong(f"found ratios {list(self.ratios)}; expected the lowest, then the highest")
        return self

    @property
    def params(self) -> dict[str, Any]:
        """Everything but the kind as JSON, without what does not apply.

        `Recipe.model_validate({"kind": kind, **params})` is the inverse.
        """
        return self.model_dump(mode="json", exclude={"kind"}, exclude_none=True)


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("ours", "{message}", {"message": message})


class Preset(NamedTuple):
    """How a paper trained.

    Attributes:
        kinds: the kinds of training that it is for.
        values: the fields of `Recipe` that it settles.
    """

    kinds: tuple[Kind, ...]
    values: dict[str, Any]


_COMMON = {
    "seed": 0,
    "rank": 8,
    "alpha": 16.0,
    "dropout": 0.1,
    "targets": "all",
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "beta1": 0.9,
    "beta2": 0.999,
    "clip": 1.0,
    "temperature": 1.0,
    "ratios": [0.0, 0.9],
    "log_every": 10,
}

PRESETS = {
    # arXiv:2502.18886, appendix; clip and betas are the defaults of the trainer that it used.
    "pruner": Preset(
        ("kd", "ce"),
        {
            **_COMMON,
            "data": "wikitext",
            "adapters": "lora",
            "schedule": "linear",
            "warmup": 500,
            "steps": 10_000,
            "batch": 6,
            "length": 2048,
            "dtype": "bfloat16",
        },
    ),
    # arXiv:2505.20698, table 2. It states neither batch and length nor what trains, nor the
    # type: 8 windows of the length that its models were trained with, every weight, the cell's.
    "simba": Preset(
        ("dense+sparse",),
        {
            **_COMMON,
            "data": "minipile",
            "adapters": "all",
            "schedule": "cosine",
            "warmup": 40,
            "steps": 400,
            "batch": 8,
            "length": 2048,
        },
    ),
}


def presets_for(kind: str) -> list[str]:
    """List the presets of a kind of training, its own one first."""
    return [name for name, preset in PRESETS.items() if kind in preset.kinds]


def make_recipe(kind: Kind, preset: str | None = None, **values: Any) -> Recipe:
    """Fill in a training.

    Where `steps` is given but not `warmup`, the warm-up is the preset's share of the steps.

    Args:
        kind: what is trained towards.
        preset: what fills in the rest; by default the kind's own.
        values: fields of `Recipe`; None counts as not given.

    Raises:
        ValidationError: values that are not possible, each by itself or together.
    """
    base = PRESETS[preset or presets_for(kind)[0]].values
    given = {name: value for name, value in values.items() if value is not None}
    if "steps" in given and "warmup" not in given:
        given["warmup"] = round(base["warmup"] * given["steps"] / base["steps"])
    filled = {**base, **given}
    for name, owner in OF_KIND.items():
        if kind != owner:
            filled[name] = None
    if filled["adapters"] != "lora":
        filled.update(dict.fromkeys(OF_LORA))
    return Recipe.model_validate({"kind": kind, **filled})
