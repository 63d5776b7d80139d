"""Mamba-2, in mamba_ssm's layout and in transformers'.

| ours | mamba_ssm | transformers |
|---|---|---|
| d_model | d_model | hidden_size |
| n_heads · head_dim | expand · d_model | expand · hidden_size |
| head_dim | ssm_cfg.headdim (64) | head_dim |
| d_state | ssm_cfg.d_state (128) | state_size |
| n_groups | ssm_cfg.ngroups (1) | n_groups |
| d_conv | ssm_cfg.d_conv (4) | conv_kernel |

Source: Dao & Gu 2024, arXiv:2405.21060; mamba_ssm 2.3.2; transformers 5.23.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ssmbench.models import description as d
from ssmbench.models import mamba_ssm
from ssmbench.models.keys import Config, multiple, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOKS_FOR = 'config.json with model_type "mamba2", or with ssm_cfg.layer "Mamba2"'

KEYS = {
    **mamba_ssm.KEYS,
    "backbone.layers.{}.mixer.dt_bias": "layers.{}.mixer.dt_bias",
    "backbone.layers.{}.mixer.norm.weight": "layers.{}.mixer.norm.weight",
}
IGNORED: tuple[str, ...] = ()
TRANSFORMERS_KEYS = mamba_ssm.transformers_keys(KEYS)


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    return mamba_ssm.kind(files) in ("mamba2", "Mamba2")


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    config = Config(files["config.json"], f"{where}/config.json")
    return _from_transformers(config) if config.get("model_type") else _from_mamba_ssm(config)


def _from_transformers(config: Config) -> d.Description:
    config.only({"hidden_act": ("silu",)})
    d_model, head_dim = config.number("hidden_size"), config.number("head_dim", default=64)
    inner = config.real("expand", default=2) * d_model
    groups = config.number("n_groups", default=8)
    bias = config.flag("use_bias", default=False)
    mixer = d.SSD(
        n_heads=multiple(inner, head_dim, config.where, "expand · hidden_size"),
        head_dim=head_dim,
        d_state=config.number("state_size", default=128),
        n_groups=groups,
        norm_groups=groups,
        d_conv=config.number("conv_kernel", default=4),
        conv_bias=config.flag("use_conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
        norm_eps=config.real("layer_norm_epsilon", default=1e-5),
        dt_limit=config.bounds("time_step_limit"),
    )
    multiple(mixer.n_heads, groups, config.where, "num_heads")
    config.agrees("num_heads", mixer.n_heads, "expand · hidden_size / head_dim")
    return mamba_ssm.describe_transformers(config, "mamba2", mixer)


def _from_mamba_ssm(config: Config) -> d.Description:
    d_model, ssm = config.number("d_model"), config.section("ssm_cfg")
    inner = whole(ssm.real("expand", default=2) * d_model)
    ssm.only(
        {
            "rmsnorm": (True,),
            "norm_before_gate": (False,),
            "D_has_hdim": (False,),
            "activation": ("silu", "swish"),
            # Channels beyond d_ssm would go through a gated MLP instead.
            "d_ssm": (inner,),
        }
    )
    head_dim = ssm.number("headdim", default=64)
    groups = ssm.number("ngroups", default=1)
    bias = ssm.flag("bias", default=False)
    mixer = d.SSD(
        n_heads=multiple(inner, head_dim, ssm.where, "expand · d_model"),
        head_dim=head_dim,
        d_state=ssm.number("d_state", default=128),
        n_groups=groups,
        norm_groups=groups,
        d_conv=ssm.number("d_conv", default=4),
        conv_bias=ssm.flag("conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
        dt_limit=ssm.bounds("dt_limit"),
    )
    multiple(mixer.n_heads, groups, ssm.where, "expand · d_model / headdim")
    return mamba_ssm.describe(config, "mamba2", mixer)


def config(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give the files, in mamba_ssm's layout, of a model whose layers are all as its first.

    mamba_ssm makes a layer of expand · d_model channels and fails where expand is no whole
    number, so that it cannot hold, say, 80 heads of 48 channels at d_model 2560.

    Raises:
        CheckpointError: the first layer has no mixer, or d_inner is no multiple of d_model.
    """
    mixer = mamba_ssm.first_mixer(description, d.SSD)
    ssm_cfg = {
        "layer": "Mamba2",
        "headdim": mixer.head_dim,
        "d_state": mixer.d_state,
        "ngroups": mixer.n_groups,
        "d_conv": mixer.d_conv,
        "expand": mamba_ssm.whole_expand(mixer.d_inner, description.d_model),
        "conv_bias": mixer.conv_bias,
        "bias": mixer.in_bias,
    }
    if mixer.dt_limit != (0.0, math.inf):
        ssm_cfg["dt_limit"] = list(mixer.dt_limit)
    return mamba_ssm.config_of(description, ssm_cfg)


def transformers(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give the files, in transformers' layout, of a model whose layers are all as its first.

    Raises:
        CheckpointError: the first layer has no mixer, or d_inner is no multiple of d_model.
    """
    mixer = mamba_ssm.first_mixer(description, d.SSD)
    content = mamba_ssm.transformers_of(description, mixer, "Mamba2ForCausalLM")
    content |= {
        "model_type": "mamba2",
        "num_heads": mixer.n_heads,
        "head_dim": mixer.head_dim,
        "n_groups": mixer.n_groups,
        "time_step_limit": [
            {"__float__": "Infinity"} if bound == math.inf else bound for bound in mixer.dt_limit
        ],
    }
    return {"config.json": content}


def tiny() -> d.Description:
    """Describe a model for tests: two layers, two groups, odd sizes on purpose."""
    mixer = d.SSD(n_heads=4, head_dim=12, d_state=10, n_groups=2, norm_groups=2)
    return d.Description("mamba2", 24, 61, (d.Layer(mixer, d.Norm()),) * 2, d.Norm())
