"""One entry of a grid's `fine_tune`: how which cells are trained after compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, model_validator

from ssmbench.grid.fine_tune import (
    PRESETS,
    Adapters,
    Count,
    Dtype,
    Kind,
    Length,
    NotNegative,
    Pair,
    Positive,
    Schedule,
    Share,
    Targets,
    make_recipe,
    presets_for,
)
from ssmbench.grid.forms import DENSE, Name, Part, Patterns, Seed, among, or_name

if TYPE_CHECKING:
    from ssmbench.grid.fine_tune import Recipe

# The keys that say which cells are meant and where to start; all others are the recipe's.
KEYS = ("fine_tune", "preset", "methods", "models")
NONE = "none"

# The suite that every trained cell has without being asked: its loss curve.
TRAINING = "training"

# What is calibrated on, and trained on, where nothing is said: the zoo speaks one language only.
ZOO_TEXT = "tinyworld"


def _or_kind(schema: dict[str, Any]) -> None:
    kinds = schema["properties"]["fine_tune"]["enum"]
    or_name(schema)
    schema["anyOf"][0] = {"enum": kinds, "description": "A kind alone."}


class FineTuneEntry(Part):
    """A training after compression: its kind alone, or what differs from the kind's preset."""

    model_config = ConfigDict(json_schema_extra=_or_kind)

    fine_tune: Literal["none", "kd", "ce", "dense+sparse"] = Field(
        description="`none`; `kd`: towards the uncompressed model's distribution, KL(teacher‖"
        "student); `ce`: towards the text's next token; `dense+sparse`: likewise, once with all "
        "tokens and once with tokens dropped, for methods that drop them."
    )
    preset: Name | None = Field(
        default=None,
        description="What fills in the rest, see below: `pruner` for kd and ce, `simba` for "
        "dense+sparse.",
    )
    methods: Patterns | None = Field(
        default=None,
        description="Only cells of these methods: names, chains or patterns, one or a list; "
        "wherever it applies if left out. `dense`, and with it ratio 0, is trained only where it "
        "is named.",
    )
    models: Patterns | None = Field(
        default=None,
        description="Only cells of these models of the grid: names or patterns, one or a list; of "
        "all if left out.",
    )
    data: Name | None = Field(
        default=None,
        description="wikitext (WikiText-2), wikitext-103, minipile, c4, tinyworld, or a file or "
        "folder of .txt or .jsonl files; if left out, the preset's, and tinyworld for the zoo's "
        "models.",
    )
    split: Name | None = Field(
        default=None,
        description="The part of a known text. Only the one to train on may be named, since the "
        "others are evaluated on; it is taken anyway.",
    )
    seed: Seed | None = Field(
        default=None, description="Of order, adapters and dropout; the cell's seed is added."
    )
    adapters: Adapters | None = Field(
        default=None,
        description="`lora` trains low-rank adapters and merges them, `all` every weight.",
    )
    rank: Count | None = Field(default=None, description="Of the adapters.")
    alpha: Positive | None = Field(
        default=None, description="The adapters' product is scaled by alpha / rank."
    )
    dropout: Share | None = Field(default=None, description="Before the adapters.")
    targets: Targets | None = Field(
        default=None,
        description="What has adapters: `mixers` (in_proj and out_proj of the SSM mixers), `mlps` "
        "(the MLPs' projections) or `all` of these.",
    )
    learning_rate: Positive | None = Field(default=None, description="AdamW's.")
    weight_decay: NotNegative | None = Field(default=None, description="AdamW's.")
    beta1: Share | None = Field(default=None, description="AdamW's.")
    beta2: Share | None = Field(default=None, description="AdamW's.")
    clip: Positive | None = Field(
        default=None, description="The largest norm of all gradients together."
    )
    schedule: Schedule | None = Field(
        default=None,
        description="How the learning rate falls after warm-up: `linear` or `cosine`, both to 0, "
        "or `constant`.",
    )
    warmup: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Steps in which the learning rate rises; if left out, as large a share of "
        "`steps` as the preset's.",
    )
    steps: Count | None = Field(default=None, description="Optimiser steps.")
    batch: Count | None = Field(default=None, description="Windows a step.")
    length: Length | None = Field(default=None, description="Tokens of a window.")
    dtype: Dtype | None = Field(
        default=None,
        description="The type that is computed in; if left out, the preset's, and the cell's where "
        "it has none.",
    )
    temperature: Positive | None = Field(default=None, description="Of both distributions of `kd`.")
    ratios: Pair | None = Field(
        default=None,
        description="The lowest and the highest fraction of tokens dropped; drawn for every window "
        "of `dense+sparse`.",
    )
    log_every: Count | None = Field(
        default=None, description="Steps that one point of the loss curve is the mean of."
    )

    @model_validator(mode="before")
    @classmethod
    def _widen(cls, value: Any) -> Any:
        return {"fine_tune": value} if isinstance(value, str) else value

    @property
    def kind(self) -> Kind | None:
        """What is trained towards; None where nothing is trained."""
        return None if self.fine_tune == "none" else self.fine_tune

    @property
    def values(self) -> dict[str, Any]:
        """The values of the recipe that are given here."""
        return self.model_dump(mode="json", exclude=set(KEYS), exclude_none=True)

    def data_for(self, *, zoo: bool) -> str:
        """Name the text to train on, as the grid or the preset does.

        Args:
            zoo: whether the model is one of the zoo's.

        Raises:
            ValueError: nothing is trained.
        """
        if self.kind is None:
            raise ValueError("'none' trains on no text")
        usual = PRESETS[self.preset or presets_for(self.kind)[0]].values["data"]
        return self.data or (ZOO_TEXT if zoo else str(usual))

    def recipe(self, *, zoo: bool) -> Recipe | None:
        """Fill in the training; None where nothing is trained.

        Args:
            zoo: whether the model is one of the zoo's.

        Raises:
            ValidationError: values that are not possible together.
        """
        if self.kind is None:
            return None
        return make_recipe(
            self.kind, self.preset, **{**self.values, "data": self.data_for(zoo=zoo)}
        )

    def applies(self, method: str, *, drops: bool) -> bool:
        """Whether a method or chain can be trained so: only `dense+sparse` trains dropping tokens.

        Args:
            method: as a grid writes it.
            drops: whether it drops tokens.
        """
        if self.kind is None:
            return True
        if method == DENSE:
            return self.kind == "ce"
        return drops == (self.kind == "dense+sparse")

    def is_for(self, model: str, method: str, *, drops: bool) -> bool:
        """Whether cells of a model and method or chain are to be trained so, or, by `none`, not.

        The dense model is trained only where it is named; untrained it is always a cell.

        Args:
            model: its name.
            method: as a grid writes it.
            drops: whether it drops tokens.
        """
        if method == DENSE and self.kind is not None and DENSE not in (self.methods or ()):
            return False
        meant = among(model, self.models) and among(method, self.methods)
        return meant and self.applies(method, drops=drops)


def settings() -> tuple[str, ...]:
    """List the keys of an entry that are values of its recipe."""
    return tuple(name for name in FineTuneEntry.model_fields if name not in KEYS)


def kinds() -> tuple[str, ...]:
    """List what `fine_tune` may say."""
    return tuple(get_args(FineTuneEntry.model_fields["fine_tune"].annotation))
