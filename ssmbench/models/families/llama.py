"""Llama, the attention baseline of the Llama hybrids and of Smol2-Mamba, in transformers' layout.

Layout: `ssmbench.models.llama_layout`.

Source: Touvron et al. 2023, arXiv:2302.13971; Llama 3.2; transformers 5.23.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.models import description as d
from ssmbench.models import llama_layout
from ssmbench.models.fused import join_gates, split_gates
from ssmbench.models.keys import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LOOKS_FOR = 'config.json with model_type "llama", and no mamba_config.json'

KEYS = llama_layout.KEYS
IGNORED = llama_layout.IGNORED
TRANSFORMERS_KEYS = KEYS


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    is_llama = files.get("config.json", {}).get("model_type") == "llama"
    return is_llama and "mamba_config.json" not in files


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    config = Config(files["config.json"], f"{where}/config.json")
    norm = llama_layout.norm(config)
    layer = d.Layer(llama_layout.attention(config), norm, llama_layout.mlp(config))
    return d.Description(
        family="llama",
        d_model=config.number("hidden_size"),
        vocab_size=config.number("vocab_size"),
        layers=(layer,) * config.number("num_hidden_layers"),
        final_norm=norm,
        tie_embeddings=config.flag("tie_word_embeddings", default=False),
    )


def config(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give transformers' config.json, which describes a model of equal layers.

    Raises:
        CheckpointError: no layer has attention and an MLP.
    """
    content = llama_layout.config_of(description, description.layers, "LlamaForCausalLM")
    return {"config.json": content}


transformers = config


def from_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Join the MLPs' halves."""
    del description
    return join_gates(weights)


def to_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Undo `from_upstream`."""
    del description
    return split_gates(weights)


def tiny() -> d.Description:
    """Describe a model for tests: two layers, grouped keys, stretched rotation, tied head."""
    attention = d.Attention(
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        rotary_dim=8,
        rope_scaling=d.RopeScaling(8.0, 1.0, 4.0, 32),
        bias=False,
    )
    norm = d.Norm("rms", 1e-6)
    layer = d.Layer(attention, norm, d.MLP("swiglu", 28, bias=False))
    return d.Description("llama", 24, 61, (layer,) * 2, norm)
