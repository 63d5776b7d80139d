"""Mamba-1, in mamba_ssm's layout and in transformers'.

| ours | mamba_ssm | transformers |
|---|---|---|
| d_model | d_model | hidden_size |
| d_inner | expand · d_model | intermediate_size |
| d_state | ssm_cfg.d_state (16) | state_size |
| d_conv | ssm_cfg.d_conv (4) | conv_kernel |
| dt_rank | ssm_cfg.dt_rank (⌈d_model / 16⌉) | time_step_rank |

Source: Gu & Dao 2023, arXiv:2312.00752; mamba_ssm 2.3.2; transformers 5.23.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ssmbench.models import description as d
from ssmbench.models import mamba_ssm
from ssmbench.models.keys import Config, expansion

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOKS_FOR = 'config.json with model_type "mamba", or with ssm_cfg and no Mamba2 layer in it'

KEYS = {
    **mamba_ssm.KEYS,
    "backbone.layers.{}.mixer.x_proj.weight": "layers.{}.mixer.x_proj.weight",
    "backbone.layers.{}.mixer.dt_proj.weight": "layers.{}.mixer.dt_proj.weight",
    "backbone.layers.{}.mixer.dt_proj.bias": "layers.{}.mixer.dt_proj.bias",
}
IGNORED: tuple[str, ...] = ()
TRANSFORMERS_KEYS = mamba_ssm.transformers_keys(KEYS)


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    return mamba_ssm.kind(files) in ("mamba", "Mamba1")


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    config = Config(files["config.json"], f"{where}/config.json")
    return _from_transformers(config) if config.get("model_type") else _from_mamba_ssm(config)


def _rank(config: Config, key: str, d_model: int) -> int:
    automatic = config.get(key, "auto") == "auto"
    return math.ceil(d_model / 16) if automatic else config.number(key)


def _from_transformers(config: Config) -> d.Description:
    config.only({"hidden_act": ("silu",), "time_step_scale": (1.0,)})
    d_model, bias = config.number("hidden_size"), config.flag("use_bias", default=False)
    mixer = d.SelectiveScan(
        d_inner=int(config.real("expand", default=2) * d_model),
        d_state=config.number("state_size", default=16),
        dt_rank=_rank(config, "time_step_rank", d_model),
        d_conv=config.number("conv_kernel", default=4),
        conv_bias=config.flag("use_conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
    )
    return mamba_ssm.describe_transformers(config, "mamba", mixer)


def _from_mamba_ssm(config: Config) -> d.Description:
    d_model, ssm = config.number("d_model"), config.section("ssm_cfg")
    bias = ssm.flag("bias", default=False)
    mixer = d.SelectiveScan(
        d_inner=int(ssm.real("expand", default=2) * d_model),
        d_state=ssm.number("d_state", default=16),
        dt_rank=_rank(ssm, "dt_rank", d_model),
        d_conv=ssm.number("d_conv", default=4),
        conv_bias=ssm.flag("conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
    )
    return mamba_ssm.describe(config, "mamba", mixer)


def config(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give the files, in mamba_ssm's layout, of a model whose layers are all as its first.

    Raises:
        CheckpointError: the first layer has no mixer.
    """
    mixer = mamba_ssm.first_mixer(description, d.SelectiveScan)
    ssm_cfg = {
        "layer": "Mamba1",
        "d_state": mixer.d_state,
        "d_conv": mixer.d_conv,
        "expand": expansion(mixer.d_inner, description.d_model),
        "dt_rank": mixer.dt_rank,
        "conv_bias": mixer.conv_bias,
        "bias": mixer.in_bias,
    }
    return mamba_ssm.config_of(description, ssm_cfg)


def transformers(description: d.Description) -> dict[str, dict[str, Any]]:
    """Give the files, in transformers' layout, of a model whose layers are all as its first.

    Raises:
        CheckpointError: the first layer has no mixer, or d_inner is no multiple of d_model.
    """
    mixer = mamba_ssm.first_mixer(description, d.SelectiveScan)
    content = mamba_ssm.transformers_of(description, mixer, "MambaForCausalLM")
    content |= {"model_type": "mamba", "time_step_rank": mixer.dt_rank}
    return {"config.json": content}


def tiny() -> d.Description:
    """Describe a model for tests: two layers, odd sizes on purpose."""
    mixer = d.SelectiveScan(d_inner=48, d_state=5, dt_rank=3)
    return d.Description("mamba", 24, 61, (d.Layer(mixer, d.Norm()),) * 2, d.Norm())
