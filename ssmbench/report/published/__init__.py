"""Numbers that others have published, as data, each with its source.

| file | a row |
|---|---|
| `ssm_pruner_averages.csv` | one cell of Tables 1 to 3 of "On Pruning State-Space LLMs" (arXiv:2502.18886): the mean over six tasks, and Comp. |
| `ssm_pruner_tasks.csv` | one task of one row of its Tables 3 to 9 |
| `simba.csv` | one number of Simba (arXiv:2505.20698), whose table bodies are not public |
| `others.csv` | one score of somebody else |
| `defects.yaml` | what is known to be wrong with published cells, and who says so |

Columns: `source` is a key of `SOURCES`, with `:` and the table or section; `model` and `method` are
the paper's model and our method; `ratio` is the fraction removed, or `heads_kept` says how many are
left where heads are merged; `fine_tuned` is `no`, `yes` (by distillation), `ce` or `kd`. Scores are
fractions with as many digits as are printed; `compression_percent` is "Comp.", in %. `removed` of
`of` blocks or SSMs are gone. Nothing here is computed: `audit.py` does that.
"""  # noqa: E501 - a table

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOURCES = {
    "ssm-pruner": "On Pruning State-Space LLMs, arXiv:2502.18886",
    "simba": "Sparsified State-Space Models are Efficient Highway Networks, arXiv:2505.20698",
    "mamba-shedder": "Mamba-Shedder, arXiv:2501.17088, results in IntelLabs/"
    "Hardware-Aware-Automated-Machine-Learning at commit fc29bc7; zero-shot",
    "smol2-mamba-card": "model card of schwartz-lab/Smol2-Mamba-1.9B, 2025-02-16; zero-shot",
}

NAMES = {
    "Phi-Mamba-1.5B": "phi-mamba-1.5b",
    "HLM-3B": "hlm-3b",
    "Smol-Mamba-1.9B": "smol2-mamba-1.9b",
    "Mamba-2-2.7B": "mamba2-2.7b",
}
"""The first paper's models by their names in the catalogue of grids."""

_MERGED = {
    "Phi-Mamba-1.5B": 32,
    "Smol-Mamba-1.9B": 32,
    "Mamba-2-2.7B": 80,
    "HLM-3B": 8,
}  # heads that `heads_kept` is a part of
_FINE_TUNE = {"no": "none", "yes": "kd", "kd": "kd", "ce": "ce"}


class Place(NamedTuple):
    """Where a number stands, in our words: catalogue name, method, fraction removed, training."""

    model: str
    method: str
    ratio: float
    fine_tune: str


@dataclass(frozen=True)
class Number:
    """One published number.

    Attributes:
        source: such as `ssm-pruner:T1`.
        model: its name there.
        place: what it is a number of.
        heads_kept: how many heads are left, as the paper says it; None where none are merged.
        what: `average`, `compression`, or a task of lm-eval.
        text: as it is printed.
        value: a fraction, 0–1.
    """

    source: str
    model: str
    place: Place
    heads_kept: int | None
    what: str
    text: str
    value: float

    @property
    def table(self) -> str:
        """The table: `T1`."""
        return self.source.partition(":")[2]

    @property
    def digits(self) -> int:
        """Decimals that are printed."""
        return len(self.text.partition(".")[2])


class Simba(NamedTuple):
    """One number of Simba's text; `value` is as printed, accuracies as fractions."""

    source: str
    model: str
    method: str
    ratio: float | None
    task: str
    metric: str
    value: str


class Other(NamedTuple):
    """One score of somebody else; `removed` blocks or SSMs of `of`."""

    source: str
    model: str
    method: str
    removed: int
    of: int
    task: str
    metric: str
    value: float


@dataclass(frozen=True)
class Defect:
    """What is known to be wrong with some cells; see `defects.yaml`."""

    of: str
    why: str
    said_by: str
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    ratios: tuple[float, ...] = ()
    fine_tuned: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    def concerns(self, number: Number) -> bool:
        """Whether a number is one of these cells."""
        of = {"average": "average", "compression": "compression"}.get(number.what, "task")
        asked = {"score": {"average", "task"}}.get(self.of, {self.of})
        wanted = (
            (self.models, number.model),
            (self.methods, number.place.method),
            (self.tables, number.table),
            (self.ratios, number.place.ratio),
            (self.fine_tuned, _fine_tuned(number)),
            (self.tasks, number.what),
        )
        return of in asked and all(not some or value in some for some, value in wanted)


@cache
def numbers() -> tuple[Number, ...]:
    """Give every number of the first paper's tables, in the papers' order."""
    return (*_averages(), *_tasks())


@cache
def by_place() -> Mapping[tuple[str, Place, str], Number]:
    """Give the same by table, place and what it is."""
    return {(n.table, n.place, n.what): n for n in numbers()}


@cache
def defects() -> tuple[Defect, ...]:
    """Give what is known to be wrong."""
    made = []
    for entry in YAML(typ="safe").load(_read("defects.yaml")):
        of, why, said_by = (entry.pop(key) for key in ("of", "why", "from"))
        lists = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in entry.items()}
        made.append(Defect(of, why, said_by, **lists))
    return tuple(made)


@cache
def simba() -> tuple[Simba, ...]:
    """Give what is known of Simba's numbers."""
    return tuple(
        Simba(**{**row, "ratio": float(row["ratio"]) if row["ratio"] else None})
        for row in _rows("simba.csv")
    )


@cache
def others() -> tuple[Other, ...]:
    """Give other published scores of the same models."""
    kinds = {"removed": int, "of": int, "value": float}
    return tuple(
        Other(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in _rows("others.csv")
    )


def _averages() -> Iterator[Number]:
    for row in _rows("ssm_pruner_averages.csv"):
        yield _number(row, "average", row["average"], 1.0)
        if row["compression_percent"]:
            yield _number(row, "compression", row["compression_percent"], 100.0)


def _tasks() -> Iterator[Number]:
    for row in _rows("ssm_pruner_tasks.csv"):
        yield _number(row, row["task"], row["value"], 1.0)


def _number(row: Mapping[str, str], what: str, text: str, whole: float) -> Number:
    model, kept = row["model"], int(row["heads_kept"]) if row["heads_kept"] else None
    ratio = float(row["ratio"]) if kept is None else 1 - kept / _MERGED[model]
    tuned = _FINE_TUNE[row["fine_tuned"]]
    place = Place(NAMES[model], row["method"], ratio, tuned)
    return Number(row["source"], model, place, kept, what, text, float(text) / whole)


def _fine_tuned(number: Number) -> str:
    """Give the training in the words of the table: only Table 3 names the loss."""
    kind = number.place.fine_tune
    if kind == "none":
        return "no"
    return kind if number.table == "T3" else "yes"


def _rows(name: str) -> Iterator[dict[str, Any]]:
    yield from csv.DictReader(_read(name).splitlines())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
