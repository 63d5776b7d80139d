"""What the tables of docs/simba.md are made of: criteria at equal ratio on the far-recall tasks.

    ssmbench run grids/simba-toy-ablation.yaml
    python benchmarks/simba_zoo.py runs/simba-toy-ablation [--tasks tw_last_word …]

First the mean accuracy over the tasks, with its standard error. Then the difference of influence,
in three readings, to what looks at nothing and drops at the same place: paired document by
document (random: the mean of its seeds first). Everything in points.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

import ssmbench

if TYPE_CHECKING:
    from collections.abc import Sequence

FAR = ["tw_last_word", "tw_facts_easy", "tw_facts_hard"]
OTHERS = ["random", "uniform", "recent"]
READINGS = {
    "": "criterion={}",
    "bias=both": "criterion={}",
    "site=before_scan": "criterion={}, site=before_scan",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--tasks", nargs="+", default=FAR)
    args = parser.parse_args()
    documents = read(args.run, args.tasks)
    ratios = sorted(documents["ratio"].unique())
    print("| model | ranked by | " + " | ".join(f"{r:g}" for r in ratios) + " |")
    print("|---|---|" + "---|" * len(ratios))
    for (model, row), part in groups(documents, "model", "row"):
        found = [over(part.filter(ratio=ratio)) for ratio in ratios]
        print(f"| {model} | {row or 'influence'} | " + " | ".join(map(shown, found)) + " |")
    print("\n| model | ratio | influence | " + " | ".join(f"− {o}" for o in OTHERS) + " |")
    print("|---|---|---|" + "---|" * len(OTHERS))
    for (model, ratio), part in groups(documents, "model", "ratio"):
        for reading, theirs in READINGS.items():
            found = [over(difference(part, reading, theirs.format(o))) for o in OTHERS]
            if any(found):
                print(
                    f"| {model} | {ratio:g} | {reading} | " + " | ".join(map(shown, found)) + " |"
                )


def read(run: Path, tasks: Sequence[str]) -> pl.DataFrame:
    """Give one row a document: model, row (a cell's parameters), ratio, task, value."""
    found = ssmbench.results(run)
    cells = found["cells"].with_columns(
        pl.when(pl.col("method") == "simba")
        .then(pl.col("label").str.extract(r"\((.*)\)").fill_null(""))
        .otherwise("method")
        .alias("row")
    )
    return (
        found["samples"]
        .filter(pl.col("task").is_in(tasks), metric="acc", suite="tinyworld")
        .join(cells.select("cell_id", "model", "row", "ratio"), on="cell_id")
        .group_by("model", "row", "ratio", "task", "doc_id")
        .agg(pl.col("value").mean())
    )


class Mean(NamedTuple):
    """A mean with its standard error."""

    value: float
    error: float


def over(documents: pl.DataFrame) -> Mean | None:
    """Average over the tasks, which have documents of their own."""
    each = []
    for _, part in groups(documents, "task"):
        values = part["value"].to_numpy()
        each.append(Mean(values.mean(), values.std(ddof=1) / math.sqrt(len(values))))
    if not each:
        return None
    errors = math.sqrt(sum(m.error**2 for m in each))
    return Mean(sum(m.value for m in each) / len(each), errors / len(each))


def difference(part: pl.DataFrame, ours: str, theirs: str) -> pl.DataFrame:
    """Give ours minus theirs, one row a document that both have."""
    pair = part.filter(row=ours).join(part.filter(row=theirs), on=["task", "doc_id"])
    return pair.with_columns(pl.col("value") - pl.col("value_right"))


def shown(mean: Mean | None) -> str:
    """Write in points."""
    return "–" if mean is None else f"{100 * mean.value:.1f} ± {100 * mean.error:.1f}"


def groups(frame: pl.DataFrame, *by: str) -> list[tuple[Any, pl.DataFrame]]:
    """Group in order."""
    return sorted(frame.group_by(by), key=lambda group: group[0])


if __name__ == "__main__":
    main()
