"""What Llama's checkpoints and those of hybrids made from them share, in transformers' layout.

| ours | transformers |
|---|---|
| d_model | hidden_size |
| attention: n_heads, n_kv_heads | num_attention_heads, num_key_value_heads (as many) |
| attention: head_dim | head_dim, or hidden_size / num_attention_heads |
| mlp.d_hidden | intermediate_size |

Source: transformers 4.48 and 5.23, models/llama.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d
from ssmbench.models import rope
from ssmbench.models.keys import multiple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ssmbench.models.keys import Config

_LAYER = "model.layers.{}."
_PROJECTIONS = {
    **{f"self_attn.{p}_proj": f"mixer.{p}_proj" for p in "qkvo"},
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.fc2",
}
KEYS = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm_f.weight",
    "lm_head.weight": "lm_head.weight",
    _LAYER + "input_layernorm.weight": "layers.{}.norm.weight",
    _LAYER + "post_attention_layernorm.weight": "layers.{}.norm2.weight",
    **{
        f"{_LAYER}{theirs}.{kind}": f"layers.{{}}.{ours}.{kind}"
        for theirs, ours in _PROJECTIONS.items()
        for kind in ("weight", "bias")
    },
}
# Frequencies that older versions of transformers saved; they follow from the config.
IGNORED = (_LAYER + "self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")


def attention(config: Config) -> d.Attention:
    """Read the attention that all of a model's attention layers have."""
    config.only({"pretraining_tp": (1,)})
    n_heads = config.number("num_attention_heads")
    n_kv_heads = config.number("num_key_value_heads", default=n_heads)
    multiple(n_heads, n_kv_heads, config.where, "num_attention_heads")
    if config.get("head_dim") is None:
        head_dim = multiple(config.number("hidden_size"), n_heads, config.where, "hidden_size")
    else:
        head_dim = config.number("head_dim")
    positions = rope.read(config, theta="rope_theta", fraction="partial_rotary_factor", default=1)
    if positions.fraction != 1:
        raise CheckpointError(
            f"{config.where}: partial_rotary_factor: found {positions.fraction}; "
            "expected 1, since Llama turns whole heads."
        )
    return d.Attention(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        rope_theta=positions.theta,
        rope_scaling=positions.scaling,
        bias=config.flag("attention_bias", default=False),
    )


def norm(config: Config) -> d.Norm:
    """Read the norm that all of Llama's own layers and the end have."""
    return d.Norm("rms", config.real("rms_norm_eps", default=1e-6))


def mlp(config: Config) -> d.MLP:
    """Read the MLP that all layers have."""
    config.only({"hidden_act": ("silu", "swish")})
    width = config.number("intermediate_size")
    return d.MLP("swiglu", width, bias=config.flag("mlp_bias", default=False))


def config_of(
    description: d.Description, layers: Iterable[d.Layer], architecture: str
) -> dict[str, Any]:
    """Give the config.json whose attention, MLP and norm are those of the first of `layers`.

    Raises:
        CheckpointError: no layer has attention, or that layer has no MLP.
    """
    first = next((layer for layer in layers if isinstance(layer.mixer, d.Attention)), None)
    if first is None or first.mlp is None:
        raise CheckpointError(
            "found no layer with attention and an MLP; expected one, whose sizes config.json says."
        )
    assert isinstance(first.mixer, d.Attention)
    return {
        "architectures": [architecture],
        "model_type": "llama",
        "vocab_size": description.vocab_size,
        "hidden_size": description.d_model,
        "intermediate_size": first.mlp.d_hidden,
        "num_hidden_layers": len(description.layers),
        "num_attention_heads": first.mixer.n_heads,
        "num_key_value_heads": first.mixer.n_kv_heads,
        "head_dim": first.mixer.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": first.norm.eps,
        "attention_bias": first.mixer.bias,
        "mlp_bias": first.mlp.bias,
        "tie_word_embeddings": description.tie_embeddings,
        **rope.written(first.mixer, theta="rope_theta"),
    }
