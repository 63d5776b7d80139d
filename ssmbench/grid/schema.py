"""What a grid file may say, as types.

Only the form is checked here; whether names exist and parameters fit is `check.py`'s work.
Shorthands (a name instead of a mapping, a number instead of a list) are widened before
validation, so that every part of a read grid has one form.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from ssmbench.grid.fine_tune_entry import NONE, FineTuneEntry
from ssmbench.grid.forms import (
    DENSE,
    Name,
    Part,
    Patterns,
    Ratios,
    Seed,
    among,
    gather,
    open_mapping,
    or_name,
)
from ssmbench.grid.resources import ResourcesEntry
from ssmbench.paths import is_file, is_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

# Texts that suites know by name; a folder beside the grid that is called so is not meant.
TEXTS = ("c4", "pg19", "tinyworld", "wikitext")

# The keys of a method's entry that are the grid's; all others are the method's own parameters.
METHOD_KEYS = ("method", "ratio", "models", "calibration")
SUITE_KEYS = ("suite", "methods", "models", "fine_tune")


class ModelEntry(Part):
    """A model: a catalogue name, or where its files are."""

    model_config = ConfigDict(json_schema_extra=or_name)

    name: Name | None = Field(
        default=None,
        description="The name in tables; without `path` it must be in the catalogue.",
    )
    family: Name | None = Field(
        default=None, description="The architecture's family; read from the files if left out."
    )
    path: Name | None = Field(
        default=None, description="A folder (relative to the grid file) or a hub id, OWNER/NAME."
    )
    revision: Name | None = Field(default=None, description="The hub revision; a commit is best.")
    tokenizer: Name | None = Field(
        default=None, description="A folder or hub id, where it is not with the model."
    )

    @model_validator(mode="before")
    @classmethod
    def _widen(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _named(self) -> ModelEntry:
        if self.name is None and self.path is None:
            message = "the mapping has neither 'name' nor 'path'; expected at least one of them"
            raise PydanticCustomError("ours", message)
        return self

    @property
    def label(self) -> str:
        """The name in tables: the one given, or the last part of the path."""
        return self.name or Path(self.path or "").name or str(self.path)


class CalibrationEntry(Part):
    """The text that methods may look at: `samples` windows of `length` tokens."""

    data: Name | None = Field(
        default=None,
        description="wikitext, c4, tinyworld, or a file or folder of .txt or .jsonl files; "
        "by default wikitext, and tinyworld for the zoo's models.",
    )
    samples: Annotated[int, Field(ge=1)] = Field(default=128, description="Windows.")
    length: Annotated[int, Field(ge=1)] = Field(default=128, description="Tokens of a window.")
    seed: Seed = Field(
        default=0, description="Where the windows are drawn; the cell's seed is added."
    )

    def with_own(self, own: MethodCalibration | None) -> CalibrationEntry:
        """Give what a method looks at that says so itself; what it leaves out stays."""
        changes = own.model_dump(exclude_none=True) if own else {}
        return self.model_copy(update=changes)


class MethodCalibration(Part):
    """What one method looks at instead; what is left out is as the grid's `calibration` says."""

    data: Name | None = Field(default=None, description="The text.")
    samples: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Windows.")
    length: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens of a window."
    )
    seed: Seed | None = Field(default=None, description="Where the windows are drawn.")


class MethodEntry(Part):
    """A method, or a chain `a+b` applied in order, at one or more ratios."""

    model_config = ConfigDict(json_schema_extra=open_mapping)

    method: Name = Field(description="A method's name, or several joined by '+'.")
    ratio: Ratios | None = Field(
        default=None,
        description="The fractions removed, each in [0, 1): one or a list. Where tokens are "
        "dropped also `{match_flops: MODEL}`, see below.",
    )
    models: Patterns | None = Field(
        default=None,
        description="Only for these models of the grid: names or patterns such as `zoo-*`, one "
        "or a list; for all if left out.",
    )
    calibration: MethodCalibration | None = Field(
        default=None, description="Where it differs from the grid's."
    )
    params: dict[str, JsonValue] = Field(
        default={}, description="The method's own parameters, inline; a chain's by step name."
    )

    @model_validator(mode="before")
    @classmethod
    def _widen(cls, value: Any) -> Any:
        return gather(value, name="method", known=METHOD_KEYS)

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the chain's methods."""
        return tuple(name.strip() for name in self.method.split("+"))

    def is_for(self, model: str) -> bool:
        """Whether the entry is meant for the model of this name."""
        return among(model, self.models)


class SuiteEntry(Part):
    """A suite: what is measured on every cell."""

    model_config = ConfigDict(json_schema_extra=open_mapping)

    suite: Name = Field(description="A suite's name.")
    methods: Patterns | None = Field(
        default=None,
        description="Only for cells of these methods, and dense ones: names, chains or patterns, "
        "one or a list; for all if left out.",
    )
    models: Patterns | None = Field(
        default=None,
        description="Only for these models of the grid: names or patterns, one or a list; for "
        "all if left out.",
    )
    fine_tune: Patterns | None = Field(
        default=None,
        description="Only for cells trained so (`none`, `kd`, …; one or a list), and untrained "
        "dense ones; for all if left out.",
    )
    params: dict[str, JsonValue] = Field(default={}, description="The suite's own parameters.")

    @model_validator(mode="before")
    @classmethod
    def _widen(cls, value: Any) -> Any:
        return gather(value, name="suite", known=SUITE_KEYS)

    def is_for(self, model: str, method: str, fine_tune: str = NONE) -> bool:
        """Whether the entry is meant for a model's cells of a method or chain, trained so.

        Dense cells are measured by every suite that is meant for their model.
        """
        if method == DENSE:
            meant = fine_tune == NONE or among(fine_tune, self.fine_tune)
        else:
            meant = among(method, self.methods) and among(fine_tune, self.fine_tune)
        return meant and among(model, self.models)

    def params_from(self, folder: Path) -> dict[str, JsonValue]:
        """Give the parameters, with a file or folder named by `data` made absolute.

        Args:
            folder: where the grid's relative paths start.
        """
        data = self.params.get("data")
        if isinstance(data, str) and data:
            path = folder / Path(data).expanduser()
            if is_file(path) or (is_folder(path) and data not in TEXTS):
                return {**self.params, "data": str(path.resolve())}
        return self.params


class Grid(Part):
    """A whole grid: every model × method × ratio × seed, measured by every suite."""

    name: Name | None = Field(default=None, description="By default the file's name.")
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)] = Field(
        description="A list of models."
    )
    methods: Annotated[tuple[MethodEntry, ...], Field(min_length=1)] = Field(
        description="A list of methods, with their ratios."
    )
    fine_tune: Annotated[tuple[FineTuneEntry, ...], Field(min_length=1)] = Field(
        default=(FineTuneEntry(fine_tune="none"),),
        description="A list of trainings after compression: every compressed model is a cell with "
        "each of them that applies to it.",
        json_schema_extra={"default": [NONE]},
    )
    suites: Annotated[tuple[SuiteEntry, ...], Field(min_length=1)] = Field(
        description="A list of suites: what is measured."
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        default=(0,), description="One cell each, where a method draws anything at random."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="What weights are rounded to and stored in. Projections run in it too; on a "
        "processor without units for it, in float32.",
    )
    calibration: CalibrationEntry = Field(
        default=CalibrationEntry(), description="The text that methods may look at."
    )
    resources: ResourcesEntry = Field(
        default=ResourcesEntry(), description="What one attempt of a cell is given."
    )
    isolate: bool = Field(
        default=True, description="A fresh process for every attempt; false suits toy grids."
    )
    batch_tokens: Annotated[int, Field(ge=1)] = Field(
        default=16384, description="The most tokens in one forward pass."
    )
    backend: Literal["auto", "torch", "mamba_ssm", "triton"] = Field(
        default="auto",
        description="Whose kernels compute on a GPU, see docs/gpu.md; a processor has torch's.",
    )
    timeout_min: Annotated[float, Field(gt=0)] = Field(
        default=120, description="An attempt that takes longer is stopped."
    )
    checkpoint_min: Annotated[float, Field(gt=0)] = Field(
        default=10,
        description="How often a training is saved, to continue from there if it is cut off.",
    )


class GridFile(NamedTuple):
    """A grid with the file that it came from.

    Attributes:
        path: the file, as named by the user.
        text: its content, verbatim.
        grid: what it says, every mistake ruled out.
    """

    path: Path
    text: str
    grid: Grid

    @property
    def folder(self) -> Path:
        """Where relative paths in the grid start: the file's own folder."""
        return self.path.absolute().parent

    @property
    def name(self) -> str:
        """The grid's name: the one it gives itself, or its file's."""
        return self.grid.name or self.path.stem

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The grid as JSON, every default filled in."""
        return self.grid.model_dump(mode="json")


def json_schema() -> dict[str, Any]:
    """Give the grid file's JSON Schema, for editors: docs/grid.schema.json."""
    schema = Grid.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
