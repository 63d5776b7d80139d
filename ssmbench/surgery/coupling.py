"""The coupling table: which slices of a mixer's parameters belong together, as data.

Every mixer's parameters are blocks over four named axes:

    g  group: heads that share B and C, or x and B, or keys and values
    r  head within its group (head h is g · R + r)
    p  channel of a head
    n  state

A table row says that along one dimension of one parameter lie these parts, one after another,
each the product of its axes. That is all that surgery knows of any family. Mamba-1 is one group
of one head, whose channels are d_inner; its dt parts have an axis k that nothing removes.

Source: "On Pruning State-Space LLMs", arXiv:2502.18886, section 3, with the pairs that must stay
together for every method.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from ssmbench.errors import MethodError
from ssmbench.models import description as d

if TYPE_CHECKING:
    from collections.abc import Mapping

Axis = Literal["g", "r", "p", "n"]
WORDS: Mapping[Axis, str] = {"g": "groups", "r": "heads", "p": "channels", "n": "states"}


class Block(NamedTuple):
    """The parts that lie along dimension `dim` of a mixer's parameter, each named by its axes."""

    parameter: str
    dim: int
    parts: tuple[str, ...]


class Table(NamedTuple):
    """One mixer's blocks.

    Attributes:
        length: how many indices each axis has.
        blocks: along every dimension of every parameter that has axes.
        lead: for each axis that can be taken, the axes that a choice may differ over.
        scored: (parameter, dim) of the projections whose rows and columns give a unit's score.
        summed: (parameter, dim) where pooled heads add up, since their outputs do.
    """

    length: Mapping[str, int]
    blocks: tuple[Block, ...]
    lead: Mapping[Axis, str]
    scored: frozenset[tuple[str, int]]
    summed: tuple[str, int]

    def shape(self, axis: Axis) -> tuple[int, ...]:
        """Give the shape of scores over an axis: its lead axes, then itself.

        Raises:
            MethodError: this mixer has no such axis.
        """
        if axis not in self.lead:
            raise MethodError(
                f"found a mixer without {WORDS[axis]} to choose from; "
                f"expected one with {WORDS[axis]}. Choose another method for this family."
            )
        return tuple(self.length[a] for a in (*self.lead[axis], axis))


def table(sizes: d.Mixer) -> Table:
    """Give the coupling table of a mixer."""
    match sizes:
        case d.SSD():
            return _ssd(sizes)
        case d.SelectiveScan():
            return _selective_scan(sizes)
        case d.Attention():
            return _attention(sizes)


def _ssd(s: d.SSD) -> Table:
    x, c = ("grp", "gn") if s.shared == "bc" else ("gp", "grn")
    conv = (x, "gn", c)
    rows = ("grp", *conv, "gr")
    present = {
        Block("in_proj.weight", 0, rows): True,
        Block("in_proj.bias", 0, rows): s.in_bias,
        Block("conv1d.weight", 0, conv): True,
        Block("conv1d.bias", 0, conv): s.conv_bias,
        Block("dt_bias", 0, ("gr",)): not s.discrete,
        Block("A_log", 0, ("gr",)): not s.discrete,
        Block("D", 0, ("gr",)): True,
        Block("z_bias", 0, ("grp",)): s.z_bias,
        Block("norm.weight", 0, ("grp",)): bool(s.norm_groups),
        Block("out_proj.weight", 1, ("grp",)): True,
    }
    return Table(
        length={"g": s.n_groups, "r": s.heads_per_group, "p": s.head_dim, "n": s.d_state},
        blocks=tuple(block for block, there in present.items() if there),
        lead={"g": "", "r": "g", "p": x[:-1], "n": "g"},
        scored=frozenset({("in_proj.weight", 0), ("out_proj.weight", 1)}),
        summed=("out_proj.weight", 1),
    )


def _selective_scan(s: d.SelectiveScan) -> Table:
    present = {
        Block("in_proj.weight", 0, ("grp", "grp")): True,
        Block("in_proj.bias", 0, ("grp", "grp")): s.in_bias,
        Block("conv1d.weight", 0, ("grp",)): True,
        Block("conv1d.bias", 0, ("grp",)): s.conv_bias,
        Block("x_proj.weight", 0, ("k", "gn", "gn")): True,
        Block("x_proj.weight", 1, ("grp",)): True,
        Block("dt_proj.weight", 0, ("grp",)): True,
        Block("dt_proj.bias", 0, ("grp",)): True,
        Block("A_log", 0, ("grp",)): True,
        Block("A_log", 1, ("gn",)): True,
        Block("D", 0, ("grp",)): True,
        Block("out_proj.weight", 1, ("grp",)): True,
    }
    return Table(
        length={"g": 1, "r": 1, "p": s.d_inner, "n": s.d_state, "k": s.dt_rank},
        blocks=tuple(block for block, there in present.items() if there),
        lead={"p": "gr", "n": "g"},
        scored=frozenset({("in_proj.weight", 0), ("x_proj.weight", 0), ("out_proj.weight", 1)}),
        summed=("out_proj.weight", 1),
    )


def _attention(s: d.Attention) -> Table:
    parts = {"q_proj": "grp", "k_proj": "gp", "v_proj": "gp"}
    kinds = ("weight", "bias") if s.bias else ("weight",)
    rows = (Block(f"{name}.{kind}", 0, (p,)) for name, p in parts.items() for kind in kinds)
    return Table(
        length={"g": s.n_kv_heads, "r": s.n_heads // s.n_kv_heads, "p": s.head_dim},
        blocks=(*rows, Block("o_proj.weight", 1, ("grp",))),
        # Not p: rotary positions pair the channels of a head.
        lead={"g": "", "r": "g"},
        scored=frozenset({*((f"{name}.weight", 0) for name in parts), ("o_proj.weight", 1)}),
        summed=("o_proj.weight", 1),
    )


def resized(sizes: d.Mixer, axis: Axis, length: int) -> d.Mixer:
    """Give the sizes after an axis was taken down to `length`; norms are the caller's matter."""
    t = table(sizes)
    t.shape(axis)
    now = {**t.length, axis: length}
    match sizes:
        case d.SSD():
            return dataclasses.replace(
                sizes,
                n_groups=now["g"],
                n_heads=now["g"] * now["r"],
                head_dim=now["p"],
                d_state=now["n"],
            )
        case d.SelectiveScan():
            return dataclasses.replace(sizes, d_inner=now["p"], d_state=now["n"])
        case d.Attention():
            return dataclasses.replace(sizes, n_kv_heads=now["g"], n_heads=now["g"] * now["r"])


def pooled(sizes: d.Mixer, axis: Axis, size: int) -> d.Mixer:
    """Give the sizes after each `size` consecutive indices of g or r became one.

    Pooled groups keep their heads: B and C (or x and B, or keys and values) are shared by
    `size` times as many. Pooled heads are fewer, in as many groups.

    Raises:
        MethodError: the axis is neither g nor r, or its length is no multiple of `size`, or a
            norm's group would mix.
    """
    t = table(sizes)
    t.shape(axis)
    if axis not in ("g", "r"):
        raise MethodError(f"found a request to pool {WORDS[axis]}; expected groups or heads.")
    length = t.length[axis]
    if size < 1 or length % size:
        raise MethodError(
            f"found {length} {WORDS[axis]} to merge by {size}; expected a multiple of {size}."
        )
    if axis == "g":
        groups = length // size
        if isinstance(sizes, d.Attention):
            return dataclasses.replace(sizes, n_kv_heads=groups)
        assert isinstance(sizes, d.SSD)
        return dataclasses.replace(sizes, n_groups=groups)
    smaller = resized(sizes, "r", length // size)
    if not isinstance(sizes, d.SSD) or not sizes.norm_groups:
        return smaller
    assert isinstance(smaller, d.SSD)
    p, channels = sizes.head_dim, sizes.d_inner // sizes.norm_groups
    if channels % (size * p) == 0:
        return smaller
    if p % channels == 0 or (channels % p == 0 and size * p % channels == 0):
        # A merged head has as many norms as each of its heads had, or one where they shared it.
        norms = smaller.n_heads * max(1, p // channels)
        return dataclasses.replace(smaller, norm_groups=norms)
    raise MethodError(
        f"found norms over {channels} channels each while merging {size} heads of {p}; "
        "expected one to be a multiple of the other."
    )


def positions_of(t: Table, part: str) -> tuple[int, ...]:
    """Give a part's shape, one length an axis."""
    return tuple(t.length[a] for a in part)


def width(t: Table, block: Block) -> int:
    """Give the length of a block's dimension."""
    return sum(math.prod(positions_of(t, part)) for part in block.parts)
