"""The tables of `ssmbench compare`: only what changed, and how many cells did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._format import count, fixed, percent, significant, size
from ssmbench.report._speedup import LEAST_REPEATS, interval, speedup_draws
from ssmbench.report._table import Column, Plain, Shown, Table, missing
from ssmbench.report.quality import (
    CHANGE_PARTS,
    CHANGE_UNITS,
    INTERVAL,
    names_of,
    score_text,
    shown_difference,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssmbench.report._compare import Comparison, Pair
    from ssmbench.report._panels import Panel
    from ssmbench.report._scores import Score

_FACTS: Mapping[str, Callable[[float], str]] = {
    "params_model": count,
    "compression_mixer": percent,
    "ratio_achieved": percent,
    "state_bytes": size,
    "flops_per_token": count,
}
_TIMED = ["suite_id", "device", "phase", "batch", "length"]


def build(comparison: Comparison, *, everything: bool = False) -> list[Table]:
    """Build the tables: states, facts, one for each suite's scores, and times.

    Args:
        comparison: of two runs.
        everything: show cells that did not change as well.
    """
    made = [_states(comparison), _facts(comparison)]
    names = [panel.suite for panel in comparison.panels]
    for panel in comparison.panels:
        several = names.count(panel.suite) > 1
        made.append(_scores(comparison, panel, several=several, everything=everything))
    made.append(_times(comparison, everything=everything))
    return [table for table in made if table is not None]


def summary(comparison: Comparison) -> list[str]:
    """Say in sentences how the two runs differ."""
    first, second = comparison.names
    lines = [f"{len(comparison.pairs)} cells in both"]
    for name, cells in ((first, comparison.only_first), (second, comparison.only_second)):
        if cells:
            shown = ", ".join(str(c["label"] or c["cell_id"]) for c in cells[:3])
            more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
            lines.append(f"{len(cells)} only in {name}: {shown}{more}")
    for panel in comparison.panels:
        verdicts = [_verdict(comparison, panel, pair) for pair in comparison.pairs]
        told = [f"{n} {what}" for what in _VERDICTS if (n := verdicts.count(what))]
        lines.append(f"{panel.suite}: {', '.join(told) or 'nothing measured'}")
    return lines


_VERDICTS = ("identical", "unclear", "better", "worse", "not comparable")


def _verdict(comparison: Comparison, panel: Panel, pair: Pair) -> str:
    """Tell what became of one cell's score; empty where neither run has one."""
    before, after = comparison.means(panel, pair)
    if before.value is None and after.value is None:
        return ""
    if after.difference.value is None or before.value is None:
        return "not comparable"
    if not comparison.changed.get((pair.index, panel.suite_id), (1, 1))[0]:
        return "identical"
    found = after.difference.verdict
    if found not in {"below", "above"}:
        return "unclear"
    more_is_better = panel.kind != "perplexity"
    return "better" if (found == "above") == more_is_better else "worse"


def _scores(
    comparison: Comparison, panel: Panel, *, several: bool, everything: bool
) -> Table | None:
    lines, n_same = [], 0
    for pair in comparison.pairs:
        verdict = _verdict(comparison, panel, pair)
        if verdict == "identical" and not everything:
            n_same += 1
        elif verdict:
            lines.append((*_key(pair), *_score_cells(comparison, panel, pair, verdict)))
    if not lines:
        return None
    about, name = names_of(panel, several=several)
    first, second = comparison.names
    unit = CHANGE_UNITS[panel.kind]
    columns = (
        Column(first, parts=("value",), prefix="first"),
        Column(second, parts=("value",), prefix="second"),
        Column(f"{second} − {first}", unit=unit, parts=CHANGE_PARTS),
        Column("documents changed", parts=("n_changed", "n")),
        Column("", "left", parts=("verdict",)),
    )
    same = (f"{n_same} cells are left out: no document's value changed.",) if n_same else ()
    return Table(
        title=f"Compare: {about}",
        name=f"compare-{name}",
        columns=(*_KEYS, *columns),
        rows=tuple(lines),
        notes=(*same, INTERVAL.replace("Compressed minus dense", f"{second} minus {first}")),
    )


def _score_cells(
    comparison: Comparison, panel: Panel, pair: Pair, verdict: str
) -> tuple[Shown, ...]:
    before, after = comparison.means(panel, pair)
    if before.value is None:
        change = missing(f"{comparison.names[0]}: {before.reason or 'no score'}")
    else:
        change = shown_difference(panel, after, pair.row)
    changed, n = comparison.changed.get((pair.index, panel.suite_id), (None, None))
    counted = Shown(f"{changed} of {n}", {"n_changed": changed, "n": n})
    return (
        _score(panel, before),
        _score(panel, after),
        Shown(change.text, after.difference.numbers, change.note),
        counted if n else missing("no documents in common"),
        Shown("" if verdict == "unclear" else verdict, {"verdict": verdict}),
    )


def _score(panel: Panel, score: Score) -> Shown:
    if score.value is None:
        return missing(score.reason or "no score")
    return Shown(score_text(panel, score.value, score.stderr), {"value": score.value})


def _states(comparison: Comparison) -> Table | None:
    lines = [
        (*_key(pair), _state(pair.first), _state(pair.second))
        for pair in comparison.pairs
        if _state(pair.first) != _state(pair.second)
    ]
    columns = tuple(
        Column(name, "left", parts=("state",), prefix=p)
        for name, p in zip(comparison.names, _PREFIXES, strict=True)
    )
    return _table("states", "cells that ended otherwise", columns, lines)


def _state(cell: Mapping[str, Any]) -> Shown:
    text = cell["status"] if not cell["reason"] else f"{cell['status']}: {cell['reason']}"
    return Shown(text, {"state": text})


def _facts(comparison: Comparison) -> Table | None:
    lines = []
    for pair in comparison.pairs:
        for name, text in _FACTS.items():
            before, after = pair.first[name], pair.second[name]
            # What an unfinished cell lacks has not changed.
            if before != after and before is not None and after is not None:
                shown = [Shown(text(v), {"value": v}) for v in (before, after)]
                lines.append((*_key(pair), Shown(name, {"fact": name}), *shown))
    columns = (
        Column("fact", "left", parts=("fact",)),
        *(
            Column(name, parts=("value",), prefix=p)
            for name, p in zip(comparison.names, _PREFIXES, strict=True)
        ),
    )
    return _table("facts", "sizes and compute", columns, lines)


def _times(comparison: Comparison, *, everything: bool) -> Table | None:
    """Compare speed-ups over dense, each taken in turns with it: times of two days are not."""
    first, second = (_latency(comparison, second=which) for which in (False, True))
    lines, n_same = [], 0
    for pair in comparison.pairs:
        for shape, before in first.get(pair.first["cell_id"], {}).items():
            after = second.get(pair.second["cell_id"], {}).get(shape)
            if after is None:
                continue
            cells, differs = _time_cells(before, after)
            n_same += not differs
            if differs or everything:
                lines.append((*_key(pair), *cells))
    columns = (
        Column("what", "left", parts=("phase", "batch", "length")),
        *(
            Column(name, parts=("speedup",), prefix=prefix)
            for name, prefix in zip(comparison.names, _PREFIXES, strict=True)
        ),
        Column("ratio", parts=("ratio", "low", "high")),
    )
    left_out = (
        f" {n_same} pairs that may be equal are left out." if n_same and not everything else ""
    )
    return _table(
        "times",
        "speed-up over dense",
        columns,
        lines,
        "Quotients of medians, with the 95 % interval of their ratio, by resampling the repeats:"
        " each run took its dense model's times in turns with the compressed one's, so these"
        f" quotients can be compared; times of two runs cannot.{left_out}",
    )


def _latency(comparison: Comparison, *, second: bool) -> dict[str, dict[tuple[Any, ...], Any]]:
    """Give cell_id -> (suite, device, phase, batch, length) -> its row."""
    frame = (comparison.second if second else comparison.first)["latency"]
    if second:
        frame = frame.with_columns(suite_id=pl.col("suite_id").replace(comparison.suites))
    found: dict[str, dict[tuple[Any, ...], Any]] = {}
    for row in frame.drop_nulls("speedup").collect().iter_rows(named=True):
        found.setdefault(row["cell_id"], {})[tuple(row[name] for name in _TIMED)] = row
    return found


def _time_cells(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[tuple[Shown, ...], bool]:
    """Show one timing of both runs; also whether the difference is more than noise."""
    shape = {name: before[name] for name in ("phase", "batch", "length")}
    ratio = after["speedup"] / before["speedup"]
    draws = [
        speedup_draws(r["raw_s"], r["dense_raw_s"], seed=i) for i, r in enumerate((before, after))
    ]
    known = interval(draws[1] / draws[0]) if draws[0] is not None and draws[1] is not None else None
    low, high = known or (None, None)
    text = fixed(ratio, 3) + (f" [{fixed(known[0], 3)}, {fixed(known[1], 3)}]" if known else "")
    shown = (
        Shown(f"{before['phase']} {before['batch']}×{before['length']}", shape),
        *(
            Shown(f"×{significant(r['speedup'])}", {"speedup": r["speedup"]})
            for r in (before, after)
        ),
        Shown(text, {"ratio": ratio, "low": low, "high": high}, None if known else _FEW),
    )
    differs = not known[0] <= 1 <= known[1] if known else ratio != 1
    return shown, differs


_FEW = f"fewer than {LEAST_REPEATS} repeats: no interval"
_PREFIXES = ("first", "second")
_KEYS = (
    Column("cell", "left", parts=("cell_id",), key=True),
    Column("seed", parts=("seed",), key=True),
)


def _key(pair: Pair) -> tuple[Shown, ...]:
    cell = pair.first
    label: Plain = cell["label"] or cell["cell_id"]
    return (
        Shown(str(label), {"cell_id": cell["cell_id"]}),
        Shown(str(cell["seed"]), {"seed": cell["seed"]}),
    )


def _table(
    name: str, about: str, columns: tuple[Column, ...], lines: list[tuple[Shown, ...]], *notes: str
) -> Table | None:
    if not lines:
        return None
    return Table(
        title=f"Compare: {about}",
        name=f"compare-{name}",
        columns=(*_KEYS, *columns),
        rows=tuple(lines),
        notes=notes,
    )
