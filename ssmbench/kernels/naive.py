"""References: one step at a time, as the papers write them. Slow, any dtype, for tests.

Each has the signature of its fast twin.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ssd(
    x: Tensor,
    log_decay: Tensor,
    in_weight: Tensor | None,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run S_t = exp(log_decay_t) S_{t-1} + in_weight_t x_t B_tᵀ;  y_t = S_t C_t + D x_t.

    Shapes and meaning as in `ssmbench.kernels.ssd.ssd`.
    """
    b, length, h, p = x.shape
    heads_per_group = h // B.shape[2]
    S = x.new_zeros(b, h, p, B.shape[-1]) if state is None else state.clone()
    outputs = []
    for t in range(length):
        B_t = B[:, t].repeat_interleave(heads_per_group, 1)
        C_t = C[:, t].repeat_interleave(h // C.shape[2], 1)
        x_t = x[:, t] if in_weight is None else x[:, t] * in_weight[:, t, :, None]
        S = S * torch.exp(log_decay[:, t])[..., None, None] + x_t[..., None] * B_t[:, :, None]
        y = (S * C_t[:, :, None]).sum(-1)
        outputs.append(y if D is None else y + D[:, None] * x[:, t])
    return torch.stack(outputs, 1), S


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t;  y_t = C_t h_t + D u_t.

    Shapes and meaning as in `ssmbench.kernels.selective_scan.selective_scan`.
    """
    b, length, e = u.shape
    h = u.new_zeros(b, e, A.shape[1]) if state is None else state.clone()
    outputs = []
    for t in range(length):
        decay = torch.exp(dt[:, t, :, None] * A)
        h = decay * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        y = (h * C[:, t, None]).sum(-1)
        outputs.append(y if D is None else y + D * u[:, t])
    return torch.stack(outputs, 1), h


def gate(y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
    """Give y · z / (1 + e^−z), both (tokens, E)."""
    return (y * z / (1 + torch.exp(-z))).to(dtype)


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float, n_groups: int = 1) -> Tensor:
    """Scale each of `n_groups` parts of what is gated, (tokens, E), to unit RMS, times weight."""
    parts = gate(y, z, y.dtype).chunk(n_groups, -1)
    normed = [part / (part.square().mean(-1, keepdim=True) + eps).sqrt() for part in parts]
    return torch.cat(normed, -1) * weight


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None = None
) -> Tensor:
    """Run c_t = bias + Σ_j weight[:, j] x_{t-K+1+j}, one output position at a time.

    Shapes and meaning as in `ssmbench.kernels.conv.causal_conv`.
    """
    k = weight.shape[1]
    before = x.new_zeros(x.shape[0], k - 1, x.shape[2]) if tail is None else tail
    padded = torch.cat([before, x], 1)
    outputs = []
    for t in range(x.shape[1]):
        y = (padded[:, t : t + k] * weight.T).sum(1)
        outputs.append(y if bias is None else y + bias)
    return torch.stack(outputs, 1)
