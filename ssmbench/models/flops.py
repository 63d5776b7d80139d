"""Parameters and FLOPs of a described model, counted by formula: no weights, no torch.

One multiply-add is two FLOPs. Matrix products and convolutions are exact (torch's FlopCounterMode
agrees); scans are counted as the recurrence that they compute, not as any implementation of it;
attention as the full square, as it is computed without a causal kernel; rotary positions, biases
and the lookup of embeddings not at all.

For a position, with c the channels of the convolution and X = 1 for Mamba-2's norm, else 0:

    Mamba-1    2D·2E + 2E(R+2N) + 2RE + 2ED + 2KE          products
               + 7EN + E                                   scan
               + 2E + 4E + 2E + 5E                         SiLU, softplus, D·x, gate
    SSD        2D(E+c+H) + 2ED + 2Kc
               + 5HPN + H(P+3)
               + 2c + 4H + 2E + 5E + 5EX                   and the norm
    attention  2D(2Q+2V), Q = heads·P, V = key heads·P; for a pair of positions 4Q + 5·heads
    MLP        4DF + 8F (GELU), 6DF + 5F (gated)
    block      RMSNorm 4D, LayerNorm 5D, residual addition D
    head       2D·vocabulary for a position that reaches it; a final RMSNorm 4D

Source: our formulas; Simba, arXiv:2505.20698, appendix A.1, says what is counted (one input of a
prompt and an answer) and gives none. What drops tokens is counted in `models/token_flops.py`.
"""

from __future__ import annotations

from functools import cache
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


class Cost(NamedTuple):
    """FLOPs of one block, by what they grow with.

    Attributes:
        enter: for each position that enters: what comes before the scan or the attention.
        stay: for each position that goes on: the scan and all that comes after it.
        pair: for each pair of positions, where there is attention.
    """

    enter: int
    stay: int
    pair: int = 0

    def plus(self, other: Cost) -> Cost:
        """Add two costs of the same block."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def over(self, entering: int, staying: int) -> int:
        """Give the FLOPs for so many positions."""
        return entering * self.enter + staying * self.stay + staying * staying * self.pair


def forward_flops(description: d.Description, *, tokens: int, scored: int | None = None) -> int:
    """Count one forward pass over `tokens` positions of one sequence.

    Args:
        description: the model.
        tokens: positions that run through the layers.
        scored: positions that reach the head; all of them by default.
    """
    layers = sum(layer_flops(description.d_model, layer, tokens) for layer in description.layers)
    scored = tokens if scored is None else scored
    return layers + tokens * final_norm_flops(description) + scored * head_flops(description)


def head_flops(description: d.Description) -> int:
    """Count the head for one position."""
    return 2 * description.d_model * description.vocab_size


def final_norm_flops(description: d.Description) -> int:
    """Count the norm before the head for one position.

    A LayerNorm there is not counted: the published counts of Pythia are without it (10⁻⁵ of all).
    """
    return 4 * description.d_model if description.final_norm.kind == "rms" else 0


def layer_flops(d_model: int, layer: d.Layer, tokens: int) -> int:
    """Count one block over `tokens` positions: norms, mixer, residual additions, MLP."""
    return layer_cost(d_model, layer).over(tokens, tokens)


@cache
def layer_cost(d_model: int, layer: d.Layer) -> Cost:
    """Count one block by position: its products, and all else."""
    return layer_products(d_model, layer).plus(_elementwise(d_model, layer))


def layer_products(d_model: int, layer: d.Layer) -> Cost:
    """Count one block's matrix products and convolutions alone."""
    mlp = 0
    if layer.mlp is not None:
        mlp = 2 * d_model * layer.mlp.d_hidden * (3 if layer.mlp.kind == "swiglu" else 2)
    match layer.mixer:
        case d.SSD() as m:
            rows = m.d_inner + m.d_xbc + m.n_heads
            enter = 2 * d_model * rows + 2 * m.d_conv * m.d_xbc
            return Cost(enter, 2 * m.d_inner * d_model + mlp)
        case d.SelectiveScan() as m:
            e, r = m.d_inner, m.dt_rank
            inner = 2 * e * (r + 2 * m.d_state) + 2 * r * e
            return Cost(4 * d_model * e + 2 * m.d_conv * e + inner, 2 * e * d_model + mlp)
        case d.Attention() as m:
            q, kv = m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim
            return Cost(2 * d_model * (q + 2 * kv), 2 * d_model * q + mlp, 4 * q)
        case None:
            return Cost(0, mlp)


def _elementwise(d_model: int, layer: d.Layer) -> Cost:
    """Count what is no product: norms, activations, scans, softmax, residual additions."""
    norm = d_model * (4 if layer.norm.kind == "rms" else 5)
    total = Cost(0, 0) if layer.mixer is None else _mixing(layer.mixer).plus(Cost(norm, d_model))
    if layer.mlp is not None:
        own_norm = norm * (layer.mixer is None or not layer.one_norm)
        # y · silu(gate), or GELU.
        activation = layer.mlp.d_hidden * (5 if layer.mlp.kind == "swiglu" else 8)
        total = total.plus(Cost(0, own_norm + activation + d_model))
    return total


def _mixing(mixer: d.Mixer) -> Cost:
    """Count a mixer's part: SiLU of the convolution 2, softplus with its bias 4, D·x 2, gate 5."""
    match mixer:
        case d.SSD() as m:
            e, h = m.d_inner, m.n_heads
            scan = 5 * e * m.d_state + h * (m.head_dim + 3)
            gate = 5 * e + e * m.z_bias + 5 * e * bool(m.norm_groups)
            conv = 2 * m.d_xbc * (m.conv_activation == "silu")
            return Cost(conv, 4 * h + scan + 2 * e + gate)
        case d.SelectiveScan() as m:
            e = m.d_inner
            return Cost(2 * e, 4 * e + 7 * e * m.d_state + e + 2 * e + 5 * e)
        case d.Attention() as m:
            return Cost(0, 0, 5 * m.n_heads)


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
