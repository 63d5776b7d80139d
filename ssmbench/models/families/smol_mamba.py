"""Smol2-Mamba: discrete Mamba-2 mixers in Llama's blocks.

Layout: `ssmbench.models.phi_layout`, blocks of type "llama_block": RMSNorm before the mixer and
before a gated MLP (intermediate_size, 4 · d_model).

Source: "On Pruning State-Space LLMs", arXiv:2502.18886; SSM-Pruner, schwartz-lab-NLP, df8016b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.models import description as d
from ssmbench.models import phi_layout
from ssmbench.models.fused import join_gates, split_gates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ssmbench.models.keys import Config

LOOKS_FOR = 'config.json with MixerModel and blocks of BlockType "llama_block"'

_BLOCK = "llama_block"
_LAYER = "backbone.layers.{}."
KEYS = {
    **phi_layout.KEYS,
    _LAYER + "post_attention_layernorm.weight": "layers.{}.norm2.weight",
    _LAYER + "mlp.gate_proj.weight": "layers.{}.mlp.gate.weight",
    _LAYER + "mlp.up_proj.weight": "layers.{}.mlp.up.weight",
    _LAYER + "mlp.down_proj.weight": "layers.{}.mlp.fc2.weight",
}
IGNORED: tuple[str, ...] = ()


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    return phi_layout.recognises(files, _BLOCK)


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    return phi_layout.describe(files, where, family="smol_mamba", block_type=_BLOCK, layer=_layer)


def _layer(block: Config, mixer: d.SSD, d_model: int) -> d.Layer:
    mlp = d.MLP("swiglu", phi_layout.mlp_width(block, d_model, bias=False), bias=False)
    return d.Layer(mixer, d.Norm("rms", phi_layout.norm_eps(block)), mlp)


def config(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give the files of the published layout, layers of different sizes included.

    Raises:
        CheckpointError: a layer that the layout has no words for.
    """
    return phi_layout.config(description, _BLOCK, lambda layer: {"rms_norm_eps": layer.norm.eps})


def from_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Put in_proj's rows into our order and join the MLPs' halves."""
    return phi_layout.from_upstream(join_gates(weights), description)


def to_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Undo `from_upstream`."""
    return split_gates(phi_layout.to_upstream(weights, description))


def tiny() -> d.Description:
    """Describe a model for tests: two layers, two heads a group, d_inner wider than d_model."""
    mixer = d.SSD(
        n_heads=8,
        head_dim=5,
        d_state=7,
        n_groups=4,
        discrete=True,
        d_conv=3,
        conv_activation="identity",
        z_bias=True,
        norm_groups=0,
    )
    layer = d.Layer(mixer, d.Norm(), d.MLP("swiglu", 28, bias=False))
    return d.Description("smol_mamba", 24, 61, (layer,) * 2, d.Norm())
