"""GO, NO-GO and INCONCLUSIVE: by whole intervals, and by nothing less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_helpers import acc_rows, fail, finish, latency_rows, make_cell, make_suite, new_run

from ssmbench import cli
from ssmbench.errors import CommandError, PolicyError
from ssmbench.report import _gate
from ssmbench.report._compare import Comparison
from ssmbench.report._policy import Policy, Rule, read_policy
from ssmbench.report._results import Results
from ssmbench.report._speedup import interval, speedup_draws
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from pathlib import Path

DENSE = make_cell(method="dense", ratio=0.0)
CUT, FAILED = make_cell(), make_cell(method="random")
ZERO, SPEED = make_suite(), make_suite("latency", device="cpu")
N = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("gate") / "run", n_right=240)


def made(path: Path, *, n_right: int) -> Path:
    folder = new_run(path)
    right = {DENSE: 300, CUT: n_right}
    with Ledger.open(folder) as ledger:
        for cell, n in right.items():
            rows = acc_rows({"choice": [1] * n + [0] * (N - n)})
            finish(folder, ledger, cell, ZERO, rows, attempt=f"z{cell.id}")
            rows = latency_rows(0.010 if cell is CUT else 0.02, 0.02)
            for row in rows["latency"]:
                row["raw_s"] = [row["median_s"] * (1 + 0.01 * i) for i in range(-5, 6)]
                row["dense_raw_s"] = [row["dense_median_s"] * (1 + 0.01 * i) for i in range(-5, 6)]
            finish(folder, ledger, cell, SPEED, rows, attempt=f"s{cell.id}")
        ledger.cell(FAILED, [ZERO])
        fail(ledger, FAILED, [ZERO])
    return path


@pytest.fixture(scope="module")
def results(run) -> Results:
    from ssmbench.store.folder import RunFolder

    return Results(tables(RunFolder.open(run)))


def verdicts(results: Results, **rule) -> list[str]:
    # Rules are tried one by one, a speed-up's without the rule on quality that a file must have.
    policy = Policy.model_construct(rules=(Rule(**rule),))
    return [c.verdict for c in _gate.judge(results, policy)]


# CUT lost 15 points of 400 documents: the interval is about ±3.5.
@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        ({"at_least": -0.25}, "GO"),
        ({"at_least": -0.16}, "INCONCLUSIVE"),
        ({"at_least": -0.14}, "INCONCLUSIVE"),
        ({"at_least": -0.05}, "NO-GO"),
        ({"at_most": -0.05}, "GO"),
        ({"at_most": -0.25}, "NO-GO"),
        ({"at_least": -0.25, "at_most": 0.0}, "GO"),
        ({"at_least": -0.25, "at_most": -0.15}, "INCONCLUSIVE"),
    ],
)
def test_a_change_is_judged_by_its_whole_interval(results, bound, verdict):
    assert verdicts(results, measure="change", only="method=wanda", **bound) == [verdict]


def test_a_score_is_judged_by_its_interval(results):
    assert verdicts(results, measure="score", only="method=wanda", at_least=0.5) == ["GO"]
    assert verdicts(results, measure="score", only="method=wanda", at_least=0.6) == ["INCONCLUSIVE"]
    assert verdicts(results, measure="score", task="choice", only="method=dense", at_least=0.9) == [
        "NO-GO"
    ]


def test_the_dense_row_has_no_change_to_itself(results):
    checks = _gate.judge(results, Policy(rules=(Rule(measure="change", at_least=-1),)))
    assert [(c.what, c.verdict) for c in checks] == [
        ("zoo-mamba-s wanda 0.5", "GO"),
        ("zoo-mamba-s random 0.5", "INCONCLUSIVE"),
    ]
    assert "CUDA out of memory" in checks[1].reason


def test_what_is_missing_is_inconclusive(results):
    assert verdicts(results, measure="score", only="method=random", at_least=0) == ["INCONCLUSIVE"]
    (check,) = _gate.judge(
        results, Policy(rules=(Rule(measure="score", only="method=head", at_least=0),))
    )
    assert (check.verdict, check.value) == ("INCONCLUSIVE", None)
    assert "no row" in check.reason


def test_facts_and_counts_are_exact(results):
    fact = {"measure": "compression_mixer", "only": "method=wanda"}
    assert verdicts(results, **fact, at_least=0.5) == ["GO"]
    assert verdicts(results, **fact, at_least=0.51) == ["NO-GO"]
    assert verdicts(results, measure="failed", at_most=0) == ["NO-GO"]
    assert verdicts(results, measure="failed", at_most=1) == ["GO"]
    assert verdicts(results, measure="failed", only="method=wanda", at_most=0) == ["GO"]
    assert verdicts(results, measure="unfinished", at_most=0) == ["NO-GO"]


def test_a_speed_up_is_judged_by_its_repeats(results):
    speed = {"measure": "speedup", "only": "method=wanda", "batch": 1, "length": 512}
    assert verdicts(results, **speed, at_least=1.8) == ["GO"]
    assert verdicts(results, **speed, at_least=2.0) == ["INCONCLUSIVE"]
    assert verdicts(results, **speed, at_least=2.5) == ["NO-GO"]
    decoding = {"measure": "speedup", "only": "method=wanda", "phase": "decode", "at_least": 1.8}
    assert verdicts(results, **decoding) == ["GO", "GO"]


def test_a_row_without_the_time_that_is_asked_for_is_inconclusive(results):
    speed = {"measure": "speedup", "batch": 1, "at_least": 1.8}
    assert verdicts(results, **speed) == ["GO", "INCONCLUSIVE"]
    assert verdicts(results, **speed, length=4096) == ["INCONCLUSIVE"] * 2


def test_a_time_that_could_not_be_taken_says_why(tmp_path):
    folder = new_run(tmp_path / "run")
    rows = latency_rows(0.01, 0.02)
    for row in rows["latency"]:
        row |= dict.fromkeys(("median_s", "speedup", "raw_s")) | {"reason": "median_s: too large"}
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CUT, SPEED, rows, attempt="a")
    rule = Rule(measure="speedup", batch=1, at_least=1)
    policy = Policy.model_construct(rules=(rule,))
    (check,) = _gate.judge(Results(tables(folder)), policy)
    assert (check.verdict, check.reason) == ("INCONCLUSIVE", "median_s: too large")


def test_speed_up_intervals_cover_the_truth():
    import numpy as np

    draw = np.random.default_rng(0)
    truth, hits, trials = 1.25, 0, 400
    for i in range(trials):
        own, dense = (scale * draw.lognormal(0, 0.05, 30) for scale in (1.0, truth))
        known = interval(speedup_draws(own.tolist(), dense.tolist(), seed=i))
        assert known is not None
        hits += known[0] <= truth <= known[1]
    # Percentile intervals of medians err to the wide side; 3 standard errors are 3.3 points.
    assert 0.93 <= hits / trials <= 0.99
    assert speedup_draws([1.0] * 4, [1.0] * 30) is None


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (["GO", "GO"], "GO"),
        (["GO", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["INCONCLUSIVE", "NO-GO", "GO"], "NO-GO"),
    ],
)
def test_a_run_is_as_its_worst_rule(given, whole):
    assert _gate.overall(given) == whole


def test_changes_to_another_run(tmp_path, results):
    from ssmbench.store.folder import RunFolder

    before = Results(tables(RunFolder.open(made(tmp_path / "before", n_right=290))))
    rule = Rule(measure="change", to="other", only="method=wanda", at_least=-0.05)
    policy = Policy(rules=(rule,))
    against = Comparison(before, results, ("before", "after"))
    (check,) = _gate.judge(results, policy, against=against)
    assert check.verdict == "NO-GO"
    assert check.value == pytest.approx(-0.125)
    with pytest.raises(CommandError, match="--against"):
        _gate.judge(results, policy)


def test_an_unknown_suite_or_task_is_named(results):
    with pytest.raises(CommandError, match=r"no score of suite 'zero_shoot'\. Did you mean"):
        verdicts(results, measure="score", suite="zero_shoot", at_least=0)
    with pytest.raises(CommandError, match=r"no score of task 'choices'\. Did you mean 'choice'"):
        verdicts(results, measure="score", task="choices", at_least=0)


BAD = """rules:
  - {measure: chnge, only: "methd=wanda", at_least: -0.05}
  - {measure: change, only: method=random}
  - {measure: speedup, batch: 0, at_least: 2, at_most: 1}
  - {measure: score, at_least: 0, at_lest: 3}
"""


def test_all_mistakes_of_a_policy_are_listed(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(BAD)
    with pytest.raises(PolicyError) as caught:
        read_policy(path)
    lines = [p.partition("policy.yaml:")[2].partition(": ")[::2] for p in caught.value.problems]
    assert [(at, text[:24]) for at, text in lines] == [
        ("2:15", "rules[0].measure: found "),
        ("2:28", "rules[0].only: there is "),
        ("3:5", "rules[1]: the rule has no"[:24]),
        ("4:31", "rules[2].batch: found 0 "),
        ("5:35", "rules[3]: the key 'at_les"[:24]),
    ]
    assert str(caught.value).endswith("nothing was judged.")


def test_a_speed_up_needs_its_quality(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("rules:\n  - {measure: speedup, at_least: 1.1}\n")
    with pytest.raises(PolicyError, match="a speed-up is judged, but nothing that it is bought"):
        read_policy(path)


@pytest.mark.parametrize(
    ("bound", "code"), [("at_least: -0.25", 0), ("at_least: -0.05", 1), ("at_least: -0.15", 4)]
)
def test_the_command_and_its_exit_codes(tmp_path, run, capsys, bound, code):
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"rules:\n  - {{measure: change, only: method=wanda, {bound}}}\n")
    assert cli.main(["gate", str(run), "--policy", str(policy)]) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith({0: "GO:", 1: "NO-GO:", 4: "INCONCLUSIVE:"}[code])
    assert cli.main(["gate", str(run), "--policy", str(policy), "--format", "csv"]) == code
    assert capsys.readouterr().out.startswith("verdict,rule,row,value,low,high")


def test_a_wrong_policy_file_is_a_wrong_command(tmp_path, run, capsys):
    assert cli.main(["gate", str(run), "--policy", str(tmp_path / "none.yaml")]) == 2
    assert "expected a policy file (YAML)" in capsys.readouterr().err
