"""What Simba's tables are made of: models, places, cells of scores, changes and FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report import quality
from ssmbench.report._format import count
from ssmbench.report._paper import TASKS, TOYS, Grid, PaperRun, Task
from ssmbench.report._rows import DENSE, UNTRAINED
from ssmbench.report._scores import no_score
from ssmbench.report._table import Column, Shown, Table, missing
from ssmbench.report.published import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._rows import Row
    from ssmbench.report._scores import Score

SIMBA = "simba"
LIGHT, HEAVY = 0.3, 0.9
SIZES = ("mamba-130m", "mamba-370m", "mamba-790m", "mamba-1.4b", "mamba-2.8b")
_MAMBA2 = ("mamba2-130m", "mamba2-370m", "mamba2-780m", "mamba2-1.3b", "mamba2-2.7b")
_PYTHIA = ("pythia-160m", "pythia-410m", "pythia-1b", "pythia-1.4b", "pythia-2.8b")
MODELS = (*SIZES, *_MAMBA2, *_PYTHIA)
_TRANSFORMERS = ("gpt_neox", "llama")
FEW_SHOT = Grid("grids/simba.yaml", MODELS, ("few_shot",))
_ORDER = ("lambada_openai", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande")
SIX = tuple(sorted(TASKS, key=lambda task: _ORDER.index(task.name)))
CHANGE = f"{SIMBA} − {DENSE}"
KEYS = (
    Column("model", "left", parts=("model",), key=True),
    Column("", "left", parts=("what",), key=True),
)
_SCORES = (
    "Score ± standard error over documents, in %; differences in points, paired by document, with"
    f" their 95 % intervals. {quality.MARKS}"
)
_ZERO_SHOT = "few_shot did not measure most of these models: scores are tinyworld's, zero-shot."


def of_simba(run: PaperRun) -> list[str]:
    """Name the models of a table: of the run those with simba, the paper's sizes first."""
    have = run.models((SIMBA,))
    return [*(m for m in SIZES if m in have), *(m for m in have if m not in SIZES)]


def transformers(run: PaperRun) -> list[str]:
    """Name the run's Transformers, which stand beside for comparison."""
    return [model for model, family in run.families.items() if family in _TRANSFORMERS]


def places(model: str, ratio: float, fine_tune: str = UNTRAINED) -> tuple[Place, Place]:
    """Give a model's dense place, and that of simba at a ratio."""
    dense = Place(model, DENSE, 0.0, UNTRAINED)
    return dense, Place(model, SIMBA, ratio, fine_tune)


def keys(model: str, what: str) -> tuple[Shown, Shown]:
    """Begin a line."""
    return Shown(model, {"model": model}), Shown(what, {"what": what})


def tasks_of(run: PaperRun, models: Iterable[str]) -> Grid:
    """Choose one suite for a table: few_shot, unless tinyworld measured more of its models."""
    dense = [row for m in models for row in run.at.get(places(m, LIGHT)[0], [])[:1]]
    suites = ("few_shot", "tinyworld")
    covered = [sum(run.panel(row, (suite,)) is not None for row in dense) for suite in suites]
    return FEW_SHOT._replace(suites=(suites[covered[1] > covered[0]],))


def score_cell(run: PaperRun, place: Place, task: Task | None, grid: Grid) -> Shown:
    """Show a score, or the mean over the six tasks for None, in %."""
    score, row, panel = _find(run, place, task, grid)
    return shown_score(run, place, score, row, panel, grid)


def shown_score(
    run: PaperRun, place: Place, score: Score, row: Row | None, panel: Panel | None, grid: Grid
) -> Shown:
    """Show a score of a row, with its mark and its difference to dense."""
    if score.value is None or row is None or panel is None:
        return missing(score.reason or run.why(place, grid))
    numbers = {"value": score.value, "stderr": score.stderr} | score.difference.numbers
    text = score.difference.mark + quality.score_text(panel, score.value, score.stderr)
    return Shown(text, numbers, quality.seeds_missing(score, row))


def change_cell(run: PaperRun, place: Place, task: Task | None, grid: Grid) -> Shown:
    """Show what simba changed, paired by document."""
    score, row, panel = _find(run, place, task, grid)
    if row is None or panel is None or score.value is None:
        return missing(score.reason or run.why(place, grid))
    shown = quality.shown_difference(panel, score, row)
    return Shown(shown.text, score.difference.numbers, shown.note)


def flops_cell(run: PaperRun, place: Place, task: Task | None, grid: Grid) -> Shown:
    """Show the FLOPs of a task's mean input; their mean over the six tasks for None."""
    rows = run.at.get(place)
    panel = run.panel(rows[0], grid.suites) if rows else None
    if not rows or panel is None:
        return missing(run.why(place, grid))
    asked = SIX if task is None else (task,)
    found = [
        run.costs.get((rows[0].index, panel.suite_id, name, "flops_all"))
        for name, _ in panel.columns
        if any(name in t[1:] for t in asked)
    ]
    told = [value for value in found if value is not None]
    if len(told) < len(asked):
        return missing(f"suite {panel.suite} counts no FLOPs: few_shot does")
    value = sum(told) / len(told)
    return Shown(count(value), {"flops_all": value})


def notes(models: Iterable[str], grid: Grid) -> tuple[str, ...]:
    """Say what the scores of a table are, and who is not in this run."""
    models = list(models)
    without = [model for model in SIZES if model not in models]
    told = [_SCORES]
    if grid.suites == ("tinyworld",):
        told.append(_ZERO_SHOT)
    if any(model.startswith("zoo-") for model in models):
        told.append(TOYS)
    if without:
        told.append(f"Not in this run: {', '.join(without)}; `ssmbench run {grid.path}` has them.")
    return tuple(told)


def warnings(run: PaperRun, models: Iterable[str], suites: Sequence[str]) -> tuple[str, ...]:
    """Warn of scores of a trial run."""
    wanted = set(models)
    kinds = ("fraction", "perplexity")
    found = [
        run.panel(row, suites, kind=kind)
        for place, rows in run.at.items()
        for row in rows[:1]
        for kind in kinds
        if place.model in wanted
    ]
    limits = {panel.limit for panel in found if panel is not None and panel.limit is not None}
    return tuple(quality.not_publishable(limit) for limit in sorted(limits))


def table(
    number: int,
    what: str,
    columns: Sequence[Column],
    rows: Sequence[tuple[Shown, ...]],
    notes: Sequence[str],
    *,
    sections: Iterable[int] = (),
    warnings: Sequence[str] = (),
) -> Table:
    """Put one of Simba's tables together."""
    return Table(
        title=f"Simba, Table {number}: {what}",
        name=f"simba-table-{number}",
        columns=tuple(columns),
        rows=tuple(rows),
        sections=frozenset(sections),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _find(
    run: PaperRun, place: Place, task: Task | None, grid: Grid
) -> tuple[Score, Row | None, Panel | None]:
    rows = run.at.get(place)
    if not rows:
        return no_score(""), None, None
    return run.score(place, grid.suites, task), rows[0], run.panel(rows[0], grid.suites)
