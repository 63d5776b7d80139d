"""What of a run stands where a paper has a number, and why there is nothing where there is not."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from ssmbench.plan.labels import default_params
from ssmbench.report import quality
from ssmbench.report._by_row import facts_by_row, of_rows
from ssmbench.report._panels import COSTS
from ssmbench.report._points import out_option
from ssmbench.report._rows import DENSE, UNTRAINED
from ssmbench.report._scores import no_score
from ssmbench.report.published import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row
    from ssmbench.report._scores import Score

_SETTINGS = ("model", "family", "method", "params", "ratio", "fine_tune")
_FACTS = ("compression_mixer", "state_bytes_dense")
# Mamba-1 has channels, but neither heads nor groups.
_OF_HEADS = {"merge", "ssm_flap", "head"}
_TRANSFORMERS = {"gpt_neox", "llama"}
_PLACES = 6


class Task(NamedTuple):
    """One of the papers' six tasks: its column, its name, and TinyWorld's in its place."""

    header: str
    name: str
    toy: str


TASKS = (
    Task("ARC-C", "arc_challenge", "tw_facts_hard"),
    Task("ARC-E", "arc_easy", "tw_facts_easy"),
    Task("HellaSwag", "hellaswag", "tw_ending"),
    Task("LAMBADA", "lambada_openai", "tw_last_word"),
    Task("PIQA", "piqa", "tw_pair"),
    Task("WinoGrande", "winogrande", "tw_pronoun"),
)
"""In the order of the first paper's tables."""

TOYS = (
    "Models of the zoo stand in their tasks of TinyWorld: "
    + ", ".join(f"{t.header} is {t.toy}" for t in TASKS)
    + "."
)


class Grid(NamedTuple):
    """Where a table's cells come from.

    Attributes:
        path: of the grid that comes with ssmbench.
        models: those of its models that are the paper's.
        suites: whose scores count, the paper's own first.
    """

    path: str
    models: tuple[str, ...]
    suites: tuple[str, ...]


class PaperRun:
    """A run by the places of a paper: cells whose method has its usual parameters.

    Args:
        results: the run's.
        methods: the paper's; chains and other parameters are not the paper's cells.

    Attributes:
        results: the run's.
        at: place -> the run's rows there, which differ by text, number format or training.
        facts: index of a row -> what it is and weighs.
        families: model -> family, or None.
    """

    def __init__(self, results: Results, methods: Iterable[str]) -> None:
        wanted = {DENSE, *methods}
        self.results = results
        self.facts = _facts(results)
        self.families: dict[str, str | None] = {}
        self.at: dict[Place, list[Row]] = {}
        for row in results.rows.rows:
            cell = self.facts[row.index]
            self.families.setdefault(cell["model"], cell["family"])
            if cell["method"] in wanted and _is_usual(cell):
                ratio = round(cell["ratio"], _PLACES)
                place = Place(cell["model"], cell["method"], ratio, cell["fine_tune"])
                self.at.setdefault(place, []).append(row)

    def models(self, methods: Iterable[str]) -> list[str]:
        """Name the models that have a cell of one of these methods, in the grid's order."""
        wanted = set(methods)
        have = {place.model for place in self.at if place.method in wanted}
        return [model for model in self.families if model in have]

    def has_tasks(self, suites: Sequence[str]) -> bool:
        """Whether one of these suites measured any of the six tasks, or of a toy's."""
        known = {name for task in TASKS for name in task[1:]}
        panels = [p for p in self.results.panels if p.suite in suites and p.kind == "fraction"]
        return any(name in known for panel in panels for name, _ in panel.columns)

    def score(self, place: Place, suites: Sequence[str], task: Task | None) -> Score:
        """Give a row's score on one of the six tasks, or their mean, as the quality tables have it.

        Args:
            place: where the paper has a number.
            suites: whose scores count, the first that the row has.
            task: None for the mean over all six.

        Returns:
            The score; one without a value and without a reason where nobody measured it.
        """
        rows = self.at.get(place)
        panel = self.panel(rows[0], suites) if rows else None
        if not rows or panel is None:
            return no_score("")
        metrics = dict(panel.columns)
        if task is not None:
            name = next((n for n in task[1:] if n in metrics), None)
            if name is None:
                return no_score(f"suite {panel.suite} was run without {task.name}")
            return quality.score_of(panel, rows[0], self.results.scores, (name, metrics[name]))
        if len(panel.averaged) != len(TASKS) or not set(_names(panel)) <= set(panel.averaged):
            return no_score("the paper's mean is over six tasks; this run has others, or fewer")
        return quality.mean(panel, rows[0], self.results.scores)

    def panel(self, row: Row, suites: Sequence[str], *, kind: str = "fraction") -> Panel | None:
        """Find the first of these suites that measured a row: complete ones first."""
        found = [p for p in self.results.panels if p.suite in suites and p.kind == kind]
        found.sort(key=lambda p: (suites.index(p.suite), p.limit is not None))
        scores = self.results.scores
        for panel in found:
            if any((row.index, panel.suite_id, *column) in scores for column in panel.columns):
                return panel
        return None

    @cached_property
    def costs(self) -> Mapping[tuple[int, str, str, str], float]:
        """Tokens and FLOPs of mean inputs, by row, suite, task and metric."""
        keys = ("row", "suite_id", "task", "metric")
        found = (
            self.results["metrics"]
            .filter(pl.col("metric").is_in(COSTS))
            .pipe(of_rows, self.results.rows.frame)
            .group_by(keys, maintain_order=True)
            .agg(pl.col("value").mean())
            .collect()
        )
        return {tuple(row[:4]): row[4] for row in found.select(*keys, "value").rows()}

    def why(self, place: Place, grid: Grid) -> str:
        """Say why there is no number at a place, and which command would fill it."""
        rows = self.at.get(place)
        if rows:
            suite = grid.suites[0]
            unasked = f"suite {suite} was not run"
            reason = rows[0].why_missing(unasked, suite=suite)
            if reason == unasked:
                return f"{reason}: add it to the grid's suites and run that again"
            again = " --retry-failed" if "failed" in reason else ""
            command = (
                f"ssmbench run GRID{out_option(self.results)} --only '{_terms(place, 4)}'{again}"
            )
            return f"{reason}: `{command}`, GRID being the run's own"
        if place.model in grid.models:
            known = {p for p in self.at if p.model == place.model}
            same = any(p.method == place.method for p in known)
            terms = _terms(place, 4 if same else 2 if known else 1)
            return f"not run: `ssmbench run {grid.path} --only '{terms}'`"
        return _not_applicable(place, self.families.get(place.model)) or _entry(place)


def _facts(results: Results) -> dict[int, dict[str, Any]]:
    links = results.rows.frame
    return facts_by_row(results.cells, links, texts=_SETTINGS, numbers=_FACTS)


def _is_usual(cell: Mapping[str, Any]) -> bool:
    """Whether a cell of one method has that method's usual parameters."""
    (step,) = json.loads(cell["params"])
    usual = default_params(step["name"])
    return all(usual.get(k, v) == v for k, v in step["params"].items())


def _names(panel: Panel) -> list[str]:
    """Give a panel's names of the six tasks, those that it has."""
    have = {name for name, _ in panel.columns}
    return [next((n for n in task[1:] if n in have), task.name) for task in TASKS]


def _terms(place: Place, n: int) -> str:
    """Write the first `n` of a place's parts as `--only` takes them."""
    texts = (place.model, place.method, f"{place.ratio:g}", place.fine_tune)
    return ",".join(f"{k}={v}" for k, v in list(zip(Place._fields, texts, strict=True))[:n])


def _not_applicable(place: Place, family: str | None) -> str | None:
    """Say why a method cannot be used on a model's family; None if it can, or if it is unknown."""
    if family in _TRANSFORMERS and place.method != DENSE:
        return "not applicable: a Transformer has no SSM mixers"
    if family == "mamba" and place.method in _OF_HEADS:
        return "not applicable: Mamba-1 has no heads"
    return None


def _entry(place: Place) -> str:
    """Say what a grid lacks for a cell that no grid of ours has."""
    ratio = "" if place.method == DENSE else f", ratio: {place.ratio:g}"
    tuned = "" if place.fine_tune == UNTRAINED else f", fine-tuned by {place.fine_tune},"
    return f"not in the grid: add `{{method: {place.method}{ratio}}}`{tuned} and run it again"
