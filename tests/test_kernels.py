"""Each fast form against its naive twin, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ssmbench.kernels import naive
from ssmbench.kernels.conv import causal_conv, next_tail
from ssmbench.kernels.selective_scan import selective_scan
from ssmbench.kernels.ssd import ssd

DOUBLE = torch.float64
# Sums of cumulative decays are differences of numbers up to a few hundred: float64 keeps 1e-10.
TIGHT = {"rtol": 1e-8, "atol": 1e-10}
# float32: one chunk's cumulative sum reaches about 100, so 1e-5 of the largest output.
SINGLE = {"rtol": 1e-4, "atol": 2e-4}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ssd_inputs(b: int, length: int, h: int, p: int, g: int, n: int, dtype: torch.dtype = DOUBLE):
    step = torch.nn.functional.softplus(draw(b, length, h, seed=1, dtype=dtype))
    return {
        "x": draw(b, length, h, p, seed=2, dtype=dtype),
        "log_decay": -step * (draw(h, seed=3, dtype=dtype).abs() + 0.1),
        "in_weight": step,
        "B": draw(b, length, g, n, seed=4, dtype=dtype),
        "C": draw(b, length, g, n, seed=5, dtype=dtype),
        "D": draw(h, seed=6, dtype=dtype),
        "state": draw(b, h, p, n, seed=7, dtype=dtype),
    }


@pytest.mark.parametrize(
    ("b", "length", "h", "p", "g", "n", "chunk"),
    [
        (2, 37, 4, 6, 1, 5, 16),
        (1, 64, 3, 5, 3, 4, 64),
        (3, 1, 2, 3, 1, 7, 64),
        (2, 130, 6, 4, 2, 3, 32),
        (1, 5, 1, 1, 1, 1, 2),
    ],
)
def test_ssd_agrees_with_the_recurrence(b, length, h, p, g, n, chunk):
    inputs = ssd_inputs(b, length, h, p, g, n)
    y, state = ssd(**inputs, chunk=chunk)
    y_ref, state_ref = naive.ssd(**inputs)
    assert_close(y, y_ref, **TIGHT)
    assert_close(state, state_ref, **TIGHT)


@pytest.mark.parametrize("absent", ["in_weight", "D", "state"])
def test_ssd_without_an_optional_input(absent):
    inputs = ssd_inputs(2, 21, 4, 3, 2, 5) | {absent: None}
    y, state = ssd(**inputs, chunk=8)
    y_ref, state_ref = naive.ssd(**inputs)
    assert_close(y, y_ref, **TIGHT)
    assert_close(state, state_ref, **TIGHT)


def test_ssd_in_float32_stays_near_the_float64_recurrence():
    inputs = ssd_inputs(2, 200, 4, 8, 1, 16, torch.float32)
    y, _ = ssd(**inputs)
    y_ref, _ = naive.ssd(**{k: v.double() for k, v in inputs.items()})
    assert_close(y.double(), y_ref, **SINGLE)


def test_ssd_survives_decays_that_underflow():
    inputs = ssd_inputs(1, 130, 2, 3, 1, 4, torch.float32)
    inputs["log_decay"] = inputs["log_decay"] * 100
    y, state = ssd(**inputs)
    y_ref, state_ref = naive.ssd(**{k: v.double() for k, v in inputs.items()})
    # Cumulative decays reach thousands here; their float32 differences are good to 1e-3.
    assert_close(y.double(), y_ref, rtol=2e-3, atol=2e-3)
    assert_close(state.double(), state_ref, rtol=2e-3, atol=2e-3)


def test_ssd_rows_taken_apart_give_what_they_give_together(monkeypatch):
    inputs = ssd_inputs(5, 40, 2, 3, 1, 4)
    whole, _ = ssd(**inputs)
    monkeypatch.setattr("ssmbench.kernels.ssd.BLOCK_ELEMENTS", 1)
    apart, _ = ssd(**inputs)
    assert_close(apart, whole, **TIGHT)


def gradients(fast, inputs, frozen=(), **kwargs):
    leaves = {k: v.clone().requires_grad_(k not in frozen) for k, v in inputs.items()}
    y, state = fast(**leaves, **kwargs)
    (y.square().sum() + state.sin().sum()).backward()
    return {k: v.grad for k, v in leaves.items()}


@pytest.mark.parametrize(
    ("b", "length", "h", "p", "g", "n", "chunk"),
    [(2, 11, 4, 3, 2, 5, 4), (1, 9, 3, 2, 3, 4, 64), (2, 12, 6, 2, 1, 3, 3), (1, 1, 2, 2, 1, 2, 8)],
)
def test_ssd_gradients_agree_with_the_recurrence(b, length, h, p, g, n, chunk):
    inputs = ssd_inputs(b, length, h, p, g, n)
    found, expected = gradients(ssd, inputs, chunk=chunk), gradients(naive.ssd, inputs)
    for name, grad in expected.items():
        assert_close(found[name], grad, **TIGHT, msg=lambda m, name=name: f"{name}: {m}")


def test_ssd_gradients_survive_decays_that_underflow():
    inputs = ssd_inputs(1, 70, 2, 3, 1, 4)
    inputs["log_decay"] = inputs["log_decay"] * 100
    expected = gradients(naive.ssd, inputs)
    found = gradients(ssd, {k: v.float() for k, v in inputs.items()})
    for name, grad in expected.items():
        scale = grad.abs().max()
        assert_close(found[name].double() / scale, grad / scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("frozen", ["log_decay", "B", "x"])
def test_ssd_with_an_input_frozen_gives_the_other_gradients(frozen):
    inputs = ssd_inputs(2, 11, 4, 3, 2, 5)
    whole, found = gradients(ssd, inputs), gradients(ssd, inputs, frozen=(frozen,))
    assert found.pop(frozen) is None
    assert all(torch.equal(grad, whole[name]) for name, grad in found.items())


def test_ssd_gives_the_same_bits_whether_gradients_are_wanted_or_not():
    inputs = ssd_inputs(2, 70, 4, 3, 2, 5, torch.float32)
    y, state = ssd(**inputs)
    with_gradients = ssd(**{k: v.clone().requires_grad_() for k, v in inputs.items()})
    assert torch.equal(y, with_gradients[0])
    assert torch.equal(state, with_gradients[1])


def scan_inputs(b: int, length: int, e: int, n: int, dtype: torch.dtype = DOUBLE):
    return {
        "u": draw(b, length, e, seed=1, dtype=dtype),
        "dt": torch.nn.functional.softplus(draw(b, length, e, seed=2, dtype=dtype)),
        "A": -draw(e, n, seed=3, dtype=dtype).exp(),
        "B": draw(b, length, n, seed=4, dtype=dtype),
        "C": draw(b, length, n, seed=5, dtype=dtype),
        "D": draw(e, seed=6, dtype=dtype),
        "state": draw(b, e, n, seed=7, dtype=dtype),
    }


@pytest.mark.parametrize(
    ("b", "length", "e", "n"), [(2, 37, 6, 5), (1, 8, 3, 1), (3, 1, 4, 2), (2, 16, 5, 16)]
)
def test_selective_scan_agrees_with_the_recurrence(b, length, e, n):
    inputs = scan_inputs(b, length, e, n)
    y, state = selective_scan(**inputs)
    y_ref, state_ref = naive.selective_scan(**inputs)
    assert_close(y, y_ref, **TIGHT)
    assert_close(state, state_ref, **TIGHT)


@pytest.mark.parametrize("absent", ["D", "state"])
def test_selective_scan_without_an_optional_input(absent):
    inputs = scan_inputs(2, 19, 4, 3) | {absent: None}
    y, state = selective_scan(**inputs)
    y_ref, state_ref = naive.selective_scan(**inputs)
    assert_close(y, y_ref, **TIGHT)
    assert_close(state, state_ref, **TIGHT)


@pytest.mark.parametrize("frozen", [(), ("A",), ("B", "D"), ("u", "state")])
def test_selective_scan_gradients_agree_with_the_recurrence(frozen):
    inputs = scan_inputs(2, 19, 4, 3)
    found = gradients(selective_scan, inputs, frozen)
    expected = gradients(naive.selective_scan, inputs, frozen)
    for name in inputs:
        assert (found[name] is None) == (name in frozen)
        if name not in frozen:
            assert_close(found[name], expected[name], **TIGHT)


@pytest.mark.parametrize("length", [1, 2, 3, 9])
@pytest.mark.parametrize("with_tail", [True, False])
def test_conv_agrees_with_the_loop_and_with_torch(length, with_tail):
    x, weight, bias = draw(2, length, 5), draw(5, 4, seed=1), draw(5, seed=2)
    tail = draw(2, 3, 5, seed=3) if with_tail else None
    y = causal_conv(x, weight, bias, tail)
    assert_close(y, naive.causal_conv(x, weight, bias, tail), **TIGHT)
    before = torch.zeros(2, 3, 5, dtype=DOUBLE) if tail is None else tail
    padded = torch.cat([before, x], 1).transpose(1, 2)
    torch_form = torch.nn.functional.conv1d(padded, weight[:, None], bias, groups=5)
    assert_close(y, torch_form.transpose(1, 2), **TIGHT)


def test_a_short_row_takes_its_tail_from_before():
    x = torch.arange(1.0, 7.0).view(2, 3, 1)
    tail = torch.tensor([[-3.0], [-2.0], [-1.0]]).expand(2, 3, 1)
    lengths = torch.tensor([1, 3])
    found = next_tail(x, lengths, 4, tail)
    # Row 0 has one token (1): its last three inputs are -2, -1, 1. Row 1 has all of 4, 5, 6.
    assert found[:, :, 0].tolist() == [[-2.0, -1.0, 1.0], [4.0, 5.0, 6.0]]
