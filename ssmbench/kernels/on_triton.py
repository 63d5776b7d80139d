"""The operations on our own Triton kernels: forward only, any sizes, any batch strides.

Each has the signature and the meaning of its torch form, and gives None where it does not take
such inputs; the caller then takes the torch form. Importing this module imports triton.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from ssmbench.kernels import triton_kernels as kernels
from ssmbench.kernels.influence import at_last, steps_after
from ssmbench.kernels.largest import LOG2E

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.kernels.influence import Aggregate

# Channels × states that one program holds in registers.
STATE_ELEMENTS = 1024
# Past so many positions SSD's matrix products win over stepping (not measured on a GPU yet).
SHORT = 16
# Programs that keep a large GPU busy: with fewer, a long scan is cut into chunks.
ENOUGH_PROGRAMS = 1024
LEAST_REACH = 64
# Channels that one program gates and norms.
MOST_CHANNELS = 1 << 14
# Largest index that a kernel computes in 32 bits, within one row.
MOST_ELEMENTS = 1 << 31
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
    reach: int | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Scan Mamba-1 rows: shapes as in `kernels.selective_scan`; any N; the state is float32.

    Args:
        u: (batch, length, E).
        dt: (batch, length, E).
        A: (E, N).
        B: (batch, length, N).
        C: (batch, length, N).
        D: (E,) or None.
        state: (batch, E, N), any strides, also 0; None stands for zeros.
        reach: positions of a chunk, which run at the same time; None chooses.
    """
    rows, length, channels = u.shape
    n = A.shape[1]
    if u.dtype not in _TYPES or not length or length * channels >= MOST_ELEMENTS:
        return None
    u, dt, B, C = (_dense_last(t) for t in (u, dt, B, C))
    A = A.float().contiguous()
    blocks = {"BN": triton.next_power_of_2(n)}
    blocks["BE"] = max(1, min(STATE_ELEMENTS // blocks["BN"], triton.next_power_of_2(channels)))
    n_blocks = triton.cdiv(channels, blocks["BE"])
    reach = reach or _reach(length, rows * n_blocks)
    chunks = triton.cdiv(length, reach)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    leaving = u.new_empty(rows, channels, n, dtype=torch.float32)
    entering, strides = _state(state, leaving)
    strides = [strides[0], 0, *strides[1:]]
    where = (*_rows(u), *_rows(dt), *_rows(B), *_rows(C))
    if chunks > 1:
        own = u.new_empty(rows, chunks, channels, n, dtype=torch.float32)
        total = u.new_empty(rows, chunks, channels, dtype=torch.float32)
        kernels.selective_scan_kernel[n_blocks, chunks, rows](
            u, dt, A, B, C, A, own, y, own, total,
            length, channels, n, reach, *where, 0, 0, 0, 0,
            HAS_D=False, HAS_STATE=False, GIVES_Y=False, GIVES_STATE=True, GIVES_TOTAL=True,
            **blocks,
        )  # fmt: skip
        kernels.state_passing_kernel[n_blocks, rows](
            A, own, total, entering, leaving, channels, n, chunks, strides[0], *strides[2:],
            HAS_STATE=state is not None, **blocks,
        )  # fmt: skip
        entering, strides = own, list(own.stride())
    kernels.selective_scan_kernel[n_blocks, chunks, rows](
        u, dt, A, B, C, A if D is None else D.float().contiguous(), entering, y, leaving, A,
        length, channels, n, reach, *where, *strides,
        HAS_D=D is not None, HAS_STATE=state is not None or chunks > 1,
        GIVES_Y=True, GIVES_STATE=chunks == 1, GIVES_TOTAL=False, **blocks,
    )  # fmt: skip
    return y, leaving


def ssd(
    x: Tensor,
    log_decay: Tensor,
    in_weight: Tensor | None,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Step through rows of at most `SHORT` positions: decoding, and answers after a fork.

    Longer rows are matrix products, for which the torch form calls the GPU's own.

    Args:
        x: (batch, length, H, P).
        log_decay: (batch, length, H).
        in_weight: (batch, length, H), or None.
        B: (batch, length, G, N).
        C: (batch, length, G, N).
        D: (H,) or None.
        state: (batch, H, P, N), any strides, also 0; None stands for zeros.
    """
    rows, length, heads, p = x.shape
    n = B.shape[3]
    if x.dtype not in _TYPES or not 0 < length <= SHORT or C.shape != B.shape:
        return None
    x, log_decay, B, C = (_dense_last(t) for t in (x, log_decay.float(), B, C))
    weight = log_decay if in_weight is None else _dense_last(in_weight.float())
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    leaving = x.new_empty(rows, heads, p, n, dtype=torch.float32)
    entering, strides = _state(state, leaving)
    bn = triton.next_power_of_2(n)
    bp = max(1, min(4 * STATE_ELEMENTS // bn, triton.next_power_of_2(p)))
    kernels.short_ssd_kernel[triton.cdiv(p, bp), heads, rows](
        x, log_decay, weight, B, C, log_decay if D is None else D.float().contiguous(),
        entering, y, leaving, length, p, n, heads // B.shape[2],
        *x.stride()[:3], *_rows(log_decay), *_rows(weight), *B.stride()[:3], *C.stride()[:3],
        *strides, HAS_WEIGHT=in_weight is not None, HAS_D=D is not None,
        HAS_STATE=state is not None, BP=bp, BN=bn,
    )  # fmt: skip
    return y, leaving


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None = None
) -> Tensor | None:
    """Convolve (batch, length, channels): see `kernels.conv`; sums in float32, any K."""
    rows, length, channels = x.shape
    if x.dtype not in _TYPES or not length or length * channels >= MOST_ELEMENTS:
        return None
    x = _dense_last(x)
    before = x if tail is None else _dense_last(tail)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    bt, bc = min(16, triton.next_power_of_2(length)), min(64, triton.next_power_of_2(channels))
    kernels.causal_conv_kernel[triton.cdiv(channels, bc), triton.cdiv(length, bt), rows](
        x, weight, weight if bias is None else bias.contiguous(), before, y,
        length, channels, *_rows(x), *weight.stride(), *_rows(before),
        HAS_BIAS=bias is not None, HAS_TAIL=tail is not None, K=weight.shape[1], BT=bt, BC=bc,
    )  # fmt: skip
    return y


def gate(y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Give y · silu(z) in a dtype: see `kernels.gate`; one pass, in float32."""
    return _gated(y, z, None, 0.0, 1, dtype)


def gated_norm(
    y: Tensor, z: Tensor, weight: Tensor, eps: float, n_groups: int = 1
) -> Tensor | None:
    """Gate, and scale each group to unit RMS: see `kernels.gate`; one pass, in float32."""
    return _gated(y, z, weight, eps, n_groups, weight.dtype)


def _gated(
    y: Tensor, z: Tensor, weight: Tensor | None, eps: float, n_groups: int, dtype: torch.dtype
) -> Tensor | None:
    tokens, channels = y.shape
    size = channels // n_groups
    if y.dtype not in _TYPES or z.dtype not in _TYPES or not tokens or size > MOST_CHANNELS:
        return None
    y, z = _dense_last(y), _dense_last(z)
    out = torch.empty(y.shape, dtype=dtype, device=y.device)
    block = triton.next_power_of_2(size)
    # At most 16 channels a thread, so that none leaves the registers.
    warps = max(1, min(32, block // 512))
    kernels.gate_kernel[tokens, n_groups](
        y, z, y if weight is None else weight.contiguous(), out, channels, size, eps,
        y.stride(0), z.stride(0), NORMS=weight is not None, BE=block, num_warps=warps,
    )  # fmt: skip
    return out


def selective_scan_influence(
    u: Tensor,
    dt: Tensor,
    decay_dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
    n_kept: Sequence[int] | None = None,
) -> Tensor | None:
    """Score Mamba-1 tokens in float32: see `kernels.influence`; logarithms, but not of a norm.

    Every token gets its score, whatever `n_kept` is: each is a program of its own.
    """
    del n_kept
    rows, length, channels = u.shape
    if u.dtype not in _TYPES or not log or aggregate == "l2" or not length:
        return None
    after = steps_after(decay_dt.float(), lengths)
    CB = (B.float() * at_last(C, lengths).float()[:, None]).flatten(0, 1)
    slowest = A.float().amax(1)
    rates = ((A.float() - slowest[:, None]) * LOG2E).T.contiguous()
    u, dt, after = (_dense_last(t.flatten(0, 1)) for t in (u, dt, after))
    tokens = len(u)
    bt, be = _tile(tokens, channels)
    shares, share = _shares(tokens, bt, channels, be)
    out = u.new_empty(shares, tokens, dtype=torch.float32)
    kernels.selective_scan_influence_kernel[triton.cdiv(tokens, bt), shares](
        u, dt, after, CB.contiguous(), slowest, rates, out, tokens, channels, A.shape[1], share,
        u.stride(0), dt.stride(0), after.stride(0),
        SIGNED=aggregate == "max", BT=bt, BE=be,
    )  # fmt: skip
    return out.amax(0).view(rows, length)


def ssd_influence(
    x: Tensor,
    in_weight: Tensor | None,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
) -> Tensor | None:
    """Score SSD tokens in float32: see `kernels.influence`; logarithms, but not of a norm.

    x, the one large input, is read once.
    """
    rows, length, heads_x, p = x.shape
    heads = log_decay.shape[2]
    if x.dtype not in _TYPES or not log or aggregate == "l2" or not length:
        return None
    last = at_last(C, lengths).float()
    repeats = last.shape[1] // B.shape[2]
    met = torch.einsum("blgn,bgrn->blgr", B.float(), last.unflatten(1, (-1, repeats))).flatten(2)
    weight = met.repeat_interleave(heads // met.shape[2], 2)
    if in_weight is not None:
        weight = weight * in_weight
    after = -steps_after(-log_decay.float(), lengths)
    x = _dense_last(x.flatten(0, 1))
    tokens = len(x)
    bp = triton.next_power_of_2(p)
    bt = max(1, min(16, 1024 // bp))
    shares, share = _shares(tokens, bt, heads, 1)
    out = x.new_empty(shares, tokens, dtype=torch.float32)
    kernels.ssd_influence_kernel[triton.cdiv(tokens, bt), shares](
        x, weight.flatten(0, 1).contiguous(), after.flatten(0, 1).contiguous(), out,
        tokens, heads, p, share, heads // heads_x, x.stride(0), x.stride(1),
        SIGNED=aggregate == "max", BT=bt, BP=bp,
    )  # fmt: skip
    return out.amax(0).view(rows, length)


def _dense_last(x: Tensor) -> Tensor:
    """Make the last axis contiguous, where it is not."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _rows(x: Tensor) -> tuple[int, int]:
    """Give the strides of (rows, positions)."""
    return x.stride(0), x.stride(1)


def _state(state: Tensor | None, like: Tensor) -> tuple[Tensor, list[int]]:
    """Give the state that a kernel reads, and its strides; anything where there is none."""
    return (like, [0] * like.ndim) if state is None else (state, list(state.stride()))


def _reach(length: int, programs: int) -> int:
    """Choose how many positions a chunk has: all, where enough programs run already."""
    wanted = -(-ENOUGH_PROGRAMS // programs)
    # Two chunks do twice the work of one: they gain nothing.
    if wanted < 3 or length < 3 * LEAST_REACH:
        return length
    return max(LEAST_REACH, -(-length // wanted))


def _tile(tokens: int, channels: int) -> tuple[int, int]:
    return min(16, triton.next_power_of_2(tokens)), min(64, triton.next_power_of_2(channels))


def _shares(tokens: int, bt: int, width: int, block: int) -> tuple[int, int]:
    """Divide `width` into shares of whole blocks, so that enough programs run."""
    n_blocks = triton.cdiv(width, block)
    wanted = max(1, min(n_blocks, triton.cdiv(ENOUGH_PROGRAMS, triton.cdiv(tokens, bt))))
    share = triton.cdiv(n_blocks, wanted) * block
    return triton.cdiv(width, share), share
