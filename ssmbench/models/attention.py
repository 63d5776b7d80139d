"""Softmax attention, for the hybrids' and the baselines' layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbench.models.linear import Linear
from ssmbench.models.rows import over_stages

if TYPE_CHECKING:
    from ssmbench.models import description as d
    from ssmbench.models.forest import Forest, Stage
    from ssmbench.models.reduction import Watch
    from ssmbench.models.state import LayerState


class AttentionMixer(nn.Module):
    """Causal softmax attention with grouped key and value heads and rotary positions.

    Source: Su et al. 2021, arXiv:2104.09864 (rotary, halves form); transformers GPTNeoX.
    """

    def __init__(self, d_model: int, sizes: d.Attention) -> None:
        super().__init__()
        self.sizes = sizes
        q, kv = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
        self.q_proj = Linear(d_model, q, bias=sizes.bias)
        self.k_proj = Linear(d_model, kv, bias=sizes.bias)
        self.v_proj = Linear(d_model, kv, bias=sizes.bias)
        self.o_proj = Linear(q, d_model, bias=sizes.bias)

    def forward(
        self,
        u: Tensor,
        forest: Forest,
        state: LayerState | None,
        watch: Watch | None = None,  # noqa: ARG002 - attention shows nothing to score by
    ) -> tuple[Tensor, LayerState]:
        """Mix flat tokens (tokens, d_model); give the same shape and the state after them."""
        qkv = (self.q_proj(u), self.k_proj(u), self.v_proj(u))
        # Keys of parts would have to be padded again, to be one state.
        y, state = over_stages(forest, qkv, state, self._rows, apart=False)
        return self.o_proj(y), state

    def _rows(
        self, rows: tuple[Tensor, ...], stage: Stage, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        s = self.sizes
        q, k, v = (t.unflatten(-1, (-1, s.head_dim)) for t in rows)
        n, length = q.shape[:2]
        none = q.new_zeros(n, dtype=torch.long)
        seen, passed = (none, none) if state is None else state[2:]
        positions = passed[:, None] + stage.places
        q, k = (rotate(t, positions, s) for t in (q, k))
        mask = None
        if state is not None:
            past = state[0].shape[1]
            k, v = torch.cat([state[0], k], 1), torch.cat([state[1], v], 1)
            column = torch.arange(past + length, device=q.device)
            before = column < seen[:, None]
            own = (column >= past) & (
                column - past <= torch.arange(length, device=q.device)[:, None]
            )
            mask = (before[:, None] | own[None])[:, None]
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=s.n_kv_heads != s.n_heads,
        )
        grown = torch.tensor(stage.lengths, device=q.device)
        spans = torch.tensor(stage.spans or stage.lengths, device=q.device)
        if state is not None:
            k, v = pack_keys(k, seen, state[0].shape[1]), pack_keys(v, seen, state[0].shape[1])
        return stage.flat(y.transpose(1, 2).flatten(-2)), (k, v, seen + grown, passed + spans)


def pack_keys(cache: Tensor, seen: Tensor, past: int) -> Tensor:
    """Close the gap between each row's `seen` old entries and the new ones that begin at `past`.

    Args:
        cache: (rows, past + length, heads, head_dim).
        seen: (rows,) valid entries among the first `past`.
        past: columns that the old entries took, padding included.
    """
    if bool((seen == past).all()):
        return cache
    column = torch.arange(cache.shape[1], device=cache.device)
    index = torch.where(column < seen[:, None], column, column + (past - seen)[:, None])
    index = index.clamp_max(cache.shape[1] - 1)[..., None, None].expand(-1, -1, *cache.shape[2:])
    return cache.gather(1, index)


def rotate(x: Tensor, positions: Tensor, sizes: d.Attention) -> Tensor:
    """Turn the first `rotary_dim` channels of each head by their position.

    Args:
        x: (rows, length, heads, head_dim).
        positions: (rows, length) int64.
        sizes: how many channels turn, and how fast.
    """
    angles = positions[..., None].float() * frequencies(sizes).to(x.device)
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    turned, rest = x[..., : sizes.rotary_dim].float(), x[..., sizes.rotary_dim :]
    a, b = turned.chunk(2, -1)
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    return torch.cat([turned.to(x.dtype), rest], -1)


def frequencies(sizes: d.Attention) -> Tensor:
    """Give the radians by which each pair of channels turns a position: (rotary_dim / 2,).

    Source: Llama 3.1's scaling, transformers modeling_rope_utils: waves longer than the
    original context are stretched by `factor`, short ones stay, those between go over smoothly.
    """
    half = torch.arange(0, sizes.rotary_dim, 2, dtype=torch.float32) / sizes.rotary_dim
    plain = sizes.rope_theta**-half
    scaling = sizes.rope_scaling
    if scaling is None:
        return plain
    turns = scaling.original_length * plain / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    share = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return plain * (share + (1 - share) / scaling.factor)
