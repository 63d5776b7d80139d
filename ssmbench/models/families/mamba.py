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
from ssmbench.models.keys import Config, whole

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


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    config = files.get("config.json", {})
    if "model_type" in config:
        return bool(config["model_type"] == "mamba")
    return "ssm_cfg" in config and config["ssm_cfg"].get("layer", "Mamba1") == "Mamba1"


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    config = Config(files["config.json"], f"{where}/config.json")
    return _from_transformers(config) if config.get("model_type") else _from_mamba_ssm(config)


def _from_transformers(config: Config) -> d.Description:
    config.only({"hidden_act": ("silu",), "time_step_scale": (1.0,)})
    d_model = config.number("hidden_size")
    rank = config.get("time_step_rank", "auto")
    mixer = d.SelectiveScan(
        d_inner=int(config.get("expand", 2) * d_model),
        d_state=config.get("state_size", 16),
        dt_rank=math.ceil(d_model / 16) if rank == "auto" else rank,
        d_conv=config.get("conv_kernel", 4),
        conv_bias=config.get("use_conv_bias", True),
        proj_bias=config.get("use_bias", False),
    )
    return mamba_ssm.describe_transformers(config, "mamba", mixer)


def _from_mamba_ssm(config: Config) -> d.Description:
    d_model = config.number("d_model")
    ssm = Config(config.get("ssm_cfg"), f"{config.where}: ssm_cfg")
    rank = ssm.get("dt_rank", "auto")
    mixer = d.SelectiveScan(
        d_inner=int(ssm.get("expand", 2) * d_model),
        d_state=ssm.get("d_state", 16),
        dt_rank=math.ceil(d_model / 16) if rank == "auto" else rank,
        d_conv=ssm.get("d_conv", 4),
        conv_bias=ssm.get("conv_bias", True),
        proj_bias=ssm.get("bias", False),
    )
    return mamba_ssm.describe(config, "mamba", mixer)


def config(description: d.Description) -> dict[str, Any]:
    """Give the config.json, in mamba_ssm's layout, that describes a model of equal layers."""
    mixer = description.layers[0].mixer
    assert isinstance(mixer, d.SelectiveScan)
    ssm_cfg = {
        "layer": "Mamba1",
        "d_state": mixer.d_state,
        "d_conv": mixer.d_conv,
        "expand": whole(mixer.d_inner / description.d_model),
        "dt_rank": mixer.dt_rank,
    }
    return mamba_ssm.config_of(description, ssm_cfg)


def tiny() -> d.Description:
    """Describe a model for tests: two layers, odd sizes on purpose."""
    mixer = d.SelectiveScan(d_inner=48, d_state=5, dt_rank=3)
    return d.Description("mamba", 24, 61, (d.Layer(mixer, d.Norm()),) * 2, d.Norm())
