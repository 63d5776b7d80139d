"""What all checkpoints in mamba_ssm's layout share, whichever mixer they hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.models.keys import Config

M = TypeVar("M", d.SSD, d.SelectiveScan)

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


def transformers_keys(keys: Mapping[str, str]) -> dict[str, str]:
    """Give the key map of transformers' layout out of a family's, which has both."""
    return {theirs: ours for theirs, ours in keys.items() if theirs != "backbone.embedding.weight"}


def kind(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Give config.json's model_type, or else its ssm_cfg's layer."""
    config = files.get("config.json", {})
    if "model_type" in config or "ssm_cfg" not in config:
        return str(config.get("model_type"))
    ssm = config["ssm_cfg"]
    return str(ssm.get("layer", "Mamba1")) if isinstance(ssm, dict) else "Mamba1"


def describe(config: Config, family: str, mixer: d.Mixer) -> d.Description:
    """Describe a model of equal layers around a mixer, from mamba_ssm's config.json.

    Raises:
        CheckpointError: the config asks for LayerNorm or for attention layers.
    """
    config.only({"rms_norm": (True,), "attn_layer_idx": ([],), "attn_cfg": ({},)})
    vocab = config.number("vocab_size")
    padded = config.number("pad_vocab_size_multiple", default=8)
    hidden = config.number("d_intermediate", default=0, least=0)
    # mamba_ssm's GatedMLP rounds its width up to a multiple of 128.
    mlp = d.MLP("swiglu", math.ceil(hidden / 128) * 128, bias=False) if hidden else None
    return d.Description(
        family=family,
        d_model=config.number("d_model"),
        vocab_size=math.ceil(vocab / padded) * padded,
        layers=(d.Layer(mixer, d.Norm(), mlp),) * config.number("n_layer"),
        final_norm=d.Norm(),
        tie_embeddings=config.flag("tie_embeddings", default=True),
    )


def describe_transformers(config: Config, family: str, mixer: d.Mixer) -> d.Description:
    """Describe a model of equal layers around a mixer, from transformers' config.json."""
    norm = d.Norm("rms", config.real("layer_norm_epsilon", default=1e-5))
    return d.Description(
        family=family,
        d_model=config.number("hidden_size"),
        vocab_size=config.number("vocab_size"),
        layers=(d.Layer(mixer, norm),) * config.number("num_hidden_layers"),
        final_norm=norm,
        tie_embeddings=config.flag("tie_word_embeddings", default=family == "mamba"),
    )


def config_of(description: d.Description, ssm_cfg: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the files, in mamba_ssm's layout, of a model whose layers are all as its first."""
    layer = description.layers[0]
    content = {
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
    return {"config.json": content}


def transformers_of(
    description: d.Description, sizes: d.SSD | d.SelectiveScan, architecture: str
) -> dict[str, Any]:
    """Give what transformers' config.json says of either Mamba, of a model of equal layers."""
    return {
        "architectures": [architecture],
        "hidden_size": description.d_model,
        "num_hidden_layers": len(description.layers),
        "vocab_size": description.vocab_size,
        "state_size": sizes.d_state,
        "conv_kernel": sizes.d_conv,
        "expand": whole_expand(sizes.d_inner, description.d_model),
        "use_conv_bias": sizes.conv_bias,
        "use_bias": sizes.in_bias,
        "layer_norm_epsilon": description.final_norm.eps,
        "hidden_act": "silu",
        "residual_in_fp32": True,
        "tie_word_embeddings": description.tie_embeddings,
    }


def whole_expand(d_inner: int, d_model: int) -> int:
    """Give expand where it must be a whole number.

    Raises:
        CheckpointError: d_inner is no multiple of d_model.
    """
    if d_inner % d_model:
        raise CheckpointError(
            f"found mixers of {d_inner} channels at d_model {d_model}; expected a multiple of it, "
            "since this layout has their quotient as a whole number."
        )
    return d_inner // d_model


def first_mixer(description: d.Description, kind: type[M]) -> M:
    """Give the first layer's mixer.

    Raises:
        CheckpointError: it is missing.
    """
    found = description.layers[0].mixer
    if not isinstance(found, kind):
        raise CheckpointError(
            "found a first layer without its mixer; expected one in every layer of this layout."
        )
    return found
