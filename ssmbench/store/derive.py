"""From the merged ledger to the tables `cells` and `attempts`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.errors import StoreError
from ssmbench.plan.cells import IDENTITY_VERSION, Cell
from ssmbench.store.attempts import read_outcomes
from ssmbench.store.columns import CELLS, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ssmbench.plan.history import Failure, History
    from ssmbench.store.contents import Contents
    from ssmbench.store.folder import RunFolder

_REASON_LENGTH = 300
_FACTS = tuple(
    c.name
    for c in CELLS
    if c.name.startswith(("params_", "nonzero_", "compression_", "ratio_a", "state_b", "flops_"))
)


def cells_frame(contents: Contents) -> pl.DataFrame:
    """Build `cells`: one row for each planned cell, facts from its first committed suite."""
    history = contents.history
    facts: dict[str, Mapping[str, Any]] = {}
    committed: dict[str, list[str]] = {}
    for (cell_id, suite_id), record in contents.commits.items():
        facts.setdefault(cell_id, record["facts"])
        committed.setdefault(cell_id, []).append(suite_id)
    failed: dict[str, list[tuple[str, Failure]]] = {}
    for (cell_id, suite_id), failure in history.failed.items():
        failed.setdefault(cell_id, []).append((suite_id, failure))
    rows = {}
    for cell_id, data in history.cells.items():
        origin = f"ledger/: what it says of cell {cell_id}"
        try:
            status, reason = _state(
                history, cell_id, committed.get(cell_id, ()), failed.get(cell_id, ())
            )
            known = facts.get(cell_id, {})
            rows[origin] = {
                **_identity(cell_id, Cell.from_json(data)),
                "status": status,
                "reason": reason,
                **{name: known.get(name) for name in _FACTS},
            }
        except _WRONG as problem:
            raise _damaged(origin, problem) from None
    return _frame("cells", rows)


def attempts_frame(folder: RunFolder, contents: Contents) -> pl.DataFrame:
    """Build `attempts`: every outcome, and what the ledger knows of those that left none."""
    columns = schema("attempts")
    rows: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    files = [file for file in folder.attempt_files() if file.suite_id is None]
    for file, outcome in zip(files, read_outcomes([f.path for f in files]), strict=True):
        rows[file.attempt_id] = {k: _plain(outcome.get(k)) for k in columns}
        origins[file.attempt_id] = file.location
    for record in contents.failures:
        if record["attempt"] is None:  # Given up because of other cells' failures.
            continue
        row = rows.setdefault(record["attempt"], dict.fromkeys(columns))
        known = {
            "attempt_id": record["attempt"],
            "cell_id": record["cell"],
            "status": "failed",
            "error_class": record["error_class"],
            "message": record["message"],
            "log": record["log"],
            "suites": json.dumps(record["suites"]),
        }
        row.update({k: v for k, v in known.items() if row[k] is None})
    for (cell_id, _), record in contents.commits.items():
        row = rows.setdefault(record["attempt"], dict.fromkeys(columns))
        known = {"attempt_id": record["attempt"], "cell_id": cell_id, "status": "done"}
        row.update({k: v for k, v in known.items() if row[k] is None})
    # An attempt id may not sort by time; the start does, and is null only without an outcome.
    named = {origins.get(i, f"ledger/: what it says of attempt {i}"): r for i, r in rows.items()}
    return _frame("attempts", named).sort("started_s", "attempt_id", nulls_last=True)


# What a value of the wrong type leads to, where no type was looked at before.
_WRONG = (pl.exceptions.PolarsError, AttributeError, LookupError, TypeError, ValueError)


def _frame(table: str, rows: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Make a table of rows, each under the words that say where it is from.

    Raises:
        StoreError: a row holds something else than the columns do.
    """
    columns = schema(table)
    try:
        return pl.DataFrame(list(rows.values()), schema=columns, orient="row")
    except _WRONG:
        for origin, row in rows.items():
            try:
                pl.DataFrame([row], schema=columns, orient="row")
            except _WRONG as problem:
                raise _damaged(origin, problem) from None
        raise


def _damaged(origin: str, problem: Exception) -> StoreError:
    reason = str(problem).strip().splitlines()[0] if str(problem).strip() else "nothing"
    return StoreError(
        f"{origin} is damaged ({type(problem).__name__}: {reason}). Delete it and run again."
    )


def _identity(cell_id: str, cell: Cell) -> dict[str, Any]:
    calibration = cell.to_json()["calibration"]
    return {
        "cell_id": cell_id,
        "model": cell.model.name,
        "family": cell.model.family,
        "method": cell.method,
        "params": json.dumps(cell.to_json()["steps"]),
        "ratio": float(cell.ratio),
        "fine_tune": cell.fine_tune.kind,
        "fine_tune_params": json.dumps(dict(cell.fine_tune.params)),
        "seed": cell.seed,
        "dtype": cell.dtype,
        "calibration": json.dumps(calibration) if calibration else None,
        "identity_version": IDENTITY_VERSION,
        "fingerprint": cell.model.fingerprint,
        "label": cell.label,
        "model_source": cell.model.source,
    }


def _state(
    history: History,
    cell_id: str,
    committed: Iterable[str],
    failed: Iterable[tuple[str, Failure]],
) -> tuple[str, str | None]:
    """Say where a cell stands and why."""
    wanted = history.wanted.get(cell_id)
    done = set(committed)
    broken = [(s, f) for s, f in failed if wanted is None or s in wanted]
    if broken:
        lines: dict[str, set[str]] = {}
        for suite_id, failure in broken:
            suite = history.suites.get(suite_id, {}).get("name", suite_id)
            line = f"{failure.error_class}: {_short(failure.message)}"
            lines.setdefault(line, set()).add(suite)
        told = (f"{', '.join(sorted(suites))}: {line}" for line, suites in lines.items())
        return "failed", "; ".join(told)
    missing = [s for s in wanted or () if s not in done]
    if not done or missing:
        names = sorted({history.suites.get(s, {}).get("name", s) for s in missing})
        return "to do", f"not run: {', '.join(names)}" if done and names else "not run"
    return "done", None


def _short(message: str) -> str:
    line = message.strip().splitlines()[0] if message.strip() else "no message"
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value
