"""What a grid expands into: cells (one compressed model each) and suites (what is measured).

A cell's id is a hash over what makes the compressed model and nothing else; a suite's id is
a hash over what makes its numbers. Every field below is classed by `identity` or `runtime`,
and a test fails until a new one is.
"""

# ruff: noqa: RUF009 (identity() and runtime() are dataclasses.field)

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

from ssmbench.grid.fine_tune import Recipe
from ssmbench.plan.labels import step_label, training_label

if TYPE_CHECKING:
    from ssmbench.plan.matched import Matched

IDENTITY_VERSION = 1

Kind = Literal["quality", "timing"]


def identity(**options: Any) -> Any:
    """Declare a field that changes the numbers: it is hashed into the id."""
    return field(metadata={"identity": True}, **options)


def runtime(**options: Any) -> Any:
    """Declare a field that does not change the numbers: names, places, speed."""
    return field(metadata={"identity": False}, **options)


def digest(value: Any, length: int = 12) -> str:
    """Hash a JSON value: the first `length` hex digits of SHA-256 over its canonical text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def identity_of(value: Any) -> Any:
    """Reduce a record to the JSON of its identity fields, recursively.

    A field that is None is left out, so that a new field whose default is None leaves the ids
    of older runs as they are.
    """
    return _json(value, identity_only=True)


def _json(value: Any, *, identity_only: bool) -> Any:
    """Do as dataclasses.asdict does, which is too slow for plans of many thousand cells."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_json(v, identity_only=identity_only) for v in value]
    if isinstance(value, Mapping):
        return dict(value)
    names = _fields(value.__class__, identity_only=identity_only)
    values = {name: getattr(value, name) for name in names}
    return {
        name: _json(v, identity_only=identity_only)
        for name, v in values.items()
        if not (identity_only and v is None)
    }


@cache
def _fields(record: Any, *, identity_only: bool) -> tuple[str, ...]:
    fields = dataclasses.fields(record)
    return tuple(f.name for f in fields if f.metadata["identity"] or not identity_only)


@dataclass(frozen=True, eq=True)
class Model:
    """A model as the plan sees it: enough to find it, nothing read from its weights.

    `fingerprint` stands for the weights: the hub revision, or a hash over the files of a
    folder. `source` is "zoo:NAME", "folder:PATH" or "hub:ID". `tokenizer` says where a
    separate tokenizer is, and `tokenizer_fingerprint` stands for what it does (hub id, or a
    hash over its files): the same weights read through another one calibrate and score
    differently. Both are None where the tokenizer lies with the weights.
    """

    name: str = runtime()
    source: str = runtime()
    fingerprint: str = identity()
    family: str | None = runtime(default=None)
    tokenizer: str | None = runtime(default=None)
    tokenizer_fingerprint: str | None = identity(default=None)


@dataclass(frozen=True)
class Step:
    """One method of a chain, with every parameter filled in. `ratio` is the fraction removed."""

    name: str = identity()
    version: int = identity()
    ratio: float = identity()
    params: Mapping[str, Any] = identity(hash=False)


@dataclass(frozen=True)
class Calibration:
    """The text that a method may look at: `samples` windows of `length` tokens.

    `data` is a known set's name ("wikitext", "tinyworld") or, for a file of the user's own,
    "sha256:" and its content's hash, in which case `path` says where the file is: a moved
    file is the same text. `split` is the part of a known set that is read, never one that is
    scored. `version` is that of a text which the package generates. `seed` is the number that
    the windows are drawn with, nothing to be added: the grid's calibration seed plus the
    cell's seed.
    """

    data: str = identity()
    samples: int = identity()
    length: int = identity()
    seed: int = identity()
    version: int | None = identity(default=None)
    path: str | None = runtime(default=None)
    split: str | None = identity(default=None)


@dataclass(frozen=True)
class FineTune:
    """Training after compression; `kind` "none" trains nothing.

    `params` are the other fields of the recipe, every one that applies. Its data are a known
    text's name or "sha256:" and the content's hash, in which case `path` says where the file or
    folder is.
    """

    kind: str = identity(default="none")
    params: Mapping[str, Any] = identity(default_factory=dict, hash=False)
    path: str | None = runtime(default=None)

    @property
    def recipe(self) -> Recipe | None:
        """The training; None where nothing is trained."""
        if self.kind == "none":
            return None
        return Recipe.model_validate({"kind": self.kind, **self.params})


@dataclass(frozen=True)
class Cell:
    """One compressed model: (model, method chain, ratio, calibration, fine-tuning, seed, dtype)."""

    model: Model = identity()
    steps: tuple[Step, ...] = identity()
    calibration: Calibration | None = identity()
    fine_tune: FineTune = identity()
    seed: int = identity()
    dtype: str = identity()

    @cached_property
    def id(self) -> str:
        """12 hex digits; equal for equal compressed models, whatever grid names them."""
        return digest({"version": IDENTITY_VERSION, **identity_of(self)})

    @property
    def method(self) -> str:
        """The chain as it is written in a grid: `wanda`, `wanda+simba`."""
        return "+".join(step.name for step in self.steps)

    @property
    def ratio(self) -> float:
        """The last step's ratio: the one that a chain is swept over."""
        return self.steps[-1].ratio

    @property
    def label(self) -> str:
        """A short name for people: `zoo-mamba-s · wanda 0.5 (targets=in_proj) · kd · seed 7`."""
        parts = [self.model.name, " + ".join(map(step_label, self.steps))]
        if self.fine_tune.kind != "none":
            parts.append(training_label(self.fine_tune, self.dtype))
        if self.seed:
            parts.append(f"seed {self.seed}")
        return " · ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Give every field as JSON; `from_json` is its inverse."""
        data: dict[str, Any] = _json(self, identity_only=False)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """Build the cell that `to_json` described."""
        calibration = data["calibration"]
        return cls(
            model=Model(**data["model"]),
            steps=tuple(Step(**s) for s in data["steps"]),
            calibration=Calibration(**calibration) if calibration else None,
            fine_tune=FineTune(**data["fine_tune"]),
            seed=data["seed"],
            dtype=data["dtype"],
        )


@dataclass(frozen=True)
class Suite:
    """One thing to measure, with every parameter filled in.

    `provides` is what the suite file adds to its identity (versions of tasks and libraries);
    `limit` scores the first N documents of each task only, for trials; `device` is named for
    timing alone, since a time on another device is another number.
    """

    name: str = identity()
    kind: Kind = runtime()
    version: int = identity()
    params: Mapping[str, Any] = identity(hash=False)
    provides: Mapping[str, Any] = identity(default_factory=dict, hash=False)
    limit: int | None = identity(default=None)
    device: str | None = identity(default=None)

    @cached_property
    def id(self) -> str:
        """10 hex digits over the identity fields."""
        return digest({"version": IDENTITY_VERSION, **identity_of(self)}, 10)

    def to_json(self) -> dict[str, Any]:
        """Give every field as JSON; `from_json` is its inverse."""
        data: dict[str, Any] = _json(self, identity_only=False)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Suite:
        """Build the suite that `to_json` described."""
        return cls(**data)


@dataclass(frozen=True)
class Resources:
    """What one attempt of a cell is given; none of it changes a number."""

    num_cpus: float = runtime(default=1)
    num_gpus: float = runtime(default=0)
    memory_gb: float | None = runtime(default=None)
    accelerator_type: str | None = runtime(default=None)
    labels: Mapping[str, str] = runtime(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Entry:
    """A cell with the suites that the grid wants of it and what it may use.

    `timing` is what an attempt that measures time gets, where the grid says so; else None.
    `checkpoint_s` is how often a training is saved. `match` says how the ratio was found, where
    it was asked to match another model's FLOPs. `backend` is whose kernels compute.
    """

    cell: Cell
    suites: tuple[Suite, ...]
    resources: Resources
    timeout_s: float
    batch_tokens: int
    timing: Resources | None = None
    checkpoint_s: float = 600
    match: Matched | None = None
    backend: str = "auto"

    def resources_for(self, kind: Kind) -> Resources:
        """Give what an attempt of this kind of suites is to be given."""
        return self.timing if kind == "timing" and self.timing else self.resources
