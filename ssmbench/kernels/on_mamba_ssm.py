"""The operations on the published kernels: mamba_ssm and causal_conv1d, where they are installed.

Each has the signature and the meaning of its torch form, and gives None where it does not take
such inputs; the caller then takes the torch form. Nothing is imported before it is called.

Source: mamba_ssm 2.3.2.post1 (ops/triton/ssd_combined.py, ops/triton/selective_state_update.py,
ops/selective_scan_interface.py); causal_conv1d 1.7.0. Both call other code by the same version
number, so whether a function is there is asked by importing it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbench.kernels import autograd
from ssmbench.kernels.selective_scan import LOG2E

# Positions of a chunk: upstream's own for long rows, and one for short ones, since each size is
# tuned anew.
CHUNK, SHORT_CHUNK = 256, 64
# Loads of 16 values at once need head_dim and d_state to be multiples of it.
ALIGNED = 16
# The convolution takes channels and strides that are multiples of 8.
CONV_ALIGNED = 8
CONV_WIDTHS = (2, 3, 4)
MOST_STATES = 256
# A step below this decays nothing in float32, and dividing by it overflows nothing.
LEAST_STEP = 1e-30
# Elements of what an initial state adds to a block of positions.
BLOCK_ELEMENTS = 1 << 26
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def ssd(
    x: Tensor,
    log_decay: Tensor,
    in_weight: Tensor | None,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
    rates: Tensor | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Scan SSD rows; inputs and outputs as in `dispatch.ssd`, a state of any strides, also 0.

    With `overwrite` a single position writes into the state that it is given, where it can.
    """
    length, heads, p, n = *x.shape[1:], B.shape[3]
    if x.dtype not in _TYPES or not length or C.shape != B.shape:
        return None
    if rates is None or in_weight is None:
        # Upstream knows one step, which both decays and scales: x is divided by it beforehand.
        if torch.is_grad_enabled() and log_decay.requires_grad:
            return None  # Gradients by the step would cancel, and lose their digits.
        step = (-log_decay).clamp_min(LEAST_STEP)
        given, x = x, x.float()
        x = x / step[..., None] if in_weight is None else x * (in_weight / step)[..., None]
        rates = step.new_full((heads,), -1.0)
        y, left = _scanned(x, step, rates, B.float(), C.float(), state, overwrite=overwrite)
        y = y if D is None else torch.addcmul(y, given.float(), D.float()[:, None])
        return y[..., :p].to(given.dtype), left[..., :p, :n]
    y, left = _scanned(x, in_weight, rates, B, C, state, D, overwrite=overwrite)
    return y[..., :p], left[..., :p, :n]


def _scanned(
    x: Tensor,
    step: Tensor,
    rates: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    D: Tensor | None = None,
    *,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run upstream's scan on shapes rounded up to `ALIGNED`, or its step on single positions."""
    p, n = x.shape[3], B.shape[3]
    more_p, more_n = -p % ALIGNED, -n % ALIGNED
    if more_p:
        x = F.pad(x, (0, more_p))
    if more_n:
        B, C = F.pad(B, (0, more_n)), F.pad(C, (0, more_n))
    if state is not None:
        state = F.pad(state.float(), (0, more_n, 0, more_p)) if more_p or more_n else state.float()
    D = None if D is None else D.float()
    if x.shape[1] == 1 and not autograd.wanted(x, step, rates, B, C, state, D):
        y, left = _stepped(x, step, rates, B, C, state, D, overwrite=overwrite)
    else:
        scan = _function("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
        chunk = SHORT_CHUNK if x.shape[1] <= SHORT_CHUNK else CHUNK
        y, left = scan(
            x, step, rates, B, C, chunk, D=D, initial_states=state, return_final_states=True
        )
    return y[..., :p], left[..., :p, :n]


def _stepped(
    x: Tensor,
    step: Tensor,
    rates: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    D: Tensor | None,
    *,
    overwrite: bool,
) -> tuple[Tensor, Tensor]:
    """Take one position. Upstream writes into the state: a copy, where others may hold it."""
    b, _, h, p = x.shape
    n = B.shape[3]
    update = _function("mamba_ssm.ops.triton.selective_state_update", "selective_state_update")
    if state is None:
        left = x.new_zeros(b, h, p, n, dtype=torch.float32)
    elif overwrite and state.is_contiguous():
        left = state
    else:
        left = state.clone(memory_format=torch.contiguous_format)
    # Strides of 0 tell upstream that a head's channels share their step; neither D nor dt_bias
    # may be None there.
    nothing = step.new_zeros(h, 1).expand(h, p)
    y = update(
        left,
        x[:, 0],
        step[:, 0, :, None].expand(b, h, p),
        rates[:, None, None].expand(h, p, n),
        B[:, 0],
        C[:, 0],
        D=nothing if D is None else D[:, None].expand(h, p),
        dt_bias=nothing,
    )
    return y[:, None], left


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Scan Mamba-1 rows, N at most 256; inputs and outputs as in `dispatch.selective_scan`.

    Forward only. Upstream begins at zero. What a state adds is linear in it:
    C_t exp(A Σ_{k≤t} dt_k) h_0.
    """
    # The compiled kernel gives no gradient by the last state.
    tensors = (u, dt, A, B, C, D, state)
    if u.dtype not in _TYPES or not u.shape[1] or A.shape[1] > MOST_STATES:
        return None
    if autograd.wanted(*tensors):
        return None
    scan = _function("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    # It wants time last and one type for all that goes over time.
    over_time = [t.float().transpose(1, 2).contiguous() for t in (u, dt, B, C)]
    A = A.float().contiguous()
    y, left = scan(
        over_time[0], over_time[1], A, over_time[2], over_time[3],
        D=None if D is None else D.float(), return_last_state=True,
    )  # fmt: skip
    y = y.transpose(1, 2)
    if state is not None:
        y = y + _read_out(state.float(), dt.float(), A, C.float())
        left = left + torch.exp2(dt.float().sum(1)[..., None] * (A * LOG2E)) * state
    return y.to(u.dtype), left


def _read_out(state: Tensor, dt: Tensor, A: Tensor, C: Tensor) -> Tensor:
    """Give what a state (batch, E, N) adds to each position's output, (batch, length, E)."""
    summed, rates = dt.cumsum(1), A * LOG2E
    reach = max(1, BLOCK_ELEMENTS // (len(state) * A.numel()))
    parts = []
    for start in range(0, dt.shape[1], reach):
        span = slice(start, start + reach)
        decayed = torch.exp2(summed[:, span, :, None] * rates) * state[:, None]
        parts.append(torch.matmul(decayed, C[:, span, :, None])[..., 0])
    return torch.cat(parts, 1)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None = None
) -> Tensor | None:
    """Convolve (batch, length, channels) with 2 to 4 taps: see `kernels.conv`."""
    channels = x.shape[2]
    if x.dtype not in _TYPES or not x.shape[1] or weight.shape[1] not in CONV_WIDTHS:
        return None
    convolve = _function("causal_conv1d", "causal_conv1d_fn")
    more = -channels % CONV_ALIGNED
    if more:
        x, weight = F.pad(x, (0, more)), F.pad(weight, (0, 0, 0, more))
        bias = None if bias is None else F.pad(bias, (0, more))
        tail = None if tail is None else F.pad(tail, (0, more))
    # A state is taken only where channels lie side by side, at strides that are multiples of 8.
    if x.stride(2) != 1 or x.stride(1) % CONV_ALIGNED or x.stride(0) % CONV_ALIGNED:
        # Not `contiguous`, which overlooks the strides of axes of one element.
        x = x.clone(memory_format=torch.contiguous_format)
    before = None if tail is None else tail.to(x.dtype).contiguous().transpose(1, 2)
    y = convolve(x.transpose(1, 2), weight.contiguous(), bias, initial_states=before)
    return y.transpose(1, 2)[..., :channels]  # type: ignore[no-any-return]


@cache
def _function(module: str, name: str) -> Any:
    """Import a function of one of the two packages.

    Raises:
        ImportError: it is not there.
    """
    package = module.partition(".")[0]
    # As torch does by default: products of float32 in float32, not in tf32.
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    # Where torch is to be deterministic, upstream would take its smallest, slow tiles, unless
    # what was tuned once is kept on the disk.
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")
    compiled = importlib.util.find_spec("selective_scan_cuda") is not None
    if package == "mamba_ssm" and package not in sys.modules and not compiled:
        _import_around(package)
    return getattr(importlib.import_module(module), name)


def _import_around(package: str) -> None:
    """Make a package's modules importable whose own `__init__` is not.

    mamba_ssm's needs the compiled `selective_scan_cuda`, and transformers; its Triton kernels need
    neither, and come with a wheel built without a compiler.

    Raises:
        ImportError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)
    bare = ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations)
    bare.__spec__ = spec
    sys.modules[package] = bare
