"""The token mixers. Each sees flat tokens, and rows only where order matters.

Every projection is a module of its own and is always called as one, so that whoever hooks it
sees the tensor that truly enters it, and LoRA on it truly acts.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbench.kernels.conv import next_tail
from ssmbench.kernels.dispatch import causal_conv, gate, gated_norm, selective_scan, ssd
from ssmbench.models import description as d
from ssmbench.models.attention import AttentionMixer
from ssmbench.models.linear import Linear
from ssmbench.models.reduction import Shown
from ssmbench.models.rows import over_stages

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from ssmbench.models.forest import Forest, Stage
    from ssmbench.models.reduction import Watch
    from ssmbench.models.state import LayerState


class Conv(nn.Module):
    """The depthwise convolution's parameters, in upstream's layout (channels, 1, K)."""

    def __init__(self, channels: int, k: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, k))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, x: Tensor, stage: Stage, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve rows (rows, length, channels); give the result and the next tail, if wanted."""
        with _as_given(x.device):
            y = causal_conv(x, self.weight[:, 0], self.bias, tail)
        if stage.ends:
            return y, x.new_empty(0)
        return y, next_tail(x, stage.row_lengths, self.weight.shape[2], tail)


class Scale(nn.Module):
    """A norm's weight; the mixer that owns it does the arithmetic."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


class SSDMixer(nn.Module):
    """Mamba-2 and its relatives: in_proj → conv → SSD → gate, RMSNorm per group → out_proj.

    Phi-Mamba's discrete form has no norm and a bias in the gate instead. Source: mamba_ssm
    modules/mamba2.py, Dao & Gu 2024, arXiv:2405.21060; Bick et al. 2024, arXiv:2408.10189
    (discrete Mamba-2); Wang et al. 2024, arXiv:2408.15237 (x and B shared as values and keys).
    """

    def __init__(self, d_model: int, sizes: d.SSD) -> None:
        super().__init__()
        self.sizes = sizes
        heads, e = sizes.n_heads, sizes.d_inner
        self.in_proj = Linear(d_model, e + sizes.d_xbc + heads, bias=sizes.in_bias)
        self.conv1d = Conv(sizes.d_xbc, sizes.d_conv, bias=sizes.conv_bias)
        self.dt_bias = None if sizes.discrete else nn.Parameter(torch.empty(heads))
        self.A_log = None if sizes.discrete else nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.z_bias = nn.Parameter(torch.zeros(e)) if sizes.z_bias else None
        self.norm = Scale(e) if sizes.norm_groups else None
        self.out_proj = Linear(e, d_model, bias=sizes.out_bias)

    def forward(
        self, u: Tensor, forest: Forest, state: LayerState | None, watch: Watch | None = None
    ) -> tuple[Tensor, LayerState]:
        """Mix flat tokens (tokens, d_model); give the same shape and the state after them.

        Where `watch` drops tokens before the scan, only those that it keeps come out.
        """
        s = self.sizes
        z, xbc, dt = self.in_proj(u).split([s.d_inner, s.d_xbc, s.n_heads], -1)
        flat, scan = (xbc, dt.float().contiguous()), partial(self._rows, watch=watch)
        y, state = over_stages(forest, flat, state, scan, apart=watch is None)
        if watch is not None and watch.index is not None:
            z = z.index_select(0, watch.index)
        z = z if self.z_bias is None else z.float() + self.z_bias.float()
        if self.norm is None:
            return self.out_proj(gate(y, z, u.dtype)), state
        y = gated_norm(y, z, self.norm.weight, s.norm_eps, s.norm_groups)
        return self.out_proj(y), state

    def _step(self, dt: Tensor) -> Tensor:
        """Give the step (Mamba-2) or minus the log of the decay (discrete), ≥ 0."""
        if self.dt_bias is None:
            return F.softplus(dt)
        dt = F.softplus(dt + self.dt_bias.float())
        unlimited = self.sizes.dt_limit == (0.0, float("inf"))
        return dt if unlimited else dt.clamp(*self.sizes.dt_limit)

    def _rows(
        self,
        rows: tuple[Tensor, ...],
        stage: Stage,
        state: LayerState | None,
        watch: Watch | None,
    ) -> tuple[Tensor, LayerState]:
        s, n = self.sizes, self.sizes.d_state
        xbc, dt = rows
        tail, ssm = (None, None) if state is None else state
        xbc, tail = self.conv1d(xbc, stage, tail)
        xbc = F.silu(xbc) if s.conv_activation == "silu" else xbc
        x, B, C = xbc.split([s.d_x, s.d_b, s.d_c], -1)
        x, B, C = (t.unflatten(-1, (-1, w)) for t, w in ((x, s.head_dim), (B, n), (C, n)))
        if watch is not None and stage.parents is None:
            shown = Shown(self, stage, x.float(), dt, B.float(), C.float(), ssm)
            kept = watch.scanning(shown)
            if kept is not None and watch.index is not None:
                x, dt, B, C = thinned((x, dt, B, C), stage, kept, watch.index)
                stage = kept
        if s.shared == "xb":
            x, B = (t.repeat_interleave(s.heads_per_group, 2) for t in (x, B))
        valid = None if stage.valid is None else stage.valid[..., None]
        dt = self._step(dt) if valid is None else self._step(dt) * valid
        if self.A_log is None:
            # A padded position must not enter the state; nothing else scales x.
            log_decay, weight = -dt, None if valid is None else valid.to(dt.dtype).expand_as(dt)
            rates = None
        else:
            rates = -torch.exp(self.A_log.float())
            log_decay, weight = dt * rates, dt
        with _as_given(x.device):
            D, ends = self.D.float(), stage.ends
            y, ssm = ssd(x, log_decay, weight, B, C, D=D, state=ssm, rates=rates, ends=ends)
        return stage.flat(y.flatten(-2)), (tail, ssm)


class SelectiveScanMixer(nn.Module):
    """Mamba-1: in_proj → conv, SiLU → x_proj, dt_proj → selective scan → gate → out_proj.

    Source: mamba_ssm modules/mamba_simple.py; Gu & Dao 2023, arXiv:2312.00752.
    """

    def __init__(self, d_model: int, sizes: d.SelectiveScan) -> None:
        super().__init__()
        self.sizes = sizes
        e = sizes.d_inner
        self.in_proj = Linear(d_model, 2 * e, bias=sizes.in_bias)
        self.conv1d = Conv(e, sizes.d_conv, bias=sizes.conv_bias)
        self.x_proj = Linear(e, sizes.dt_rank + 2 * sizes.d_state, bias=False)
        self.dt_proj = Linear(sizes.dt_rank, e, bias=True)
        self.A_log = nn.Parameter(torch.empty(e, sizes.d_state))
        self.D = nn.Parameter(torch.empty(e))
        self.out_proj = Linear(e, d_model, bias=sizes.out_bias)

    def forward(
        self, u: Tensor, forest: Forest, state: LayerState | None, watch: Watch | None = None
    ) -> tuple[Tensor, LayerState]:
        """Mix flat tokens (tokens, d_model); give the same shape and the state after them.

        Where `watch` drops tokens before the scan, only those that it keeps come out.
        """
        x, z = self.in_proj(u).chunk(2, -1)
        scan = partial(self._rows, watch=watch)
        y, state = over_stages(forest, (x,), state, scan, apart=watch is None)
        if watch is not None and watch.index is not None:
            z = z.index_select(0, watch.index)
        return self.out_proj(gate(y, z, u.dtype)), state

    def _rows(
        self,
        rows: tuple[Tensor, ...],
        stage: Stage,
        state: LayerState | None,
        watch: Watch | None,
    ) -> tuple[Tensor, LayerState]:
        s = self.sizes
        tail, ssm = (None, None) if state is None else state
        x, tail = self.conv1d(rows[0], stage, tail)
        x = F.silu(x)
        dt, B, C = self.x_proj(x).split([s.dt_rank, s.d_state, s.d_state], -1)
        biased = self.dt_proj(dt).float()
        dt = F.softplus(biased)
        if watch is not None and stage.parents is None:
            raw = biased - self.dt_proj.bias.float()
            shown = Shown(self, stage, x.float(), raw, B.float(), C.float(), ssm, dt)
            kept = watch.scanning(shown)
            if kept is not None and watch.index is not None:
                x, dt, B, C = thinned((x, dt, B, C), stage, kept, watch.index)
                stage = kept
        if stage.valid is not None:
            dt = dt * stage.valid[..., None]
        A = -torch.exp(self.A_log.float())
        with _as_given(x.device):
            y, ssm = selective_scan(x, dt, A, B, C, D=self.D.float(), state=ssm)
        return stage.flat(y), (tail, ssm)


def _as_given(device: torch.device) -> AbstractContextManager[None]:
    """Let a scan run in the type of its inputs, also where projections run in half precision."""
    # There is no autocast on the meta device, where FLOPs are counted.
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def thinned(rows: Iterable[Tensor], stage: Stage, kept: Stage, index: Tensor) -> list[Tensor]:
    """Take from (rows, length, …) the tokens that are left, as rows of the thinner stage.

    Args:
        rows: over `stage`.
        stage: before tokens were dropped.
        kept: after.
        index: the kept tokens, in the flat order of `stage`, perhaps followed by others'.
    """
    index, own = index[: kept.n_tokens], replace(kept, start=0)
    return [own.rows(stage.flat(t).index_select(0, index)) for t in rows]


def build(d_model: int, sizes: d.Mixer) -> SSDMixer | SelectiveScanMixer | AttentionMixer:
    """Make the mixer that a description asks for, its parameters uninitialised."""
    match sizes:
        case d.SSD():
            return SSDMixer(d_model, sizes)
        case d.SelectiveScan():
            return SelectiveScanMixer(d_model, sizes)
        case d.Attention():
            return AttentionMixer(d_model, sizes)
