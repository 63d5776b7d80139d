"""The SSD scan of Mamba-2 and its relatives, in chunks, with its own backward pass.

Source: Dao & Gu 2024, arXiv:2405.21060, section 6. B and C stay per group and are never
expanded to heads, so the two state products of a chunk are one matrix product each; the step
and the mask of decays stand in one exponent, and D on the diagonal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmbench.kernels.ssd_blocks import Decays, blocks_of, decay_matrix, decays_of

CHUNK = 64


def ssd(
    x: Tensor,
    log_decay: Tensor,
    in_weight: Tensor | None,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = CHUNK,
    ends: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run S_t = exp(log_decay_t) S_{t-1} + in_weight_t x_t B_tᵀ;  y_t = S_t C_t + D x_t.

    A padded position has log_decay 0 and in_weight 0: it leaves the state as it is.

    Args:
        x: (batch, length, H, P).
        log_decay: (batch, length, H), ≤ 0, natural log, float32 or wider.
        in_weight: (batch, length, H), ≥ 0, the step that scales the input; None where it is 1.
        B: (batch, length, G, N); H is a multiple of G, head h reads group h // (H / G).
        C: (batch, length, G, N).
        D: (H,) or None.
        state: (batch, H, P, N) before the first position; None stands for zeros.
        chunk: positions worked on as one matrix product.
        ends: the state after the last position is not wanted.

    Returns:
        y (batch, length, H, P) and the state after the last position (batch, H, P, N), empty where
        it is not wanted. Where G is 1 or H, the state's N comes in memory before its P, as the
        products want it, and a state that is given in that order is not copied.
    """
    b, _, h, p = x.shape
    g, n = B.shape[2:]
    if state is None:
        S = x.new_zeros(b, g, n, h // g * p)
    else:
        S = state.unflatten(1, (g, h // g)).permute(0, 1, 4, 2, 3).flatten(3)
    how = (chunk, ends)
    y, S = _Scan.apply(x, log_decay, in_weight, B, C, D, S, *how)  # type: ignore[no-untyped-call]
    if ends:
        return y, S
    return y, S.unflatten(3, (h // g, p)).permute(0, 1, 3, 4, 2).flatten(1, 2)


def _scores(B: Tensor, C: Tensor) -> Tensor:
    """Give the lower triangles of C Bᵀ, (m, g, q, q), of (m, g, q, n)."""
    scores: Tensor = torch.matmul(C, B.transpose(2, 3)).tril_()
    return scores


def _forward(
    x: Tensor,
    d: Decays,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    states: list[Tensor],
    y: Tensor,
    n_states: int,
) -> None:
    """Write y of a block, (b, c, q, H, P), and append the states after its first chunks."""
    m, q, h, p = x.shape
    b, c = y.shape[:2]
    B, C = B.transpose(1, 2), C.transpose(1, 2)
    g = B.shape[1]
    mixed = decay_matrix(d)
    mixed.view(m, g, h // g, q, q).mul_(_scores(B, C)[:, :, None])
    if D is not None:
        mixed.diagonal(dim1=2, dim2=3).add_(D[:, None])
    within = torch.matmul(mixed, x.transpose(1, 2)).transpose(1, 2)
    del mixed
    B, C, within, entered = (t.unflatten(0, (b, c)) for t in (B, C, within, d.entered[..., None]))
    if n_states:
        left = (x * d.left[..., None]).view(b, c, q, g, -1).transpose(2, 3)
    from_state = []
    for i in range(c):
        S = states[-1]
        from_state.append(torch.matmul(C[:, i], S).transpose(1, 2).reshape(b, q, h, p))
        if i < n_states:
            S = _times_heads(S, d.kept[:, i])
            states.append(_plus_product(S, B[:, i].transpose(2, 3), left[:, i]))
    joined = torch.stack(from_state, 1) if c > 1 else from_state[0][:, None]
    torch.addcmul(within, joined, entered, out=y)


def _plus_product(S: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add a · b, over the first two dimensions, to S in place."""
    S.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))
    return S


def _times_heads(S: Tensor, factor: Tensor) -> Tensor:
    """Multiply (b, g, n, heads of a group · p) by (b, H)."""
    heads = factor.shape[1] // S.shape[1]
    factor = factor.unflatten(1, (-1, 1, heads))[..., None]
    product: Tensor = (S.unflatten(3, (heads, -1)) * factor).flatten(3)
    return product


def _sum_heads(S: Tensor, heads: int) -> Tensor:
    """Sum (b, g, n, heads of a group · p) to (b, H)."""
    sums: Tensor = S.unflatten(3, (heads, -1)).sum((2, 4)).flatten(1)
    return sums


class _Scan(torch.autograd.Function):
    """y and the last state; only the states between chunks are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        log_decay: Tensor,
        weight: Tensor | None,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        S: Tensor,
        chunk: int,
        ends: bool,  # noqa: FBT001 - autograd takes no names
    ) -> tuple[Tensor, Tensor]:
        q = max(1, min(chunk, x.shape[1]))
        decays = decays_of(log_decay, weight, q, x.dtype)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        last = torch.empty(0 if ends else S.shape, dtype=S.dtype, device=S.device)
        trains = any(ctx.needs_input_grad)
        kept = []
        for rows, blocks in blocks_of(x, q):
            states = [S[rows]]
            for block in blocks:
                part = block.of(x), decays.of(block), block.of(B), block.of(C), D
                n_states = block.n_chunks - (ends and block is blocks[-1])
                _forward(*part, states, block.split(y), n_states)
                if not trains:
                    del states[:-1]
            if not ends:
                last[rows] = states[-1]
            kept += states
        if trains:
            ctx.save_for_backward(x, log_decay, weight, B, C, D, y, *kept)
            ctx.q, ctx.n_states = q, (0 if ends else 1) + -(-x.shape[1] // q)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, log_decay, weight, B, C, D, y, *kept = ctx.saved_tensors
        decays = decays_of(log_decay, None, ctx.q, x.dtype)
        xw = x if weight is None else x * weight[..., None]
        dxw, dB, dC = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, B, C))
        at_ends = torch.zeros_like(log_decay, dtype=torch.float64)
        dS = x.new_empty(len(x), *kept[0].shape[1:])
        for rows, blocks in blocks_of(x, ctx.q):
            states, kept = kept[: ctx.n_states], kept[ctx.n_states :]
            # What the last chunk leaves was not computed where it is not wanted.
            states += [None] * (1 + blocks[-1].chunks.stop - len(states)) if blocks else []
            grad = d_last[rows] if len(d_last) else torch.zeros_like(states[0])
            for block in reversed(blocks):
                xw_, B_, C_, dy_ = (block.of(t) for t in (xw, B, C, dy))
                its_states = states[block.chunks.start :]
                found = _backward(xw_, B_, C_, dy_, decays.of(block), its_states, grad)
                for whole, its in zip((dxw, dB, dC), found[:3], strict=True):
                    block.split(whole).copy_(its.view_as(block.split(whole)))
                block.split(at_ends)[:, :, -1] = found[3]
                grad = found[4]
            dS[rows] = grad
        # Every output of a position has its own decay's sum as a factor, and whatever took its
        # input has the inverse: what the sums' gradients are needs no matrix of decays.
        output = y if D is None else torch.addcmul(y, x, -D[:, None])
        d_sums = (dy * output).sum(-1) - (xw * dxw).sum(-1) + at_ends
        d_log = torch.cat([t.flip(1).cumsum(1).flip(1) for t in d_sums.split(ctx.q, 1)], 1)
        dx = dxw if weight is None else dxw * weight[..., None]
        d_weight = None if weight is None else (dxw * x).sum(-1)
        if D is None:
            return dx, d_log.to(log_decay.dtype), d_weight, dB, dC, None, dS, None, None
        dD = (dy * x).sum((0, 1, 3))
        dx = torch.addcmul(dx, dy, D[:, None])
        return dx, d_log.to(log_decay.dtype), d_weight, dB, dC, dD, dS, None, None


def _backward(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    dy: Tensor,
    d: Decays,
    states: list[Tensor | None],
    dS: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give a block's gradients.

    Args:
        x: (m, q, H, P), times its weight.
        B: (m, q, g, n).
        C: likewise.
        dy: as x.
        d: without weights.
        states: before the block's chunks and after each; None where it is not known and dS is 0.
        dS: of the state after the block.

    Returns:
        dx, dB, dC, of the sums of decays at the chunks' ends (b, c, H) what the states make of
        it, and dS before the block.
    """
    m, q, h, _ = x.shape
    b, c = d.kept.shape[:2]
    B, C = B.transpose(1, 2), C.transpose(1, 2)
    g = B.shape[1]
    x_heads, dy_heads = x.transpose(1, 2), dy.transpose(1, 2)
    decay = decay_matrix(d).view(m, g, h // g, q, q)
    d_scores = torch.matmul(dy_heads, x_heads.transpose(2, 3)).view_as(decay)
    d_scores = d_scores.mul_(decay).sum(2).tril_()
    mixed = decay.mul_(_scores(B, C)[:, :, None]).flatten(1, 2)
    dx = torch.matmul(mixed.transpose(2, 3), dy_heads).transpose(1, 2)
    dB, dC = torch.matmul(d_scores.transpose(2, 3), C), torch.matmul(d_scores, B)
    left, d_entered = (
        (t * factor[..., None]).view(m, q, g, -1).transpose(1, 2).unflatten(0, (b, c))
        for t, factor in ((x, d.left), (dy, d.entered))
    )
    ends, d_left = [], []
    B, C, dB, dC = (t.unflatten(0, (b, c)) for t in (B, C, dB, dC))
    for i in reversed(range(c)):
        before, after = states[i], states[i + 1]
        assert before is not None
        at_end = dS.new_zeros(b, h) if after is None else _sum_heads(dS * after, h // g)
        ends.append(at_end)
        d_left.append(torch.matmul(B[:, i], dS))
        dB[:, i] += torch.matmul(left[:, i], dS.transpose(2, 3))
        dC[:, i] += torch.matmul(d_entered[:, i], before.transpose(2, 3))
        dS = _plus_product(_times_heads(dS, d.kept[:, i]), C[:, i].transpose(2, 3), d_entered[:, i])
    through_state = torch.stack(d_left[::-1], 1).flatten(0, 1).transpose(1, 2).reshape(x.shape)
    dx = torch.addcmul(dx, through_state, d.left[..., None])
    dB, dC = (t.flatten(0, 1).transpose(1, 2) for t in (dB, dC))
    return dx, dB, dC, torch.stack(ends[::-1], 1), dS
