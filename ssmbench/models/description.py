"""A model as data: what each layer is and how large, one record a layer.

The decoder is built from this, parameters and FLOPs are counted from it, and surgery
replaces it, since a method may leave every layer with sizes of its own. No torch here.

Letters: D d_model, E d_inner, H n_heads, P head_dim, N d_state, G n_groups, K d_conv,
R dt_rank, as in the papers and mamba_ssm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Norm:
    """RMSNorm (weight) or LayerNorm (weight and bias)."""

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-5


@dataclass(frozen=True)
class SSD:
    """Mamba-2's mixer: scalar decay per head, B and C shared by the heads of a group.

    in_proj rows are [z (H·P) | x (H·P) | B (G·N) | C (G·N) | dt (H)].
    """

    n_heads: int
    head_dim: int
    d_state: int
    n_groups: int = 1
    d_conv: int = 4
    conv_bias: bool = True
    proj_bias: bool = False
    norm_eps: float = 1e-5
    dt_limit: tuple[float, float] = (0.0, float("inf"))

    @property
    def d_inner(self) -> int:
        """E = H · P."""
        return self.n_heads * self.head_dim

    @property
    def d_xbc(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_inner + 2 * self.n_groups * self.d_state


@dataclass(frozen=True)
class SelectiveScan:
    """Mamba-1's mixer: decay per channel and state, B and C shared by all channels.

    in_proj rows are [x (E) | z (E)]; x_proj rows are [dt (R) | B (N) | C (N)].
    """

    d_inner: int
    d_state: int
    dt_rank: int
    d_conv: int = 4
    conv_bias: bool = True
    proj_bias: bool = False


@dataclass(frozen=True)
class Attention:
    """Causal softmax attention with rotary positions on the first `rotary_dim` of each head."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float = 10000.0
    bias: bool = True


@dataclass(frozen=True)
class MLP:
    """`gelu`: fc2(gelu(fc1 x)); `swiglu`: fc2(y · silu(gate)) with [y | gate] = fc1 x."""

    kind: Literal["gelu", "gelu_tanh", "swiglu"]
    d_hidden: int
    bias: bool


Mixer = SSD | SelectiveScan | Attention


@dataclass(frozen=True)
class Layer:
    """One block. `sequential`: h += mixer(norm h); h += mlp(norm2 h).

    `parallel`: h += mixer(norm h) + mlp(norm2 h), both on the h that enters the block.
    """

    mixer: Mixer
    norm: Norm
    mlp: MLP | None = None
    pattern: Literal["sequential", "parallel"] = "sequential"


@dataclass(frozen=True)
class Description:
    """A whole decoder. `vocab_size` is the embedding's number of rows, padding included."""

    family: str
    d_model: int
    vocab_size: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    tie_embeddings: bool = True
    head_bias: bool = False
