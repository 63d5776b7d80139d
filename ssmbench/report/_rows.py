"""The rows of every table: cells that differ by their seed alone are one row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._labels import (
    method_label,
    recipe_of,
    settings_of,
    training_labels,
    varied_settings,
)
from ssmbench.report._table import Column, Shown

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

DENSE = "dense"
NOT_RUN = "not run"
UNTRAINED = "none"
_COMPRESSED = ("model", "fingerprint", "method", "params", "ratio", "dtype", "calibration")
_TRAINING = ("fine_tune", "fine_tune_params")
_OPTIONAL = ("fine-tune", "dtype", "seeds")


@dataclass(frozen=True)
class Row:
    """One row: a model, a method chain with its parameters, a ratio, a training; all its seeds.

    Attributes:
        index: its place in every table.
        key: one text for each of `Rows.columns`.
        cells: cell id -> (seed, why it is not done, or None), by seed.
        dense: index of the uncompressed, untrained row of the same model and dtype, or None.
        is_dense: whether nothing was removed.
        fine_tune: how it was trained: "none", "kd", …
        recipe: the parameters of the training.
        untrained: index of the same row without training, or None; its own where it has none.
        base: the same number for all rows that differ by their training alone.
    """

    index: int
    key: tuple[Shown, ...]
    cells: Mapping[str, tuple[int, str | None]]
    dense: int | None
    is_dense: bool
    fine_tune: str = UNTRAINED
    recipe: Mapping[str, Any] = field(default_factory=dict)
    untrained: int | None = None
    base: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all that was wanted of its cells is there."""
        return all(reason is None for _, reason in self.cells.values())

    def why_missing(
        self, otherwise: str, *, suite: str = "", but: Container[str] = frozenset()
    ) -> str:
        """Say why there is no number.

        Args:
            otherwise: what to say if the cells tell nothing about it.
            suite: leave out reasons that are about other suites.
            but: cells that do have the number.
        """
        reasons = [r for c, (_, r) in self.cells.items() if r and c not in but]
        told = [r for r in reasons if r == NOT_RUN or suite in r]
        return "; ".join(dict.fromkeys(told)) or otherwise


@dataclass(frozen=True)
class Rows:
    """All rows in order, with their key columns; `frame` maps cell_id to row and dense."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sections: frozenset[int]
    frame: pl.DataFrame

    def wanted(self, measured: Container[int]) -> Rows:
        """Leave out rows of which nobody wanted what a table is about.

        Those are done with all that was wanted of them, and have no number here.

        Args:
            measured: indices of the rows that have one, or the reason why it is none.
        """
        kept: list[Row] = []
        starts: set[int] = set()
        begins = False
        for place, row in enumerate(self.rows):
            begins = begins or place in self.sections
            if row.is_done and row.index not in measured:
                continue
            if begins:
                starts.add(len(kept))
            kept.append(row)
            begins = False
        return replace(self, rows=tuple(kept), sections=frozenset(starts))

    def paired(self, twins: Mapping[int, int | None]) -> pl.DataFrame:
        """Give `frame` for some rows alone, which are to be compared with others.

        Args:
            twins: index of a row -> index of the row that it is compared with, or None.
        """
        meant = {*twins, *(i for i in twins.values() if i is not None)}
        frame = self.frame.filter(pl.col("row").is_in(list(meant)))
        others = [twins.get(row) for row in frame["row"]]
        return frame.with_columns(pl.Series("dense_row", others, dtype=pl.Int64))


def make_rows(cells: pl.DataFrame) -> Rows:
    """Group the cells of a run into rows, models in the order of the grid, dense first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for found in cells.iter_rows(named=True):
        cell = {**found, "calibration": _shared_calibration(found)}
        same = tuple(cell[name] for name in (*_COMPRESSED, *_TRAINING))
        groups.setdefault(same, []).append(cell)
    ordered = _ordered(list(groups.values()))
    firsts = [group[0] for group in ordered]
    varied = varied_settings(firsts)
    trainings = training_labels(firsts)
    shown = _optional_columns(ordered)
    twins = {_twin(first): i for i, first in enumerate(firsts) if _is_twin(first)}
    bases: dict[tuple[Any, ...], int] = {}
    for first in firsts:
        bases.setdefault(_compressed(first), len(bases))
    untrained = {_compressed(c): i for i, c in enumerate(firsts) if c["fine_tune"] == UNTRAINED}
    rows = tuple(
        Row(
            index=i,
            key=_key(group, varied, trainings, shown),
            cells={
                c["cell_id"]: (c["seed"], _reason(c))
                for c in sorted(group, key=lambda c: int(c["seed"]))
            },
            dense=twins.get(_twin(group[0])),
            is_dense=group[0]["method"] == DENSE,
            fine_tune=group[0]["fine_tune"],
            recipe=recipe_of(group[0]),
            untrained=untrained.get(_compressed(group[0])),
            base=bases[_compressed(group[0])],
        )
        for i, group in enumerate(ordered)
    )
    models = [(first["model"], first["fingerprint"]) for first in firsts]
    starts = {i for i, model in enumerate(models) if i == 0 or model != models[i - 1]}
    links = [
        {"cell_id": cell_id, "row": row.index, "dense_row": row.dense}
        for row in rows
        for cell_id in row.cells
    ]
    schema = {"cell_id": pl.String, "row": pl.Int64, "dense_row": pl.Int64}
    frame = pl.DataFrame(links, schema=schema, orient="row")
    return Rows(_columns(shown), rows, frozenset(starts), frame)


def _shared_calibration(cell: Mapping[str, Any]) -> str | None:
    """Give a cell's calibration as its grid has it: the cell's own seed is added to the grid's."""
    if not cell["calibration"]:
        return None
    calibration = json.loads(cell["calibration"])
    return json.dumps({**calibration, "seed": calibration["seed"] - cell["seed"]})


def _ordered(groups: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    models: dict[tuple[str, str], int] = {}
    methods: dict[str, int] = {DENSE: -1}
    trainings: dict[tuple[str, str], int] = {}
    for group in groups:
        first = group[0]
        models.setdefault((first["model"], first["fingerprint"]), len(models))
        methods.setdefault(first["method"], len(methods))
        if first["fine_tune"] != UNTRAINED:
            trainings.setdefault((first["fine_tune"], first["fine_tune_params"]), len(trainings))

    def place(group: list[dict[str, Any]]) -> tuple[Any, ...]:
        c = group[0]
        model = models[c["model"], c["fingerprint"]]
        params = json.dumps(settings_of(c), sort_keys=True)
        variant = (c["ratio"], c["dtype"], c["calibration"] or "")
        # A trained row stands under the same one without training.
        training = trainings.get((c["fine_tune"], c["fine_tune_params"]), -1)
        return (model, methods[c["method"]], params, *variant, training)

    return sorted(groups, key=place)


def _is_twin(cell: Mapping[str, Any]) -> bool:
    return bool(cell["method"] == DENSE and cell["fine_tune"] == UNTRAINED)


def _twin(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return cell["model"], cell["fingerprint"], cell["dtype"]


def _compressed(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in _COMPRESSED)


def _reason(cell: Mapping[str, Any]) -> str | None:
    if cell["status"] == "done":
        return None
    return f"failed: {cell['reason']}" if cell["status"] == "failed" else str(cell["reason"])


def _optional_columns(groups: Sequence[Sequence[Mapping[str, Any]]]) -> set[str]:
    """Say which of the key columns tell anything in this run."""
    cells = [group[0] for group in groups]
    shown = set()
    if any(c["fine_tune"] != UNTRAINED for c in cells):
        shown.add("fine-tune")
    if len({c["dtype"] for c in cells}) > 1:
        shown.add("dtype")
    if any(len(group) > 1 for group in groups):
        shown.add("seeds")
    return shown


def _key_names(shown: set[str]) -> list[str]:
    return ["model", "method", "ratio", *(n for n in _OPTIONAL if n in shown)]


def _columns(shown: set[str]) -> tuple[Column, ...]:
    right = {"ratio", "seeds"}
    return tuple(
        Column(n, "right" if n in right else "left", parts=(n.replace("-", "_"),), key=True)
        for n in _key_names(shown)
    )


def _key(
    group: Sequence[Mapping[str, Any]],
    varied: Mapping[str, list[str]],
    trainings: Mapping[tuple[str, str, str], str],
    shown: set[str],
) -> tuple[Shown, ...]:
    cell = group[0]
    texts: dict[str, Any] = {
        "model": cell["model"],
        "method": method_label(cell, varied),
        "ratio": cell["ratio"],
        "fine-tune": trainings[cell["model"], cell["fine_tune"], cell["fine_tune_params"]],
        "dtype": cell["dtype"],
        "seeds": len(group),
    }
    return tuple(
        Shown(f"{texts[n]:g}" if n == "ratio" else str(texts[n]), {n.replace("-", "_"): texts[n]})
        for n in _key_names(shown)
    )
