"""What every figure needs of the rows: their facts, short names, data tables, reasons, warnings."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench import plugins
from ssmbench.grid.catalogue import catalogue
from ssmbench.report._by_row import facts_by_row
from ssmbench.report._format import significant
from ssmbench.report._rows import UNTRAINED
from ssmbench.report._scores import Z95
from ssmbench.report._table import Column, Plain, Shown, Table, missing
from ssmbench.report.quality import mean, not_publishable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row
    from ssmbench.report._scores import Score

_TEXTS = ("model", "model_source", "family", "method", "params", "ratio", "dtype")
_NUMBERS = (
    "params_model",
    "params_model_dense",
    "state_bytes",
    "state_bytes_dense",
    "flops_per_token",
    "flops_per_token_dense",
)


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a row beside its scores.

    Attributes:
        row: the row.
        model: its name.
        family: of the model; the model's own name where only its files tell.
        method: the chain's, without parameters.
        name: of method and training, with the parameters that tell it from others.
        ratio: the fraction asked to be removed.
        steps: the chain: name, version, ratio, params.
        dtype: of the weights.
        is_toy: whether the model comes with the package.
        numbers: means over seeds of what the cells weigh and cost.
    """

    row: Row
    model: str
    family: str
    method: str
    name: str
    ratio: float
    steps: tuple[Mapping[str, Any], ...]
    dtype: str
    is_toy: bool
    numbers: Mapping[str, float | None]

    @property
    def label(self) -> str:
        """Name and ratio: `wanda 0.5`."""
        return self.name if self.row.is_dense else with_ratio(self.name, self.ratio)

    @property
    def variant(self) -> str:
        """Method and parameters, without the training."""
        return self.name.partition(" + ")[0]

    @property
    def setting(self) -> str:
        """Ratio and training: `ratio 0.5 + kd`."""
        training = self.name.partition(" + ")[2]
        return f"ratio {self.ratio:.3g}" + (f" + {training}" if training else "")

    @property
    def is_plain_dense(self) -> bool:
        """Whether this is what others are compared with."""
        return self.row.is_dense and self.row.fine_tune == UNTRAINED

    @property
    def drops_tokens(self) -> bool:
        """Whether the last method is one that drops tokens."""
        name = self.steps[-1]["name"] if self.steps else ""
        known = name in plugins.names("method")
        return known and hasattr(plugins.load("method", name), "drops")


class ByModel(NamedTuple):
    """The rows of one model."""

    model: str
    rows: list[Facts]


def with_ratio(name: str, ratio: float) -> str:
    """Put a ratio behind a name, before its parameters: `simba 0.5 (criterion=uniform)`."""
    method, blank, rest = name.partition(" ")
    return f"{method} {ratio:.3g}{blank}{rest}"


def all_facts(results: Results) -> list[Facts]:
    """Give the facts of every row, in order."""
    rows = results.rows
    found = facts_by_row(results.cells, rows.frame, texts=_TEXTS, numbers=_NUMBERS)
    headers = [column.header for column in rows.columns]
    return [_facts(row, found[row.index], headers) for row in rows.rows]


def _facts(row: Row, cell: Mapping[str, Any], headers: Sequence[str]) -> Facts:
    told = {header: shown.text for header, shown in zip(headers, row.key, strict=True)}
    name = told["method"]
    if row.fine_tune != UNTRAINED:
        name += f" + {told['fine-tune']}"
    if "dtype" in told:
        name += f" {told['dtype']}"
    return Facts(
        row=row,
        model=cell["model"],
        family=cell["family"] or cell["model"],
        method=cell["method"],
        name=name,
        ratio=cell["ratio"],
        steps=tuple(json.loads(cell["params"])),
        dtype=cell["dtype"],
        is_toy=_is_toy(cell["model"], cell["model_source"]),
        numbers={n: cell[n] for n in _NUMBERS},
    )


def by_model(facts: Iterable[Facts]) -> list[ByModel]:
    """Put the rows of each model together, in order."""
    found: dict[str, list[Facts]] = {}
    for fact in facts:
        found.setdefault(fact.model, []).append(fact)
    return [ByModel(model, rows) for model, rows in found.items()]


def means(results: Results, panel: Panel, facts: Iterable[Facts]) -> dict[int, Score]:
    """Give the panel's mean, or its first score, of every row that has it."""
    found = {f.row.index: mean(panel, f.row, results.scores) for f in facts}
    return {index: score for index, score in found.items() if score.value is not None}


def interval(score: Score, kind: str = "fraction") -> tuple[float | None, float | None]:
    """Give a score's 95 % interval; a perplexity's is that of its nats, which is not symmetric."""
    if score.value is None or score.stderr is None:
        return None, None
    half = Z95 * score.stderr
    if kind == "perplexity" and score.value > 0:
        factor = math.exp(half / score.value)
        return score.value / factor, score.value * factor
    return score.value - half, score.value + half


def file_name(*parts: str) -> str:
    """Make the name of a file of several words."""
    return re.sub(r"[^0-9A-Za-z_-]+", "-", "-".join(part for part in parts if part)).strip("-")


def data_table(
    name: str, title: str, records: Sequence[Mapping[str, Plain]], *, keys: int = 3
) -> Table:
    """Make the table of what a figure draws: plain numbers, one line for each thing drawn.

    Args:
        name: the figure's.
        title: the figure's.
        records: all with the same names; `reason`, if any, says why others are None.
        keys: how many of the first columns say what the line is about.
    """
    names = [n for n in (records[0] if records else {}) if n != "reason"]
    columns = tuple(
        Column(n.replace("_", " "), "left" if i < keys else "right", parts=(n,), key=i < keys)
        for i, n in enumerate(names)
    )
    rows = tuple(
        tuple(_shown(n, r[n], str(r.get("reason") or "not told")) for n in names) for r in records
    )
    return Table(f"{title}: the numbers", name, columns, rows)


def _shown(name: str, value: Plain, reason: str) -> Shown:
    if value is None:
        return missing(reason)
    text = significant(value, 4) if isinstance(value, float) else str(value)
    return Shown(text, {name: value})


def warnings(panels: Iterable[Panel | None], facts: Iterable[Facts]) -> tuple[str, ...]:
    """Say what makes a figure unfit to be published: a limit, toy models."""
    limits = sorted({p.limit for p in panels if p is not None and p.limit is not None})
    toys = dict.fromkeys(f.model for f in facts if f.is_toy)
    made = [not_publishable(limit) for limit in limits]
    if toys:
        made.append(f"not publishable: toy models ({', '.join(toys)})")
    return tuple(made)


def _is_toy(model: str, source: str | None) -> bool:
    if source is not None:
        return source.startswith("zoo:")
    known = catalogue().get(model)
    return known is not None and known.is_zoo


def fill(results: Results, why: str, *, toy: str, real: str = "") -> str:
    """Say why there is nothing to draw and which command would fill it.

    Args:
        results: the run's.
        why: a sentence without its full stop.
        toy: the grid for models that come with the package.
        real: the grid for others; as `toy` if there is none.
    """
    cells = results.cells.select("model", "model_source").unique().rows()
    grid = toy if not real or all(_is_toy(*cell) for cell in cells) else real
    folder = out_option(results)
    return f"{why}. To fill it: `ssmbench run grids/{grid}.yaml{folder}`"


def out_option(results: Results) -> str:
    """Give what a command needs to run into a report's folder; "" where there are several."""
    sources = results.sources
    return f" --out {shlex.quote(sources[0].location)}" if len(sources) == 1 else ""
