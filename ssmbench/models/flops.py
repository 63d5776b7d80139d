"""Parameters and FLOPs of a described model, counted by formula: no weights, no torch.

One multiply-add is two FLOPs. Matrix products and convolutions are exact (torch's FlopCounterMode
agrees); scans are counted as the recurrence that they compute, not as any implementation of it.

Source: Simba, arXiv:2505.20698, appendix A.1, with the conventions of mamba_ssm.
"""

from __future__ import annotations

from typing import NamedTuple

from ssmbench.models import description as d


class Parameters(NamedTuple):
    """Stored numbers of a model: all of it, and of its SSM mixers alone."""

    model: int
    mixer: int


def parameters(description: d.Description) -> Parameters:
    """Count the parameters of a model; tied embeddings count once."""
    dm = description.d_model
    sizes = [layer.mixer for layer in description.layers if layer.mixer is not None]
    ssm = sum(mixer_parameters(dm, m) for m in sizes if not isinstance(m, d.Attention))
    attention = sum(mixer_parameters(dm, m) for m in sizes if isinstance(m, d.Attention))
    rest = sum(_block_rest(dm, layer) for layer in description.layers)
    head = 0 if description.tie_embeddings else dm * description.vocab_size
    head += description.vocab_size if description.head_bias else 0
    embedding = dm * description.vocab_size
    norm = _norm_parameters(dm, description.final_norm)
    return Parameters(ssm + attention + rest + embedding + head + norm, ssm)


def mixer_parameters(d_model: int, mixer: d.Mixer) -> int:
    """Count one mixer's parameters: projections, convolution, norm, A, D and steps."""
    match mixer:
        case d.SSD():
            rows = mixer.d_inner + mixer.d_xbc + mixer.n_heads
            conv = mixer.d_xbc * (mixer.d_conv + mixer.conv_bias)
            bias = rows * mixer.in_bias + d_model * mixer.out_bias
            small = mixer.n_heads * (1 if mixer.discrete else 3)
            small += mixer.d_inner * (mixer.z_bias + bool(mixer.norm_groups))
            return d_model * (rows + mixer.d_inner) + conv + bias + small
        case d.SelectiveScan():
            e, n, r = mixer.d_inner, mixer.d_state, mixer.dt_rank
            conv = e * (mixer.d_conv + mixer.conv_bias)
            bias = 2 * e * mixer.in_bias + d_model * mixer.out_bias
            return 3 * d_model * e + conv + bias + e * (r + 2 * n) + (r + 1) * e + e * n + e
        case d.Attention():
            q, kv = mixer.n_heads * mixer.head_dim, mixer.n_kv_heads * mixer.head_dim
            return 2 * d_model * (q + kv) + (q + 2 * kv + d_model) * mixer.bias


def _norm_parameters(d_model: int, norm: d.Norm) -> int:
    return d_model * (2 if norm.kind == "layer" else 1)


def _block_rest(d_model: int, layer: d.Layer) -> int:
    """Count a block's norms and MLP."""
    norm = _norm_parameters(d_model, layer.norm)
    before_mixer = norm * (layer.mixer is not None or (layer.one_norm and layer.mlp is not None))
    if layer.mlp is None:
        return before_mixer
    rows = layer.mlp.d_hidden * (2 if layer.mlp.kind == "swiglu" else 1)
    bias = (rows + d_model) * layer.mlp.bias
    before_mlp = 0 if layer.one_norm else norm
    return before_mixer + before_mlp + d_model * (rows + layer.mlp.d_hidden) + bias


def forward_flops(description: d.Description, *, tokens: int, scored: int | None = None) -> int:
    """Count one forward pass over `tokens` positions of one sequence.

    Args:
        description: the model.
        tokens: positions that run through the layers.
        scored: positions that reach the head; all of them by default.
    """
    dm = description.d_model
    layers = sum(layer_flops(dm, layer, tokens) for layer in description.layers)
    scored = tokens if scored is None else scored
    return layers + 4 * dm * tokens + 2 * scored * dm * description.vocab_size


def layer_flops(d_model: int, layer: d.Layer, tokens: int) -> int:
    """Count one block over `tokens` positions: norms, mixer, residual additions, MLP."""
    total = 0 if layer.mixer is None else tokens * 5 * d_model
    match layer.mixer:
        case d.SSD():
            total += tokens * _ssd(d_model, layer.mixer)
        case d.SelectiveScan():
            total += tokens * _selective_scan(d_model, layer.mixer)
        case d.Attention():
            total += _attention(d_model, layer.mixer, tokens)
    if layer.mlp is not None:
        gated = layer.mlp.kind == "swiglu"
        products = 2 * d_model * layer.mlp.d_hidden * (3 if gated else 2)
        own_norm = layer.mixer is None or not layer.one_norm
        around = 5 if own_norm else 1
        total += tokens * (products + 5 * layer.mlp.d_hidden + around * d_model)
    return total


def _ssd(dm: int, m: d.SSD) -> int:
    """Count the mixer of Mamba-2, or a relative of it, for one position."""
    e, h = m.d_inner, m.n_heads
    products = 2 * dm * (e + m.d_xbc + h) + 2 * e * dm + 2 * m.d_conv * m.d_xbc
    scan = 5 * h * m.head_dim * m.d_state + h * (m.head_dim + 3)
    # The convolution's activation; D·x and its addition; the gate; softplus of dt.
    other = 4 * m.d_xbc * (m.conv_activation == "silu") + 2 * e + 5 * e + 5 * h
    # The gated norm; the gate's bias.
    other += 4 * e * bool(m.norm_groups) + e * m.z_bias
    return products + scan + other


def _selective_scan(dm: int, m: d.SelectiveScan) -> int:
    """Count Mamba-1's mixer for one position."""
    e, n, r = m.d_inner, m.d_state, m.dt_rank
    products = 4 * dm * e + 2 * e * (r + 2 * n) + 2 * r * e + 2 * e * dm + 2 * m.d_conv * e
    scan = 7 * e * n + e
    # D·x and its addition; SiLU of x; the gate with its SiLU; softplus of dt.
    other = 2 * e + 4 * e + 2 * e + 5 * e
    return products + scan + other


def _attention(dm: int, m: d.Attention, tokens: int) -> int:
    """Count attention over `tokens` positions, scores as the full square."""
    q, kv = m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim
    products = tokens * 2 * dm * (2 * q + 2 * kv)
    return products + tokens * tokens * (4 * q + 5 * m.n_heads)


def state_bytes(description: d.Description, *, tokens: int, itemsize: int = 4) -> int:
    """Count the bytes that one sequence carries from one position to the next.

    Scan states are float32; convolution tails, and the keys and values of `tokens` positions
    where there is attention, have `itemsize` bytes a number.
    """
    total = 0
    for layer in description.layers:
        match layer.mixer:
            case d.SSD() as m:
                total += itemsize * (m.d_conv - 1) * m.d_xbc + 4 * m.d_inner * m.d_state
            case d.SelectiveScan() as m:
                total += itemsize * (m.d_conv - 1) * m.d_inner + 4 * m.d_inner * m.d_state
            case d.Attention() as m:
                total += itemsize * tokens * 2 * m.n_kv_heads * m.head_dim
    return total
