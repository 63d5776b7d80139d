"""The SSD scan of Mamba-2 and its relatives, in chunks.

Source: Dao & Gu 2024, arXiv:2405.21060, section 6. B and C stay per group and are never
expanded to heads, so the two state products of a chunk are one matrix product each.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 64
# Rows of the batch are taken together while their decay matrices fit this many elements: past
# it the working set leaves the caches of a CPU.
BLOCK_ELEMENTS = 1 << 23
LOG2E = math.log2(math.e)


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
) -> tuple[Tensor, Tensor]:
    """Run S_t = exp(log_decay_t) S_{t-1} + in_weight_t x_t B_tᵀ;  y_t = S_t C_t + D x_t.

    A padded position has log_decay 0 and in_weight 0: it leaves the state as it is.

    Args:
        x: (batch, length, H, P).
        log_decay: (batch, length, H), ≤ 0, natural log, float32 or wider.
        in_weight: (batch, length, H), the step that scales the input; None where it is 1.
        B: (batch, length, G, N); H is a multiple of G, head h reads group h // (H / G).
        C: (batch, length, G, N).
        D: (H,) or None.
        state: (batch, H, P, N) before the first position; None stands for zeros.
        chunk: positions worked on as one matrix product.

    Returns:
        y (batch, length, H, P) and the state after the last position (batch, H, P, N).
    """
    b, length, h, p = x.shape
    g, n = B.shape[2:]
    S = x.new_zeros(b, h, p, n) if state is None else state
    # The chunks' products want (N, heads of a group · P); one transpose in, one out.
    S = S.view(b, g, h // g, p, n).permute(0, 1, 4, 2, 3).reshape(b, g, n, -1)
    weighted = x if in_weight is None else x * in_weight[..., None]
    cumulative = log_decay * LOG2E
    rows = max(1, BLOCK_ELEMENTS // max(1, min(length, chunk) * length * h))
    outputs, states = [], []
    for i in range(0, b, rows):
        part = slice(i, i + rows)
        y, s = _rows(weighted[part], cumulative[part], B[part], C[part], S[part], chunk)
        outputs.append(y)
        states.append(s)
    y, S = (outputs[0], states[0]) if len(outputs) == 1 else (torch.cat(outputs), torch.cat(states))
    if D is not None:
        y = torch.addcmul(y, x, D[:, None])
    S = S.view(b, g, n, h // g, p).permute(0, 1, 3, 4, 2).reshape(b, h, p, n)
    return y, S


def _rows(
    x: Tensor, log2_decay: Tensor, B: Tensor, C: Tensor, S: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan whole chunks, then the shorter rest; S is (b, g, n, heads of a group · p)."""
    length = x.shape[1]
    q = min(chunk, length)
    whole = length // q * q if q else 0
    outputs = []
    for start, stop in ((0, whole), (whole, length)):
        if start == stop:
            continue
        span = slice(start, stop)
        y, S = _span(
            x[:, span], log2_decay[:, span], B[:, span], C[:, span], S, min(q, stop - start)
        )
        outputs.append(y)
    return (torch.cat(outputs, 1) if outputs else x.new_zeros(x.shape)), S


def _span(
    x: Tensor, log2_decay: Tensor, B: Tensor, C: Tensor, S: Tensor, q: int
) -> tuple[Tensor, Tensor]:
    """Scan a span of c chunks of q positions each."""
    b, length, h, p = x.shape
    g, n = B.shape[2:]
    r, c = h // g, length // q
    # Running sums reach hundreds and only their differences matter: float64 keeps those exact.
    cs = log2_decay.reshape(b, c, q, h).double().cumsum(2)
    last = cs[:, :, -1]
    Bg = B.reshape(b, c, q, g, n).transpose(2, 3)
    Cg = C.reshape(b, c, q, g, n).transpose(2, 3)
    xc = x.reshape(b, c, q, h, p)

    # What each chunk adds to the state: inputs decayed to the chunk's end.
    decayed = xc * torch.exp2((last[:, :, None] - cs).to(x.dtype))[..., None]
    decayed = decayed.view(b, c, q, g, r * p).transpose(2, 3)
    added = torch.matmul(Bg.transpose(-1, -2), decayed)
    kept = torch.exp2(last.to(x.dtype)).view(b, c, g, 1, r, 1).expand(-1, -1, -1, -1, -1, p)
    kept = kept.reshape(b, c, g, 1, r * p)
    entering = []
    for i in range(c):
        entering.append(S)
        S = torch.addcmul(added[:, i], S, kept[:, i])
    from_state = torch.matmul(Cg, torch.stack(entering, 1)).transpose(2, 3)

    # Inside a chunk.
    scores = torch.matmul(Cg, Bg.transpose(-1, -2))
    mixed = _Decayed.apply(cs.transpose(2, 3), scores)  # type: ignore[no-untyped-call]
    within = torch.matmul(mixed, xc.transpose(2, 3)).transpose(2, 3)

    entered = torch.exp2(cs.to(x.dtype))[..., None]
    y = torch.addcmul(within, from_state.reshape(b, c, q, h, p), entered)
    return y.reshape(b, length, h, p), S


class _Decayed(torch.autograd.Function):
    """What a chunk's positions take from its earlier ones: 2^(cs_i − cs_j) · scores_ij, i ≥ j.

    Takes cs (b, c, h, q), float64, and scores (b, c, g, q, q); gives (b, c, h, q, q), 0 above the
    diagonal. The largest tensors of a scan are of this shape: by autograd's own rules the backward
    pass would make twice as many of them, half in float64.
    """

    @staticmethod
    def forward(ctx: Any, cs: Tensor, scores: Tensor) -> Tensor:
        b, c, h, q = cs.shape
        g = scores.shape[2]
        scores = scores.tril()[:, :, :, None]
        # exp2 has no slow path where it underflows, unlike exp; above the diagonal the difference
        # is clamped to 0 only to stay finite, since tril zeroes it.
        decay = (cs[..., :, None] - cs[..., None, :]).to(scores.dtype).clamp_max_(0).exp2_()
        decay = decay.view(b, c, g, h // g, q, q)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(decay, scores)
            mixed = decay * scores
        else:
            mixed = decay.mul_(scores)
        return mixed.view(b, c, h, q, q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        decay, scores = ctx.saved_tensors
        product = grad.reshape(decay.shape) * decay
        of_scores = product.sum(3).tril_()
        product.mul_(scores)
        of_cs = (product.sum(-1) - product.sum(-2)).mul_(math.log(2)).flatten(2, 3)
        return of_cs.double(), of_scores
