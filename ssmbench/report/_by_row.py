"""The run's tables by the rows of a report: in an order of their own, and means over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable


def of_rows(table: pl.LazyFrame, links: pl.DataFrame) -> pl.LazyFrame:
    """Keep what a table says of the rows' cells, each line with its `row` and `dense_row`.

    The lines come row by row and by seed. In the table they come as the run folder has them.

    Args:
        table: with a column `cell_id`.
        links: `_rows.Rows.frame`, or a part of it.
    """
    return table.join(links.lazy(), on="cell_id", maintain_order="right_left")


def facts_by_row(
    cells: pl.DataFrame,
    links: pl.DataFrame,
    *,
    texts: Iterable[str] = (),
    numbers: Iterable[str],
) -> dict[int, dict[str, Any]]:
    """Give what the table `cells` says of every row, by its index.

    Args:
        cells: the table of that name.
        links: as for `of_rows`.
        texts: columns that are the same for all seeds.
        numbers: columns of which the mean over the seeds is given; None where no seed has one.
    """
    frame = (
        cells.lazy()
        .pipe(of_rows, links)
        .group_by("row")
        .agg(
            *(pl.col(name).first() for name in texts),
            *(pl.col(name).cast(pl.Float64).mean() for name in numbers),
        )
        .collect()
    )
    return {line["row"]: line for line in frame.iter_rows(named=True)}
