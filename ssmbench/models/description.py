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
    """Mamba-2's mixer and its relatives: scalar decay per head, heads in groups that share.

    in_proj rows are [z | x | B | C | dt] in every family; the convolution's channels [x | B | C].
    Head h belongs to group h // (H / G). With `shared` "bc" the heads of a group share B and C
    (Mamba-2, Phi-Mamba): z and x are (H, P), B and C are (G, N). With "xb" they share x and B,
    as keys and values are shared in grouped-query attention (Llama hybrids): z is (H, P), x is
    (G, P), B is (G, N), C is (H, N). dt is (H) always.

    `discrete` is Phi-Mamba's form: the projected dt is an a with decay sigmoid(−a), x is not
    scaled by a step, and there are neither A_log nor dt_bias.

    `norm_groups` parts of the gated output have an RMSNorm each; 0 is no norm.
    """

    n_heads: int
    head_dim: int
    d_state: int
    n_groups: int = 1
    shared: Literal["bc", "xb"] = "bc"
    discrete: bool = False
    d_conv: int = 4
    conv_bias: bool = True
    conv_activation: Literal["silu", "identity"] = "silu"
    in_bias: bool = False
    out_bias: bool = False
    z_bias: bool = False
    norm_groups: int = 1
    norm_eps: float = 1e-5
    dt_limit: tuple[float, float] = (0.0, float("inf"))

    @property
    def heads_per_group(self) -> int:
        """R = H / G."""
        return self.n_heads // self.n_groups

    @property
    def d_inner(self) -> int:
        """E = H · P."""
        return self.n_heads * self.head_dim

    @property
    def d_x(self) -> int:
        """Channels of x."""
        return (self.n_heads if self.shared == "bc" else self.n_groups) * self.head_dim

    @property
    def d_b(self) -> int:
        """Channels of B."""
        return self.n_groups * self.d_state

    @property
    def d_c(self) -> int:
        """Channels of C."""
        return (self.n_groups if self.shared == "bc" else self.n_heads) * self.d_state

    @property
    def d_xbc(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_x + self.d_b + self.d_c


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
    in_bias: bool = False
    out_bias: bool = False


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of rotary frequencies to longer texts (`rope_type` "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclass(frozen=True)
class Attention:
    """Causal softmax attention with rotary positions on the first `rotary_dim` of each head.

    Query head h reads key and value head h // (n_heads / n_kv_heads).
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
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

    `parallel`: h += mixer(norm h) + mlp(norm2 h), both on the h that enters the block; with
    `one_norm` norm2 is norm itself, as in Phi. A layer whose mixer was removed has `mixer`
    None, and no norm before it unless the MLP uses it.
    """

    mixer: Mixer | None
    norm: Norm
    mlp: MLP | None = None
    pattern: Literal["sequential", "parallel"] = "sequential"
    one_norm: bool = False


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
