"""GPT-NeoX (Pythia), the attention baseline, in transformers' layout.

| ours | transformers |
|---|---|
| d_model | hidden_size |
| n_heads, head_dim | num_attention_heads, hidden_size / num_attention_heads |
| rotary_dim | head_dim · partial_rotary_factor (rotary_pct) |
| mlp.d_hidden | intermediate_size |

Source: Black et al. 2022, arXiv:2204.06745; transformers 5.23.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.models import description as d
from ssmbench.models.keys import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LOOKS_FOR = 'config.json with model_type "gpt_neox"'

_LAYER = "gpt_neox.layers.{}."
KEYS = {
    "gpt_neox.embed_in.weight": "embedding.weight",
    _LAYER + "input_layernorm.weight": "layers.{}.norm.weight",
    _LAYER + "input_layernorm.bias": "layers.{}.norm.bias",
    _LAYER + "post_attention_layernorm.weight": "layers.{}.norm2.weight",
    _LAYER + "post_attention_layernorm.bias": "layers.{}.norm2.bias",
    _LAYER + "attention.query_key_value.weight": "layers.{}.mixer.qkv.weight",
    _LAYER + "attention.query_key_value.bias": "layers.{}.mixer.qkv.bias",
    _LAYER + "attention.dense.weight": "layers.{}.mixer.o_proj.weight",
    _LAYER + "attention.dense.bias": "layers.{}.mixer.o_proj.bias",
    _LAYER + "mlp.dense_h_to_4h.weight": "layers.{}.mlp.fc1.weight",
    _LAYER + "mlp.dense_h_to_4h.bias": "layers.{}.mlp.fc1.bias",
    _LAYER + "mlp.dense_4h_to_h.weight": "layers.{}.mlp.fc2.weight",
    _LAYER + "mlp.dense_4h_to_h.bias": "layers.{}.mlp.fc2.bias",
    "gpt_neox.final_layer_norm.weight": "norm_f.weight",
    "gpt_neox.final_layer_norm.bias": "norm_f.bias",
    "embed_out.weight": "lm_head.weight",
    "lm_head.weight": "lm_head.weight",
}
# Buffers that older versions of transformers saved; they hold no weights.
IGNORED = (
    _LAYER + "attention.bias",
    _LAYER + "attention.masked_bias",
    _LAYER + "attention.rotary_emb.inv_freq",
    "gpt_neox.rotary_emb.inv_freq",
)


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    return bool(files.get("config.json", {}).get("model_type") == "gpt_neox")


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    config = Config(files["config.json"], f"{where}/config.json")
    config.only({"hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")})
    rope = Config(config.get("rope_parameters") or {}, f"{config.where}: rope_parameters")
    rope.only({"rope_type": ("default",)})
    d_model, n_heads = config.number("hidden_size"), config.number("num_attention_heads")
    head_dim = d_model // n_heads
    fraction = rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    attention = d.Attention(
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        rotary_dim=int(head_dim * fraction),
        rope_theta=float(rope.get("rope_theta", config.get("rotary_emb_base", 10000))),
        bias=config.get("attention_bias", True),
    )
    exact = config.get("hidden_act", "gelu") == "gelu"
    mlp = d.MLP("gelu" if exact else "gelu_tanh", config.number("intermediate_size"), bias=True)
    norm = d.Norm("layer", config.get("layer_norm_eps", 1e-5))
    parallel = config.get("use_parallel_residual", True)
    layer = d.Layer(attention, norm, mlp, "parallel" if parallel else "sequential")
    return d.Description(
        family="gpt_neox",
        d_model=d_model,
        vocab_size=config.number("vocab_size"),
        layers=(layer,) * config.number("num_hidden_layers"),
        final_norm=norm,
        tie_embeddings=config.get("tie_word_embeddings", False),
    )


def split(name: str, tensor: Tensor, description: d.Description) -> dict[str, Tensor] | None:
    """Take the fused query_key_value apart: its rows are (head, [q | k | v], head_dim)."""
    if ".mixer.qkv." not in name:
        return None
    attention = description.layers[0].mixer
    assert isinstance(attention, d.Attention)
    parts = tensor.unflatten(0, (attention.n_heads, 3, attention.head_dim)).unbind(1)
    names = (name.replace(".qkv.", f".{p}_proj.") for p in "qkv")
    return {n: p.flatten(0, 1) for n, p in zip(names, parts, strict=True)}


def tiny() -> d.Description:
    """Describe a model for tests: two layers, partial rotation."""
    attention = d.Attention(n_heads=3, n_kv_heads=3, head_dim=8, rotary_dim=4)
    norm = d.Norm("layer")
    layer = d.Layer(attention, norm, d.MLP("gelu", 40, bias=True), "parallel")
    return d.Description("gpt_neox", 24, 61, (layer,) * 2, norm, tie_embeddings=False)
