"""The gate after a scan and the norm after the gate: y · silu(z), to unit RMS, times a weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a block of tokens: on a CPU, all that is done to it should find it in the cache.
BLOCK_ELEMENTS = 1 << 18


def gate(y: Tensor, z: Tensor) -> Tensor:
    """Give y · silu(z), both (tokens, E) float32."""
    if _one_go(y, z):
        return y * F.silu(z)
    out = torch.empty_like(y)
    for y_, z_, out_ in _blocks(y, z, out):
        torch.mul(F.silu(z_), y_, out=out_)
    return out


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float, n_groups: int = 1) -> Tensor:
    """Scale each of `n_groups` parts of y · silu(z) to unit RMS, times weight.

    Args:
        y: (tokens, E) float32.
        z: (tokens, E) float32.
        weight: (E,).
        eps: added to the mean square.
        n_groups: parts of E.

    Returns:
        (tokens, E), in weight's dtype.
    """
    if _one_go(y, z, weight):
        return rms_norm(y * F.silu(z), weight, eps, n_groups)
    out = torch.empty(y.shape, dtype=weight.dtype, device=y.device)
    for y_, z_, out_ in _blocks(y, z, out):
        gated = F.silu(z_).mul_(y_).unflatten(-1, (n_groups, -1))
        gated.mul_(_inverse_rms(gated, eps))
        torch.mul(gated.flatten(-2), weight, out=out_)
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float, n_groups: int = 1) -> Tensor:
    """Scale each of `n_groups` parts of the last axis to unit RMS, in float32, times weight."""
    grouped = x.float().unflatten(-1, (n_groups, -1))
    if x.device.type == "cpu":
        # Torch's own takes twice as many passes there.
        normed: Tensor = grouped * _inverse_rms(grouped, eps)
    else:
        normed = F.rms_norm(grouped, grouped.shape[-1:], eps=eps)
    return (normed.flatten(-2) * weight.float()).to(weight.dtype)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.rsqrt(norm.square() / x.shape[-1] + eps)


def _one_go(*tensors: Tensor) -> bool:
    """Say whether to work on all tokens at once: where gradients are wanted, and off a CPU."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wanted or tensors[0].device.type != "cpu"


def _blocks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    reach = max(1, BLOCK_ELEMENTS // max(1, tensors[0].shape[1]))
    return zip(*(t.split(reach) for t in tensors), strict=True)
