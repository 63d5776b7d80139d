"""The nested config.json of Phi-Mamba and Smol2-Mamba, and the mixer that both have.

| ours | core_input |
|---|---|
| n_heads | n_v_heads (32) |
| n_groups | n_qk_heads (32) |
| head_dim | d_inner / n_v_heads |
| n_heads · head_dim | d_inner, or expand (1) · d_model |
| d_state, d_conv | d_state (64), d_conv (4) |
| z_bias | not bias |

Every key of the file that begins with "Block" is a run of `n_layers` equal layers; SSM-Pruner
writes one for each run of a pruned model, with the lengths of its projections beside its sizes.

in_proj rows are [x | B | C | z | A_log] upstream.

Source: Bick et al. 2024, arXiv:2408.10189, and its code (goombalab/phi-mamba); SSM-Pruner,
schwartz-lab-NLP, commit df8016b.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d
from ssmbench.models.fused import mixers, reordered
from ssmbench.models.keys import Config, expansion, multiple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

_LAYER = "backbone.layers.{}."
KEYS = {
    "backbone.embedding.weight": "embedding.weight",
    "backbone.final_layernorm.weight": "norm_f.weight",
    "backbone.final_layernorm.bias": "norm_f.bias",
    "lm_head.weight": "lm_head.weight",
    "lm_head.bias": "lm_head.bias",
    _LAYER + "input_layernorm.weight": "layers.{}.norm.weight",
    **{
        _LAYER + "mixer." + name: "layers.{}.mixer." + name
        for name in (
            "in_proj.weight",
            "in_proj.bias",
            "conv1d.weight",
            "conv1d.bias",
            "D",
            "z_bias",
            "out_proj.weight",
            "out_proj.bias",
        )
    },
}

# What core_input may say. Of these, how the scan is computed changes nothing.
_SIZES = ("d_state", "n_v_heads", "n_qk_heads", "d_conv", "expand", "d_inner", "conv_dim")
_FORMS = ("activation", "bias", "conv_bias", "in_proj", "out_proj", "in_proj_bias", "out_proj_bias")
_NO_EFFECT = ("chunk_size", "use_ref_impl")


def recognises(files: Mapping[str, Mapping[str, Any]], block_type: str) -> bool:
    """Say whether config.json is of this layout and its first block of this type."""
    config = files.get("config.json", {})
    blocks = [config[name] for name in config if name.startswith("Block")]
    if "MixerModel" not in config or not blocks or not isinstance(blocks[0], dict):
        return False
    return _last_word(blocks[0].get("BlockType")) == block_type


def _last_word(dotted: Any) -> str:
    return str(dotted).rpartition(".")[2]


def describe(
    files: Mapping[str, Mapping[str, Any]],
    where: str,
    *,
    family: str,
    block_type: str,
    layer: Callable[[Config, d.SSD, int], d.Layer],
) -> d.Description:
    """Describe a model from the nested config.json.

    Args:
        files: the folder's JSON files.
        where: the folder, for messages.
        family: the description's family.
        block_type: the type that all blocks must have.
        layer: makes a layer of its block's config, its mixer and d_model.

    Raises:
        CheckpointError: something that this layout does not have or this family does not do.
    """
    config = Config(files["config.json"], f"{where}/config.json")
    language = config.section("LanguageModel", required=True).section("input", required=True)
    backbone = config.section("MixerModel", required=True).section("input", required=True)
    d_model, head_bias = backbone.number("d_model"), language.flag("lm_head_bias", default=True)
    layers: list[d.Layer] = []
    for name in (name for name in config.values if name.startswith("Block")):
        block = config.section(name)
        for key, expected in (("BlockType", block_type), ("CoreType", "discrete_mamba2")):
            if _last_word(block.get(key)) != expected:
                raise CheckpointError(
                    f"{block.where}: {key}: found {block.get(key)!r}; expected {expected}. "
                    f"{family} is implemented for models of that alone."
                )
        mixer = _mixer(block.section("core_input"), d_model)
        layers += [layer(block, mixer, d_model)] * block.number("n_layers", least=0)
    if len(layers) != backbone.number("n_layer"):
        raise CheckpointError(
            f"{backbone.where}: n_layer: found {backbone.number('n_layer')}; expected "
            f"{len(layers)}, the layers of all blocks together."
        )
    vocab, padded = language.number("vocab_size"), language.number("pad_vocab_size_multiple")
    return d.Description(
        family=family,
        d_model=d_model,
        vocab_size=-(-vocab // padded) * padded,
        layers=tuple(layers),
        final_norm=_final_norm(backbone, head_bias=head_bias),
        tie_embeddings=language.flag("tie_word_embeddings", default=False),
        head_bias=head_bias,
    )


def _final_norm(backbone: Config, *, head_bias: bool) -> d.Norm:
    backbone.only({"lm_head_prenorm": ("layer", "rms")})
    if backbone.get("lm_head_prenorm") == "rms":
        return d.Norm("rms", backbone.real("rms_norm_eps"))
    if not head_bias:
        raise CheckpointError(
            f"{backbone.where}: lm_head_prenorm: found a LayerNorm without bias (lm_head_bias is "
            "false); expected one with a bias, or 'rms'."
        )
    return d.Norm("layer")


def _mixer(core: Config, d_model: int) -> d.SSD:
    unknown = sorted(set(core.values) - {*_SIZES, *_FORMS, *_NO_EFFECT})
    if unknown:
        raise CheckpointError(
            f"{core.where}: found {', '.join(unknown)}, which discrete_mamba2 does not have; "
            f"expected {', '.join((*_SIZES, *_FORMS))}."
        )
    core.only({"activation": ("identity", "silu", "swish")})
    bias = core.flag("bias", default=False)
    n_heads = core.number("n_v_heads", default=32)
    n_groups = core.number("n_qk_heads", default=32)
    multiple(n_heads, n_groups, core.where, "n_v_heads")
    d_inner = core.number("d_inner", default=int(core.real("expand", default=1) * d_model))
    in_proj, out_proj = core.section("in_proj"), core.section("out_proj")
    mixer = d.SSD(
        n_heads=n_heads,
        head_dim=multiple(d_inner, n_heads, core.where, "d_inner"),
        d_state=core.number("d_state", default=64),
        n_groups=n_groups,
        discrete=True,
        d_conv=core.number("d_conv", default=4),
        conv_bias=core.flag("conv_bias", default=True),
        conv_activation="identity" if core.get("activation", "identity") == "identity" else "silu",
        in_bias=bias or (bool(in_proj.values) and core.flag("in_proj_bias", default=False)),
        out_bias=bias or (bool(out_proj.values) and core.flag("out_proj_bias", default=False)),
        z_bias=not bias,
        norm_groups=0,
    )
    follows = "it follows from the other sizes"
    rows = mixer.d_inner + mixer.d_xbc + mixer.n_heads
    in_proj.agrees("in_proj_in_features", d_model, "d_model")
    in_proj.agrees("in_proj_out_features", rows, follows)
    out_proj.agrees("out_proj_in_features", mixer.d_inner, follows)
    out_proj.agrees("out_proj_out_features", d_model, "d_model")
    core.agrees("conv_dim", mixer.d_xbc, follows)
    return mixer


def mlp_width(block: Config, d_model: int, *, bias: bool) -> int:
    """Read an MLP's hidden width; upstream's has biases or not by the block's type alone."""
    mlp = block.section("mlp")
    mlp.agrees("last_mlp_bias", bias, "as the block's type has it")
    return mlp.number("intermediate_size", default=4 * d_model)


def norm_eps(block: Config) -> float:
    """Read the eps of a Llama block's two norms."""
    return block.section("block_input").real("rms_norm_eps")


def config(
    description: d.Description,
    block_type: str,
    block_input: Callable[[d.Layer], Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Give the files of this layout for a model of `block_type` blocks, uneven sizes included.

    Args:
        description: what the files shall say.
        block_type: the type of all blocks.
        block_input: gives what is in `block_input` for a layer, beside dropout.

    Raises:
        CheckpointError: a layer without an SSM mixer or without an MLP.
    """
    final, d_model = description.final_norm, description.d_model
    content: dict[str, Any] = {
        "LanguageModel": {
            "input": {
                "vocab_size": description.vocab_size,
                "pad_vocab_size_multiple": 1,
                "tie_word_embeddings": description.tie_embeddings,
                "lm_head_bias": description.head_bias,
            }
        },
        "MixerModel": {
            "input": {
                "d_model": d_model,
                "n_layer": len(description.layers),
                "lm_head_prenorm": final.kind,
                **({"rms_norm_eps": final.eps} if final.kind == "rms" else {}),
            }
        },
    }
    for number, (layer, run) in enumerate(groupby(description.layers)):
        if not isinstance(layer.mixer, d.SSD) or layer.mlp is None:
            raise CheckpointError(
                "found a layer without an SSM mixer or without an MLP; "
                "expected both in every layer of this layout."
            )
        content[f"Block_{number}"] = {
            "n_layers": len(list(run)),
            "BlockType": f"modules.{block_type}",
            "block_input": {"resid_dropout": 0.0, **block_input(layer)},
            "mlp": {"intermediate_size": layer.mlp.d_hidden, "last_mlp_bias": layer.mlp.bias},
            "CoreType": "modules.mixers.discrete_mamba2",
            "core_input": _core_input(layer.mixer, d_model),
        }
    return {"config.json": content}


def _core_input(mixer: d.SSD, d_model: int) -> dict[str, Any]:
    rows = mixer.d_inner + mixer.d_xbc + mixer.n_heads
    return {
        "d_state": mixer.d_state,
        "n_v_heads": mixer.n_heads,
        "n_qk_heads": mixer.n_groups,
        "d_conv": mixer.d_conv,
        "conv_bias": mixer.conv_bias,
        "expand": expansion(mixer.d_inner, d_model),
        "chunk_size": 128,
        "activation": mixer.conv_activation,
        "bias": not mixer.z_bias,
        "in_proj": {"in_proj_in_features": d_model, "in_proj_out_features": rows},
        "out_proj": {"out_proj_in_features": mixer.d_inner, "out_proj_out_features": d_model},
        "in_proj_bias": mixer.in_bias,
        "out_proj_bias": mixer.out_bias,
        "conv_dim": mixer.d_xbc,
        "d_inner": mixer.d_inner,
    }


def from_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Put in_proj's rows into our order."""
    ours = dict(weights)
    for name, rows, mixer in mixers(weights, description, "in_proj.weight", "in_proj.bias"):
        assert isinstance(mixer, d.SSD)
        ours[name] = reordered(rows, (mixer.d_xbc, mixer.d_inner, mixer.n_heads), (1, 0, 2))
    return ours


def to_upstream(weights: dict[str, Tensor], description: d.Description) -> dict[str, Tensor]:
    """Undo `from_upstream`."""
    theirs = dict(weights)
    for name, rows, mixer in mixers(weights, description, "in_proj.weight", "in_proj.bias"):
        assert isinstance(mixer, d.SSD)
        theirs[name] = reordered(rows, (mixer.d_inner, mixer.d_xbc, mixer.n_heads), (1, 0, 2))
    return theirs
