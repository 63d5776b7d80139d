"""Simba's tables of tasks: scores few-shot, what they cost, and what dropping tokens changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench import plugins
from ssmbench.report._format import fixed, percent, significant, size
from ssmbench.report._paper_cells import BLANK, PARTS
from ssmbench.report._rows import DENSE
from ssmbench.report._simba import (
    CHANGE,
    FEW_SHOT,
    HEAVY,
    KEYS,
    LIGHT,
    SIMBA,
    SIX,
    SIZES,
    change_cell,
    flops_cell,
    keys,
    notes,
    of_simba,
    places,
    score_cell,
    table,
    tasks_of,
    transformers,
    warnings,
)
from ssmbench.report._table import Column, Plain, Shown, Table, missing
from ssmbench.report.published import simba

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.report._paper import PaperRun
    from ssmbench.report.published import Place

_ALL = (*SIX, None)
_ASKED = "simba:A.1"
_LEFT = "of the prompt left at the last layer"


def against_dense(run: PaperRun) -> Table:
    """Table 1: what the light ratio changes, task by task."""
    models = of_simba(run)
    grid = tasks_of(run, models)
    rows: list[tuple[Shown, ...]] = []
    sections = set()
    for model in models:
        sections.add(len(rows))
        both = places(model, LIGHT)
        for place in both:
            cells = [score_cell(run, place, task, grid) for task in _ALL]
            rows.append((*keys(model, place.method), *cells))
        changes = [change_cell(run, both[1], task, grid) for task in _ALL]
        rows.append((*keys(model, CHANGE), *changes))
    columns = [Column(t.header, parts=PARTS, prefix=t.name) for t in SIX]
    columns.append(Column("mean", parts=PARTS, prefix="mean"))
    return table(
        1,
        f"six tasks, 70 % {_LEFT} (ratio {LIGHT:g})",
        (*KEYS, *columns),
        rows,
        notes(models, grid),
        sections=sections,
        warnings=warnings(run, models, grid.suites),
    )


def everything(run: PaperRun) -> Table:
    """Table 4: every size, dense and with the heavy ratio, with the FLOPs of a mean input."""
    of_mamba, others = of_simba(run), transformers(run)
    grid = tasks_of(run, of_mamba)
    known = {n.model for n in simba() if n.metric == "accuracy"}
    rows: list[tuple[Shown, ...]] = []
    sections = set()
    for model in dict.fromkeys([*of_mamba, *(m for m in SIZES if m in known), *others]):
        sections.add(len(rows))
        for place in places(model, HEAVY)[: 1 if model in others else 2]:
            made = [f(run, place, t, grid) for t in _ALL for f in (score_cell, flops_cell)]
            rows.append((*keys(model, place.method), *made))
            rows += _published(place, made[-2].numbers.get("value"))
    columns = []
    for task in _ALL:
        header, name = ("mean", "mean") if task is None else (task.header, task.name)
        columns.append(Column("score", parts=PARTS, prefix=name, group=header))
        columns.append(Column("FLOPs", parts=("flops_all",), prefix=name, group=header))
    told = (
        "FLOPs: of a prompt and one answer of the task's mean lengths, the head on every position.",
        "Published: the only two scores of the paper that are public (its introduction).",
        *notes([*of_mamba, *others, *known], grid),
    )
    return table(
        4,
        f"six tasks and their FLOPs, 10 % {_LEFT} (ratio {HEAVY:g})",
        (*KEYS, *columns),
        rows,
        told,
        sections=sections,
        warnings=warnings(run, [*of_mamba, *others], grid.suites),
    )


def scales(run: PaperRun) -> Table:
    """Table 7: the mean of the six tasks by scale, and the size of the state."""
    models = of_simba(run)
    grid = tasks_of(run, models)
    rows = []
    for model in models:
        both = places(model, LIGHT)
        scores = [score_cell(run, place, None, grid) for place in both]
        change = change_cell(run, both[1], None, grid)
        rows.append((Shown(model, {"model": model}), _state(run, both[0]), *scores, change))
    columns = (
        KEYS[0],
        Column("state", parts=("state_bytes",)),
        Column(DENSE, unit="%", parts=PARTS, prefix=DENSE),
        Column(SIMBA, unit="%", parts=PARTS, prefix=SIMBA),
        Column(CHANGE, unit="points", parts=("diff", "low", "high"), prefix="change"),
    )
    told = (
        "State: of one sequence in all layers, the convolutions' included; the paper counts what"
        " one token leaves in one layer.",
        *notes(models, grid),
    )
    what = f"mean of six tasks by scale, 70 % {_LEFT} (ratio {LIGHT:g})"
    return table(7, what, columns, rows, told, warnings=warnings(run, models, grid.suites))


def settings(run: PaperRun) -> Table:
    """Table 3: how each task is asked, and how long its prompts and answers are."""
    known = {(n.task, n.metric): n.value for n in simba() if n.source == _ASKED}
    why = run.why(places(SIZES[0], HEAVY)[0], FEW_SHOT)
    rows: list[tuple[Shown, ...]] = []
    sections = set()
    asked = dict(_asked(run))
    if not any(task.name in found for found in asked.values() for task in SIX):
        asked[""] = {}  # The paper's own are shown, whatever stood in for them.
    for models, found in asked.items():
        sections.add(len(rows))
        for task in SIX:
            name = next((n for n in task[1:] if n in found), task.name)
            published = [known.get((name, what)) for what in ("shots", "metric")]
            rows.append(
                (
                    Shown(models, {"models": models}),
                    Shown(name, {"task": name}),
                    *(BLANK if text is None else Shown(text) for text in published),
                    *(found.get(name) or [missing(why)] * 4),
                )
            )
    columns = (
        Column("models", "left", parts=("models",), key=True),
        Column("task", "left", parts=("task",), key=True),
        Column("shots", group="published"),
        Column("metric", "left", group="published"),
        Column("shots", parts=("shots",), group="ours"),
        Column("metric", "left", parts=("metric",), group="ours"),
        Column("prompt", unit="tokens", parts=("prompt_tokens",), group="ours"),
        Column("answer", unit="tokens", parts=("answer_tokens",), group="ours"),
    )
    told = (
        "Published: appendix A.1 of the paper; the lengths in its table are not public. Ours: the"
        " suite few_shot; lengths are means, by the models' own tokenizers.",
    )
    return table(3, "the six tasks", columns, rows, told, sections=sections)


def _published(place: Place, ours: Plain) -> list[tuple[Shown, ...]]:
    """Make the lines of a published mean, where there is one, and of ours − published."""
    for n in simba():
        if (n.model, n.method, n.metric) != (*place[:2], "accuracy") or n.ratio != place.ratio:
            continue
        theirs = float(n.value)
        told = {"published": Shown(percent(theirs), {"value": theirs})}
        if isinstance(ours, float):
            change = Shown(fixed(100 * (ours - theirs), 1, sign=True), {"value": ours - theirs})
            told["difference"] = change
        blanks = [BLANK] * (2 * len(SIX))
        return [(*keys(place.model, what), *blanks, mean, BLANK) for what, mean in told.items()]
    return []


def _state(run: PaperRun, place: Place) -> Shown:
    rows = run.at.get(place)
    found = run.facts[rows[0].index]["state_bytes_dense"] if rows else None
    if found is None:
        return missing(run.why(place, FEW_SHOT))
    return Shown(size(found), {"state_bytes": found})


def _asked(run: PaperRun) -> Mapping[str, dict[str, list[Shown]]]:
    """Give, for each group of models with one tokenizer, shots, metric and lengths of its tasks."""
    groups: dict[tuple[object, ...], tuple[list[str], dict[str, list[Shown]]]] = {}
    for model in run.families:
        rows = run.at.get(places(model, HEAVY)[0])
        panel = run.panel(rows[0], FEW_SHOT.suites) if rows else None
        if not rows or panel is None:
            continue
        told: dict[str, list[Shown]] = {}
        for task, metric in panel.columns:
            lengths = [
                run.costs.get((rows[0].index, panel.suite_id, task, what))
                for what in ("prompt_tokens", "answer_tokens")
            ]
            told[task] = [_shots(task), Shown(metric, {"metric": metric}), *map(_length, lengths)]
        same = tuple((t, *(cell.text for cell in cells)) for t, cells in told.items())
        groups.setdefault(same, ([], told))[0].append(model)
    return {", ".join(models): told for models, told in groups.values()}


def _shots(task: str) -> Shown:
    suite = plugins.load("suite", "few_shot")
    shots = suite.SETTINGS[task].shots if task in suite.SETTINGS else suite.TINYWORLD_SHOTS
    return Shown(str(shots), {"shots": shots})


def _length(value: float | None) -> Shown:
    return missing("not counted") if value is None else Shown(significant(value, 4))
