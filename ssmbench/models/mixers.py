"""The token mixers. Each sees flat tokens, and rows only where order matters.

Every projection is a module of its own and is always called as one, so that whoever hooks it
sees the tensor that truly enters it, and LoRA on it truly acts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbench.kernels.conv import causal_conv, next_tail
from ssmbench.kernels.selective_scan import selective_scan
from ssmbench.kernels.ssd import ssd
from ssmbench.models import description as d
from ssmbench.models.forest import Forest, Stage
from ssmbench.models.state import LayerState, select

RowScan = Callable[[tuple[Tensor, ...], Stage, LayerState | None], tuple[Tensor, LayerState]]


def over_stages(
    forest: Forest, flat: tuple[Tensor, ...], state: LayerState | None, scan: RowScan
) -> tuple[Tensor, LayerState]:
    """Run `scan` on each stage's rows, each from the state of the rows that it continues.

    Returns:
        The flat outputs, and the state after the last stage.
    """
    outputs = []
    for stage in forest.stages:
        if stage.parents is not None:
            assert state is not None
            state = select(state, stage.parents)
        y, state = scan(tuple(stage.rows(t) for t in flat), stage, state)
        outputs.append(stage.flat(y))
    assert state is not None
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state


def rms_norm(x: Tensor, weight: Tensor, eps: float, n_groups: int = 1) -> Tensor:
    """Scale each of `n_groups` parts of the last axis to unit RMS, in float32, times weight."""
    grouped = x.float().unflatten(-1, (n_groups, -1))
    normed = F.rms_norm(grouped, grouped.shape[-1:], eps=eps).flatten(-2)
    return (normed * weight.float()).to(weight.dtype)


class Conv(nn.Module):
    """The depthwise convolution's parameters, in upstream's layout (channels, 1, K)."""

    def __init__(self, channels: int, k: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, k))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, x: Tensor, stage: Stage, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve rows (rows, length, channels); give the result and the next tail."""
        y = causal_conv(x, self.weight[:, 0], self.bias, tail)
        return y, next_tail(x, stage.row_lengths, self.weight.shape[2], tail)


class Scale(nn.Module):
    """A norm's weight; the mixer that owns it does the arithmetic."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


class SSDMixer(nn.Module):
    """Mamba-2: in_proj → conv, SiLU → SSD → gate, RMSNorm per group → out_proj.

    Source: mamba_ssm modules/mamba2.py; Dao & Gu 2024, arXiv:2405.21060.
    """

    def __init__(self, d_model: int, sizes: d.SSD) -> None:
        super().__init__()
        self.sizes = sizes
        rows = sizes.d_inner + sizes.d_xbc + sizes.n_heads
        self.in_proj = nn.Linear(d_model, rows, bias=sizes.proj_bias)
        self.conv1d = Conv(sizes.d_xbc, sizes.d_conv, bias=sizes.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(sizes.n_heads))
        self.A_log = nn.Parameter(torch.empty(sizes.n_heads))
        self.D = nn.Parameter(torch.empty(sizes.n_heads))
        self.norm = Scale(sizes.d_inner)
        self.out_proj = nn.Linear(sizes.d_inner, d_model, bias=sizes.proj_bias)

    def forward(
        self, u: Tensor, forest: Forest, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        """Mix flat tokens (tokens, d_model); give the same shape and the state after them."""
        s = self.sizes
        z, xbc, dt = self.in_proj(u).split([s.d_inner, s.d_xbc, s.n_heads], -1)
        dt = F.softplus(dt.float() + self.dt_bias.float())
        if s.dt_limit != (0.0, float("inf")):
            dt = dt.clamp(*s.dt_limit)
        y, state = over_stages(forest, (xbc, dt), state, self._rows)
        y = rms_norm(y.float() * F.silu(z.float()), self.norm.weight, s.norm_eps, s.n_groups)
        return self.out_proj(y), state

    def _rows(
        self, rows: tuple[Tensor, ...], stage: Stage, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        s = self.sizes
        xbc, dt = rows
        tail, ssm = (None, None) if state is None else state
        if stage.valid is not None:
            dt = dt * stage.valid[..., None]
        xbc, tail = self.conv1d(xbc, stage, tail)
        xbc = F.silu(xbc).float()
        x, B, C = xbc.split([s.d_inner, s.n_groups * s.d_state, s.n_groups * s.d_state], -1)
        y, ssm = ssd(
            x.unflatten(-1, (s.n_heads, s.head_dim)),
            -dt * torch.exp(self.A_log.float()),
            dt,
            B.unflatten(-1, (s.n_groups, s.d_state)),
            C.unflatten(-1, (s.n_groups, s.d_state)),
            D=self.D.float(),
            state=ssm,
        )
        return y.flatten(-2), (tail, ssm)


class SelectiveScanMixer(nn.Module):
    """Mamba-1: in_proj → conv, SiLU → x_proj, dt_proj → selective scan → gate → out_proj.

    Source: mamba_ssm modules/mamba_simple.py; Gu & Dao 2023, arXiv:2312.00752.
    """

    def __init__(self, d_model: int, sizes: d.SelectiveScan) -> None:
        super().__init__()
        self.sizes = sizes
        e = sizes.d_inner
        self.in_proj = nn.Linear(d_model, 2 * e, bias=sizes.proj_bias)
        self.conv1d = Conv(e, sizes.d_conv, bias=sizes.conv_bias)
        self.x_proj = nn.Linear(e, sizes.dt_rank + 2 * sizes.d_state, bias=False)
        self.dt_proj = nn.Linear(sizes.dt_rank, e, bias=True)
        self.A_log = nn.Parameter(torch.empty(e, sizes.d_state))
        self.D = nn.Parameter(torch.empty(e))
        self.out_proj = nn.Linear(e, d_model, bias=sizes.proj_bias)

    def forward(
        self, u: Tensor, forest: Forest, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        """Mix flat tokens (tokens, d_model); give the same shape and the state after them."""
        x, z = self.in_proj(u).chunk(2, -1)
        y, state = over_stages(forest, (x,), state, self._rows)
        return self.out_proj((y * F.silu(z.float())).to(u.dtype)), state

    def _rows(
        self, rows: tuple[Tensor, ...], stage: Stage, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        s = self.sizes
        tail, ssm = (None, None) if state is None else state
        x, tail = self.conv1d(rows[0], stage, tail)
        x = F.silu(x)
        dt, B, C = self.x_proj(x).split([s.dt_rank, s.d_state, s.d_state], -1)
        dt = F.softplus(self.dt_proj(dt).float())
        if stage.valid is not None:
            dt = dt * stage.valid[..., None]
        A = -torch.exp(self.A_log.float())
        y, ssm = selective_scan(x.float(), dt, A, B.float(), C.float(), D=self.D.float(), state=ssm)
        return y, (tail, ssm)


class AttentionMixer(nn.Module):
    """Causal softmax attention with grouped key and value heads and rotary positions.

    Source: Su et al. 2021, arXiv:2104.09864 (rotary, halves form); transformers GPTNeoX.
    """

    def __init__(self, d_model: int, sizes: d.Attention) -> None:
        super().__init__()
        self.sizes = sizes
        q, kv = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
        self.q_proj = nn.Linear(d_model, q, bias=sizes.bias)
        self.k_proj = nn.Linear(d_model, kv, bias=sizes.bias)
        self.v_proj = nn.Linear(d_model, kv, bias=sizes.bias)
        self.o_proj = nn.Linear(q, d_model, bias=sizes.bias)

    def forward(
        self, u: Tensor, forest: Forest, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        """Mix flat tokens (tokens, d_model); give the same shape and the state after them."""
        qkv = (self.q_proj(u), self.k_proj(u), self.v_proj(u))
        y, state = over_stages(forest, qkv, state, self._rows)
        return self.o_proj(y), state

    def _rows(
        self, rows: tuple[Tensor, ...], stage: Stage, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        s = self.sizes
        q, k, v = (t.unflatten(-1, (-1, s.head_dim)) for t in rows)
        n, length = q.shape[:2]
        seen = q.new_zeros(n, dtype=torch.long) if state is None else state[2]
        positions = seen[:, None] + torch.arange(length, device=q.device)
        q, k = (rotate(t, positions, s.rotary_dim, s.rope_theta) for t in (q, k))
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
        grown = length if stage.row_lengths is None else stage.row_lengths
        if state is not None:
            k, v = pack_keys(k, seen, state[0].shape[1]), pack_keys(v, seen, state[0].shape[1])
        return y.transpose(1, 2).flatten(-2), (k, v, seen + grown)


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


def rotate(x: Tensor, positions: Tensor, rotary_dim: int, theta: float) -> Tensor:
    """Turn the first `rotary_dim` channels of each head by their position.

    Args:
        x: (rows, length, heads, head_dim).
        positions: (rows, length) int64.
        rotary_dim: channels that turn, even.
        theta: the base of the frequencies.
    """
    half = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=x.device) / rotary_dim
    angles = positions[..., None].float() * theta**-half
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    turned, rest = x[..., :rotary_dim].float(), x[..., rotary_dim:]
    a, b = turned.chunk(2, -1)
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    return torch.cat([turned.to(x.dtype), rest], -1)


def build(d_model: int, sizes: d.Mixer) -> SSDMixer | SelectiveScanMixer | AttentionMixer:
    """Make the mixer that a description asks for, its parameters uninitialised."""
    match sizes:
        case d.SSD():
            return SSDMixer(d_model, sizes)
        case d.SelectiveScan():
            return SelectiveScanMixer(d_model, sizes)
        case d.Attention():
            return AttentionMixer(d_model, sizes)
