"""Rows against their dense rows, document by document: the arrays behind every difference.

Seeds come together first: a row's value of a document is the mean over its seeds, and all that
follows is over documents. So an interval says what other documents of the same kind would
change. It takes a row's seeds as they are: what other seeds would change is their own spread,
`Score.seed_sd`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ssmbench.report import _bootstrap, _statistics
from ssmbench.report._documents import NLL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ssmbench.report._documents import Documents, Kind

    Reals = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Places = NDArray[np.int64]


@dataclass(frozen=True)
class Averaged:
    """The documents of one task, averaged over the seeds of each row.

    Attributes:
        kind: suite_id, task and metric.
        place: row -> its place in the arrays.
        values: (rows, documents) float64; NaN where a seed lacks the document.
        weights: likewise.
        has: which documents a row has at all.
        steady: whether all seeds of a row have the same documents with the same weights.
    """

    kind: Kind
    place: Mapping[int, int]
    values: Reals
    weights: Reals
    has: Flags
    steady: Flags


@dataclass(frozen=True)
class Change:
    """One row's difference to its dense row, or why there is none.

    Attributes:
        value: Σ(v − v_dense) / Σw; None with `problem`.
        stderr: over documents; None for a single one, as are the next two.
        interval: 95 %.
        p: two-sided.
        freedom: degrees of freedom of the interval.
        problem: "dense", "documents", "seeds" or "weights": what is not the same.
        n: documents of the row and of its dense row.
    """

    value: float | None
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    freedom: float = math.inf
    problem: str | None = None
    n: tuple[int, int] = (0, 0)


def averaged(kind: Kind, found: Documents, rows: Mapping[str, int]) -> Averaged:
    """Average documents over seeds.

    Args:
        kind: suite_id, task and metric.
        found: the task's documents.
        rows: cell id -> row.
    """
    wanted = sorted((rows[cell], place) for cell, place in found.cells.items() if cell in rows)
    owners = np.array([row for row, _ in wanted], dtype=np.int64)
    order = np.array([place for _, place in wanted], dtype=np.int64)
    names, starts, sizes = np.unique(owners, return_index=True, return_counts=True)
    values, weights = found.values[order], found.weights[order]
    has = ~np.isnan(values)
    steady = np.ones(len(names), dtype=np.bool_)
    if len(names) < len(order):
        here = np.add.reduceat(has, starts, dtype=np.int64)
        low, high = np.minimum.reduceat(weights, starts), np.maximum.reduceat(weights, starts)
        steady = ((here == 0) | ((here == sizes[:, None]) & (low == high))).all(1)
        values, weights = (np.add.reduceat(a, starts) / sizes[:, None] for a in (values, weights))
        has = here > 0
    place = {int(row): i for i, row in enumerate(names)}
    return Averaged(kind, place, values, weights, has, steady)


def stderrs(found: Averaged) -> dict[int, float | None]:
    """Give each row's standard error over documents; None for one, or for unlike seeds."""
    v, w = np.where(found.has, found.values, 0), np.where(found.has, found.weights, 0)
    errors = _stderrs(v, w, found.has.sum(1))
    return {
        row: float(errors[i]) if found.steady[i] and not np.isnan(errors[i]) else None
        for row, i in found.place.items()
    }


def changes(found: Averaged, dense_of: Mapping[int, int | None]) -> dict[int, Change]:
    """Pair rows with their dense rows.

    Args:
        found: the task's documents.
        dense_of: row -> the row that it is compared with, or None: no comparison.
    """
    result: dict[int, Change] = {}
    pairs = [(row, dense_of[row]) for row in found.place]
    wanted = [(row, dense) for row, dense in pairs if dense is not None and dense != row]
    # Rows whose documents and weights are the same are compared all at once.
    alike: dict[bytes, list[tuple[int, int, int]]] = {}
    weights: dict[int, bytes] = {}
    for row, dense in wanted:
        if dense not in found.place:
            result[row] = Change(None, problem="dense")
            continue
        here, there = found.place[row], found.place[dense]
        problem = _problem(found, here, there)
        if problem:
            n = (int(found.has[here].sum()), int(found.has[there].sum()))
            result[row] = Change(None, problem=problem, n=n)
            continue
        if there not in weights:
            weights[there] = found.weights[there].tobytes()
        alike.setdefault(weights[there], []).append((row, here, there))
    for group in alike.values():
        compared = _compare(found, *(np.array(group)[:, 1:].T))
        result |= {group[i][0]: change for i, change in compared}
    return result


def _problem(found: Averaged, here: int, there: int) -> str:
    """Say why two rows cannot be paired; empty if they can."""
    has = found.has[there]
    if not np.array_equal(found.has[here], has):
        return "documents"
    if not (found.steady[here] and found.steady[there]):
        return "seeds"
    same = np.array_equal(found.weights[here][has], found.weights[there][has])
    return "" if same else "weights"


def _compare(found: Averaged, here: Places, there: Places) -> Iterator[tuple[int, Change]]:
    """Give places in `here` and their changes; all have the same documents and weights."""
    has = found.has[there[0]]
    w = found.weights[there[0]][has]
    values, base = (
        a if has.all() else a[:, has] for a in (found.values[here], found.values[there])
    )
    d = values - base
    if len(w) == 1:
        yield from enumerate(Change(float(v)) for v in d[:, 0] / w)
        return
    inside: Flags = _inside(values) & _inside(base)
    whole: Flags = _whole(values) & _whole(base)
    if found.kind[2] == NLL or (w != 1).any():
        inside[:] = False
    binary = inside & whole
    for chosen, test in ((binary, _binary), (inside & ~binary, _bounded), (~inside, _ratios)):
        places = np.flatnonzero(chosen)
        if len(places):
            yield from zip(places.tolist(), test(d[places], w), strict=True)


def _inside(values: Reals) -> Flags:
    found: Flags = np.all((values >= 0) & (values <= 1), axis=1)
    return found


def _whole(values: Reals) -> Flags:
    found: Flags = np.all((values == 0) | (values == 1), axis=1)
    return found


def _binary(d: Reals, w: Reals) -> list[Change]:
    """Compare by McNemar's test and Tango's interval."""
    low, high, p = _statistics.changed((d == 1).sum(1), (d == -1).sum(1), len(w))
    return _made(d, w, low, high, p.tolist())


def _bounded(d: Reals, w: Reals) -> list[Change]:
    return _drawn(d, w, *_bootstrap.bounded(d))


def _ratios(d: Reals, w: Reals) -> list[Change]:
    return _drawn(d, w, *_bootstrap.ratios(d, w))


def _drawn(d: Reals, w: Reals, low: Reals, high: Reals) -> list[Change]:
    freedom = len(w) - 1
    value = d.sum(1) / w.sum()
    ends = zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
    ps = [_statistics.p_of_interval(v, a, b, freedom) for v, a, b in ends]
    return _made(d, w, low, high, ps, freedom=freedom)


def _made(
    d: Reals, w: Reals, low: Reals, high: Reals, ps: list[float], *, freedom: float = math.inf
) -> list[Change]:
    n = np.full(len(d), len(w))
    errors = _stderrs(d, np.broadcast_to(w, d.shape), n)
    arrays = (d.sum(1) / w.sum(), errors, low, high)
    lists = zip(*(array.tolist() for array in arrays), ps, strict=True)
    return [Change(v, e, (a, b), p, freedom) for v, e, a, b, p in lists]


def _stderrs(v: Reals, w: Reals, n: Places) -> Reals:
    """Give the standard error of Σv / Σw of each row, over its n documents; NaN for one."""
    residual = v - (v.sum(1) / w.sum(1))[:, None] * w
    factor = np.divide(n, n - 1.0, out=np.full(len(n), np.nan), where=n > 1)
    found: Reals = np.sqrt(factor * (residual**2).sum(1)) / w.sum(1)
    return found
