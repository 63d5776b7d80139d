"""The mamba_config.json of Llama hybrids: one SSM layer's sizes, by the file or by its *_dict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d
from ssmbench.models.keys import Config, multiple

if TYPE_CHECKING:
    from collections.abc import Sequence

# SSM-Pruner writes these for every SSM layer, or for none.
_SIZES = (
    "d_inner",
    "d_xb",
    "headdim",
    "nheads",
    "ngroups",
    "d_state",
    "d_ssm",
    "in_proj_bias",
    "in_proj_out_features",
    "out_proj_bias",
    "out_proj_in_features",
    "conv_dim",
    "D",
)
_MLP = ("gate_proj", "up_proj", "down_proj")
_FOLLOWS = "it follows from the other sizes"


def _of_layer(mamba: Config, i: int, names: Sequence[str]) -> Config | None:
    """Collect what the objects NAME_dict say of layer i; None where they do not name it.

    Raises:
        CheckpointError: some name the layer and others do not.
    """
    found = {}
    for name in names:
        entries = mamba.section(f"{name}_dict").values
        if str(i) in entries:
            found[name] = entries[str(i)]
    if not found:
        return None
    missing = [f"{name}_dict" for name in names if name not in found]
    if missing:
        raise CheckpointError(
            f"{mamba.where}: found sizes of layer {i}, but none in {', '.join(missing)}; "
            "expected the layer in all of them."
        )
    return Config(found, f"{mamba.where}: the *_dict of layer {i}")


def mixer(mamba: Config, i: int, d_model: int) -> d.SSD:
    """Read the mixer of SSM layer i.

    Raises:
        CheckpointError: sizes that contradict each other or ask for what this form does not do.
    """
    ssm = mamba.section("ssm_cfg", required=True)
    ssm.only(
        {
            "repeat_kv_before_conv": (False,),
            "rmsnorm": (True,),
            "norm_before_gate": (False,),
            "D_has_hdim": (False,),
        }
    )
    own = _of_layer(mamba, i, _SIZES)
    return _uniform(mamba, ssm, d_model) if own is None else _own(own)


def _uniform(mamba: Config, ssm: Config, d_model: int) -> d.SSD:
    if mamba.get("d_inner") is None:
        inner = int(ssm.real("expand", default=2) * d_model)
    else:
        inner = mamba.number("d_inner")
    ssm.agrees("d_ssm", inner, "d_inner")
    bias = ssm.flag("bias", default=False)
    return d.SSD(
        **_sizes(ssm, inner, mamba.number("d_xb")),
        d_conv=ssm.number("d_conv", default=4),
        conv_bias=ssm.flag("conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
        dt_limit=ssm.bounds("dt_limit"),
    )


def _own(own: Config) -> d.SSD:
    inner = own.number("d_inner")
    made = d.SSD(
        **_sizes(own, inner, own.number("d_xb")),
        in_bias=own.flag("in_proj_bias", default=False),
        out_bias=own.flag("out_proj_bias", default=False),
    )
    own.agrees("d_ssm", inner, "d_inner")
    own.agrees("nheads", made.n_heads, "ngroups")
    own.agrees("D", made.n_heads, "ngroups")
    own.agrees("in_proj_out_features", inner + made.d_xbc + made.n_heads, _FOLLOWS)
    own.agrees("out_proj_in_features", inner, "d_inner")
    own.agrees("conv_dim", made.d_xbc, _FOLLOWS)
    return made


def _sizes(config: Config, inner: int, xb: int) -> dict[str, Any]:
    """Give the sizes that follow from d_inner, d_xb, ngroups and d_state, as the forward has it."""
    n_heads, d_state = config.number("ngroups"), config.number("d_state", default=128)
    if inner != n_heads * d_state:
        raise CheckpointError(
            f"{config.where}: d_inner: found {inner}; expected ngroups · d_state, "
            f"{n_heads} · {d_state}, since a head has as many channels as states in this layout."
        )
    n_groups = multiple(xb, d_state, config.where, "d_xb")
    multiple(n_heads, n_groups, config.where, "ngroups")
    return {
        "n_heads": n_heads,
        "head_dim": d_state,
        "d_state": d_state,
        "n_groups": n_groups,
        "shared": "xb",
        "norm_groups": n_heads,
    }


def mlp(mamba: Config, i: int, usual: d.MLP, d_model: int) -> d.MLP:
    """Read the MLP of layer i, SSM or attention: its own sizes where the *_dict name it."""
    ends = ("in_features", "out_features", "bias")
    own = _of_layer(mamba, i, [f"{part}_{end}" for part in _MLP for end in ends])
    if own is None:
        return usual
    width = own.number("up_proj_out_features")
    bias = own.flag("up_proj_bias", default=False)
    for part in _MLP:
        rows, columns = (d_model, width) if part == "down_proj" else (width, d_model)
        own.agrees(f"{part}_out_features", rows, _FOLLOWS)
        own.agrees(f"{part}_in_features", columns, _FOLLOWS)
        own.agrees(f"{part}_bias", bias, "as in up_proj")
    return d.MLP("swiglu", width, bias=bias)


def config(description: d.Description) -> dict[str, Any]:
    """Give the mamba_config.json: plain where all SSM layers are alike, else with the *_dict.

    Raises:
        CheckpointError: sizes that this layout has no words for.
    """
    layers, d_model = description.layers, description.d_model
    if any(layer.mixer is None or layer.mlp is None for layer in layers):
        raise CheckpointError(
            "found a layer without a mixer or without an MLP; "
            "expected both in every layer of this layout."
        )
    ssm = _ssm_mixers(description)
    first = next(iter(ssm))
    usual = next(layer.mlp for i, layer in enumerate(layers) if i not in ssm)
    assert usual is not None
    content: dict[str, Any] = {
        "d_model": d_model,
        "ssm_cfg": _ssm_cfg(ssm[first]),
        "rms_norm_eps": layers[first].norm.eps,
        "vocab_size": description.vocab_size,
        "d_inner": ssm[first].d_inner,
        "d_xb": ssm[first].d_x,
        "intermediate_size": usual.d_hidden,
        "hidden_act": "silu",
        "n_layer": len(layers),
        "attn_layers": [i for i in range(len(layers)) if i not in ssm],
    }
    if len(set(ssm.values())) > 1 or ssm[first].in_bias != ssm[first].out_bias:
        content |= _transposed({i: _own_sizes(sizes) for i, sizes in ssm.items()})
    if any(layer.mlp != usual for layer in layers):
        own = {i: _own_mlp(layer.mlp, d_model) for i, layer in enumerate(layers) if layer.mlp}
        content |= _transposed(own)
    return content


def _ssm_mixers(description: d.Description) -> dict[int, d.SSD]:
    """Collect the SSM mixers by layer.

    Raises:
        CheckpointError: there is none, or one with other head sizes than the layout has.
    """
    layers = enumerate(description.layers)
    ssm = {i: layer.mixer for i, layer in layers if isinstance(layer.mixer, d.SSD)}
    if not ssm:
        raise CheckpointError("found no SSM layer; expected at least one in this layout.")
    for i, sizes in ssm.items():
        if sizes.head_dim != sizes.d_state:
            raise CheckpointError(
                f"found {sizes.head_dim} channels and {sizes.d_state} states a head in layer {i}; "
                "expected as many of both, since this layout has one number for them."
            )
    return ssm


def _transposed(entries: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn layer → name → value into NAME_dict → layer → value."""
    names = next(iter(entries.values()))
    return {f"{name}_dict": {str(i): own[name] for i, own in entries.items()} for name in names}


def _ssm_cfg(first: d.SSD) -> dict[str, Any]:
    bias = first.in_bias and first.out_bias
    return {
        # Upstream demands it, and uses d_inner.
        "expand": 1,
        "ngroups": first.n_heads,
        "d_state": first.d_state,
        "headdim": first.head_dim,
        "repeat_kv_before_conv": False,
        **({"d_conv": first.d_conv} if first.d_conv != 4 else {}),
        **({} if first.conv_bias else {"conv_bias": False}),
        **({"bias": True} if bias else {}),
        **({} if first.dt_limit == (0.0, math.inf) else {"dt_limit": list(first.dt_limit)}),
    }


def _own_sizes(sizes: d.SSD) -> dict[str, Any]:
    return {
        "d_inner": sizes.d_inner,
        "d_xb": sizes.d_x,
        "headdim": sizes.head_dim,
        "nheads": sizes.n_heads,
        "ngroups": sizes.n_heads,
        "d_state": sizes.d_state,
        "d_ssm": sizes.d_inner,
        "in_proj_bias": sizes.in_bias,
        "in_proj_out_features": sizes.d_inner + sizes.d_xbc + sizes.n_heads,
        "out_proj_bias": sizes.out_bias,
        "out_proj_in_features": sizes.d_inner,
        "conv_dim": sizes.d_xbc,
        "D": sizes.n_heads,
    }


def _own_mlp(mlp: d.MLP, d_model: int) -> dict[str, Any]:
    return {
        f"{part}_{end}": value
        for part in _MLP
        for end, value in (
            ("in_features", mlp.d_hidden if part == "down_proj" else d_model),
            ("out_features", d_model if part == "down_proj" else mlp.d_hidden),
            ("bias", mlp.bias),
        )
    }
