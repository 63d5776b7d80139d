"""The largest influence by bounds, against a program that takes every sum."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ssmbench.kernels import influence, largest
from ssmbench.surgery.tokens import keep_best

# How fast what enters is forgotten: far tokens underflow; all are near; channels differ.
STEPS = {"fast": 0.0, "slow": -6.0, "uneven": -3.0}


def scan(
    steps: str, length: int = 90, *, batch: int = 2, channels: int = 70, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    rates = drawn(channels, 8) * (1.0 if steps == "uneven" else 0.1)
    A = -torch.arange(1.0, 9.0, dtype=torch.float64) * rates.exp()
    shape = (batch, length, channels)
    return {
        "u": drawn(*shape),
        "dt": F.softplus(drawn(*shape) - 4),
        "decay_dt": F.softplus(drawn(*shape) + STEPS[steps]),
        "A": A,
        "B": drawn(batch, length, 8),
        "C": drawn(batch, length, 8),
    }


def every_sum(inputs: dict[str, Tensor], aggregate: str, lengths: Tensor | None = None) -> Tensor:
    """Take all of (batch, length, E, N), and the largest after that."""
    t = inputs
    last = influence.at_last(t["C"], lengths)
    S = influence.steps_after(t["decay_dt"], lengths)
    exponent = S[..., None] * t["A"]
    most = exponent.amax(-1)
    mixed = ((t["B"] * last[:, None])[:, :, None] * (exponent - most[..., None]).exp()).sum(-1)
    change = mixed * t["dt"] * t["u"]
    size = change.clamp_min(0) if aggregate == "max" else change.abs()
    return (size.log() + most).amax(-1)


def single(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.float() for name, t in inputs.items()}


@pytest.mark.parametrize("aggregate", ["max", "absmax"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("block", [1 << 17, 3 * 70])
def test_no_channel_that_could_be_the_largest_is_left_out(monkeypatch, steps, aggregate, block):
    monkeypatch.setattr(largest, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(largest, "STATE_ELEMENTS", block)
    inputs = scan(steps)
    found = influence.selective_scan_influence(**inputs, aggregate=aggregate)
    assert_close(found, every_sum(inputs, aggregate), rtol=1e-12, atol=1e-12)


def test_a_bound_that_is_far_off_costs_no_digits():
    """The channel with the highest bound counts for nothing: the next is e^−300 of it."""
    inputs = scan("fast", 20, batch=1, channels=2)
    inputs["decay_dt"][..., 0], inputs["decay_dt"][..., 1] = 1e-3, 30.0
    inputs["u"][0, 3] = torch.tensor([-1.0, 1.0])
    inputs["B"][0, 3] = inputs["C"][0, -1]
    expected = every_sum(inputs, "max")
    assert expected[0, 3] < -300
    found = influence.selective_scan_influence(**inputs)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    narrow = influence.selective_scan_influence(**single(inputs))
    assert_close(narrow.double(), expected, rtol=1e-5, atol=1e-5)


@given(
    steps=st.sampled_from(list(STEPS)),
    aggregate=st.sampled_from(["max", "absmax"]),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_bounds_keep_the_tokens_that_all_sums_keep(steps, aggregate, lengths, fraction, seed):
    sizes = {"batch": len(lengths), "length": max(lengths), "channels": 40, "seed": seed}
    inputs = single(scan(steps, **sizes))
    n = None if len(set(lengths)) == 1 else torch.tensor(lengths)
    n_kept = [max(1, round(fraction * length)) for length in lengths]
    found = influence.selective_scan_influence(
        **inputs, aggregate=aggregate, lengths=n, n_kept=n_kept
    )
    every = every_sum({k: t.double() for k, t in inputs.items()}, aggregate, n)
    kept = keep_best(found, lengths, n_kept)
    assert kept.sum(1).tolist() == n_kept
    # Float32 may exchange tokens whose scores are equal but for rounding.
    expected = keep_best(every, lengths, n_kept)
    for row, (a, b) in enumerate(zip(kept, expected, strict=True)):
        exchanged = every[row, a ^ b]
        assert len(exchanged) == 0 or exchanged.max() - exchanged.min() < 1e-4


def test_few_tokens_sums_are_taken_where_the_steps_tell_them_apart(monkeypatch):
    taken = []
    exact = largest._exact

    def spied(scan: largest.Scan, top: Tensor) -> Tensor:
        taken.append(len(top))
        return exact(scan, top)

    monkeypatch.setattr(largest, "_exact", spied)
    inputs = single(scan("fast", 400, batch=1))
    influence.selective_scan_influence(**inputs, n_kept=[380])
    assert sum(taken) < 80
    influence.selective_scan_influence(**inputs)
    assert sum(taken) >= 400


def test_what_is_nothing_stays_minus_infinity():
    inputs = scan("fast", 12, batch=1)
    inputs["u"][0, 3] = 0
    inputs["B"][0, 5] = 0
    # On every channel token 7 has the sign that "max" does not count.
    inputs["u"][0, 7] = -inputs["u"][0, 7].abs()
    inputs["B"][0, 7] = inputs["C"][0, -1]
    found = influence.selective_scan_influence(**inputs, aggregate="max")[0]
    assert [i for i, v in enumerate(found) if v == -math.inf] == [3, 5, 7]
    assert influence.selective_scan_influence(**inputs, aggregate="absmax")[0, 7] > -math.inf


@pytest.mark.parametrize("n_kept", [None, [6]])
def test_a_number_that_is_none_is_not_hidden(n_kept):
    inputs = scan("fast", 12, batch=1)
    inputs["u"][0, 4, 2] = math.nan
    found = influence.selective_scan_influence(**inputs, n_kept=n_kept)[0]
    assert found.isnan().nonzero()[:, 0].tolist() == [4]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
def test_steps_after_are_added_up_as_written(length):
    step = scan("fast", length)["decay_dt"]
    lengths = torch.tensor([length, max(1, length - 3)])
    found = influence.steps_after(step, lengths)
    for row, n in enumerate(lengths.tolist()):
        for t in range(length):
            assert_close(found[row, t], step[row, t + 1 : n].sum(0), rtol=1e-12, atol=1e-12)


def test_the_bound_on_a_logarithm_holds_and_is_near():
    exponents = torch.linspace(-120, 120, 100_003)
    x = torch.cat([torch.exp2(exponents), torch.tensor([1.0, 1.4427, 2.0, 3.0])])
    over = largest.log2_above(x).double() - x.double().log2()
    assert (over > -1e-5).all()
    assert (over < 0.09).all()
    assert torch.isfinite(largest.log2_above(torch.zeros(3))).all()
    assert (largest.log2_above(torch.zeros(3)) < -120).all()
