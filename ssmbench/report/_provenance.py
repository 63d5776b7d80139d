"""Where a report's numbers are from, and what keeps them from being published."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._join import differing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ssmbench.report._results import Results
    from ssmbench.report._source import Source

_COMMIT_DIGITS = 12
_MAX_NAMES = 8
_NO_COMMIT = "without a commit: not run from a checkout"


@dataclass(frozen=True)
class Fact:
    """One line about a run: what of it, its value for people, and how many have that value.

    `of` says what `n` counts: "cells" or "attempts"; both are None where nothing is counted.
    """

    about: str
    value: str
    n: int | None = None
    of: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a report are from.

    Attributes:
        facts: for each run folder, in order.
        unpublishable: why the numbers are not for publication; empty if nothing is known
            against it.
        warnings: what else a reader must know before the tables.
    """

    facts: tuple[tuple[Source, tuple[Fact, ...]], ...]
    unpublishable: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def headline(self) -> str | None:
        """The reasons as one line that stands above everything else; None without any."""
        reasons = "; ".join(self.unpublishable)
        return f"UNPUBLISHABLE: {reasons}." if reasons else None

    @property
    def lines(self) -> tuple[str, ...]:
        """What stands above the tables in every format."""
        others = (f"Warning: {text}." for text in self.warnings)
        return (*([self.headline] if self.headline else ()), *others)


def provenance(results: Results) -> Provenance:
    """Gather it from the run folders of a report."""
    attempts = {s.name: s.frames["attempts"].collect() for s in results.sources}
    cells = {s.name: s.frames["cells"].collect() for s in results.sources}
    facts = tuple((s, tuple(_facts(s, cells[s.name], attempts[s.name]))) for s in results.sources)
    if not results.sources:
        return Provenance((), (), ())
    warning = differing({s.name: s.frames for s in results.sources})
    together = pl.concat(attempts.values()).unique("attempt_id", keep="first", maintain_order=True)
    reasons = (
        *_of_cells(results.cells),
        *_of_limits(results["metrics"]),
        *_of_code(_contributing(together)),
        *_of_packages(_contributing(together)),
    )
    computed = _of_compute_dtypes(results.cells, _contributing(together))
    return Provenance(facts, reasons, (*([warning] if warning else []), *computed))


def utc(seconds: float) -> str:
    """Write a Unix time for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _facts(source: Source, cells: pl.DataFrame, attempts: pl.DataFrame) -> Iterable[Fact]:
    """Give what is known of one run folder, in order of interest."""
    yield Fact("folder", source.location)
    made = [] if source.created_s is None else [utc(source.created_s)]
    made += [f"by {source.created_by}"] if source.created_by else []
    if made:
        yield Fact("created", ", ".join(made))
    start, end = attempts["started_s"].min(), attempts["ended_s"].max()
    if isinstance(start, float) and isinstance(end, float):
        yield Fact("measured", f"{utc(start)} to {utc(end)}")
    for status, n in _counts(cells["status"]):
        yield Fact("cells", status, n, "cells")
    outcomes = [
        status if error is None else f"{status}: {error}"
        for status, error in attempts.select("status", "error_class").iter_rows()
    ]
    for outcome, n in _counts(outcomes):
        yield Fact("attempts", outcome, n, "attempts")
    yield Fact("seeds", ", ".join(map(str, sorted(set(cells["seed"])))) or "none")
    yield from _made_with(attempts)


def _made_with(attempts: pl.DataFrame) -> Iterable[Fact]:
    """Give the code, packages and machines of a run's attempts."""
    for state, n in _counts(map(_code, attempts.iter_rows(named=True))):
        yield Fact("code", state, n, "attempts")
    for name, found in _packages(attempts).items():
        for version, n in found.most_common():
            yield Fact(name, version, n, "attempts")
    for about, column in (("computed in", "compute_dtype"), ("device", "device")):
        for value, n in _counts(attempts[column].drop_nulls()):
            yield Fact(about, value, n, "attempts")
    hosts = sorted(set(attempts["host"].drop_nulls()))
    if hosts:
        yield Fact("hosts", f"{len(hosts)}: {_listed(hosts)}")


def _counts(values: Iterable[Any]) -> list[tuple[str, int]]:
    return Counter(map(str, values)).most_common()


def _code(attempt: Mapping[str, Any]) -> str:
    """Name the state of the code that an attempt ran."""
    if attempt["git_commit"] is None:
        return _NO_COMMIT
    dirty = " with uncommitted changes" if attempt["git_dirty"] else ""
    return f"commit {attempt['git_commit'][:_COMMIT_DIGITS]}{dirty}"


def _packages(attempts: pl.DataFrame) -> dict[str, Counter[str]]:
    """Count, for each package, how many attempts ran which version."""
    found: dict[str, Counter[str]] = {}
    for text, n in Counter(attempts["versions"].drop_nulls()).items():
        for name, version in json.loads(text).items():
            found.setdefault(name, Counter())[str(version)] += n
    return found


def _contributing(attempts: pl.DataFrame) -> pl.DataFrame:
    """Leave out the attempts that cannot have left numbers: failed, with one suite to run."""
    n_suites = [len(json.loads(text)) if text else 0 for text in attempts["suites"]]
    keep = (pl.col("status") == "done") | (pl.col("n_suites") > 1)
    return attempts.with_columns(pl.Series("n_suites", n_suites, pl.Int64)).filter(keep)


def _of_cells(cells: pl.DataFrame) -> Iterable[str]:
    toys = cells.filter(pl.col("model_source").str.starts_with("zoo:").fill_null(value=False))
    if not toys.is_empty():
        yield f"toy models ({_listed(list(dict.fromkeys(toys['model'])))})"
    for status, words in (("failed", "failed"), ("to do", "not run")):
        n = cells.filter(pl.col("status") == status).height
        if n:
            yield f"{n} of {cells.height} cells {words}"
    if cells.is_empty():
        yield "no cells"


def _of_limits(metrics: pl.LazyFrame) -> Iterable[str]:
    limited = metrics.filter(pl.col("limit").is_not_null()).select("suite", "limit").unique()
    of_limit: dict[int, list[str]] = {}
    for suite, limit in sorted(limited.collect().rows()):
        of_limit.setdefault(limit, []).append(suite)
    for limit, suites in of_limit.items():
        yield f"--limit: first {limit} documents only ({', '.join(suites)})"


def _of_code(attempts: pl.DataFrame) -> Iterable[str]:
    total = attempts.height
    commits = attempts["git_commit"].drop_nulls().n_unique()
    if commits > 1:
        yield f"code of {commits} commits"
    dirty = int(attempts["git_dirty"].fill_null(value=False).sum())
    if dirty:
        yield f"code with uncommitted changes ({dirty} of {total} attempts)"
    unknown = attempts["git_commit"].null_count()
    if unknown:
        yield f"code of no known commit ({unknown} of {total} attempts)"


def _of_packages(attempts: pl.DataFrame) -> Iterable[str]:
    mixed = {name: found for name, found in _packages(attempts).items() if len(found) > 1}
    if mixed:
        told = (f"{name} {' and '.join(sorted(found))}" for name, found in mixed.items())
        yield f"mixed versions ({_listed(list(told))})"


def _of_compute_dtypes(cells: pl.DataFrame, attempts: pl.DataFrame) -> Iterable[str]:
    """Tell which dtypes some machines computed in half precision and others in float32."""
    known = attempts.drop_nulls("compute_dtype").join(cells.select("cell_id", "dtype"), "cell_id")
    for (dtype,), part in known.sort("dtype").group_by("dtype", maintain_order=True):
        found = sorted(_counts(part["compute_dtype"]))
        if len(found) > 1:
            told = " and ".join(f"in {computed} ({n} attempts)" for computed, n in found)
            yield f"{dtype} cells were computed {told}; scores and times differ by it"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
