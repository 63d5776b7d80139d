"""What is to do, why, at what cost and in which order."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from ssmbench import plugins
from ssmbench.grid.catalogue import find
from ssmbench.models.flops import forward_flops
from ssmbench.plan import cost
from ssmbench.plan.cells import Calibration, Cell, Entry, FineTune, Model, Resources, Step, Suite
from ssmbench.plan.decide import decide
from ssmbench.plan.history import Failure, History

TOKENS = {"short": 1_000, "long": 100_000}


class FakeSuite:
    """A suite as far as planning looks into one."""

    @dataclasses.dataclass
    class Params:
        tokens: int | None = None

        @classmethod
        def model_validate(cls, values):
            return cls(**values)

    @staticmethod
    def tokens(params, limit):
        return params.tokens if limit is None else limit


@pytest.fixture(autouse=True)
def suites(monkeypatch):
    monkeypatch.setattr(plugins, "names", lambda kind: (*TOKENS, "mamba", "mamba2"))
    real = plugins.load
    fake = lambda kind, name: FakeSuite if kind == "suite" else real(kind, name)  # noqa: E731
    monkeypatch.setattr(plugins, "load", fake)


def suite(name="short", **changes):
    made = Suite(name, "quality", 1, {"tokens": TOKENS.get(name)})
    return dataclasses.replace(made, **changes)


def cell(ratio=0.5, *, model="mamba-130m", method="wanda", seed=0, **changes):
    known = find(model)
    made = Cell(
        model=Model(model, f"hub:{known.source}", f"{known.source}@main", known.family),
        steps=(Step(method, 1, ratio, {"targets": "both"}),),
        calibration=None,
        fine_tune=FineTune(),
        seed=seed,
        dtype="float32",
    )
    return dataclasses.replace(made, **changes)


def entry(of=None, suites=None, **resources):
    suites = (suite(),) if suites is None else suites
    return Entry(of or cell(), suites, Resources(**resources), timeout_s=60, batch_tokens=64)


def history(*entries, committed=True, seconds=None):
    """Give a history in which these entries were planned and, if so, finished."""
    made = History()
    for e in entries:
        made.cells[e.cell.id] = e.cell.to_json()
        made.wanted[e.cell.id] = tuple(s.id for s in e.suites)
        for s in e.suites:
            made.suites[s.id] = s.to_json()
            if committed:
                made.committed[e.cell.id, s.id] = "attempt"
            if seconds is not None:
                made.seconds[e.cell.id, s.id] = seconds(e.cell)
    return made


def only(decisions):
    (decision,) = decisions
    return decision


def test_a_new_run_has_everything_to_do():
    decision = only(decide([entry()], History()))
    assert decision.text == "to do: not run yet"
    assert decision.suites_to_do == (suite(),)


def test_a_cell_with_all_numbers_is_done_and_costs_nothing():
    decision = only(decide([entry()], history(entry())))
    assert (decision.text, decision.suites_to_do) == ("done", ())
    assert (decision.flops, decision.seconds) == (0, 0.0)


def test_only_the_new_suite_is_to_do():
    wanted = entry(suites=(suite(), suite("long")))
    decision = only(decide([wanted], history(entry())))
    assert decision.text == "to do: suite long is new"
    assert decision.suites_to_do == (suite("long"),)


def test_a_suite_with_another_limit_is_to_do_and_says_so():
    decision = only(decide([entry(suites=(suite(limit=5),))], history(entry())))
    assert decision.text == "to do: suite short is new with another limit"


def test_a_planned_cell_without_numbers_is_not_finished():
    decision = only(decide([entry()], history(entry(), committed=False)))
    assert decision.text == "to do: suite short is not finished"


def test_a_failure_is_told_by_its_class_and_is_to_do():
    past = history(entry(), committed=False)
    past.failed[cell().id, suite().id] = Failure("gpu_oom", "CUDA out of memory", "logs/x.log")
    decision = only(decide([entry()], past))
    assert (decision.state, decision.text) == ("failed", "failed before: gpu_oom")
    assert decision.suites_to_do == (suite(),)


def test_a_failure_of_a_suite_that_is_done_by_now_counts_no_more():
    past = history(entry())
    past.failed[cell().id, suite().id] = Failure("gpu_oom", "", None)
    assert only(decide([entry()], past)).text == "done"


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (cell(0.6), "ratio 0.6 is new"),
        (cell(seed=3), "seed 3 is new"),
        (cell(method="random"), "method random is new"),
        (cell(0.6, method="random"), "method random is new"),
        (cell(model="mamba2-130m"), "model mamba2-130m is new"),
        (cell(dtype="bfloat16"), "dtype bfloat16 is new"),
        (cell(steps=(Step("wanda", 2, 0.5, {"targets": "both"}),)), "wanda has a new version"),
        (cell(steps=(Step("wanda", 1, 0.5, {"targets": "x"}),)), "of wanda are new: targets=x"),
        (cell(calibration=Calibration("c4", 3, 5, 0)), "calibration is new: c4, 3 windows of 5"),
        (cell(fine_tune=FineTune("lora")), "fine-tuning lora is new"),
        (
            dataclasses.replace(
                cell(), model=dataclasses.replace(cell().model, fingerprint="other")
            ),
            "model mamba-130m has changed",
        ),
    ],
)
def test_the_reason_names_what_no_past_cell_has(new, reason):
    decision = only(decide([entry(new)], history(entry())))
    assert decision.text.startswith("to do: ")
    assert decision.text.endswith(reason)


def test_a_new_combination_of_known_values_is_told_as_the_last_of_them():
    past = history(entry(cell(0.5)), entry(cell(0.6, method="random")))
    decision = only(decide([entry(cell(0.6))], past))
    assert decision.text == "to do: ratio 0.6 is new"


def test_a_past_cell_of_an_unknown_form_is_passed_over():
    past = history(entry())
    past.cells["0123456789ab"] = {"form": "of another version"}
    past.committed["0123456789ab", "0123456789"] = "attempt"
    assert only(decide([entry(cell(0.6))], past)).text == "to do: ratio 0.6 is new"


def test_the_longest_is_first_and_what_is_done_last():
    small, large, done = entry(), entry(cell(model="mamba-1.4b")), entry(cell(0.1))
    decisions = decide([done, small, large], history(done))
    assert [d.entry for d in decisions] == [large, small, done]


def test_what_cannot_be_estimated_comes_first_and_has_no_number():
    unknown = cell(model="mamba-130m")
    unknown = dataclasses.replace(unknown, model=Model("x", "hub:someone/x", "someone/x@main"))
    decisions = decide([entry(), entry(unknown)], History())
    assert decisions[0].entry.cell == unknown
    assert (decisions[0].flops, decisions[0].seconds) == (None, None)


def test_flops_are_those_of_the_dense_model_over_the_suites_and_calibration_tokens():
    of = cell(calibration=Calibration("c4", 10, 100, 0))
    decision = only(decide([entry(of, (suite(), suite("long")))], History()))
    per_token = forward_flops(find("mamba-130m").describe(), tokens=512) / 512
    assert decision.flops == round(per_token * (1_000 + 100_000 + 1_000))


def test_a_suite_that_does_not_say_its_tokens_gets_a_guess():
    silent = suite(params={"tokens": None})
    assert cost.suite_tokens(silent) == cost.DEFAULT_TOKENS
    assert cost.suite_tokens(suite(limit=7)) == 7


def test_more_processors_are_expected_to_take_less_time():
    one = only(decide([entry(num_cpus=1)], History())).seconds
    four = only(decide([entry(num_cpus=4)], History())).seconds
    gpu = only(decide([entry(num_gpus=1)], History())).seconds
    assert one > four > gpu


def test_past_times_replace_the_guess():
    """Past: 2 s and 1 ns a GFLOP; so the new cell's time follows from its FLOPs."""

    def seconds(of):
        return 2 + 1e-12 * flops(of)

    def flops(of):
        return 1_000 * forward_flops(find(of.model.name).describe(), tokens=512) / 512

    past = history(entry(cell()), entry(cell(model="mamba-370m")), seconds=seconds)
    new = cell(model="mamba-1.4b")
    decision = only(decide([entry(new)], past))
    assert decision.seconds == pytest.approx(seconds(new))


def test_a_suite_without_a_past_is_timed_like_the_others_of_its_kind():
    past = history(entry(), seconds=lambda of: 10.0)
    decision = only(decide([entry(suites=(suite("long"),))], past))
    assert decision.seconds == pytest.approx(1000.0)  # 100 times the tokens, one size known


@pytest.mark.parametrize(
    ("points", "at", "expected"),
    [
        ([(1, 3), (2, 5)], 3, 7),
        ([(2, 4)], 3, 6),
        ([(2, 4), (2, 6)], 2, 5),
        ([(1, 5), (3, 1)], 2, 3),
        ([(1, 0.1), (2, 10)], 1.5, 5.05),
        ([(0, 4)], 9, 4),
    ],
)
def test_a_line_is_fitted_whose_start_and_slope_are_not_negative(points, at, expected):
    line = cost.fit(points)
    assert line.start_s >= 0
    assert line.s_per_flop >= 0
    assert line.seconds(at) == pytest.approx(expected)


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; import ssmbench.grid.read, ssmbench.grid.filters, ssmbench.plan.expand, "
        "ssmbench.plan.decide, ssmbench.plan.select; from ssmbench import plugins\n"
        "for kind in ('method', 'suite'):\n"
        "    [plugins.load(kind, name) for name in plugins.names(kind)]\n"
        "heavy = {'torch', 'ray', 'transformers', 'lm_eval', 'datasets', 'polars'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
