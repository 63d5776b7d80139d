"""Sums over documents: what standard errors and paired differences are made of.

The formulas stand in `_scores.py`.
"""

from __future__ import annotations

import polars as pl

PANEL = ["suite_id", "task", "metric"]
NLL = "nll"

# A perplexity and the nats that it came from may differ by float32 sums, not by more.
_SAME_NATS = 1e-4
_DOCUMENT = ["row", *PANEL, "doc_id", "value", "weight"]


def sample_kinds(metrics: pl.LazyFrame, samples: pl.LazyFrame) -> pl.DataFrame:
    """Find which sample metric each metric is made of: its own name, `nll`, or none.

    Several perplexities may stand beside one set of nats (per word, per byte); the nats belong
    to the one that they reproduce.
    """
    means = samples.group_by("cell_id", *PANEL).agg(
        (pl.col("value").sum() / pl.col("weight").sum()).alias("ratio")
    )
    own = means.select(*PANEL).unique().with_columns(kind=pl.col("metric"))
    nats = means.filter(pl.col("metric") == NLL).drop("metric")
    made_of_nats = (
        metrics.filter(pl.col("value") > 0)
        .join(nats, on=["cell_id", "suite_id", "task"])
        .group_by(PANEL)
        .agg(((pl.col("value").log() - pl.col("ratio")).abs() < _SAME_NATS).all().alias("same"))
        .filter("same")
        .select(*PANEL, kind=pl.lit(NLL))
    )
    both = pl.concat([own.collect(), made_of_nats.collect()])
    return both.unique(PANEL, keep="first", maintain_order=True)


def documents(samples: pl.LazyFrame, links: pl.DataFrame) -> pl.DataFrame:
    """Average each document over the seeds of its row; `whole` if every seed has it."""
    n_cells = pl.col("cell_id").n_unique().over("row")
    owners = links.select("cell_id", "row").with_columns(n_cells=n_cells).lazy()
    joined = samples.join(owners, on="cell_id")
    steady = pl.col("weight").max() == pl.col("weight").min()
    averaged = (
        joined.filter(pl.col("n_cells") > 1)
        .group_by("row", *PANEL, "doc_id")
        .agg(
            pl.col("value").mean(),
            pl.col("weight").mean(),
            steady.alias("steady"),
            pl.col("cell_id").n_unique().alias("n_found"),
        )
        .with_columns(most=pl.col("n_found").max().over("row", *PANEL))
        .select(*_DOCUMENT, whole=(pl.col("n_found") == pl.col("most")) & pl.col("steady"))
    )
    single = joined.filter(pl.col("n_cells") == 1).select(*_DOCUMENT, whole=pl.lit(value=True))
    return pl.concat([single, averaged]).collect()


def ratios(documents: pl.DataFrame, *, value: str) -> pl.DataFrame:
    """Give Σvalue/Σweight and its standard error for each row, suite, task and metric."""
    keys = ["row", *PANEL]
    mean = pl.col(value).sum().over(keys) / pl.col("weight").sum().over(keys)
    n = pl.len().cast(pl.Float64)
    residuals = documents.with_columns(residual=pl.col(value) - mean * pl.col("weight"))
    stderr = (n / (n - 1) * (pl.col("residual") ** 2).sum()).sqrt() / pl.col("weight").sum()
    return residuals.group_by(keys).agg(
        (pl.col(value).sum() / pl.col("weight").sum()).alias("ratio"),
        pl.when(n > 1).then(stderr).alias("stderr"),
        pl.col("whole").all(),
        pl.len().alias("n_documents"),
    )


def differences(documents: pl.DataFrame, links: pl.DataFrame) -> pl.DataFrame:
    """Pair every document with the dense row's and give the statistics of the difference."""
    keys = ["row", *PANEL]
    twins = links.select("row", "dense_row").unique().drop_nulls()
    dense = documents.select(
        *PANEL,
        "doc_id",
        pl.col("row").alias("dense_row"),
        pl.col("value").alias("dense_value"),
        pl.col("weight").alias("dense_weight"),
        pl.col("whole").alias("dense_whole"),
    )
    counts = dense.group_by("dense_row", *PANEL).agg(pl.len().alias("n_dense"))
    paired = documents.join(twins, on="row").join(
        dense, on=["dense_row", *PANEL, "doc_id"], how="left"
    )
    paired = paired.with_columns(d=pl.col("value") - pl.col("dense_value"))
    same = (
        paired.group_by(*keys, "dense_row")
        .agg(
            pl.col("dense_value").count().alias("n_paired"),
            (pl.col("weight") == pl.col("dense_weight")).fill_null(value=False).all().alias("same"),
            (pl.col("whole") & pl.col("dense_whole").fill_null(value=False)).all().alias("steady"),
        )
        .join(counts, on=["dense_row", *PANEL], how="left")
    )
    return ratios(paired, value="d").join(same, on=keys)
