"""Every method on every family it fits, and each one's arithmetic by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmbench import plugins
from ssmbench.errors import MethodError, NumericalError
from ssmbench.methods.magnitude import magnitude_keep
from ssmbench.methods.wanda import wanda_keep
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise
from ssmbench.plan.cells import Step
from ssmbench.surgery import compress
from ssmbench.surgery.context import MethodContext
from ssmbench.surgery.projections import keep_largest, n_dropped, zero_fraction
from ssmbench.surgery.statistics import walk

METHODS = plugins.names("method")
PRUNING = [m for m in METHODS if m != "dense"]
FAMILIES = ["mamba", "mamba2"]


def tiny(family: str) -> Decoder:
    model = Decoder(plugins.load("family", family).tiny())
    initialise(model, seed=0)
    return model.eval().requires_grad_(False)


def context(seed: int = 0) -> MethodContext:
    windows = torch.randint(0, 61, (4, 16), generator=torch.Generator().manual_seed(1))
    return MethodContext(seed=seed, calibration=windows, batch_tokens=32)


def run(model: Decoder, name: str, ratio: float, *, seed: int = 0, **params) -> float | None:
    module = plugins.load("method", name)
    full = module.Params(**params).model_dump()
    return compress.apply(model, (Step(name, module.VERSION, ratio, full),), context(seed))


@pytest.mark.parametrize("name", METHODS)
def test_the_contract_is_kept(name):
    module = plugins.load("method", name)
    assert module.__doc__
    assert module.SOURCE
    assert module.VERSION >= 1
    assert {"calibration", "seed"} >= module.NEEDS
    assert module.Params.model_config["frozen"]
    assert module.Params.model_config["extra"] == "forbid"


def test_methods_validate_parameters_without_torch():
    code = (
        "import sys; from ssmbench import plugins\n"
        "for n in plugins.names('method'): plugins.load('method', n).Params()\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_ratio_zero_is_bit_identical_to_dense(name, family):
    model = tiny(family)
    run(model, name, 0.0)
    for ours, dense in zip(model.parameters(), tiny(family).parameters(), strict=True):
        assert torch.equal(ours, dense)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PRUNING)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_the_asked_share_is_removed_and_nothing_else_is_touched(name, family, ratio):
    model, dense = tiny(family), tiny(family)
    achieved = run(model, name, ratio)
    assert achieved == zero_fraction(model, "both")
    # One row of the narrowest projection is the finest step that a row-wise method can take.
    assert abs(achieved - ratio) <= 1 / 24
    touched = {
        n
        for (n, p), q in zip(model.named_parameters(), dense.parameters(), strict=True)
        if not torch.equal(p, q)
    }
    projections = ("in_proj.weight", "out_proj.weight")
    assert touched == {n for n, _ in dense.named_parameters() if n.endswith(projections)}


@pytest.mark.parametrize("name", PRUNING)
def test_the_same_seed_gives_the_same_bits(name):
    first, second = tiny("mamba2"), tiny("mamba2")
    run(first, name, 0.5, seed=3)
    run(second, name, 0.5, seed=3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", PRUNING)
def test_targets_limit_what_is_pruned(name):
    model = tiny("mamba")
    run(model, name, 0.5, targets="out_proj")
    assert zero_fraction(model, "in_proj") == 0
    assert zero_fraction(model, "out_proj") == pytest.approx(0.5, abs=1 / 24)


@pytest.mark.parametrize("name", PRUNING)
def test_a_model_without_ssm_mixers_is_refused(name):
    with pytest.raises(MethodError, match="gpt_neox: found no SSM mixer"):
        run(tiny("gpt_neox"), name, 0.5)


def test_wanda_without_calibration_is_refused():
    module = plugins.load("method", "wanda")
    empty = MethodContext(seed=0, calibration=None)
    with pytest.raises(MethodError, match="found no calibration text"):
        module.compress(tiny("mamba"), ratio=0.5, params=module.Params(), context=empty)


def test_wanda_by_hand():
    weight = torch.tensor([[1.0, -4.0, 2.0, 0.5], [3.0, 1.0, -1.0, 2.0]])
    norm = torch.tensor([1.0, 0.1, 1.0, 10.0])
    # |w|·‖x‖: [1, .4, 2, 5] and [3, .1, 1, 20]; half of each row goes.
    expected = torch.tensor([[False, False, True, True], [True, False, False, True]])
    assert torch.equal(wanda_keep(weight, norm, 0.5), expected)


def test_wanda_refuses_norms_that_are_not_finite():
    with pytest.raises(NumericalError, match="not finite"):
        wanda_keep(torch.ones(2, 2), torch.tensor([1.0, float("inf")]), 0.5)


def test_magnitude_by_hand():
    weight = torch.tensor([[1.0, -4.0], [0.5, 3.0]])
    matrix = torch.tensor([[False, True], [False, True]])
    assert torch.equal(magnitude_keep(weight, 0.5, per="matrix"), matrix)
    weight = torch.tensor([[5.0, -4.0], [0.5, 3.0]])
    row = torch.tensor([[True, False], [False, True]])
    assert torch.equal(magnitude_keep(weight, 0.5, per="row"), row)


def naive_norms(model: Decoder, windows: torch.Tensor) -> dict[tuple[int, str], torch.Tensor]:
    """Recompute what enters each projection from the blocks' own formulas, one window at a time."""
    seen: dict[tuple[int, str], list[torch.Tensor]] = {}
    hooks = []
    for i, block in enumerate(model.layers):
        for name in ("in_proj", "out_proj"):
            rows = seen.setdefault((i, name), [])
            hook = lambda _m, x, rows=rows: rows.append(x[0].clone())  # noqa: E731
            hooks.append(getattr(block.mixer, name).register_forward_pre_hook(hook))
    for window in windows:
        model.hidden(Forest.batch(window[None]))
    for hook in hooks:
        hook.remove()
    return {k: torch.cat(v).double().square().sum(0).sqrt().float() for k, v in seen.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_a_normal_forward_pass(family):
    model = tiny(family)
    windows = context().windows()
    expected = naive_norms(model, windows)
    for i, (_, norms) in enumerate(walk(model, windows, ("in_proj", "out_proj"), batch_tokens=32)):
        for name, norm in norms.items():
            torch.testing.assert_close(norm, expected[i, name], rtol=1e-5, atol=1e-6)
            assert bool((norm > 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_sequential_wanda_sees_the_layers_before_it_pruned(family):
    """Its twin: prune one layer, then take the next one's norms by a whole forward pass."""
    model, twin = tiny(family), tiny(family)
    run(model, "wanda", 0.5)
    for i, block in enumerate(twin.layers):
        norms = naive_norms(twin, context().windows())
        for name in ("in_proj", "out_proj"):
            weight = getattr(block.mixer, name).weight
            weight.masked_fill_(~wanda_keep(weight, norms[i, name], 0.5), 0)
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a == 0, b == 0), name


def test_sequential_and_one_pass_wanda_differ_after_the_first_layer():
    one, two = tiny("mamba2"), tiny("mamba2")
    run(one, "wanda", 0.5)
    run(two, "wanda", 0.5, sequential=False)
    equal = [
        torch.equal(a.mixer.in_proj.weight, b.mixer.in_proj.weight)
        for a, b in zip(one.layers, two.layers, strict=True)
    ]
    assert equal == [True, False]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    ratio=st.floats(0, 0.999),
    more=st.floats(0, 0.999),
    seed=st.integers(0, 1000),
)
def test_keeping_is_exact_and_monotone(n, ratio, more, seed):
    low, high = sorted((ratio, more))
    # Few distinct scores, so that ties are the rule.
    scores = torch.randint(0, 5, (3, n), generator=torch.Generator().manual_seed(seed)).float()
    kept_low, kept_high = keep_largest(scores, low), keep_largest(scores, high)
    assert bool((kept_low.sum(-1) == n - n_dropped(n, low)).all())
    assert bool((kept_high <= kept_low).all())


def test_ties_keep_the_lower_index():
    assert keep_largest(torch.ones(1, 4), 0.5).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(("n", "ratio", "expected"), [(100, 0.29, 29), (10, 0.3, 3), (7, 0.5, 3)])
def test_the_number_dropped_is_the_floor_in_exact_arithmetic(n, ratio, expected):
    assert n_dropped(n, ratio) == expected
