"""What the published kernels compute, one step at a time, with their signatures and conditions.

A call that upstream would refuse or compute wrongly fails here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ssmbench.kernels import naive

INFINITE = (0.0, float("inf"))


def _double(*tensors):
    return [None if t is None else t.double() for t in tensors]


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None,
    cu_seqlens=None, dt_softplus=False, dt_limit=INFINITE, return_final_states=False,
    return_varlen_states=False,
):  # fmt: skip
    """mamba_ssm 2.3.2.post1, ops/triton/ssd_combined.py; what is not used here is not taken."""
    assert z is dt_bias is seq_idx is cu_seqlens is None
    assert not dt_softplus
    assert not return_varlen_states
    assert dt_limit == INFINITE
    assert return_final_states
    assert chunk_size & (chunk_size - 1) == 0
    batch, length, heads, p = x.shape
    assert heads % B.shape[2] == 0
    assert dt.shape == (batch, length, heads)
    assert A.shape == (heads,)
    assert B.shape == C.shape == (batch, length, B.shape[2], B.shape[3])
    assert x.dtype == B.dtype == C.dtype
    assert dt.dtype == A.dtype == torch.float32
    # Else its loads are of single values: slow, not wrong.
    assert p % 16 == B.shape[3] % 16 == 0
    if initial_states is not None:
        assert initial_states.shape == (batch, heads, p, B.shape[3])
    x64, dt64, A64, B64, C64, D64, S64 = _double(x, dt, A, B, C, D, initial_states)
    y, left = naive.ssd(x64, dt64 * A64, dt64, B64, C64, D=D64, state=S64)
    return y.to(x.dtype), left.float()


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False,
    state_batch_indices=None,
):  # fmt: skip
    """mamba_ssm 2.3.2.post1, ops/triton/selective_state_update.py; it writes into `state`."""
    assert z is state_batch_indices is None
    assert not dt_softplus
    batch, heads, p, n = state.shape
    assert state.is_contiguous()
    assert x.shape == dt.shape == (batch, heads, p)
    assert A.shape == (heads, p, n)
    assert B.shape == C.shape == (batch, B.shape[1], n)
    assert heads % B.shape[1] == 0
    assert D is not None
    assert D.shape == dt_bias.shape == (heads, p)
    # Its fast path, which reads one step and one rate a head.
    assert A.stride(-1) == A.stride(-2) == dt.stride(-1) == dt_bias.stride(-1) == 0
    x64, dt64, A64, B64, C64, D64, S64 = _double(x, dt + dt_bias, A, B, C, D, state)
    step, rate = dt64[:, None, :, 0], A64[:, 0, 0]
    y, left = naive.ssd(x64[:, None], step * rate, step, B64[:, None], C64[:, None], state=S64)
    state.copy_(left)
    return (y[:, 0] + x64 * D64).to(x.dtype)


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
    return_last_state=False,
):  # fmt: skip
    """mamba_ssm 2.3.2.post1, ops/selective_scan_interface.py: time last, from zero."""
    assert z is delta_bias is None
    assert not delta_softplus
    assert return_last_state
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert A.dtype == torch.float32
    assert A.shape[1] <= 256
    assert all(t.stride(-1) == 1 or t.shape[-1] == 1 for t in (u, delta, B, C))
    u64, dt64, B64, C64 = (t.transpose(1, 2) for t in _double(u, delta, B, C))
    y, left = naive.selective_scan(u64, dt64, A.double(), B64, C64, D=_double(D)[0])
    return y.transpose(1, 2).to(u.dtype), left.float()


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
    final_states_out=None, activation=None,
):  # fmt: skip
    """causal_conv1d 1.7.0, cpp_functions and csrc/causal_conv1d.cpp: the channel-last layout."""
    assert seq_idx is final_states_out is activation is None
    assert not return_final_states
    batch, channels, _ = x.shape
    width = weight.shape[1]
    assert 2 <= width <= 4
    assert weight.shape == (channels, width)
    assert weight.stride(1) == 1
    assert x.stride(1) == 1
    assert x.stride(2) > 1
    assert channels % 8 == x.stride(2) % 8 == x.stride(0) % 8 == 0
    if initial_states is not None:
        assert initial_states.shape == (batch, channels, width - 1)
        assert initial_states.stride(1) == 1
        assert initial_states.dtype == x.dtype
    before = F.pad(x, (width - 1, 0))
    if initial_states is not None:
        before = torch.cat([initial_states, x], 2)
    w64, b64 = _double(weight, bias)
    y = F.conv1d(before.double(), w64[:, None], b64, groups=channels)
    return y.to(x.dtype)


FUNCTIONS = {
    "mamba_chunk_scan_combined": mamba_chunk_scan_combined,
    "selective_state_update": selective_state_update,
    "selective_scan_fn": selective_scan_fn,
    "causal_conv1d_fn": causal_conv1d_fn,
}
