"""Llama whose attention is Mamba-2 in some layers (MambaInLlama): config.json, mamba_config.json.

config.json is Llama's (`ssmbench.models.llama_layout`) and holds for the attention layers, the
embedding and the end; mamba_config.json holds for the SSM layers.

| ours | mamba_config.json |
|---|---|
| which layers have attention | attn_layers |
| n_heads | ssm_cfg.ngroups |
| head_dim, d_state (equal) | ssm_cfg.d_state (128) |
| n_groups | d_xb / d_state |
| n_heads · head_dim | d_inner, or ssm_cfg.expand (2) · d_model |
| norm.eps, of SSM layers | rms_norm_eps |

x and B are shared as values and keys are: the heads of a group read one of each. Each head has
a gated norm of its own, with eps 1e-5. `headdim` is written there but is not what runs.
SSM-Pruner's mamba_config.json has the sizes of every layer in objects called *_dict.

Source: Wang et al. 2024, arXiv:2408.15237, and its code (jxiw/MambaInLlama, mamba2); SSM-Pruner,
schwartz-lab-NLP, commit df8016b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d
from ssmbench.models import hybrid_layout, llama_layout
from ssmbench.models.fused import join_gates, split_gates
from ssmbench.models.keys import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LOOKS_FOR = 'mamba_config.json beside a config.json with model_type "llama"'

_MAMBA = "model.layers.{}.mamba."
KEYS = {
    **llama_layout.KEYS,
    **{
        _MAMBA + name: "layers.{}.mixer." + name
        for name in (
            "in_proj.weight",
            "in_proj.bias",
            "conv1d.weight",
            "conv1d.bias",
            "dt_bias",
            "A_log",
            "D",
            "norm.weight",
            "out_proj.weight",
            "out_proj.bias",
        )
    },
}
IGNORED = llama_layout.IGNORED


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    is_llama = files.get("config.json", {}).get("model_type") == "llama"
    return is_llama and "mamba_config.json" in files


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    llama = Config(files["config.json"], f"{where}/config.json")
    mamba = Config(files["mamba_config.json"], f"{where}/mamba_config.json")
    # Upstream's SSM layers have no biases in their MLPs, whatever config.json says.
    llama.only({"mlp_bias": (False,)})
    d_model, n_layers = llama.number("hidden_size"), llama.number("num_hidden_layers")
    norm, mlp = llama_layout.norm(llama), llama_layout.mlp(llama)
    mamba.only({"hidden_act": ("silu", "swish")})
    for key, expected in (
        ("d_model", d_model),
        ("n_layer", n_layers),
        ("vocab_size", llama.number("vocab_size")),
        ("intermediate_size", mlp.d_hidden),
    ):
        mamba.agrees(key, expected, "as in config.json")
    attention_layers = _attention_layers(mamba, n_layers)
    attention = llama_layout.attention(llama) if attention_layers else None
    mamba_norm = d.Norm("rms", mamba.real("rms_norm_eps", default=1e-5))
    layers = []
    for i in range(n_layers):
        own_mlp = hybrid_layout.mlp(mamba, i, mlp, d_model)
        if i in attention_layers:
            layers.append(d.Layer(attention, norm, own_mlp))
        else:
            layers.append(d.Layer(hybrid_layout.mixer(mamba, i, d_model), mamba_norm, own_mlp))
    return d.Description(
        family="hybrid_llama",
        d_model=d_model,
        vocab_size=llama.number("vocab_size"),
        layers=tuple(layers),
        final_norm=norm,
        tie_embeddings=llama.flag("tie_word_embeddings", default=False),
    )


def _attention_layers(mamba: Config, n_layers: int) -> frozenset[int]:
    found = mamba.get("attn_layers", [])
    if not isinstance(found, list) or not all(i in range(n_layers) for i in found):
        raise CheckpointError(
            f"{mamba.where}: attn_layers: found {found!r}; "
            f"expected a list of layer numbers from 0 to {n_layers - 1}."
        )
    return frozenset(found)


def config(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give the files of the published layout, SSM layers of different sizes included.

    Raises:
        CheckpointError: sizes that the layout has no words for.
    """
    content = llama_layout.config_of(description, description.layers, "LlamaForCausalLM")
    return {"config.json": content, "mamba_config.json": hybrid_layout.config(description)}


def from_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Join the MLPs' halves."""
    del description
    return join_gates(weights)


def to_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Undo `from_upstream`."""
    del description
    return split_gates(weights)


def tiny() -> d.Description:
    """Describe a model for tests: attention between SSM layers, two heads a group in both."""
    mixer = d.SSD(n_heads=4, head_dim=6, d_state=6, n_groups=2, shared="xb", norm_groups=4)
    attention = d.Attention(n_heads=4, n_kv_heads=2, head_dim=6, rotary_dim=6, bias=False)
    mlp, norm = d.MLP("swiglu", 28, bias=False), d.Norm("rms", 1e-6)
    ssm = d.Layer(mixer, d.Norm(), mlp)
    layers = (ssm, d.Layer(attention, norm, mlp), ssm)
    return d.Description("hybrid_llama", 24, 61, layers, norm, tie_embeddings=False)
