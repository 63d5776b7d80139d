"""The rows of every table: cells that differ by their seed alone are one row."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.plan.cells import default_params
from ssmbench.report._table import Column, Shown

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

DENSE = "dense"
_NOTHING = object()
NOT_RUN = "not run"
_SAME = (
    "model",
    "fingerprint",
    "method",
    "params",
    "ratio",
    "fine_tune",
    "fine_tune_params",
    "dtype",
    "calibration",
)


@dataclass(frozen=True)
class Row:
    """One row: a model, a method chain with its parameters, a ratio; all its seeds.

    Attributes:
        index: its place in every table.
        key: one text for each of `Rows.columns`.
        cells: cell id -> (seed, why it is not done, or None), by seed.
        dense: index of the uncompressed row of the same model and dtype, or None.
        is_dense: whether it is such a row.
    """

    index: int
    key: tuple[Shown, ...]
    cells: Mapping[str, tuple[int, str | None]]
    dense: int | None
    is_dense: bool

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


def make_rows(cells: pl.DataFrame) -> Rows:
    """Group the cells of a run into rows, models in the order of the grid, dense first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for found in cells.iter_rows(named=True):
        cell = {**found, "calibration": _shared_calibration(found)}
        groups.setdefault(tuple(cell[name] for name in _SAME), []).append(cell)
    ordered = _ordered(list(groups.values()))
    varied = _varied([group[0] for group in ordered])
    shown = _optional_columns(ordered)
    twins = {_twin(group[0]): i for i, group in enumerate(ordered) if _is_dense(group[0])}
    rows = tuple(
        Row(
            index=i,
            key=_key(group, varied, shown),
            cells={
                c["cell_id"]: (c["seed"], _reason(c))
                for c in sorted(group, key=lambda c: int(c["seed"]))
            },
            dense=twins.get(_twin(group[0])),
            is_dense=_is_dense(group[0]),
        )
        for i, group in enumerate(ordered)
    )
    models = [(group[0]["model"], group[0]["fingerprint"]) for group in ordered]
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
    for group in groups:
        first = group[0]
        models.setdefault((first["model"], first["fingerprint"]), len(models))
        methods.setdefault(first["method"], len(methods))

    def place(group: list[dict[str, Any]]) -> tuple[Any, ...]:
        c = group[0]
        model = models[c["model"], c["fingerprint"]]
        variant = (c["dtype"], c["fine_tune"], c["fine_tune_params"] or "", c["calibration"] or "")
        params = json.dumps(_settings(c), sort_keys=True)
        trained = c["fine_tune"] != "none"
        return (model, methods[c["method"]], trained, params, c["ratio"], *variant)

    return sorted(groups, key=place)


def _is_dense(cell: Mapping[str, Any]) -> bool:
    return bool(cell["method"] == DENSE and cell["fine_tune"] == "none")


def _twin(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return cell["model"], cell["fingerprint"], cell["dtype"]


def _reason(cell: Mapping[str, Any]) -> str | None:
    if cell["status"] == "done":
        return None
    return f"failed: {cell['reason']}" if cell["status"] == "failed" else str(cell["reason"])


def _settings(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a chain is set to beside its last ratio, by name."""
    steps = json.loads(cell["params"])
    settings: dict[str, Any] = {}
    for i, step in enumerate(steps):
        prefix = f"{step['name']}." if len(steps) > 1 else ""
        settings |= {f"{prefix}{k}": v for k, v in step["params"].items()}
        settings[f"{prefix}version"] = step["version"]
        if i < len(steps) - 1:
            settings[f"{prefix}ratio"] = step["ratio"]
    calibration = json.loads(cell["calibration"]) if cell["calibration"] else {}
    return settings | {f"calibration.{k}": v for k, v in calibration.items()}


def _usual(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the parameters among a chain's settings are by default."""
    steps = json.loads(cell["params"])
    return {
        (f"{step['name']}." if len(steps) > 1 else "") + name: value
        for step in steps
        for name, value in default_params(step["name"]).items()
    }


def _varied(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Find, for each method, the settings in which its rows differ."""
    seen: dict[str, dict[str, set[str]]] = {}
    for cell in cells:
        values = seen.setdefault(cell["method"], {})
        for name, value in _settings(cell).items():
            values.setdefault(name, set()).add(json.dumps(value))
    return {m: [n for n, found in v.items() if len(found) > 1] for m, v in seen.items()}


def _optional_columns(groups: Sequence[Sequence[Mapping[str, Any]]]) -> set[str]:
    """Say which of the key columns tell anything in this run."""
    cells = [group[0] for group in groups]
    shown = set()
    if any(c["fine_tune"] != "none" for c in cells):
        shown.add("fine-tune")
    if len({c["dtype"] for c in cells}) > 1:
        shown.add("dtype")
    if any(len(group) > 1 for group in groups):
        shown.add("seeds")
    return shown


def _columns(shown: set[str]) -> tuple[Column, ...]:
    names = [
        "model",
        "method",
        "ratio",
        *(n for n in ("fine-tune", "dtype", "seeds") if n in shown),
    ]
    right = {"ratio", "seeds"}
    return tuple(
        Column(n, "right" if n in right else "left", parts=(n.replace("-", "_"),), key=True)
        for n in names
    )


def _key(
    group: Sequence[Mapping[str, Any]], varied: Mapping[str, list[str]], shown: set[str]
) -> tuple[Shown, ...]:
    cell = group[0]
    settings = _settings(cell)
    usual = _usual(cell)
    told = [
        f"{n}={_value(settings[n])}"
        for n in varied[cell["method"]]
        if n in settings and settings[n] != usual.get(n, _NOTHING)
    ]
    method = f"{cell['method']} ({', '.join(told)})" if told else str(cell["method"])
    texts: dict[str, Any] = {
        "model": cell["model"],
        "method": method,
        "ratio": cell["ratio"],
        "fine-tune": cell["fine_tune"],
        "dtype": cell["dtype"],
        "seeds": len(group),
    }
    names = [
        "model",
        "method",
        "ratio",
        *(n for n in ("fine-tune", "dtype", "seeds") if n in shown),
    ]
    return tuple(
        Shown(f"{texts[n]:g}" if n == "ratio" else str(texts[n]), {n.replace("-", "_"): texts[n]})
        for n in names
    )


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return str(value)
