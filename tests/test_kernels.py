"""Each fast form against its naive twin, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ssmbench.kernels import naive, ssd_blocks
from ssmbench.kernels import selective_scan as scan_of_mamba1
from ssmbench.kernels.conv import causal_conv, next_tail
from ssmbench.kernels.gate import gate, gated_norm
from ssmbench.kernels.selective_scan import selective_scan
from ssmbench.kernels.ssd import ssd
from ssmbench.models.state import select

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


def test_ssd_keeps_the_digits_of_small_differences_of_large_sums():
    """A chunk's sum reaches hundreds; what one step decays by must still be right."""
    inputs = ssd_inputs(1, 64, 2, 3, 1, 4, torch.float32)
    inputs["log_decay"] = torch.full((1, 64, 2), -8.0)
    inputs["log_decay"][:, 32:] = -0.01
    y, state = ssd(**inputs)
    y_ref, state_ref = naive.ssd(**{k: v.double() for k, v in inputs.items()})
    assert_close(y.double(), y_ref, rtol=2e-6, atol=2e-5)
    assert_close(state.double(), state_ref, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("block", [1, 400, 1 << 17])
def test_ssd_in_blocks_of_any_size_gives_the_same(monkeypatch, block):
    inputs = ssd_inputs(5, 41, 4, 3, 2, 4)
    monkeypatch.setattr(ssd_blocks, "BLOCK_ELEMENTS_OF_A_THREAD", block)
    found, expected = gradients(ssd, inputs, chunk=8), gradients(naive.ssd, inputs)
    assert_close(ssd(**inputs, chunk=8), naive.ssd(**inputs), **TIGHT)
    for name, grad in expected.items():
        assert_close(found[name], grad, **TIGHT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("block", [1, 1 << 17])
@pytest.mark.parametrize("length", [1, 16, 19])
def test_ssd_whose_last_state_nobody_wants(monkeypatch, block, length):
    monkeypatch.setattr(ssd_blocks, "BLOCK_ELEMENTS_OF_A_THREAD", block)
    inputs = ssd_inputs(3, length, 4, 3, 2, 5)

    def y_alone(fast, **kwargs):
        leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
        y, state = fast(**leaves, **kwargs)
        y.square().sum().backward()
        return y, state, {k: v.grad for k, v in leaves.items()}

    y, state, found = y_alone(ssd, chunk=8, ends=True)
    y_ref, _, expected = y_alone(naive.ssd)
    assert not state.numel()
    assert_close(y, y_ref, **TIGHT)
    for name, grad in expected.items():
        assert_close(found[name], grad, **TIGHT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("h", "g"), [(4, 1), (4, 4)])
def test_a_state_stays_in_the_products_order_from_call_to_call(h, g):
    inputs = ssd_inputs(3, 5, h, 3, g, 6)
    _, state = ssd(**inputs)
    order = state.permute(0, 3, 1, 2) if g == 1 else state.transpose(2, 3)
    assert order.is_contiguous()
    rows = torch.tensor([2, 0, 0, 1])
    (forked,) = select((state,), rows)
    assert torch.equal(forked, state[rows])
    assert (forked.permute(0, 3, 1, 2) if g == 1 else forked.transpose(2, 3)).is_contiguous()
    assert torch.equal(select((state.contiguous(),), rows)[0], forked)


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


@pytest.mark.parametrize("block", [1, 100, 1 << 19])
def test_selective_scan_in_blocks_of_any_size_gives_the_same(monkeypatch, block):
    inputs = scan_inputs(5, 37, 4, 3)
    monkeypatch.setattr(scan_of_mamba1, "BLOCK_ELEMENTS_OF_A_THREAD", block)
    found = gradients(selective_scan, inputs)
    expected = gradients(naive.selective_scan, inputs)
    assert_close(selective_scan(**inputs), naive.selective_scan(**inputs), **TIGHT)
    for name, grad in expected.items():
        assert_close(found[name], grad, **TIGHT, msg=lambda m, name=name: f"{name}: {m}")


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


def test_conv_computes_in_the_weights_type_also_where_projections_run_in_half():
    x, weight, bias = (draw(*n, dtype=torch.float32) for n in ((2, 9, 5), (5, 4), (5,)))
    expected = causal_conv(x.bfloat16().float(), weight, bias)
    assert torch.equal(causal_conv(x.bfloat16(), weight, bias), expected)


@pytest.mark.parametrize("with_tail", [True, False])
def test_no_positions_convolve_to_none_and_leave_the_tail(with_tail):
    x, tail = draw(2, 0, 5), draw(2, 3, 5, seed=1) if with_tail else None
    assert causal_conv(x, draw(5, 4), None, tail).shape == (2, 0, 5)
    left = torch.zeros(2, 3, 5, dtype=DOUBLE) if tail is None else tail
    assert torch.equal(next_tail(x, None, 4, tail), left)
    assert torch.equal(next_tail(x, torch.tensor([0, 0]), 4, tail), left)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_the_next_tail_is_the_end_of_all_inputs(length):
    x, tail = draw(2, length, 5), draw(2, 3, 5, seed=1)
    whole = torch.cat([tail, x], 1)
    assert torch.equal(next_tail(x, None, 4, tail), whole[:, -3:])
    lengths = torch.tensor([length - 1, length])
    expected = torch.stack([whole[0, length - 1 :][:3], whole[1, length:][:3]])
    assert torch.equal(next_tail(x, lengths, 4, tail), expected)


def test_a_short_row_takes_its_tail_from_before():
    x = torch.arange(1.0, 7.0).view(2, 3, 1)
    tail = torch.tensor([[-3.0], [-2.0], [-1.0]]).expand(2, 3, 1)
    lengths = torch.tensor([1, 3])
    found = next_tail(x, lengths, 4, tail)
    # Row 0 has one token (1): its last three inputs are -2, -1, 1. Row 1 has all of 4, 5, 6.
    assert found[:, :, 0].tolist() == [[-2.0, -1.0, 1.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize(("tokens", "width", "groups"), [(1, 6, 1), (70, 12, 3), (0, 4, 2)])
def test_gate_and_norm_agree_with_their_formulas(monkeypatch, tokens, width, groups):
    monkeypatch.setattr("ssmbench.kernels.gate.BLOCK_ELEMENTS", 100)
    # As a mixer has them: what gates is part of a wider tensor.
    y, z = draw(tokens, width, dtype=torch.float32), draw(tokens, 30, dtype=torch.float32, seed=1)
    z, weight = z[:, 3 : 3 + width], draw(width, dtype=torch.float32, seed=2)
    assert_close(gate(y, z), naive.gate(y, z, torch.float32), rtol=1e-5, atol=1e-6)
    found = gated_norm(y, z, weight, 1e-3, groups)
    assert_close(found, naive.gated_norm(y, z, weight, 1e-3, groups), rtol=1e-5, atol=1e-6)
    # In one go, where gradients are wanted, too.
    leaves = [t.clone().requires_grad_() for t in (y, z, weight)]
    assert_close(gate(*leaves[:2]), gate(y, z), rtol=1e-6, atol=1e-7)
    assert_close(gated_norm(*leaves, 1e-3, groups), found, rtol=1e-6, atol=1e-7)


def test_gradients_of_gate_and_norm_agree_with_their_formulas():
    inputs = {"y": draw(5, 6), "z": draw(5, 6, seed=1), "weight": draw(6, seed=2)}
    inputs = {k: v.float() for k, v in inputs.items()}

    def of(norm):
        leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
        norm(**leaves, eps=1e-3, n_groups=2).square().sum().backward()
        return {k: v.grad for k, v in leaves.items()}

    expected = of(naive.gated_norm)
    for name, grad in of(gated_norm).items():
        assert_close(grad, expected[name], rtol=1e-4, atol=1e-5)
