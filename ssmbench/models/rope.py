"""Rotary positions as transformers' config.json says them.

Up to version 4 it has rope_theta (GPT-NeoX: rotary_emb_base) and rope_scaling, null or an object
of the type "llama3"; from 5 on one object, rope_parameters. Both are read; the former is written,
since both versions read it.

Source: transformers 4.48 and 5.23, modeling_rope_utils.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.models import description as d
from ssmbench.models.keys import Config, whole

if TYPE_CHECKING:
    from collections.abc import Mapping


class Rope(NamedTuple):
    """Base of the frequencies, their stretching, and which part of a head turns."""

    theta: float
    scaling: d.RopeScaling | None
    fraction: float


def read(config: Config, *, theta: str, fraction: str, default: float) -> Rope:
    """Read the rotary positions of a config.json.

    Args:
        config: the whole file.
        theta: where the base is in the old form.
        fraction: where the part of a head that turns is in the old form.
        default: that part where nothing says it.

    Raises:
        CheckpointError: another type than "default" and "llama3".
    """
    old = config.section("rope_scaling")
    found = old if old.values else config.section("rope_parameters")
    # Version 4 wrote `type` before it wrote `rope_type`.
    kind = found.get("rope_type", found.get("type", "default"))
    Config({"rope_type": kind}, found.where).only({"rope_type": ("default", "llama3")})
    scaling = None
    if kind == "llama3":
        length = config.get("max_position_embeddings")
        scaling = d.RopeScaling(
            factor=found.real("factor"),
            low_freq_factor=found.real("low_freq_factor"),
            high_freq_factor=found.real("high_freq_factor"),
            original_length=found.number("original_max_position_embeddings", default=length),
        )
    return Rope(
        theta=found.real("rope_theta", default=config.real(theta, default=10000.0)),
        scaling=scaling,
        fraction=found.real(
            "partial_rotary_factor", default=config.real(fraction, default=default)
        ),
    )


def written(attention: d.Attention, *, theta: str) -> Mapping[str, Any]:
    """Give the entries that say an attention's rotary base and scaling, in the old form."""
    scaling = attention.rope_scaling
    entries: dict[str, Any] = {theta: whole(attention.rope_theta), "rope_scaling": None}
    if scaling is not None:
        entries["max_position_embeddings"] = int(scaling.factor * scaling.original_length)
        entries["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    return entries
