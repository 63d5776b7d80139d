"""Inputs of the kernels over random odd shapes, and how far a result is from its twin's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from ssmbench.kernels import naive

DTYPES = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2}
STORED = {"x", "u", "B", "C", "y", "z", "weight", "bias", "tail"}

dtypes = st.sampled_from(list(DTYPES))
aggregates = st.sampled_from(["max", "absmax"])


class Draw:
    """Random float64 tensors that float32 holds exactly."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        drawn = torch.randn(*shape, generator=self.generator)
        return drawn.double()

    def step(self, *shape: int) -> torch.Tensor:
        return F.softplus(self(*shape)).float().double()

    def row_lengths(self, rows: int, length: int) -> torch.Tensor:
        drawn = torch.randint(1, length + 1, (rows,), generator=self.generator)
        drawn[0] = length
        return drawn


def in_storage(inputs, dtype):
    """Give inputs as a model of a dtype has them, and the same in float64."""
    cast = {
        k: v.to(dtype if k in STORED else torch.float32)
        if isinstance(v, torch.Tensor) and v.is_floating_point()
        else v
        for k, v in inputs.items()
    }
    wide = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in cast.items()
    }
    return cast, wide


@st.composite
def ssd_inputs(draw, longest=40):
    """Rows, some padded; heads in groups; states that may be one that all rows share."""
    d = Draw(draw(st.integers(0, 2**16)))
    b, length, groups = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, longest)),
        draw(st.integers(1, 3)),
    )
    heads = groups * draw(st.integers(1, 3))
    p, n = (
        draw(st.sampled_from([1, 3, 5, 16, 24, 45, 48])),
        draw(st.sampled_from([1, 7, 16, 20, 96])),
    )
    rates = -(d(heads).abs() + 0.1).float().double()
    valid = (torch.arange(length) < d.row_lengths(b, length)[:, None])[..., None]
    kind = draw(st.sampled_from(["mamba2", "discrete", "discrete padded"]))
    step = d.step(b, length, heads)
    if kind != "discrete":
        step = step * valid
    inputs = {
        "x": d(b, length, heads, p),
        "log_decay": step * rates if kind == "mamba2" else -step,
        "in_weight": {"mamba2": step, "discrete": None}.get(kind, valid.double().expand_as(step)),
        "B": d(b, length, groups, n),
        "C": d(b, length, groups, n),
        "D": draw(st.sampled_from([None, d(heads)])),
        "state": draw_state(draw, d, b, heads, p, n),
    }
    return inputs, rates if kind == "mamba2" else None


def draw_state(draw, d, b, *shape):
    kind = draw(st.sampled_from(["none", "own", "forked", "turned"]))
    if kind == "none":
        return None
    if kind == "forked":
        return d(1, *shape).expand(b, *shape)
    # As the torch form leaves it: another order in memory.
    return (
        d(b, *shape)
        if kind == "own"
        else d(b, *reversed(shape)).permute(0, *range(len(shape), 0, -1))
    )


@st.composite
def scan_inputs(draw, longest=40):
    """Rows of Mamba-1, some padded."""
    d = Draw(draw(st.integers(0, 2**16)))
    b, length = draw(st.integers(1, 3)), draw(st.integers(1, longest))
    e, n = draw(st.sampled_from([1, 5, 33, 64])), draw(st.sampled_from([1, 3, 16, 17]))
    valid = (torch.arange(length) < d.row_lengths(b, length)[:, None])[..., None]
    return {
        "u": d(b, length, e),
        "dt": d.step(b, length, e) * valid,
        "A": -(d(e, n).abs() + 0.1).float().double(),
        "B": d(b, length, n),
        "C": d(b, length, n),
        "D": draw(st.sampled_from([None, d(e)])),
        "state": draw_state(draw, d, b, e, n),
    }


@st.composite
def conv_inputs(draw, most_taps=4):
    """Rows that are a slice of what a projection gives, as a mixer hands them over."""
    d = Draw(draw(st.integers(0, 2**16)))
    b, length, k = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 20)),
        draw(st.integers(2, most_taps)),
    )
    c, more = draw(st.sampled_from([1, 5, 8, 21, 64])), draw(st.integers(0, 9))
    return {
        "x": d(b, length, c + more)[..., more:],
        "weight": d(c, k),
        "bias": draw(st.sampled_from([None, d(c)])),
        "tail": draw(st.sampled_from([None, d(b, k - 1, c)])),
    }


@st.composite
def gate_inputs(draw):
    """What a scan gives out, and a slice of what a projection does."""
    d = Draw(draw(st.integers(0, 2**16)))
    tokens, groups, more = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 5))
    e = groups * draw(st.sampled_from([1, 5, 16, 33]))
    return {
        "y": d(tokens, e),
        "z": 3 * d(tokens, e + more)[:, more:],
        "weight": d(e),
        "eps": 1e-5,
        "n_groups": groups,
    }


@st.composite
def scan_scores(draw):
    """What Simba scores in Mamba-1, rows of differing lengths among it."""
    d = Draw(draw(st.integers(0, 2**16)))
    b, length = draw(st.integers(1, 3)), draw(st.integers(1, 30))
    e, n = draw(st.sampled_from([1, 5, 33, 70])), draw(st.sampled_from([1, 3, 16]))
    # Slow and fast: near tokens, and far ones whose influence underflows.
    speed = draw(st.sampled_from([0.01, 1.0, 30.0]))
    return {
        "u": d(b, length, e),
        "dt": d.step(b, length, e),
        "decay_dt": (d.step(b, length, e) * speed).float().double(),
        "A": -(d(e, n).abs() + 0.1).float().double(),
        "B": d(b, length, n),
        "C": d(b, length, n),
        "lengths": draw(st.sampled_from([None, d.row_lengths(b, length)])),
    }


@st.composite
def ssd_scores(draw):
    """What Simba scores in Mamba-2 and its relatives, whose heads may share x."""
    d = Draw(draw(st.integers(0, 2**16)))
    b, length, groups = draw(st.integers(1, 3)), draw(st.integers(1, 30)), draw(st.integers(1, 3))
    each = draw(st.integers(1, 3))
    heads = groups * each
    p, n = draw(st.sampled_from([1, 5, 24])), draw(st.sampled_from([1, 7, 16]))
    speed = draw(st.sampled_from([0.01, 1.0, 30.0]))
    return {
        "x": d(b, length, draw(st.sampled_from([groups, heads])), p),
        "in_weight": draw(st.sampled_from([None, d.step(b, length, heads)])),
        "log_decay": -(d.step(b, length, heads) * speed).float().double(),
        "B": d(b, length, groups, n),
        "C": d(b, length, draw(st.sampled_from([groups, heads])), n),
        "lengths": draw(st.sampled_from([None, d.row_lengths(b, length)])),
    }


def ssd_gradients(ssd, dtype):
    """Give the gradients by all inputs of a Mamba-2 scan of odd shape, from a state."""
    d = Draw(0)
    inputs = {
        "x": d(2, 9, 4, 6),
        "step": d.step(2, 9, 4),
        "rates": -(d(4).abs() + 0.1).float().double(),
        "B": d(2, 9, 2, 7),
        "C": d(2, 9, 2, 7),
        "D": d(4),
        "state": d(2, 4, 6, 7),
    }
    leaves = {name: t.to(dtype).requires_grad_() for name, t in inputs.items()}
    x, step, rates, B, C, D, state = leaves.values()
    y, left = ssd(x, step * rates, step, B, C, D=D, state=state, rates=rates)
    (y.square().sum() + left.sin().sum()).backward()
    return {name: t.grad for name, t in leaves.items()}


def ssd_without_rates(*args, rates, **kwargs):
    return naive.ssd(*args, **kwargs)


def off(found, expected):
    """Give the largest difference as a part of the largest value; both may be tuples."""
    if isinstance(expected, tuple):
        return max(off(a, b) for a, b in zip(found, expected, strict=True))
    assert found.shape == expected.shape
    assert found.isfinite().all()
    # Terms of size 1 may cancel: what is left has their rounding.
    scale = expected.abs().max().clamp(min=1.0)
    return float((found.double() - expected).abs().max() / scale)
