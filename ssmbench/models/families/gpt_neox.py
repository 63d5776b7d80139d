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

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d
from ssmbench.models import rope
from ssmbench.models.fused import mixers
from ssmbench.models.keys import Config, expansion, multiple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor
else:
    from ssmbench.lazy import torch

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
TRANSFORMERS_KEYS = KEYS

# Names of the same approximation.
_TANH = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    return bool(files.get("config.json", {}).get("model_type") == "gpt_neox")


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    config = Config(files["config.json"], f"{where}/config.json")
    config.only({"hidden_act": ("gelu", *_TANH)})
    positions = rope.read(config, theta="rotary_emb_base", fraction="rotary_pct", default=0.25)
    d_model, n_heads = config.number("hidden_size"), config.number("num_attention_heads")
    head_dim = multiple(d_model, n_heads, config.where, "hidden_size")
    attention = d.Attention(
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        rotary_dim=int(head_dim * positions.fraction),
        rope_theta=positions.theta,
        rope_scaling=positions.scaling,
        bias=config.flag("attention_bias", default=True),
    )
    approximate = config.get("hidden_act") in _TANH
    width = config.number("intermediate_size")
    mlp = d.MLP("gelu_tanh" if approximate else "gelu", width, bias=True)
    norm = d.Norm("layer", config.real("layer_norm_eps", default=1e-5))
    parallel = config.flag("use_parallel_residual", default=True)
    layer = d.Layer(attention, norm, mlp, "parallel" if parallel else "sequential")
    return d.Description(
        family="gpt_neox",
        d_model=d_model,
        vocab_size=config.number("vocab_size"),
        layers=(layer,) * config.number("num_hidden_layers"),
        final_norm=norm,
        tie_embeddings=config.flag("tie_word_embeddings", default=False),
    )


def config(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give transformers' config.json, which describes a model whose layers are all as its first.

    Raises:
        CheckpointError: the first layer lacks attention or an MLP, or its heads do not make up
            d_model.
    """
    layer, d_model = description.layers[0], description.d_model
    if not isinstance(layer.mixer, d.Attention) or layer.mlp is None:
        raise CheckpointError(
            "found a first layer without attention or without an MLP; "
            "expected both in every layer of this layout."
        )
    sizes = layer.mixer
    if sizes.n_heads * sizes.head_dim != d_model:
        raise CheckpointError(
            f"found {sizes.n_heads} heads of {sizes.head_dim} channels; expected them to make up "
            f"d_model, {d_model}, since this layout has no number for a head's channels."
        )
    content = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": description.vocab_size,
        "hidden_size": d_model,
        "intermediate_size": layer.mlp.d_hidden,
        "num_hidden_layers": len(description.layers),
        "num_attention_heads": sizes.n_heads,
        "hidden_act": "gelu_new" if layer.mlp.kind == "gelu_tanh" else "gelu",
        "layer_norm_eps": layer.norm.eps,
        "attention_bias": sizes.bias,
        "use_parallel_residual": layer.pattern == "parallel",
        "tie_word_embeddings": description.tie_embeddings,
        "rotary_pct": expansion(sizes.rotary_dim, sizes.head_dim),
        **rope.written(sizes, theta="rotary_emb_base"),
    }
    return {"config.json": content}


transformers = config


def from_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Take the fused query_key_value apart: its rows are (head, [q | k | v], head_dim)."""
    ours = dict(weights)
    for name, rows, mixer in mixers(weights, description, "qkv.weight", "qkv.bias"):
        assert isinstance(mixer, d.Attention)
        if rows.shape[0] != 3 * mixer.n_heads * mixer.head_dim:
            continue
        parts = rows.unflatten(0, (mixer.n_heads, 3, mixer.head_dim)).unbind(1)
        del ours[name]
        for letter, part in zip("qkv", parts, strict=True):
            ours[name.replace(".qkv.", f".{letter}_proj.")] = part.flatten(0, 1)
    return ours


def to_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Undo `from_upstream`."""
    theirs = dict(weights)
    for name, _, mixer in mixers(weights, description, "q_proj.weight", "q_proj.bias"):
        assert isinstance(mixer, d.Attention)
        names = [name.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        parts = [theirs.pop(n).unflatten(0, (mixer.n_heads, mixer.head_dim)) for n in names]
        fused = torch.stack(parts, 1).flatten(0, 2)
        theirs[name.replace(".q_proj.", ".qkv.")] = fused
    return theirs


def tiny() -> d.Description:
    """Describe a model for tests: two layers, partial rotation."""
    attention = d.Attention(n_heads=3, n_kv_heads=3, head_dim=8, rotary_dim=4)
    norm = d.Norm("layer")
    layer = d.Layer(attention, norm, d.MLP("gelu", 40, bias=True), "parallel")
    return d.Description("gpt_neox", 24, 61, (layer,) * 2, norm, tie_embeddings=False)
