"""Published numbers as tables of their own, and the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report._format import fixed
from ssmbench.report._table import Column, Plain, Shown, Table
from ssmbench.report.published import SOURCES, Number, numbers, others, simba
from ssmbench.report.published.audit import TOLERANCE, Audited, audit, contradictions, notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TASKS = (
    "arc_challenge",
    "arc_easy",
    "hellaswag",
    "lambada_openai",
    "piqa",
    "winogrande",
)
_FINE_TUNED = {"none": "no", "ce": "ce", "kd": "kd"}
_PLACE = tuple(
    Column(name, "left", parts=(name.replace("-", "_"),), key=True)
    for name in ("source", "model", "method", "removed", "fine-tune")
)


def audit_table() -> Table:
    """Set every average that contradicts its own rows beside their mean."""
    found = contradictions()
    columns = (
        *_PLACE,
        Column("average", parts=("average",)),
        Column("rows in", "left", parts=("rows",)),
        Column("their mean", parts=("mean",)),
        Column("difference", parts=("difference",)),
    )
    return Table(
        title="Published averages that contradict their own rows",
        name="published-audit",
        columns=columns,
        rows=tuple((*_place(one.average), *_audited(one)) for one in found),
        sections=_sections([one.average for one in found]),
        notes=(f"By more than {TOLERANCE:g}: rounding to two decimals explains less than 0.01.",),
    )


def verdict() -> str:
    """Say how many averages contradict their rows."""
    n, of = len(contradictions()), len(audit())
    return f"{n} averages contradict their own rows by more than {TOLERANCE:g}, of {of}."


def tables() -> list[Table]:
    """Give every published number, each paper's in its own order."""
    return [_averages(), _tasks(), _simba(), _others()]


def _averages() -> Table:
    of = {n.place: n for n in numbers() if n.what == "compression"}
    lines = [n for n in numbers() if n.what == "average"]
    columns = (
        *_PLACE,
        Column("average", parts=("average",)),
        Column("Comp.", unit="%", parts=("compression",)),
    )
    return Table(
        title=f"{SOURCES['ssm-pruner']}: averages",
        name="published-averages",
        columns=columns,
        rows=tuple(
            (*_place(n), _shown(n, "average"), _shown(of.get(n.place), "compression"))
            if n.table != "T3"
            else (*_place(n), _shown(n, "average"), Shown(""))
            for n in lines
        ),
        sections=_sections(lines),
        notes=("Mean accuracy over the six tasks.",),
    )


def _tasks() -> Table:
    cells: dict[tuple[object, ...], dict[str, Number]] = {}
    for n in numbers():
        if n.what in _TASKS:
            cells.setdefault((n.source, n.place), {})[n.what] = n
    firsts = [next(iter(found.values())) for found in cells.values()]
    return Table(
        title=f"{SOURCES['ssm-pruner']}: tasks",
        name="published-tasks",
        columns=(*_PLACE, *(Column(task, parts=(task,)) for task in _TASKS)),
        rows=tuple(
            (*_place(first), *(_shown(found.get(task), task) for task in _TASKS))
            for first, found in zip(firsts, cells.values(), strict=True)
        ),
        sections=_sections(firsts),
        notes=("Accuracy, zero-shot.",),
    )


def _simba() -> Table:
    names = ("source", "model", "method", "ratio", "task", "metric", "value")
    return Table(
        title=f"{SOURCES['simba']}: what is public",
        name="published-simba",
        columns=_plain(names, keys=6),
        rows=tuple(_line(names, n) for n in simba()),
        notes=("Its table bodies are not public. Ratio: the fraction removed, 1 − its r.",),
    )


def _others() -> Table:
    names = ("source", "model", "method", "removed", "of", "task", "metric", "value")
    return Table(
        title="Other published scores of these models",
        name="published-others",
        columns=_plain(names, keys=7),
        rows=tuple(_line(names, n) for n in others()),
        notes=tuple(f"{key}: {SOURCES[key]}." for key in dict.fromkeys(n.source for n in others())),
    )


def _place(number: Number) -> tuple[Shown, ...]:
    """Show where a number stands: its table, its model, what was removed, how it was trained."""
    place = number.place
    kept = "" if number.heads_kept is None else f" ({number.heads_kept} heads left)"
    removed = Shown(f"{place.ratio:g}{kept}", {"removed": place.ratio})
    texts = {
        "source": number.source,
        "model": number.model,
        "method": place.method,
        "fine_tune": _FINE_TUNED[place.fine_tune],
    }
    first, last = list(texts)[:3], list(texts)[3:]
    return (
        *(_text(key, texts[key]) for key in first),
        removed,
        *(_text(key, texts[key]) for key in last),
    )


def _audited(one: Audited) -> tuple[Shown, ...]:
    rows = one.rows[0].source
    return (
        Shown(one.average.text, {"average": one.average.value}),
        Shown(rows, {"rows": rows}),
        Shown(f"{one.mean:.3f}", {"mean": one.mean}),
        Shown(fixed(one.difference, 3, sign=True), {"difference": one.difference}),
    )


def _shown(number: Number | None, part: str) -> Shown:
    if number is None:
        return Shown("")
    told = " ".join(notes().get(number, ())) or None
    return Shown(number.text, {part: number.value}, told)


def _line(names: Sequence[str], values: Sequence[Plain]) -> tuple[Shown, ...]:
    return tuple(_text(name, value) for name, value in zip(names, values, strict=True))


def _text(part: str, value: Plain) -> Shown:
    if value is None:
        return Shown("")
    return Shown(f"{value:g}" if isinstance(value, float) else str(value), {part: value})


def _plain(names: Sequence[str], *, keys: int) -> tuple[Column, ...]:
    return tuple(
        Column(n, "right" if n in {"ratio", "value", "removed", "of"} else "left", parts=(n,))
        if i >= keys
        else Column(n, "left", parts=(n,), key=True)
        for i, n in enumerate(names)
    )


def _sections(lines: Iterable[Number]) -> frozenset[int]:
    sources = [n.source for n in lines]
    return frozenset(i for i, s in enumerate(sources) if i == 0 or s != sources[i - 1])
