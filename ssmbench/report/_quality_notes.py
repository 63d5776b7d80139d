"""What stands under the tables of quality: what the marks say, and of how many they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report._scores import Scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.report._panels import Panel
    from ssmbench.report._rows import Rows
    from ssmbench.report._scores import Key, Score

MARKS = (
    "▼ below, ▲ above: zero is outside the 95 % interval, and after Holm's correction over the"
    " table too. ▽ △: only before it; of twenty differences that are none, one looks so. ≈: cannot"
    " be told from zero."
)


def notes(panel: Panel, rows: Rows) -> tuple[str, ...]:
    """Say what a table's numbers are."""
    what = "Score ± standard error over documents"
    told = [f"{what}, in %." if panel.kind == "fraction" else f"{what}; lower is better."]
    if panel.kind == "number":
        told = [f"{what}."]
    told.append(f"Marks are of the paired difference to dense. {MARKS}")
    if panel.averaged and len(panel.averaged) < len(panel.columns):
        left_out = [t for t, _ in panel.columns if t not in panel.averaged]
        told.append(f"The mean leaves out groups: {', '.join(left_out)}.")
    if any(len(row.cells) > 1 for row in rows.rows):
        told.append(
            "Rows of several seeds show the mean over seeds; documents are averaged first. The"
            " standard deviation over seeds (seed sd) is in no interval and no mark."
        )
    return tuple(told)


def family(panel: Panel, found: Mapping[Key, Score]) -> str:
    """Say what Holm's correction is over."""
    columns = {(panel.suite_id, *column) for column in panel.columns}
    tasks = sum(s.difference.p is not None for key, s in found.items() if key[1:] in columns)
    told = f"Holm's correction: over the {tasks} differences of all rows"
    if len(panel.averaged) < 2 or not isinstance(found, Scores):
        return f"{told} here."
    means = sum(s.difference.p is not None for s in found.means(panel).values())
    return f"{told} and tasks; of the means, over these {means}."
