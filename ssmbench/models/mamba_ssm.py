"""What all checkpoints in mamba_ssm's layout share, whichever mixer they hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ssmbench.models import description as d

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.models.keys import Config

# transformers differs from mamba_ssm in one name only: `embeddings`.
KEYS = {
    "backbone.embedding.weight": "embedding.weight",
    "backbone.embeddings.weight": "embedding.weight",
    "backbone.layers.{}.norm.weight": "layers.{}.norm.weight",
    "backbone.layers.{}.norm2.weight": "layers.{}.norm2.weight",
    "backbone.layers.{}.mixer.in_proj.weight": "layers.{}.mixer.in_proj.weight",
    "backbone.layers.{}.mixer.in_proj.bias": "layers.{}.mixer.in_proj.bias",
    "backbone.layers.{}.mixer.conv1d.weight": "layers.{}.mixer.conv1d.weight",
    "backbone.layers.{}.mixer.conv1d.bias": "layers.{}.mixer.conv1d.bias",
    "backbone.layers.{}.mixer.A_log": "layers.{}.mixer.A_log",
    "backbone.layers.{}.mixer.D": "layers.{}.mixer.D",
    "backbone.layers.{}.mixer.out_proj.weight": "layers.{}.mixer.out_proj.weight",
    "backbone.layers.{}.mixer.out_proj.bias": "layers.{}.mixer.out_proj.bias",
    "backbone.layers.{}.mlp.fc1.weight": "layers.{}.mlp.fc1.weight",
    "backbone.layers.{}.mlp.fc2.weight": "layers.{}.mlp.fc2.weight",
    "backbone.norm_f.weight": "norm_f.weight",
    "lm_head.weight": "lm_head.weight",
}


def describe(config: Config, family: str, mixer: d.Mixer) -> d.Description:
    """Describe a model of equal layers around a mixer, from mamba_ssm's config.json.

    Raises:
        CheckpointError: the config asks for LayerNorm or for attention layers.
    """
    config.only({"rms_norm": (True,), "attn_layer_idx": ([],), "attn_cfg": ({},)})
    vocab, multiple = config.number("vocab_size"), config.get("pad_vocab_size_multiple", 8)
    hidden = config.get("d_intermediate", 0)
    # mamba_ssm's GatedMLP rounds its width up to a multiple of 128.
    mlp = d.MLP("swiglu", math.ceil(hidden / 128) * 128, bias=False) if hidden else None
    return d.Description(
        family=family,
        d_model=config.number("d_model"),
        vocab_size=math.ceil(vocab / multiple) * multiple,
        layers=(d.Layer(mixer, d.Norm(), mlp),) * config.number("n_layer"),
        final_norm=d.Norm(),
        tie_embeddings=config.get("tie_embeddings", True),
    )


def describe_transformers(config: Config, family: str, mixer: d.Mixer) -> d.Description:
    """Describe a model of equal layers around a mixer, from transformers' config.json."""
    norm = d.Norm("rms", config.get("layer_norm_epsilon", 1e-5))
    return d.Description(
        family=family,
        d_model=config.number("hidden_size"),
        vocab_size=config.number("vocab_size"),
        layers=(d.Layer(mixer, norm),) * config.number("num_hidden_layers"),
        final_norm=norm,
        tie_embeddings=config.get("tie_word_embeddings", family == "mamba"),
    )


def config_of(description: d.Description, ssm_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Give the config.json, in mamba_ssm's layout, that describes a model of equal layers."""
    layer = description.layers[0]
    return {
        "d_model": description.d_model,
        "d_intermediate": layer.mlp.d_hidden if layer.mlp else 0,
        "n_layer": len(description.layers),
        "vocab_size": description.vocab_size,
        "ssm_cfg": dict(ssm_cfg),
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": description.tie_embeddings,
    }
