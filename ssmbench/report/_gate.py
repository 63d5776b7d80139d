"""Whether a run holds to a policy: GO, NO-GO, or INCONCLUSIVE where the data cannot tell.

A number with a 95 % interval is GO if the whole interval is within the bounds, NO-GO if the whole
interval is beyond one, else INCONCLUSIVE; so is a number that is missing. Exact numbers are one or
the other. A rule is as its rows are, and the run as its rules are: one NO-GO makes all NO-GO;
without any, one INCONCLUSIVE makes it INCONCLUSIVE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.errors import DONE, INCONCLUSIVE, SOME_FAILED, CommandError, suggest
from ssmbench.report._by_row import of_rows
from ssmbench.report._format import significant
from ssmbench.report._policy import COUNTS, FACTS, SCORES
from ssmbench.report._scores import Z95
from ssmbench.report._speedup import LEAST_REPEATS, interval, speedup_draws
from ssmbench.report._table import MISSING, Column, Shown, Table
from ssmbench.report.quality import mean, score_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ssmbench.report._compare import Comparison
    from ssmbench.report._panels import Panel
    from ssmbench.report._policy import Policy, Rule
    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row
    from ssmbench.report._scores import Score

GO, NO_GO, UNCLEAR = "GO", "NO-GO", "INCONCLUSIVE"
EXIT_CODES = {GO: DONE, NO_GO: SOME_FAILED, UNCLEAR: INCONCLUSIVE}


class Check(NamedTuple):
    """One number held against one rule.

    Attributes:
        rule: the rule.
        what: the row, and of times the shape; empty for the run as a whole.
        value: the number, or None.
        interval: its 95 % interval, or None where it is exact or unknown.
        verdict: GO, NO-GO or INCONCLUSIVE.
        reason: why it is INCONCLUSIVE, or "".
    """

    rule: Rule
    what: str
    value: float | None
    interval: tuple[float, float] | None
    verdict: str
    reason: str = ""


def judge(results: Results, policy: Policy, *, against: Comparison | None = None) -> list[Check]:
    """Hold a run against every rule of a policy.

    Args:
        results: of the run.
        policy: the rules.
        against: the run as compared with another one, for changes `to: other`.

    Raises:
        CommandError: a rule wants another run and none is given, or names a suite or task that
            the run does not have.
    """
    checks: list[Check] = []
    for rule in policy.rules:
        if rule.to == "other" and against is None:
            raise CommandError(
                f"rule '{rule.asks}' is a change to another run; expected --against RUN."
            )
        found = list(_checks(rule, results, against))
        checks += found or [_missing(rule, "", "no row of the run is meant by this rule")]
    return checks


def overall(verdicts: Iterable[str]) -> str:
    """Join verdicts: the worst that is sure, else INCONCLUSIVE if anything is."""
    given = set(verdicts)
    return NO_GO if NO_GO in given else UNCLEAR if UNCLEAR in given else GO


def table(checks: Sequence[Check]) -> Table:
    """Show every check."""
    columns = (
        Column("verdict", "left", parts=("verdict",), key=True),
        Column("rule", "left", parts=("rule",)),
        Column("row", "left", parts=("row",)),
        Column("found", parts=("value", "low", "high")),
        Column("bound", "left", parts=("at_least", "at_most")),
    )
    return Table("Gate", "gate", columns, tuple(_line(check) for check in checks))


def summary(checks: Sequence[Check]) -> str:
    """Give the verdict on the run in one line."""
    verdicts = [check.verdict for check in checks]
    told = ", ".join(f"{verdicts.count(v)} {v}" for v in EXIT_CODES if v in verdicts)
    return f"{overall(verdicts)}: {told}"


def _line(check: Check) -> tuple[Shown, ...]:
    low, high = check.interval or (None, None)
    text = MISSING if check.value is None else significant(check.value)
    if check.interval:
        text += f" [{significant(check.interval[0])}, {significant(check.interval[1])}]"
    rule = check.rule
    return (
        Shown(check.verdict, {"verdict": check.verdict}),
        Shown(rule.asks, {"rule": rule.asks}),
        Shown(check.what, {"row": check.what}),
        Shown(text, {"value": check.value, "low": low, "high": high}, check.reason or None),
        Shown(rule.bounds, {"at_least": rule.at_least, "at_most": rule.at_most}),
    )


def _checks(rule: Rule, results: Results, against: Comparison | None) -> Iterator[Check]:
    if rule.measure in COUNTS:
        yield _counted(rule, results)
    elif rule.measure == "speedup":
        yield from _speedups(rule, results)
    elif rule.measure in FACTS:
        yield from _facts(rule, results)
    elif rule.to == "other":
        assert against is not None
        yield from _to_other(rule, against)
    else:
        assert rule.measure in SCORES
        panel = _panel(rule, results.panels)
        for row in _rows(rule, results):
            if rule.measure == "score" or not row.is_dense:
                score = _score(rule, panel, row, results.scores)
                yield _scored(rule, _name(row), score)


def _rows(rule: Rule, results: Results) -> list[Row]:
    """Give the rows that a rule is about: one of their cells is meant."""
    meant = set()
    for cell in results.cells.iter_rows(named=True):
        values = {n: cell[n] for n in ("model", "method", "ratio", "seed", "fine_tune", "family")}
        if rule.filter.matches({**values, "id": cell["cell_id"], "suite": rule.suite}):
            meant.add(cell["cell_id"])
    return [row for row in results.rows.rows if meant & set(row.cells)]


def _panel(rule: Rule, panels: Sequence[Panel]) -> Panel:
    """Find what a rule's score is from; accuracies before perplexities before the rest."""
    kinds = ("fraction", "perplexity", "number")
    named = [p for p in panels if not rule.suite or p.suite == rule.suite]
    with_task = [p for p in named if not rule.task or rule.task in {t for t, _ in p.columns}]
    if not with_task:
        suites = {p.suite for p in panels}
        known = {t for p in named for t, _ in p.columns} if named else suites
        what = f"task '{rule.task}'" if named else f"suite '{rule.suite}'"
        near = suggest(rule.task if named else rule.suite, known)
        raise CommandError(f"rule '{rule.asks}': the run has no score of {what}.{near}")
    return min(with_task, key=lambda p: kinds.index(p.kind))


def _score(rule: Rule, panel: Panel, row: Row, scores: Any) -> Score:
    if not rule.task:
        return mean(panel, row, scores)
    column = next(c for c in panel.columns if c[0] == rule.task)
    return score_of(panel, row, scores, column)


def _scored(rule: Rule, what: str, score: Score) -> Check:
    if rule.measure == "change":
        change = score.difference
        return _held(rule, what, change.value, change.interval, score.reason or change.reason or "")
    if score.value is None or score.stderr is None:
        return _held(rule, what, score.value, None, score.reason or "it has no standard error")
    half = Z95 * score.stderr
    return _held(rule, what, score.value, (score.value - half, score.value + half), "")


def _to_other(rule: Rule, against: Comparison) -> Iterator[Check]:
    panel = _panel(rule, against.panels)
    for pair in against.pairs:
        cell = pair.second
        values = {n: cell[n] for n in ("model", "method", "ratio", "seed", "fine_tune", "family")}
        if rule.filter.matches({**values, "id": cell["cell_id"], "suite": rule.suite}):
            score = _score(rule, panel, pair.row, against.scores)
            yield _scored(rule, str(cell["label"] or cell["cell_id"]), score)


def _facts(rule: Rule, results: Results) -> Iterator[Check]:
    known = dict(results.cells.select("cell_id", rule.measure).iter_rows())
    for row in _rows(rule, results):
        values = {known[cell_id] for cell_id in row.cells}
        for value in sorted(values, key=lambda v: (v is None, v)):
            if value is None:
                yield _missing(rule, _name(row), row.why_missing("not told by the attempt"))
            else:
                yield _exact(rule, _name(row), value)


def _counted(rule: Rule, results: Results) -> Check:
    meant = {cell_id for row in _rows(rule, results) for cell_id in row.cells}
    found = results.cells.filter(results.cells["cell_id"].is_in(list(meant)))["status"]
    wanted = "failed" if rule.measure == "failed" else None
    n = sum(s == wanted if wanted else s != "done" for s in found)
    return _exact(rule, "", float(n))


def _speedups(rule: Rule, results: Results) -> Iterator[Check]:
    rows = {row.index: row for row in _rows(rule, results) if not row.is_dense}
    timed = set()
    latency = of_rows(results["latency"], results.rows.frame).collect()
    for found in latency.iter_rows(named=True):
        wanted = (rule.phase, rule.batch or found["batch"], rule.length or found["length"])
        if found["row"] not in rows or (rule.suite and found["suite"] != rule.suite):
            continue
        if (found["phase"], found["batch"], found["length"]) != wanted:
            continue
        timed.add(found["row"])
        what = f"{_name(rows[found['row']])}, {found['phase']} {found['batch']}×{found['length']}"
        draws = speedup_draws(found["raw_s"] or [], found["dense_raw_s"] or [])
        why = f"fewer than {LEAST_REPEATS} repeats" if found["speedup"] else found["reason"]
        yield _held(rule, what, found["speedup"], interval(draws), why or "")
    suite = rule.suite or "latency"
    for row in (row for index, row in rows.items() if index not in timed):
        yield _missing(rule, _name(row), row.why_missing("it was not timed so", suite=suite))


def _name(row: Row) -> str:
    return " ".join(shown.text for shown in row.key)


def _held(
    rule: Rule, what: str, value: float | None, known: tuple[float, float] | None, reason: str
) -> Check:
    """Hold an uncertain number against the bounds."""
    if value is None or known is None:
        return Check(rule, what, value, None, UNCLEAR, reason or "it has no interval")
    low, high = known
    least = -float("inf") if rule.at_least is None else rule.at_least
    most = float("inf") if rule.at_most is None else rule.at_most
    if least <= low and high <= most:
        return Check(rule, what, value, known, GO)
    if high < least or low > most:
        return Check(rule, what, value, known, NO_GO)
    return Check(rule, what, value, known, UNCLEAR, "the interval holds the bound")


def _exact(rule: Rule, what: str, value: float) -> Check:
    held = _held(rule, what, value, (value, value), "")
    return held._replace(interval=None)


def _missing(rule: Rule, what: str, reason: str) -> Check:
    return Check(rule, what, None, None, UNCLEAR, reason)
