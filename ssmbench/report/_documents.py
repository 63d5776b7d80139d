"""The per-document samples of a run as arrays: one of (cells, documents) for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import polars as pl

from ssmbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Reals = NDArray[np.float64]
    Places = NDArray[np.int64]

PANEL = ["suite_id", "task", "metric"]
NLL = "nll"
_TEXTS = ["cell_id", *PANEL, "doc_id"]

# A perplexity and the nats that it came from may differ by float32 sums, not by more.
_SAME_NATS = 1e-4


@dataclass(frozen=True)
class Documents:
    """The documents of one task under one metric, in the order of their names.

    Attributes:
        cells: cell id -> its place in the arrays.
        values: (cells, documents) values, float64; NaN where a cell lacks the document.
        weights: their weights, likewise.
    """

    cells: Mapping[str, int]
    values: Reals
    weights: Reals


Kind = tuple[str, str, str]  # suite_id, task, metric


def read_documents(samples: pl.LazyFrame) -> dict[Kind, Documents]:
    """Read the samples in two passes, so that no text is held a million times.

    Args:
        samples: the table of that name.

    Raises:
        StoreError: a cell has a document twice.
    """
    unique = [pl.col(name).unique().sort().implode() for name in _TEXTS]
    names = samples.select(unique).collect(engine="streaming")
    texts = {name: names[name].explode().drop_nulls() for name in _TEXTS}
    codes = [pl.col(n).cast(pl.Enum(t)).to_physical().cast(pl.Int64) for n, t in texts.items()]
    place = pl.lit(0)
    for code, name in zip(codes[1:4], PANEL, strict=True):
        place = place * len(texts[name]) + code
    found = samples.select(
        codes[0], codes[4], "value", "weight", place=place.cast(pl.Int64)
    ).collect(engine="streaming")
    parts = sorted(found.partition_by("place", as_dict=True).items())
    return {_kind(int(place), texts): _matrix(part, texts) for (place,), part in parts}


def _kind(place: int, texts: Mapping[str, pl.Series]) -> Kind:
    """Undo what made one number of three."""
    rest, metric = divmod(place, len(texts["metric"]))
    suite_id, task = divmod(rest, len(texts["task"]))
    return texts["suite_id"][suite_id], texts["task"][task], texts["metric"][metric]


def _matrix(part: pl.DataFrame, texts: Mapping[str, pl.Series]) -> Documents:
    cells, cell = _places(part["cell_id"].to_numpy())
    documents, document = _places(part["doc_id"].to_numpy())
    values, weights = np.full((2, len(cells), len(documents)), np.nan)
    values[cell, document] = part["value"].to_numpy()
    weights[cell, document] = part["weight"].to_numpy()
    if np.count_nonzero(~np.isnan(values)) < part.height:
        _twice(part, texts)
    return Documents({texts["cell_id"][int(c)]: i for i, c in enumerate(cells)}, values, weights)


def _twice(part: pl.DataFrame, texts: Mapping[str, pl.Series]) -> NoReturn:
    found = part.filter(pl.struct("cell_id", "doc_id").is_duplicated()).row(0, named=True)
    suite_id, task, _ = _kind(found["place"], texts)
    cell_id, doc_id = texts["cell_id"][found["cell_id"]], texts["doc_id"][found["doc_id"]]
    msg = (
        f"Samples of suite {suite_id}, task {task}: cell {cell_id} has document {doc_id} twice;"
        " once was expected. If several runs have this cell, report them apart."
    )
    raise StoreError(msg)


def _places(codes: Places) -> tuple[Places, Places]:
    """Give the codes that occur, in order, and the place of each one given among them."""
    occurs = np.bincount(codes) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[codes]


def sample_kinds(metrics: pl.LazyFrame, documents: Mapping[Kind, Documents]) -> dict[Kind, str]:
    """Find which sample metric each metric is made of: its own name or `nll`; else it has none.

    Several perplexities may stand beside one set of nats (per word, per byte); the nats belong
    to the one that they reproduce.
    """
    kinds = {kind: kind[2] for kind in documents}
    nats = [
        (cell_id, kind[0], kind[1], mean)
        for kind, found in documents.items()
        if kind[2] == NLL
        for cell_id, mean in zip(found.cells, _means(found), strict=True)
    ]
    names = ["cell_id", "suite_id", "task"]
    schema = {**dict.fromkeys(names, pl.String()), "nats": pl.Float64()}
    same = (
        metrics.filter(pl.col("value") > 0)
        .join(pl.LazyFrame(nats, schema=schema, orient="row"), on=names)
        .group_by(PANEL)
        .agg(((pl.col("value").log() - pl.col("nats")).abs() < _SAME_NATS).all().alias("same"))
        .filter("same")
        .select(PANEL)
        .collect()
    )
    return dict.fromkeys(same.rows(), NLL) | kinds


def _means(found: Documents) -> Reals:
    means: Reals = np.nansum(found.values, axis=1) / np.nansum(found.weights, axis=1)
    return means
