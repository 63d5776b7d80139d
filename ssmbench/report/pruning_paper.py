"""Tables 1 to 9 of "On Pruning State-Space LLMs" (arXiv:2502.18886), ours beside what it prints.

| table | what of a run it shows | grid |
|---|---|---|
| 1 | mean of the six tasks of wanda, state, head_dim and ssm_flap at 25 and 50 %, without and with distillation, and Comp. | `grids/full.yaml` |
| 2 | the same of merge: every second head is left, and every fourth | `grids/full.yaml` |
| 3 | the six tasks of state at 50 %: untrained, after ce, after kd | `grids/loss-choice.yaml` |
| 4, 5, 6, 8, 9 | the six tasks of head_dim, wanda, merge, ssm_flap and state | `grids/full.yaml` |
| 7 | the six tasks of the dense models | `grids/full.yaml` |

Of each method the row with its usual parameters counts. "w/ FT" is kd. Models that are not in the
paper have rows of their own; those of the zoo stand in their tasks of TinyWorld. The papers' pages
were not to be had: rows and columns are arranged as the published numbers are in
`published/*.csv`, which are in the papers' order.
"""  # noqa: E501 - a table

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ssmbench.report._paper import PaperRun
from ssmbench.report._paper_cells import PARTS, Body
from ssmbench.report._pruning import (
    FULL,
    LEFT,
    LOSSES,
    SUITES,
    compression,
    is_there,
    key,
    mean_cell,
    models,
    named,
    removed,
    table,
    task_cells,
    task_columns,
)
from ssmbench.report._rows import DENSE, UNTRAINED
from ssmbench.report._table import Column, Table
from ssmbench.report.published import NAMES, Place

if TYPE_CHECKING:
    from ssmbench.report._results import Results

TITLE = "On Pruning State-Space LLMs: its tables"
ORDER = 50

_METHODS = {
    "wanda": "WANDA",
    "state": "State",
    "head_dim": "Head dim.",
    "ssm_flap": "SSM-FLAP",
    "merge": "Merging",
}
_AFTER = {
    DENSE: "dense",
    "wanda": "after WANDA",
    "state": "after state pruning",
    "head_dim": "after head-dimension pruning",
    "ssm_flap": "after SSM-FLAP",
    "merge": "after head merging",
}
_PRUNED = ("wanda", "state", "head_dim", "ssm_flap")
_RATIOS = (0.25, 0.5)
_KD = "kd"
_FT = {UNTRAINED: "w/o FT", "kd": "w/ FT"}
_COMP = (
    "Comp.: the part of the SSM mixers' weights that is gone, in %; ours is exact, the paper's"
    " mostly 100 − ⌊100 · after / before⌋."
)
_TEXT = (
    "w/ FT: after distillation from the dense model. The paper says on WikiText-2; its code's"
    " default is WikiText-103 (finetune.py:293-298)."
)


class _Appendix(NamedTuple):
    """A table of the appendix: its number, its method, the ratios, and who was trained."""

    number: int
    method: str
    ratios: tuple[float, ...]
    fine_tunes: tuple[str, ...]


_APPENDIX = (
    _Appendix(4, "head_dim", _RATIOS, (UNTRAINED, _KD)),
    _Appendix(5, "wanda", _RATIOS, (UNTRAINED,)),
    _Appendix(6, "merge", tuple(LEFT), (UNTRAINED, _KD)),
    _Appendix(7, DENSE, (0.0,), (UNTRAINED,)),
    _Appendix(8, "ssm_flap", _RATIOS, (UNTRAINED,)),
    _Appendix(9, "state", _RATIOS, (UNTRAINED, _KD)),
)


def build(results: Results) -> list[Table]:
    """Build the nine tables; none for a run that has nothing to do with them.

    That has one of the paper's methods, on a model of the paper or scored on the six tasks.

    Args:
        results: the run's.
    """
    run = PaperRun(results, _METHODS)
    known = set(run.models(_METHODS))
    if not known or not (known & set(NAMES.values()) or run.has_tasks(SUITES)):
        return []
    appendix = [_appendix(run, what) for what in _APPENDIX]
    return [_averages(run), _merging(run), _losses(run), *appendix]


def _averages(run: PaperRun) -> Table:
    """Table 1: three rows a model, the ratios side by side."""
    body = Body()
    for model in models(run, "T1", _PRUNED):
        body.begin()
        places = [Place(model, DENSE, 0.0, UNTRAINED)]
        places += [Place(model, m, ratio, UNTRAINED) for ratio in _RATIOS for m in _PRUNED]
        for kind, name in _FT.items():
            asked = [place._replace(fine_tune=kind) for place in places]
            if is_there(run, "T1", asked):
                cells = [mean_cell(run, "T1", place) for place in asked]
                body.add((named(model, "model"), named(name, "what")), cells)
        cells = [compression(run, "T1", place) for place in places]
        body.add((named(model, "model"), named("Comp. [%]", "what")), cells)
    columns = [Column(DENSE, parts=PARTS, prefix=DENSE)]
    columns += [
        Column(_METHODS[m], parts=PARTS, prefix=f"{m}_{ratio:g}", group=f"{100 * ratio:.0f} %")
        for ratio in _RATIOS
        for m in _PRUNED
    ]
    what = "mean accuracy over the six tasks, and Comp."
    return table(run, 1, what, (key("model"), key("what", "")), columns, body, _COMP, _TEXT)


def _merging(run: PaperRun) -> Table:
    """Table 2: one row a model and number of heads that are left."""
    body = Body()
    for model in models(run, "T2", ("merge",)):
        body.begin()
        for ratio in LEFT:
            places = [Place(model, "merge", ratio, kind) for kind in _FT]
            if not is_there(run, "T2", places):
                continue
            cells = [mean_cell(run, "T2", place) for place in places]
            cells.append(compression(run, "T2", places[0]))
            body.add((named(model, "model"), removed(places[0], "T2")), cells)
    columns = [Column(name, parts=PARTS, prefix=kind) for kind, name in _FT.items()]
    columns.append(Column("Comp.", unit="%", parts=("value",), prefix="compression"))
    keys = (key("model"), key("heads_kept", "heads left"))
    what = "head merging: mean accuracy over the six tasks, and Comp."
    return table(run, 2, what, keys, columns, body, _COMP, _TEXT)


def _losses(run: PaperRun) -> Table:
    """Table 3: the loss of fine-tuning, after half of the states are gone."""
    names = {UNTRAINED: "w/o FT", "ce": "cross-entropy", _KD: "distillation"}
    body = Body()
    for model in models(run, "T3", ("state",)):
        places = {DENSE: Place(model, DENSE, 0.0, UNTRAINED)}
        places |= {name: Place(model, "state", 0.5, kind) for kind, name in names.items()}
        if not is_there(run, "T3", list(places.values())[2:]):
            continue
        body.begin()
        for name, place in places.items():
            cells = task_cells(run, "T3", place, LOSSES)
            body.add((named(model, "model"), named(name, "what")), cells)
    keys = (key("model"), key("what", "state 0.5"))
    what = "the six tasks after fine-tuning with either loss, half of the states gone"
    return table(run, 3, what, keys, task_columns(), body, _TEXT)


def _appendix(run: PaperRun, of: _Appendix) -> Table:
    """Tables 4 to 9: the tasks of one method."""
    name = f"T{of.number}"
    body = Body()
    for model in models(run, name, (of.method,)):
        body.begin()
        for ratio in of.ratios:
            for kind in of.fine_tunes:
                place = Place(model, of.method, ratio, kind)
                if not is_there(run, name, [place]):
                    continue
                told = [named(model, "model")]
                told += [removed(place, name)] * (of.method != DENSE)
                told += [named(_FT[kind], "fine_tune")] * (len(of.fine_tunes) > 1)
                body.add(told, task_cells(run, name, place, FULL))
    keys = [key("model")]
    if of.method != DENSE:
        merged = of.method == "merge"
        keys.append(key("heads_kept", "heads left") if merged else key("ratio"))
    keys += [key("fine_tune", "")] * (len(of.fine_tunes) > 1)
    what = f"the six tasks, {_AFTER[of.method]}"
    return table(run, of.number, what, keys, task_columns(), body)
