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

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d
from ssmbench.models import mamba_ssm
from ssmbench.models.keys import Config, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOKS_FOR = 'config.json with model_type "mamba2", or with ssm_cfg.layer "Mamba2"'

KEYS = {
    **mamba_ssm.KEYS,
    "backbone.layers.{}.mixer.dt_bias": "layers.{}.mixer.dt_bias",
    "backbone.layers.{}.mixer.norm.weight": "layers.{}.mixer.norm.weight",
}
IGNORED: tuple[str, ...] = ()


def recognises(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) describe this family."""
    config = files.get("config.json", {})
    if "model_type" in config:
        return bool(config["model_type"] == "mamba2")
    return "ssm_cfg" in config and config["ssm_cfg"].get("layer") == "Mamba2"


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description of a folder that `recognises` accepted."""
    config = Config(files["config.json"], f"{where}/config.json")
    return _from_transformers(config) if config.get("model_type") else _from_mamba_ssm(config)


def _limit(value: Any) -> tuple[float, float]:
    """Read a pair of bounds; transformers writes infinity as {"__float__": "Infinity"}."""
    low, high = (float(v["__float__"]) if isinstance(v, dict) else float(v) for v in value)
    return low, high


def _heads(d_inner: float, head_dim: int, where: str) -> int:
    if d_inner % head_dim:
        raise CheckpointError(
            f"{where}: expand · d_model is {d_inner:g}; expected a multiple of headdim {head_dim}."
        )
    return int(d_inner) // head_dim


def _from_transformers(config: Config) -> d.Description:
    config.only({"hidden_act": ("silu",)})
    d_model, head_dim = config.number("hidden_size"), config.get("head_dim", 64)
    mixer = d.SSD(
        n_heads=_heads(config.get("expand", 2) * d_model, head_dim, config.where),
        head_dim=head_dim,
        d_state=config.get("state_size", 128),
        n_groups=config.get("n_groups", 8),
        d_conv=config.get("conv_kernel", 4),
        conv_bias=config.get("use_conv_bias", True),
        proj_bias=config.get("use_bias", False),
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        dt_limit=_limit(config.get("time_step_limit", (0.0, math.inf))),
    )
    return mamba_ssm.describe_transformers(config, "mamba2", mixer)


def _from_mamba_ssm(config: Config) -> d.Description:
    ssm = Config(config.get("ssm_cfg"), f"{config.where}: ssm_cfg")
    ssm.only(
        {
            "rmsnorm": (True,),
            "norm_before_gate": (False,),
            "D_has_hdim": (False,),
            "d_ssm": (None,),
            "activation": ("silu", "swish"),
        }
    )
    d_model, head_dim = config.number("d_model"), ssm.get("headdim", 64)
    mixer = d.SSD(
        n_heads=_heads(ssm.get("expand", 2) * d_model, head_dim, ssm.where),
        head_dim=head_dim,
        d_state=ssm.get("d_state", 128),
        n_groups=ssm.get("ngroups", 1),
        d_conv=ssm.get("d_conv", 4),
        conv_bias=ssm.get("conv_bias", True),
        proj_bias=ssm.get("bias", False),
        dt_limit=_limit(ssm.get("dt_limit", (0.0, math.inf))),
    )
    return mamba_ssm.describe(config, "mamba2", mixer)


def config(description: d.Description) -> dict[str, Any]:
    """Give the config.json, in mamba_ssm's layout, that describes a model of equal layers."""
    mixer = description.layers[0].mixer
    assert isinstance(mixer, d.SSD)
    ssm_cfg = {
        "layer": "Mamba2",
        "headdim": mixer.head_dim,
        "d_state": mixer.d_state,
        "ngroups": mixer.n_groups,
        "d_conv": mixer.d_conv,
        "expand": whole(mixer.d_inner / description.d_model),
    }
    return mamba_ssm.config_of(description, ssm_cfg)


def tiny() -> d.Description:
    """Describe a model for tests: two layers, two groups, odd sizes on purpose."""
    mixer = d.SSD(n_heads=4, head_dim=12, d_state=10, n_groups=2)
    return d.Description("mamba2", 24, 61, (d.Layer(mixer, d.Norm()),) * 2, d.Norm())
