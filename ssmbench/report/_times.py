"""Tables of times: none stands without the quality that it was bought with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._by_row import of_rows
from ssmbench.report._format import count, percent, seconds, significant, size
from ssmbench.report._table import MISSING, Column, Shown, Table, missing
from ssmbench.report.quality import mean_scores, not_publishable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row, Rows
    from ssmbench.report._scores import Score

    Shape = tuple[int, int]
    Found = Mapping[str, Any]

# More shapes than these are a table for each batch.
_ONE_TABLE = 6
_NUMBERS = (
    "median_s", "p10_s", "p90_s", "p99_s", "speedup", "tokens_per_s", "first_token_s",
    "floor_s", "peak_memory_bytes", "weights_bytes", "state_bytes", "warmup_s",
)  # fmt: skip
_TEXTS = ("reason", "disturbance", "graph")
_CAPTURED = "captured"
_DISTURBED = "taken while others used the device: not publishable"
_LIMIT = (
    "Of the limit: the time of the projections alone, as matrix products of the same shapes in"
    " turns with the model, over the model's, medians. What is left is scan, convolution,"
    " attention, gates, norms, and queueing them."
)


def time_tables(results: Results, rows: Rows, *, title: str) -> list[Table]:
    """Build the tables of each suite, device and phase.

    Those are: times at every shape, with the speedup over dense; how near to the limit they are;
    and spread, first token, memory and warm-up at the largest shape.

    Args:
        results: the run's.
        rows: the run's.
        title: begins every title.
    """
    keys = ["suite_id", "suite", "device", "phase"]
    found = (
        results["latency"]
        .pipe(of_rows, rows.frame)
        .group_by("row", *keys, "batch", "length", maintain_order=True)
        .agg(
            *(pl.col(name).mean() for name in _NUMBERS),
            *(pl.col(name).drop_nulls().first() for name in _TEXTS),
            pl.col("publishable").min(),
        )
        .with_columns((pl.col("floor_s") / pl.col("median_s")).alias("of_limit"))
        .collect()
    )
    if found.is_empty():
        return []
    panel, quality = mean_scores(results, rows)
    devices = found.select("suite_id", "device").unique().height > 1
    made = []
    for (suite_id, name, device, phase), part in found.group_by(keys, maintain_order=True):
        tail = f"-{device}-{suite_id}" if devices else ""
        timed = rows.wanted(set(part["row"]))
        at = {(r["row"], r["batch"], r["length"]): r for r in part.iter_rows(named=True)}
        phase_tables = _Phase(
            str(phase), str(name), f"{title}: {phase} on {device}", tail, timed, at, panel, quality
        )
        made += phase_tables.tables()
    return made


@dataclass(frozen=True)
class _Phase:
    """One suite's times of one phase on one device."""

    phase: str
    suite: str
    title: str
    tail: str
    rows: Rows
    at: Mapping[tuple[int, int, int], Found]
    panel: Panel | None
    quality: Mapping[int, Score]

    def tables(self) -> list[Table]:
        """Build them all."""
        shapes = sorted({(batch, length) for _, batch, length in self.at})
        blocks = [("", "", shapes)]
        if len(shapes) > _ONE_TABLE:
            batches = sorted({batch for batch, _ in shapes})
            blocks = [(f", batch {b}", f"-b{b}", [s for s in shapes if s[0] == b]) for b in batches]
        made = [self._medians(*block) for block in blocks]
        if any(found["of_limit"] is not None for found in self.at.values()):
            made.append(self._limits(shapes))
        if any(found["median_s"] is not None for found in self.at.values()):
            made.append(self._details(shapes))
        return made

    def _medians(self, about: str, tail: str, shapes: Sequence[Shape]) -> Table:
        columns = [
            Column(f"{b}×{n}", parts=(*_NUMBERS, "of_limit"), prefix=f"{b}x{n}") for b, n in shapes
        ]
        what = "Tokens per second" if self.phase == "decode" else "Median time of a pass"
        note = (
            f"Columns are batch × length. {what}, × speedup over the dense model, which takes"
            " turns with it in one process; the dense row shows how far 1 is exact."
        )
        return self._table(
            about,
            tail,
            columns,
            lambda row: [self._median(self._found(row, s), row) for s in shapes],
            shapes,
            note,
        )

    def _limits(self, shapes: Sequence[Shape]) -> Table:
        columns = [
            Column(f"{b}×{n}", unit="%", parts=("of_limit",), prefix=f"{b}x{n}") for b, n in shapes
        ]
        return self._table(
            ", of the limit",
            "-limit",
            columns,
            lambda row: [self._limit(self._found(row, s), row) for s in shapes],
            shapes,
            _LIMIT,
        )

    def _details(self, shapes: Sequence[Shape]) -> Table:
        """Show what one shape has more: the largest of those that most rows have."""

        def n_timed(shape: Shape) -> int:
            found = [self._found(row, shape) for row in self.rows.rows]
            return sum(f is not None and f["median_s"] is not None for f in found)

        shape = max(shapes, key=lambda s: (n_timed(s), s[0] * s[1]))
        parts = [part for part in _DETAILS if self._tells(part.name, shape)]
        columns = [Column(p.header, unit=p.unit, parts=(p.name,)) for p in parts]
        return self._table(
            f", {shape[0]}×{shape[1]} in detail",
            "-details",
            columns,
            lambda row: [self._detail(p, self._found(row, shape), row) for p in parts],
            [shape],
            _DETAILS_NOTE,
        )

    def _table(
        self,
        about: str,
        tail: str,
        columns: Sequence[Column],
        cells: Callable[[Row], list[Shown]],
        shapes: Sequence[Shape],
        note: str,
    ) -> Table:
        """Put quality before the columns and warnings above them."""
        suite = self.panel.suite if self.panel else ""
        limit = self.panel.limit if self.panel else None
        trial = () if limit is None else (f"The quality is {not_publishable(limit)}.",)
        return Table(
            title=f"{self.title}{about}",
            name=re.sub(r"[^0-9A-Za-z_-]+", "-", f"cost-{self.phase}{tail}{self.tail}"),
            columns=(*self.rows.columns, _quality_column(suite), *columns),
            rows=tuple(
                (*row.key, _quality(self.quality.get(row.index), row, suite), *cells(row))
                for row in self.rows.rows
            ),
            sections=self.rows.sections,
            notes=(note, *self._unknown(shapes), *trial),
            warnings=self._warnings(shapes),
        )

    def _found(self, row: Row, shape: Shape) -> Found | None:
        return self.at.get((row.index, shape[0], shape[1]))

    def _told(self, shapes: Sequence[Shape]) -> list[Found]:
        found = (self._found(row, shape) for row in self.rows.rows for shape in shapes)
        return [f for f in found if f is not None and f["median_s"] is not None]

    def _tells(self, name: str, shape: Shape) -> bool:
        return any(found[name] is not None for found in self._told([shape]))

    def _warnings(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        found = self._told(shapes)
        disturbed = [f for f in found if f["publishable"] is False]
        if not disturbed:
            return ()
        return (
            f"not publishable: {len(disturbed)} of {len(found)} times were taken while others used"
            f" the device (for one, {disturbed[0]['disturbance']})",
        )

    def _unknown(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        if all(f["publishable"] is not None for f in self._told(shapes)):
            return ()
        return ("Whether others used the device meanwhile is not known of every time.",)

    def _missing(self, found: Found | None, row: Row) -> Shown | None:
        """Say why there is no time, if there is none."""
        if found is None:
            otherwise = f"suite {self.suite} was not run on this cell"
            return missing(row.why_missing(otherwise, suite=self.suite))
        if found["median_s"] is None:
            return missing(found["reason"] or "not told by the attempt")
        return None

    def _median(self, found: Found | None, row: Row) -> Shown:
        if (none := self._missing(found, row)) is not None:
            return none
        assert found is not None
        numbers = {n: found[n] for n in (*_NUMBERS, "of_limit")}
        notes = [_DISTURBED] if found["publishable"] is False else []
        why = found["reason"]
        text = seconds(found["median_s"])
        if self.phase == "decode":
            rate = found["tokens_per_s"]
            if rate is None:
                return Shown(MISSING, numbers, why or "tokens per second: not told by the attempt")
            text = f"{count(rate)}/s"
            graph = found["graph"]
            if graph not in (None, _CAPTURED) and any(
                f["graph"] == _CAPTURED for f in self.at.values()
            ):
                notes.append(f"not as a CUDA graph, as others here: {graph}")
        if found["speedup"] is None:
            notes.append(f"the dense model was not timed beside it{f' ({why})' if why else ''}")
        else:
            text += f" ×{significant(found['speedup'])}"
        return Shown(text, numbers, "; ".join(notes) or None)

    def _limit(self, found: Found | None, row: Row) -> Shown:
        if (none := self._missing(found, row)) is not None:
            return none
        assert found is not None
        if found["of_limit"] is None:
            return missing(found["reason"] or "the limit was not timed beside it")
        return Shown(percent(found["of_limit"], 0), {"of_limit": found["of_limit"]})

    def _detail(self, part: _Part, found: Found | None, row: Row) -> Shown:
        if (none := self._missing(found, row)) is not None:
            return none
        assert found is not None
        value = found[part.name]
        if value is None:
            return missing(found["reason"] or "not told by the attempt")
        return Shown(part.text(value), {part.name: value})


@dataclass(frozen=True)
class _Part:
    """One column of the details."""

    name: str
    header: str
    text: Callable[[float], str]
    unit: str = ""


_DETAILS = (
    _Part("median_s", "median", seconds),
    _Part("p10_s", "p10", seconds),
    _Part("p90_s", "p90", seconds),
    _Part("p99_s", "p99", seconds),
    _Part("first_token_s", "first token", seconds),
    _Part("tokens_per_s", "tokens/s", count),
    _Part("of_limit", "of the limit", lambda v: percent(v, 0), "%"),
    _Part("peak_memory_bytes", "peak memory", size),
    _Part("weights_bytes", "of it weights", size),
    _Part("state_bytes", "state", size),
    _Part("warmup_s", "warm-up", seconds),
)
_DETAILS_NOTE = (
    "Percentiles over the repeats. First token: median by the wall clock, from prompts on the host"
    " to the next tokens there. Peak memory: this model's alone. State: the whole batch's. Warm-up:"
    " all calls before the timed ones, autotuning and compilation included. Other shapes' numbers"
    " are in the CSV of the tables above."
)


def _quality_column(suite: str) -> Column:
    return Column(
        f"{suite or 'quality'} mean", unit="%", parts=("value", "stderr"), prefix="quality"
    )


def _quality(score: Score | None, row: Row, suite: str) -> Shown:
    if score is None or score.value is None:
        which = f"suite {suite} was not run" if suite else "no suite measured quality"
        return missing(row.why_missing(f"nothing to judge these times by: {which}", suite=suite))
    text = percent(score.value)
    if score.stderr is not None:
        text += f" ±{percent(score.stderr)}"
    return Shown(text, {"value": score.value, "stderr": score.stderr})
