"""The tables of several runs as one set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from ssmbench.store.columns import SUITE_TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PAIR = ("cell_id", "suite_id")
# What says that a run has a suite of a cell; `samples` only ever stand beside `metrics`.
_TELLING = tuple(table for table in SUITE_TABLES if table != "samples")
_BEST_FIRST = {"done": 0, "failed": 1, "to do": 2}


def join(runs: Sequence[Mapping[str, pl.LazyFrame]]) -> Mapping[str, pl.LazyFrame]:
    """Join the tables of several runs as if they were one.

    A cell that several planned stands once: done before failed before not run, then the first.
    A (cell, suite) that several measured has all its rows from the first that did. An attempt
    stands once.
    """
    if len(runs) == 1:
        return runs[0]
    owners = _owners(runs)
    joined = {}
    for table in runs[0]:
        frames = [run[table] for run in runs]
        if table == "cells":
            joined[table] = _one_of_each_cell(frames)
        elif table == "attempts":
            joined[table] = pl.concat(frames).unique(
                "attempt_id", keep="first", maintain_order=True
            )
        else:
            joined[table] = pl.concat(
                frame.join(owners.filter(run=i).select(_PAIR).lazy(), on=_PAIR, how="semi")
                for i, frame in enumerate(frames)
            )
    return joined


def differing(runs: Mapping[str, Mapping[str, pl.LazyFrame]]) -> str | None:
    """Say how many suites of cells two runs measured with different scores; None if none.

    Times differ from run to run and are not looked at.

    Args:
        runs: the tables of each, by the run's name.
    """
    if len(runs) < 2:
        return None
    key = [*_PAIR, "task", "metric"]
    scores = pl.concat([frames["metrics"].select(*key, "value") for frames in runs.values()])
    several = scores.group_by(key).agg(pl.len(), pl.col("value").n_unique().alias("n_values"))
    pairs = several.filter(pl.col("len") > 1).group_by(_PAIR).agg(pl.col("n_values").max())
    found = pairs.collect()
    other = found.filter(pl.col("n_values") > 1)
    if other.is_empty():
        return None
    return (
        f"{', '.join(runs)}: suites of a cell that more than one run measured: {found.height}, of"
        f" these with different scores: {other.height}; the scores of the run that was named"
        " first are shown"
    )


def _owners(runs: Sequence[Mapping[str, pl.LazyFrame]]) -> pl.DataFrame:
    """Give, for each (cell, suite), the first run that has any of its rows."""
    parts = [
        run[table].select(_PAIR).unique().with_columns(pl.lit(i).alias("run"))
        for i, run in enumerate(runs)
        for table in _TELLING
    ]
    return pl.concat(parts).group_by(_PAIR).agg(pl.col("run").min()).collect()


def _one_of_each_cell(frames: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    """Keep the order of first naming; of equals, one whose sizes are known comes first."""
    numbered = [frame.with_columns(pl.lit(i).alias("run")) for i, frame in enumerate(frames)]
    together = pl.concat(numbered).with_row_index("place")
    rank = pl.col("status").replace_strict(_BEST_FIRST, default=len(_BEST_FIRST))
    first = pl.col("place").min().over("cell_id")
    return (
        together.with_columns(first.alias("first"))
        .sort("first", rank, pl.col("params_model").is_null(), "run")
        .unique("cell_id", keep="first", maintain_order=True)
        .drop("run", "place", "first")
    )
