"""Our Triton kernels, interpreted on the CPU, against the naive recurrences in float64."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_helpers import (
    DTYPES,
    aggregates,
    conv_inputs,
    dtypes,
    gate_inputs,
    in_storage,
    off,
    scan_inputs,
    scan_scores,
    ssd_inputs,
    ssd_scores,
)
from torch.testing import assert_close

from ssmbench.kernels import check, influence, naive

EXAMPLES = settings(max_examples=12, deadline=None)


@pytest.fixture(scope="module")
def ours():
    """The launchers; tests/conftest.py lets their kernels be interpreted."""
    pytest.importorskip("triton", reason="triton is not installed: it is for Linux alone")
    if os.environ["TRITON_INTERPRET"] != "1":
        pytest.skip("TRITON_INTERPRET is not 1: the kernels are compiled, for a GPU")
    from ssmbench.kernels import on_triton

    return on_triton


@given(scan_inputs(longest=7), dtypes, st.sampled_from([None, 1, 3, 5]))
@EXAMPLES
def test_a_selective_scan_agrees_with_the_recurrence(ours, inputs, dtype, reach):
    cast, wide = in_storage(inputs, dtype)
    found = ours.selective_scan(**cast, reach=reach)
    assert found[0].dtype == dtype
    assert found[1].dtype == torch.float32
    assert off(found, naive.selective_scan(**wide)) < DTYPES[dtype]


@given(ssd_inputs(longest=5), dtypes)
@EXAMPLES
def test_short_rows_of_ssd_agree_with_the_recurrence(ours, drawn, dtype):
    cast, wide = in_storage(drawn[0], dtype)
    found = ours.ssd(**cast)
    assert found[0].dtype == dtype
    assert found[1].dtype == torch.float32
    assert off(found, naive.ssd(**wide)) < DTYPES[dtype]


def orders(state):
    """Give a state as it is, as one that all rows share, and in another order in memory."""
    axes = list(range(state.dim() - 1, 0, -1))
    back = [0, *axes]
    return state, state[:1].expand_as(state), state.permute(back).contiguous().permute(back)


def test_a_state_is_read_by_its_strides(ours):
    scan = next(check._cases("selective_scan", torch.float32))
    scan |= {name: scan[name][:, :4] for name in ("u", "dt", "B", "C")}
    ssd = dict(list(check._cases("ssd", torch.float32))[1])
    del ssd["rates"]
    for state in orders(torch.randn(2, 33, 8)):
        expected = naive.selective_scan(
            **{k: v.double() for k, v in (scan | {"state": state}).items()}
        )
        for reach in (None, 2):
            assert (
                off(ours.selective_scan(**(scan | {"state": state}), reach=reach), expected) < 2e-6
            )
    for state in orders(torch.randn(2, 4, 12, 20)):
        expected = naive.ssd(**{k: v.double() for k, v in (ssd | {"state": state}).items()})
        assert off(ours.ssd(**(ssd | {"state": state})), expected) < 2e-6


def gradients(function, inputs, **options):
    """Give the gradients of a sum of what a function gives, by all that can have one."""
    leaves = {
        k: v.detach().clone().requires_grad_()
        for k, v in inputs.items()
        if isinstance(v, torch.Tensor)
    }
    if leaves.get("state") is not None and inputs["state"].stride(0) == 0:
        # One state that all rows share.
        leaves["state"] = inputs["state"][:1].detach().clone().requires_grad_()
    given = inputs | leaves
    if given.get("state") is not None:
        given["state"] = given["state"].expand(len(inputs["u"]), -1, -1)
    found = function(**given, **options)
    outputs = found if isinstance(found, tuple) else (found,)
    totals = [(y.double().sin() + y.double().square()).sum() for y in outputs]
    by = torch.autograd.grad(totals, list(leaves.values()))
    assert [g.dtype for g in by] == [leaf.dtype for leaf in leaves.values()]
    return by


def agree(found, expected, limit):
    for a, b in zip(found, expected, strict=True):
        assert off(a, b) < limit


# Sums of many terms, of which some cancel; in bf16 the outputs are rounded before the loss.
GRADIENTS = {torch.float32: 1e-5, torch.bfloat16: 4e-2}


@given(scan_inputs(longest=19), dtypes, st.sampled_from([None, 3]))
@EXAMPLES
def test_gradients_of_a_selective_scan_agree_with_the_recurrences(ours, inputs, dtype, reach):
    cast, wide = in_storage(inputs, dtype)
    found = gradients(ours.selective_scan, cast, reach=reach)
    agree(found, gradients(naive.selective_scan, wide), GRADIENTS[dtype])


def test_gradients_of_rows_that_take_turns_are_the_same(ours, monkeypatch):
    from ssmbench.kernels.on_triton import scan

    (inputs, *_) = check._cases("selective_scan", torch.float32)
    inputs = {k: v[:, :9] if k in ("u", "dt", "B", "C") else v for k, v in inputs.items()}
    whole = gradients(ours.selective_scan, inputs)
    monkeypatch.setattr(scan, "BLOCK_ELEMENTS", 1)
    agree(gradients(ours.selective_scan, inputs), [g.double() for g in whole], 1e-6)


def test_gradients_where_decays_underflow_are_finite_and_right(ours):
    (inputs, *_) = check._cases("selective_scan", torch.float32)
    inputs = {k: v[:, :6] if k in ("u", "dt", "B", "C") else v for k, v in inputs.items()}
    inputs["A"] = inputs["A"] * 300
    wide = {k: v.double() for k, v in inputs.items()}
    found = gradients(ours.selective_scan, inputs)
    agree(found, gradients(naive.selective_scan, wide), 1e-5)


@pytest.mark.parametrize("frozen", ["u", "dt", "A", "B", "C", "D", "state"])
def test_an_input_that_learns_alone_has_its_gradient(ours, frozen):
    (inputs, *_) = check._cases("selective_scan", torch.float32)
    inputs = {k: v[:, :3] if k in ("u", "dt", "B", "C") else v for k, v in inputs.items()}
    leaf = inputs[frozen].clone().requires_grad_()
    y, left = ours.selective_scan(**(inputs | {frozen: leaf}))
    (y.square().sum() + left.sum()).backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() > 0


@given(conv_inputs(most_taps=5), dtypes)
@EXAMPLES
def test_gradients_of_a_convolution_agree_with_the_sum_of_taps(ours, inputs, dtype):
    cast, wide = in_storage(inputs, dtype)
    found = gradients(ours.causal_conv, cast)
    agree(found, gradients(naive.causal_conv, wide), GRADIENTS[dtype])


@given(gate_inputs(), dtypes, st.sampled_from([1, 2, 1024]))
@EXAMPLES
def test_gradients_of_gates_and_norms_agree_with_the_formula(ours, inputs, dtype, programs):
    from ssmbench.kernels.on_triton import gating

    cast, wide = in_storage(inputs, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "ENOUGH_PROGRAMS", programs)
        found = gradients(ours.gated_norm, cast)
    agree(found, gradients(naive.gated_norm, wide), GRADIENTS[dtype])
    cast, wide = ({k: d[k] for k in ("y", "z")} for d in (cast, wide))
    found = gradients(ours.gate, cast, dtype=torch.float32)
    agree(found, gradients(naive.gate, wide, dtype=torch.float64), GRADIENTS[dtype])


def test_a_state_is_written_into_only_where_that_is_allowed_and_possible(ours):
    scan = next(check._cases("selective_scan", torch.float32))
    scan |= {name: scan[name][:, :4] for name in ("u", "dt", "B", "C")}
    ssd = dict(list(check._cases("ssd", torch.float32))[1])
    del ssd["rates"]
    for function, inputs, shape in (
        (ours.selective_scan, scan, (2, 33, 8)),
        (ours.ssd, ssd, (2, 4, 12, 20)),
    ):
        for reach in (None, 2) if function is ours.selective_scan else (None,):
            how = {} if reach is None else {"reach": reach}
            for state, fits in zip(orders(torch.randn(shape)), (True, False, False), strict=True):
                before = state.clone()
                expected = function(**(inputs | {"state": state}), **how)
                assert torch.equal(state, before)
                found = function(**(inputs | {"state": state}), **how, overwrite=True)
                assert torch.equal(found[0], expected[0])
                assert torch.equal(found[1], expected[1])
                assert (found[1] is state) == fits
                assert fits or torch.equal(state, before)


@given(conv_inputs(most_taps=5), dtypes)
@EXAMPLES
def test_a_convolution_agrees_with_the_sum_of_taps(ours, inputs, dtype):
    cast, wide = in_storage(inputs, dtype)
    found = ours.causal_conv(**cast)
    assert found.dtype == dtype
    assert off(found, naive.causal_conv(**wide)) < DTYPES[dtype]


@given(gate_inputs(), dtypes)
@EXAMPLES
def test_gates_and_norms_agree_with_the_formula(ours, inputs, dtype):
    cast, wide = in_storage(inputs, dtype)
    found = ours.gated_norm(**cast)
    assert found.dtype == dtype
    assert off(found, naive.gated_norm(**wide)) < DTYPES[dtype]
    found = ours.gate(cast["y"], cast["z"], torch.float32)
    assert found.dtype == torch.float32
    assert off(found, naive.gate(wide["y"], wide["z"], torch.float64)) < 2e-6


def same_scores(found, expected, lengths):
    """Compare logarithms where tokens are: −∞ with −∞, all others to float32's digits."""
    valid = torch.ones_like(found, dtype=torch.bool)
    if lengths is not None:
        valid = torch.arange(found.shape[1]) < lengths[:, None]
    # The logarithms' errors are relative errors of the influence, and of the sums of steps.
    assert found.dtype == torch.float32
    assert_close(found[valid].double(), expected[valid], rtol=2e-6, atol=2e-5)


@given(scan_scores(), aggregates, dtypes)
@EXAMPLES
def test_scores_of_mamba1_agree_with_the_torch_form(ours, inputs, aggregate, dtype):
    cast, wide = in_storage(inputs, dtype)
    found = ours.selective_scan_influence(**cast, aggregate=aggregate)
    expected = influence.selective_scan_influence(**wide, aggregate=aggregate)
    same_scores(found, expected, inputs["lengths"])


@given(ssd_scores(), aggregates, dtypes)
@EXAMPLES
def test_scores_of_mamba2_agree_with_the_torch_form(ours, inputs, aggregate, dtype):
    cast, wide = in_storage(inputs, dtype)
    found = ours.ssd_influence(**cast, aggregate=aggregate)
    expected = influence.ssd_influence(**wide, aggregate=aggregate)
    same_scores(found, expected, inputs["lengths"])


def test_an_influence_that_is_nowhere_positive_is_minus_infinity(ours):
    A, one, dt = -torch.ones(3, 2), torch.ones(1, 4, 2), torch.ones(1, 4, 3)
    found = ours.selective_scan_influence(-torch.ones(1, 4, 3), dt, dt, A, one, one)
    assert found.tolist() == [[-float("inf")] * 4]
    x, group = -torch.ones(1, 4, 2, 3), torch.ones(1, 4, 1, 2)
    found = ours.ssd_influence(x, None, -torch.ones(1, 4, 2), group, group)
    assert found.tolist() == [[-float("inf")] * 4]


@pytest.mark.parametrize("channel", [0, 69])
def test_a_score_that_is_not_a_number_stays_one(ours, channel):
    u, dt, B = torch.ones(1, 5, 70), torch.ones(1, 5, 70), torch.ones(1, 5, 2)
    u[0, 1, channel] = float("nan")
    found = ours.selective_scan_influence(u, dt, dt, -torch.ones(70, 2), B, B)
    assert found.isnan().tolist() == [[False, True, False, False, False]]
    x, group = u.view(1, 5, 7, 10), torch.ones(1, 5, 1, 2)
    found = ours.ssd_influence(x, None, -torch.ones(1, 5, 7), group, group)
    assert found.isnan().tolist() == [[False, True, False, False, False]]


def test_shares_of_the_channels_give_what_all_together_give(ours, monkeypatch):
    (inputs, _) = check._cases("selective_scan_influence", torch.float32)
    (heads, _) = check._cases("ssd_influence", torch.float32)
    from ssmbench.kernels.on_triton import launching

    found = {}
    for programs in (1, 10_000):
        monkeypatch.setattr(launching, "ENOUGH_PROGRAMS", programs)
        found[programs] = ours.selective_scan_influence(**inputs), ours.ssd_influence(**heads)
    for a, b in zip(*found.values(), strict=True):
        assert torch.equal(a, b)


def test_a_long_scan_on_few_channels_is_cut_into_chunks(ours):
    from ssmbench.kernels.on_triton import scan

    assert scan.reach_of(4096, programs=2000) == 4096
    assert scan.reach_of(100, programs=1) == 100
    assert scan.reach_of(4096, programs=100) == 373
    assert scan.reach_of(4096, programs=1) == scan.LEAST_REACH


def test_what_the_kernels_do_not_take_is_left_to_the_torch_form(ours):
    x, decay, one = torch.randn(1, 17, 2, 3), -torch.rand(1, 17, 2), torch.randn(1, 17, 1, 4)
    assert ours.ssd(x, decay, None, one, one) is None
    assert ours.ssd(x[:, :1].double(), decay[:, :1], None, one[:, :1], one[:, :1]) is None
    assert ours.ssd_influence(x, None, decay, one, one, aggregate="l2") is None
    assert ours.ssd_influence(x, None, decay, one, one, log=False) is None
    u, A, B = torch.randn(1, 4, 3), -torch.rand(3, 2), torch.randn(1, 4, 2)
    assert ours.selective_scan(u.double(), u, A, B, B) is None
    assert ours.selective_scan(u[:, :0], u[:, :0], A, B[:, :0], B[:, :0]) is None
    assert ours.selective_scan_influence(u, u, u, A, B, B, aggregate="l2") is None
    assert ours.causal_conv(u.double(), torch.randn(3, 4).double(), None) is None
    long = torch.zeros(1, (1 << 14) + 1)
    assert ours.gate(long, long, torch.float32) is None
    assert ours.gate(long[:0, :3], long[:0, :3], torch.float32) is None


@pytest.mark.parametrize("operation", ["selective_scan", "causal_conv", "gate", "gated_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_check_of_a_backward_pass_passes_and_sees_a_wrong_one(ours, operation, dtype):
    right = getattr(ours, operation)
    limit = check.LARGEST_ERRORS[dtype]
    assert check.gradient_error(operation, right, "cpu", dtype) < limit / 2

    def wrong(**inputs):
        for name in ("dt", "bias", "z"):
            if inputs.get(name) is not None:
                return right(**(inputs | {name: inputs[name].detach() + 0 * inputs[name]}))
        raise AssertionError

    assert check.gradient_error(operation, wrong, "cpu", dtype) > limit


@pytest.mark.parametrize("operation", ["ssd", "selective_scan", "causal_conv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_check_of_a_device_passes(ours, operation, dtype):
    error = check.error(operation, getattr(ours, operation), "cpu", dtype)
    assert error < check.LARGEST_ERRORS[dtype] / 2
