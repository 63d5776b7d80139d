"""A suite's rows become frames of the documented columns, or an error that names the row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.errors import NumericalError, suggest
from ssmbench.store.columns import TABLES, schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.plan.cells import Suite


# The column that a row is there for, null only with a reason, and what names the row.
_TOLD = {
    "metrics": ("value", ("task", "metric")),
    "layers": ("value", ("layer", "measure")),
    "latency": ("median_s", ("phase", "batch", "length")),
}


def suite_frame(
    table: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    cell_id: str,
    suite: Suite,
    backend: str | None = None,
    compute_dtype: str | None = None,
) -> pl.DataFrame:
    """Build one table of one suite.

    Args:
        table: one of SUITE_TABLES.
        rows: rows without the ids; a column left out is null.
        cell_id: the measured cell.
        suite: what was measured; gives suite_id, suite, limit and device.
        backend: whose kernels computed, for tables that say so.
        compute_dtype: what projections ran in, likewise.

    Raises:
        NumericalError: a value that must be a number is NaN or infinite.
        ValueError: a row has an unknown column, lacks a needed one, or has a null value
            without a reason. The suite's file is wrong, not the user.
    """
    ids: dict[str, Any] = {"cell_id": cell_id, "suite_id": suite.id, "suite": suite.name}
    if table == "metrics":
        ids["limit"] = suite.limit
    if table == "latency" and suite.device is not None:
        ids["device"] = suite.device
    names = {c.name for c in TABLES[table]}
    if "backend" in names:
        ids |= {"backend": backend, "compute_dtype": compute_dtype}
    whole = []
    for row in rows:
        unknown = sorted(set(row) - names)
        if unknown:
            raise ValueError(
                f"suite {suite.name}: {table} has no column '{unknown[0]}'."
                f"{suggest(unknown[0], names)}"
            )
        whole.append({**_checked(table, row, suite.name), **ids})
    frame = pl.DataFrame(whole, schema=schema(table), orient="row")
    for column in TABLES[table]:
        if not column.nullable and frame[column.name].null_count():
            raise ValueError(f"suite {suite.name}: a row of {table} lacks '{column.name}'")
    return frame


def _checked(table: str, row: Mapping[str, Any], suite: str) -> dict[str, Any]:
    """Refuse values that are not finite; a spread that cannot be told is null instead."""
    row = dict(row)
    for name, value in row.items():
        if not isinstance(value, float) or math.isfinite(value):
            continue
        if name == "stderr":  # One document has no spread.
            row[name] = None
            continue
        what = ".".join(str(row[k]) for k in ("task", "metric", "phase", "measure") if k in row)
        raise NumericalError(f"suite {suite}: {what or table} has {name} = {value}")
    value, names = _TOLD.get(table, ("", ()))
    if value and row.get(value) is None and not row.get("reason"):
        what = ".".join(str(row.get(k)) for k in names)
        raise ValueError(f"suite {suite}: {what} is null without a reason")
    return row
