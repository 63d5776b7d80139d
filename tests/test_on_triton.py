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
    found = {}
    for programs in (1, 10_000):
        monkeypatch.setattr(ours, "ENOUGH_PROGRAMS", programs)
        found[programs] = ours.selective_scan_influence(**inputs), ours.ssd_influence(**heads)
    for a, b in zip(*found.values(), strict=True):
        assert torch.equal(a, b)


def test_a_long_scan_on_few_channels_is_cut_into_chunks(ours):
    assert ours._reach(4096, programs=2000) == 4096
    assert ours._reach(100, programs=1) == 100
    assert ours._reach(4096, programs=100) == 373
    assert ours._reach(4096, programs=1) == ours.LEAST_REACH


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
    long = torch.zeros(1, ours.MOST_CHANNELS + 1)
    assert ours.gate(long, long, torch.float32) is None
    assert ours.gate(long[:0, :3], long[:0, :3], torch.float32) is None


@pytest.mark.parametrize("operation", ["ssd", "selective_scan", "causal_conv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_check_of_a_device_passes(ours, operation, dtype):
    error = check.error(operation, getattr(ours, operation), "cpu", dtype)
    assert error < check.LARGEST_ERRORS[dtype] / 2
