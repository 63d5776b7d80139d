"""One figure for each method: accuracy against ratio on the zoo's models."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ssmbench.report import _style

if TYPE_CHECKING:
    import polars as pl

# Every model looks the same in every figure.
MODELS = (
    "zoo-mamba-s",
    "zoo-mamba-m",
    "zoo-mamba-l",
    "zoo-mamba2",
    "zoo-phi-mamba",
    "zoo-smol-mamba",
    "zoo-hybrid-llama",
    "zoo-gpt-neox",
)
Z95 = 1.96
SIZE = (5.0, 4.2)
"""Inches."""
SETTINGS = {
    "svg.hashsalt": "ssmbench",  # the same ids in every run
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
CHANCE = 30.8
"""Percent: somebody who knows TinyWorld and not the story, docs/zoo.md."""


def draw(found: pl.DataFrame, dense: pl.DataFrame) -> str:
    """Draw a method as SVG text: filled marks for its default parameters, empty for others.

    Args:
        found: the method's rows of `zoo.results`.
        dense: the rows of the uncompressed models.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        canvas = Figure(figsize=SIZE, layout="constrained")
        axes = canvas.subplots()
        groups = found.partition_by("model", "variant", maintain_order=True)
        for group in groups:
            start = dense.filter(model=group["model"][0])
            line(axes, [*start.iter_rows(named=True), *group.iter_rows(named=True)])
        axes.axhline(CHANCE, color=_style.REFERENCE, linestyle=":", linewidth=1)
        axes.set_xlabel("ratio: fraction removed")
        axes.set_ylabel("accuracy [%]")
        axes.set_xlim(-0.02, 1.0)
        axes.set_ylim(20, 102)
        handles, names = axes.get_legend_handles_labels()
        columns = min(2, _style.in_columns(names, SIZE[0]))
        # Below, so that a phone shows the figure in a size that can be read.
        place = {"loc": "outside lower center", "ncols": columns}
        canvas.legend(handles, names, frameon=False, fontsize=_style.TITLE_SIZE, **place)
        written = io.StringIO()
        canvas.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    lines = (text.rstrip() for text in written.getvalue().splitlines())
    return "\n".join(lines) + "\n"


def line(axes: Any, points: list[dict[str, Any]]) -> None:
    """Draw one model's accuracies with their 95 % intervals, from ratio 0 on."""
    points = sorted(points, key=lambda point: float(point["ratio"]))
    last = points[-1]
    look = _style.style(MODELS.index(last["model"]))
    axes.errorbar(
        [point["ratio"] for point in points],
        [100 * point["accuracy"] for point in points],
        yerr=[100 * Z95 * point["stderr"] for point in points],
        color=look.colour,
        marker=look.marker,
        markersize=5,
        linewidth=1.3,
        capsize=2,
        linestyle="--" if last["variant"] else "-",
        markerfacecolor="white" if last["variant"] else look.colour,
        label=last["model"].removeprefix("zoo-") + (f", {last['variant']}" * bool(last["variant"])),
    )
