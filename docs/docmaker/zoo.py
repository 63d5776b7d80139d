"""What each method does on the zoo's models: numbers from finished runs, tables and figures.

`collect` reads run folders into one small file; everything else is made from that file alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from docmaker import zoo_figure
from docmaker.text import DOCS, fill
from ssmbench.report._format import fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RESULTS = DOCS / "zoo-results" / "methods.csv"
SUITE = "tinyworld"
DIGITS = 6
SCHEMA = {
    "model": pl.String,
    "method": pl.String,
    "variant": pl.String,
    "ratio": pl.Float64,
    "accuracy": pl.Float64,
    "stderr": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "documents": pl.Int64,
}


def collect(folders: Sequence[str]) -> None:
    """Write the mean accuracy of every untrained cell of some runs, with its intervals.

    Args:
        folders: run folders in which the suite `tinyworld` was measured; where two have the same
            row, the first counts.

    Raises:
        SystemExit: a run lacks scores.
    """
    from ssmbench.store.folder import RunFolder

    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for folder in folders:
        for row in read(RunFolder.open(folder)):
            key = tuple(row[name] for name in ("model", "method", "variant", "ratio"))
            rows.setdefault(key, row)
    RESULTS.parent.mkdir(exist_ok=True)
    pl.DataFrame(list(rows.values()), schema=SCHEMA).write_csv(RESULTS)


def read(folder: Any) -> Iterator[dict[str, Any]]:
    """Give a run's rows of the zoo's models, as the report has them."""
    from ssmbench.report import quality
    from ssmbench.report._results import Results
    from ssmbench.store.read import tables

    results = Results(tables(folder))
    panels = [p for p in results.panels if p.suite == SUITE and p.limit is None]
    if len(panels) != 1:
        raise SystemExit(f"{folder.path}: found {len(panels)} whole suites {SUITE}; expected one.")
    cells = {cell["cell_id"]: cell for cell in results.cells.iter_rows(named=True)}
    for row in results.rows.rows:
        cell = cells[next(iter(row.cells))]
        single = "+" not in cell["method"]
        if row.fine_tune != "none" or not single or not cell["model"].startswith("zoo-"):
            continue
        score = quality.mean(panels[0], row, results.scores)
        if score.value is None:
            raise SystemExit(f"{folder.path}: {cell['label']}: {score.reason}")
        low, high = score.difference.interval or (None, None)
        numbers = {
            "ratio": cell["ratio"] or 0.0,
            "accuracy": score.value,
            "stderr": score.stderr,
            "difference": score.difference.value,
            "low": low,
            "high": high,
        }
        yield {
            "model": cell["model"],
            "method": cell["method"],
            "variant": variant(cell),
            **{k: None if v is None else round(v, DIGITS) for k, v in numbers.items()},
            "documents": score.n,
        }


def variant(cell: dict[str, Any]) -> str:
    """Say how a cell's parameters differ from the method's own, as a grid would."""
    from ssmbench import plugins

    (step,) = json.loads(cell["params"])  # chains are left to the report
    usual = plugins.load("method", step["name"]).Params().model_dump(mode="json")
    told = {k: v for k, v in step["params"].items() if v != usual[k]}
    return ", ".join(f"{k}: {v}" for k, v in sorted(told.items()))


def results() -> pl.DataFrame:
    """Read the committed numbers."""
    return pl.read_csv(RESULTS, schema=SCHEMA)


def fill_in(file: str, page: str) -> str:
    """Put a method's figure and numbers into its page, where the page has a place for them."""
    method = file.removeprefix("methods/").removesuffix(".md")
    found = results().filter(method=method)
    if method == "dense" or found.is_empty():
        return page
    return fill(page, "zoo", [*figure_lines(method, found), "", *table(found)])


def figure_lines(method: str, found: pl.DataFrame) -> list[str]:
    """Show a method's figure, and say in words what it shows."""
    models = found["model"].unique(maintain_order=True).to_list()
    return [
        f"![Accuracy of {len(models)} zoo models against the ratio, {method}; the table below has "
        f"the same numbers.](figures/{method}.svg)",
        "",
        "Mean accuracy over TinyWorld's six tasks in percent, against the fraction removed; bars "
        "are 95 % intervals, the dotted line is guessing. At ratio 0 stands the dense model.",
    ]


def table(found: pl.DataFrame) -> list[str]:
    """List accuracy and change to dense of every row."""
    variants = any(found["variant"])
    lines = ["| model | " + "parameters | " * variants + "ratio | accuracy [%] | change [points] |"]
    lines += ["|---|" + "---|" * variants + "---:|---:|---:|"]
    for row in found.iter_rows(named=True):
        words = f"{row['variant'] or 'default'} | " * variants
        lines.append(
            f"| {row['model'].removeprefix('zoo-')} | {words}{row['ratio']:.4g} | "
            f"{100 * row['accuracy']:.1f} ± {100 * row['stderr']:.1f} | {change(row)} |"
        )
    return lines


def overview(page: str) -> str:
    """Fill the table of all models and methods into the page of the zoo.

    Of methods with several sets of parameters for a model, the first of the run stands there.
    """
    found = results().unique(["model", "method", "ratio"], keep="first", maintain_order=True)
    # A ratio that was solved for belongs to one model alone.
    found = found.filter((pl.col("ratio") * 100 % 5).round(6).is_in([0.0, 5.0]))
    models = found["model"].unique(maintain_order=True).to_list()
    rows = sorted(set(found.select("method", "ratio").rows()), key=_place(found))
    names = " | ".join(model.removeprefix("zoo-") for model in models)
    lines = [f"| method | {names} |", "|---|" + "---:|" * len(models)]
    for method, ratio in rows:
        of_row = found.filter(method=method, ratio=ratio)
        known = {r["model"]: r["accuracy"] for r in of_row.iter_rows(named=True)}
        name = method if method == "dense" else f"{method} {ratio:g}"
        cells = [f"{100 * known[model]:.1f}" if model in known else "" for model in models]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return fill(page, "pruning", lines)


def _place(found: pl.DataFrame) -> Callable[[tuple[str, float]], tuple[int, float]]:
    """Order rows by when a method first comes, then by ratio."""
    methods = found["method"].unique(maintain_order=True).to_list()
    return lambda row: (methods.index(row[0]), row[1])


def change(row: dict[str, Any]) -> str:
    """Write a difference to dense with its interval, in points."""
    if row["difference"] is None:
        return "–"
    numbers = (100 * row[name] for name in ("difference", "low", "high"))
    middle, low, high = (fixed(value, 1, sign=True) for value in numbers)
    return f"{middle} [{low}, {high}]"


def figures() -> dict[str, str]:
    """Draw every method's figure: file name → SVG."""
    found = results().filter(pl.col("method") != "dense")
    methods = found["method"].unique(maintain_order=True)
    return {f"methods/figures/{method}.svg": figure(method) for method in methods}


def figure(method: str) -> str:
    """Draw one method's figure as SVG."""
    found = results()
    return zoo_figure.draw(found.filter(method=method), found.filter(method="dense"))
