"""Phi-Mamba: discrete Mamba-2 mixers in Phi's parallel blocks.

Layout: `ssmbench.models.phi_layout`, blocks of type "phi_block": one LayerNorm, whose output
enters both the mixer and an MLP with biases (intermediate_size, 4 · d_model).

Source: Bick et al. 2024, arXiv:2408.10189.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.models import description as d
from ssmbench.models import phi_layout
from ssmbench.models.phi_layout import from_upstream, to_upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.models.keys import Config

__all__ = ["from_upstream", "to_upstream"]

LOOKS_FOR = 'config.json with MixerModel and blocks of BlockType "phi_block"'

_BLOCK = "phi_block"
_LAYER = "backbone.layers.{}."
KEYS = {
    **phi_layout.KEYS,
    _LAYER + "input_layernorm.bias": "layers.{}.norm.bias",
    _LAYER + "mlp.fc1.weight": "layers.{}.mlp.fc1.weight",
    _LAYER + "mlp.fc1.bias": "layers.{}.mlp.fc1.bias",
    _LAYER + "mlp.fc2.weight": "layers.{}.mlp.fc2.weight",
    _LAYER + "mlp.fc2.bias": "layers.{}.mlp.fc2.bias",
}
IGNORED: tuple[str, ...] = ()


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    return phi_layout.recognises(files, _BLOCK)


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    return phi_layout.describe(files, where, family="phi_mamba", block_type=_BLOCK, layer=_layer)


def _layer(block: Config, mixer: d.SSD, d_model: int) -> d.Layer:
    mlp = d.MLP("gelu_tanh", phi_layout.mlp_width(block, d_model, bias=True), bias=True)
    return d.Layer(mixer, d.Norm("layer"), mlp, "parallel", one_norm=True)


def config(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give the files of the published layout, layers of different sizes included.

    Raises:
        CheckpointError: a layer that the layout has no words for.
    """
    return phi_layout.config(description, _BLOCK, lambda _: {})


def tiny() -> d.Description:
    """Describe a model for tests: two layers, every head with a B and a C of its own."""
    mixer = d.SSD(
        n_heads=4,
        head_dim=6,
        d_state=5,
        n_groups=4,
        discrete=True,
        conv_activation="identity",
        z_bias=True,
        norm_groups=0,
    )
    norm = d.Norm("layer")
    mlp = d.MLP("gelu_tanh", 40, bias=True)
    layer = d.Layer(mixer, norm, mlp, "parallel", one_norm=True)
    layers = (layer,) * 2
    return d.Description("phi_mamba", 24, 61, layers, norm, tie_embeddings=False, head_bias=True)
