"""The three operations of surgery, over the axes of the coupling table: take, mask, pool.

Written once, for every family and method. A method scores and chooses; only this file slices.
Each changes one layer in place, parameters and description together.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ssmbench.errors import MethodError
from ssmbench.models import description as d
from ssmbench.models import mixers
from ssmbench.models.decoder import Block, Decoder
from ssmbench.surgery.coupling import WORDS, Axis, Table, pooled, positions_of, resized, table

if TYPE_CHECKING:
    from collections.abc import Mapping


def take(model: Decoder, layer: int, axis: Axis, keep: Tensor) -> None:
    """Keep these indices of an axis everywhere that it occurs in a layer's mixer; drop the rest.

    A norm over channels of which some go is rescaled, weight by √(C/C') and eps by C/C', so that
    the kept channels come out as if the others were there and zero.

    Args:
        model: changed in place.
        layer: its index.
        axis: "g", "r", "p" or "n".
        keep: int64, (lead axes…, k): ascending indices, as many for each combination of the lead
            axes (`coupling.Table.lead`).

    Raises:
        MethodError: nothing is kept, or the norm's groups would lose unlike numbers of channels.
    """
    mixer, sizes = _mixer(model, layer)
    kept = _kept(table(sizes), axis, keep)
    new = resized(sizes, axis, keep.shape[-1])
    tensors = dict(mixer.state_dict())
    if isinstance(sizes, d.SSD) and sizes.norm_groups and axis != "n":
        assert isinstance(new, d.SSD)
        norm = _norm_after(sizes, kept["norm.weight", 0])
        scale = math.sqrt(norm.shrink)
        tensors["norm.weight"] = (tensors["norm.weight"].float() * scale).to(
            tensors["norm.weight"].dtype
        )
        new = dataclasses.replace(
            new, norm_groups=norm.n_groups, norm_eps=sizes.norm_eps * norm.shrink
        )
    for (name, dim), index in kept.items():
        tensors[name] = tensors[name].index_select(dim, index.to(tensors[name].device))
    _replace(model, layer, new, tensors)


def mask(model: Decoder, layer: int, axis: Axis, keep: Tensor) -> None:
    """Zero what `take` with the same arguments would drop; sizes stay as they are."""
    mixer, sizes = _mixer(model, layer)
    parameters = dict(mixer.named_parameters())
    with torch.no_grad():
        for (name, dim), index in _kept(table(sizes), axis, keep).items():
            parameter = parameters[name]
            gone = torch.ones(parameter.shape[dim], dtype=torch.bool)
            gone[index.cpu()] = False
            parameter.index_fill_(dim, gone.nonzero()[:, 0].to(parameter.device), 0)


def pool(model: Decoder, layer: int, axis: Axis, size: int) -> None:
    """Replace each `size` consecutive groups ("g") or heads ("r") of a layer by their mean.

    Pooling groups leaves every head: only what a group shares is averaged (B and C, or x and B,
    or keys and values), projection and convolution alike. Pooling heads averages all that a head
    has, and sums the output projection's columns, so that equal heads merge without loss.

    Raises:
        MethodError: the number is not a multiple of `size`, or norms would mix.
    """
    mixer, sizes = _mixer(model, layer)
    new, t = pooled(sizes, axis, size), table(sizes)
    tensors = dict(mixer.state_dict())
    for name, dim, parts in t.blocks:
        lengths = [math.prod(positions_of(t, part)) for part in parts]
        merged = [
            _pooled(piece, dim, t, part, axis, size, total=(name, dim) == t.summed)
            for piece, part in zip(tensors[name].split(lengths, dim), parts, strict=True)
        ]
        tensors[name] = torch.cat(merged, dim)
    _replace(model, layer, new, tensors)


def remove_mixer(model: Decoder, layer: int) -> None:
    """Remove a layer's mixer, and the norm before it unless the MLP uses that too."""
    block = _block(model, layer)
    _mixer(model, layer)
    block.mixer = None
    spec = dataclasses.replace(block.spec, mixer=None)
    if not (spec.one_norm and spec.mlp):
        block.norm = None
    _describe(model, layer, spec)


def mask_mixer(model: Decoder, layer: int) -> None:
    """Zero a layer's output projection, which is what removing its mixer amounts to."""
    mixer, sizes = _mixer(model, layer)
    name = table(sizes).summed[0].removesuffix(".weight")
    with torch.no_grad():
        for parameter in mixer.get_submodule(name).parameters():
            parameter.zero_()


def add_output_bias(model: Decoder, layer: int, bias: Tensor) -> None:
    """Add a constant (d_model,) to what an SSM mixer gives out, as a bias of out_proj."""
    mixer, sizes = _mixer(model, layer)
    assert isinstance(sizes, d.SSD | d.SelectiveScan)
    tensors = dict(mixer.state_dict())
    # D is held as biases are: a weight may be narrower.
    zeros = tensors["D"].new_zeros(len(tensors["out_proj.weight"]))
    before = tensors.get("out_proj.bias", zeros)
    tensors["out_proj.bias"] = before + bias.to(before)
    _replace(model, layer, dataclasses.replace(sizes, out_bias=True), tensors)


class _Norm(NamedTuple):
    n_groups: int
    shrink: float


def _norm_after(sizes: d.SSD, kept: Tensor) -> _Norm:
    """Count what is left of each norm's group: all or nothing, or the same number in each."""
    before = sizes.d_inner // sizes.norm_groups
    left = torch.bincount(kept.cpu() // before, minlength=sizes.norm_groups)
    counts = set(left[left > 0].tolist())
    if len(counts) != 1:
        raise MethodError(
            f"found norm groups that would keep {sorted(counts)} of {before} channels; expected "
            "the same number in each. Remove as much from every group of heads."
        )
    return _Norm(int((left > 0).sum()), before / counts.pop())


def _kept(t: Table, axis: Axis, keep: Tensor) -> dict[tuple[str, int], Tensor]:
    """Give the flat indices that stay, for each (parameter, dim) along which the axis lies."""
    *lead, length = t.shape(axis)
    if list(keep.shape[:-1]) != lead or not 0 < keep.shape[-1] <= length:
        expected = f"({', '.join(map(str, [*lead, f'1 to {length}']))})"
        raise MethodError(
            f"keeps {tuple(keep.shape)} of {length} {WORDS[axis]}; expected a choice of shape "
            f"{expected}. Choose a smaller ratio."
        )
    kept = {}
    for name, dim, parts in t.blocks:
        if not any(axis in part for part in parts):
            continue
        pieces, offset = [], 0
        for part in parts:
            pieces.append(_flat(t, part, axis, keep.cpu()) + offset)
            offset += math.prod(positions_of(t, part))
        kept[name, dim] = torch.cat(pieces)
    return kept


def _flat(t: Table, part: str, axis: Axis, keep: Tensor) -> Tensor:
    """Give the kept positions of one part, in its own flat order."""
    shape = positions_of(t, part)
    index = torch.arange(math.prod(shape)).view(shape)
    if axis not in part:
        return index.flatten()
    lead = t.lead[axis]
    choice = [t.length[a] if a in lead else 1 for a in part]
    wide = list(shape)
    choice[part.index(axis)] = wide[part.index(axis)] = keep.shape[-1]
    chosen: Tensor = index.take_along_dim(keep.view(choice).expand(wide), part.index(axis))
    return chosen.flatten()


def _pooled(
    piece: Tensor, dim: int, t: Table, part: str, axis: Axis, size: int, *, total: bool
) -> Tensor:
    """Pool one part of a parameter along `dim`; parts that pooling leaves alone come back."""
    if axis not in part or (axis == "g" and "r" in part):
        return piece
    shape = list(positions_of(t, part))
    at = part.index(axis)
    shape[at : at + 1] = [shape[at] // size, size]
    grouped: Tensor = piece.unflatten(dim, shape)
    along = dim + at + 1
    merged = grouped.sum(along) if total else grouped.mean(along)
    return merged.flatten(dim, dim + len(part) - 1)


def _block(model: Decoder, layer: int) -> Block:
    block = model.layers[layer]
    assert isinstance(block, Block)
    return block


def _mixer(model: Decoder, layer: int) -> tuple[nn.Module, d.Mixer]:
    """Give a layer's mixer and its sizes."""
    block = _block(model, layer)
    if block.mixer is None or block.spec.mixer is None:
        raise MethodError(f"layer {layer}: found no mixer; it was removed before.")
    return block.mixer, block.spec.mixer


def _replace(model: Decoder, layer: int, sizes: d.Mixer, tensors: Mapping[str, Tensor]) -> None:
    """Put a mixer of other sizes in a layer's place; load_state_dict checks every shape."""
    block, before = _block(model, layer), _mixer(model, layer)[0]
    with torch.device("meta"):
        mixer = mixers.build(model.description.d_model, sizes)
    mixer.load_state_dict({name: t.contiguous() for name, t in tensors.items()}, assign=True)
    trained = next(before.parameters()).requires_grad
    block.mixer = mixer.train(block.training).requires_grad_(trained)
    _describe(model, layer, dataclasses.replace(block.spec, mixer=sizes))


def _describe(model: Decoder, layer: int, spec: d.Layer) -> None:
    _block(model, layer).spec = spec
    layers = list(model.description.layers)
    layers[layer] = spec
    model.description = dataclasses.replace(model.description, layers=tuple(layers))
