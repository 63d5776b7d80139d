"""Units of structured pruning: which layers have them, which go, and what that comes to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from ssmbench.errors import MethodError
from ssmbench.models.description import SSD, Attention
from ssmbench.surgery import scores as unit_scores
from ssmbench.surgery.coupling import WORDS, Axis, table
from ssmbench.surgery.projections import keep_highest, n_dropped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.description import Description, Mixer
    from ssmbench.surgery.context import MethodContext
    from ssmbench.surgery.scores import Score

Mixers = Literal["ssm", "attention", "all"]
"""Which token mixers a method works on; `ssm` are Mamba's, Mamba-2's and their relatives'."""

Unit = Literal["state", "head_dim", "head"]
HeadUnit = Literal["head", "group"]

GRANULARITY = (
    "Round what is kept up to a multiple of this. GPU kernels want multiples of 16: docs/gpu.md."
)

_METHODS: Mapping[Axis, str] = {"r": "`head`", "p": "`head_dim`", "n": "`state`"}


def mixers(model: Decoder, which: Mixers) -> dict[int, Mixer]:
    """Give the mixers that a method works on, by layer, without those removed before.

    Raises:
        MethodError: there are none.
    """
    found = {
        i: spec.mixer
        for i, spec in enumerate(model.description.layers)
        if spec.mixer is not None
        and (which == "all" or isinstance(spec.mixer, Attention) == (which == "attention"))
    }
    if not found:
        kind = {"ssm": "SSM mixer", "attention": "attention", "all": "mixer"}[which]
        raise MethodError(
            f"{model.description.family}: found no {kind}; expected at least one to prune. "
            "Choose a family that has it, or a method that can work on other layers (`layers`)."
        )
    return found


def axes_of(
    model: Decoder, unit: Unit, *, layers: Mixers = "ssm", head: HeadUnit | None = None
) -> dict[int, Axis]:
    """Give the axis along which each layer's units lie.

    Args:
        model: of any family.
        unit: "state" and "head_dim" are those of SSM mixers; "head" of attention as well.
        layers: which mixers.
        head: what counts as a head: "head" is one of every group, "group" a group with all its
            heads; None leaves it to how the mixer shares, group for group of one head
            (Phi-Mamba) and of heads that share their values (hybrids, attention).

    Raises:
        MethodError: there are no such mixers.
    """
    found = mixers(model, layers)
    if unit == "head":
        return {i: _head_axis(sizes, head) for i, sizes in found.items()}
    return dict.fromkeys(found, "n" if unit == "state" else "p")


def _head_axis(sizes: Mixer, unit: HeadUnit | None) -> Axis:
    if unit is not None:
        return "r" if unit == "head" else "g"
    length = table(sizes).length
    shares = isinstance(sizes, Attention) or (isinstance(sizes, SSD) and sizes.shared == "xb")
    return "g" if shares or length["r"] == 1 < length["g"] else "r"


class Counts(NamedTuple):
    """How many units there are of one kind in one place, and how many of these go."""

    all: int
    gone: int


def count(n: int, ratio: float, *, units: str, where: str, granularity: int = 1) -> Counts:
    """Give floor(n · ratio) of n, where that is at least one and not all.

    Args:
        n: units that can be chosen from.
        ratio: fraction to remove, above 0 and below 1.
        units: what they are called, for the message.
        where: what has them, for the message.
        granularity: what is kept is rounded up to a multiple of it.

    Raises:
        MethodError: nothing would go, or nothing would stay.
    """
    gone = n_dropped(n, ratio)
    if n < 2:
        raise MethodError(
            f"{where}: found {n} {units}; expected at least 2 to choose from. "
            "Choose another method or unit for this model."
        )
    if gone == 0:
        raise MethodError(
            f"{where}: removes 0 of {n} {units} at ratio {ratio:g}; the smallest ratio that "
            f"removes one is {_smallest(n):g}."
        )
    if gone == n:
        raise MethodError(
            f"{where}: keeps 0 of {n} {units} at ratio {ratio:g}; expected to keep at least one. "
            "Choose a smaller ratio."
        )
    rounded = n_gone(n, ratio, granularity)
    if not rounded:
        raise MethodError(
            f"{where}: removes 0 of {n} {units} at ratio {ratio:g}, since the {n - gone} that stay "
            f"are rounded up to a multiple of granularity {granularity}; choose a larger ratio or "
            "a smaller granularity."
        )
    return Counts(n, rounded)


def n_gone(n: int, ratio: float, granularity: int = 1) -> int:
    """Give how many of n units go: floor(n · ratio), or fewer, so that what stays is round.

    Args:
        n: units that can be chosen from.
        ratio: fraction to remove, in [0, 1).
        granularity: what is kept is rounded up to a multiple of it, at most to n.
    """
    kept = n - n_dropped(n, ratio)
    return n - min(n, math.ceil(kept / granularity) * granularity)


def _smallest(n: int) -> float:
    """Give 1/n, rounded up in the third significant digit or later."""
    scale: int = 10 ** (len(str(n)) + 2)
    return math.ceil(scale / n) / scale


def remove_lowest(
    model: Decoder,
    axes: Mapping[int, Axis],
    *,
    ratio: float,
    score: Score,
    context: MethodContext,
    granularity: int = 1,
) -> float:
    """Remove the floor(n · ratio) lowest units of every layer named, in place.

    Each combination of an axis's lead (`coupling.Table.lead`: states of each group, channels of
    each head) loses the same number, and chooses its own; on ties the lower index stays. All
    layers are scored before the first is changed.

    Args:
        model: changed in place.
        axes: layer → the axis along which its units lie.
        ratio: fraction of the units to remove, in [0, 1); at 0 nothing happens.
        score: what ranks the units.
        context: of the cell.
        granularity: what each combination keeps is rounded up to a multiple of it.

    Returns:
        Removed units / all units, over the layers named.

    Raises:
        MethodError: a layer has no such unit, or none would go, or none would stay.
        NumericalError: a score is not finite.
    """
    counts = {i: _count(model, i, axis, ratio, granularity) for i, axis in axes.items()}
    if ratio == 0:
        return 0.0
    found = unit_scores.of_units(model, axes, score=score, context=context)
    for layer, axis in axes.items():
        try:
            context.remove(model, layer, axis, kept_indices(found[layer], ratio, granularity))
        except MethodError as error:
            raise MethodError(f"{_where(model, layer)}: {error}") from None
    return sum(c.gone for c in counts.values()) / sum(c.all for c in counts.values())


def kept_indices(scores: Tensor, ratio: float, granularity: int = 1) -> Tensor:
    """Give the ascending indices of all but the `n_gone` lowest of the last axis.

    Args:
        scores: (…, n).
        ratio: fraction to drop, in [0, 1).
        granularity: as for `n_gone`.

    Returns:
        (…, k) int64; on ties the lower index stays.
    """
    n = scores.shape[-1]
    keep = keep_highest(scores, n - n_gone(n, ratio, granularity))
    return keep.nonzero()[:, -1].view(*scores.shape[:-1], -1)


def _count(model: Decoder, layer: int, axis: Axis, ratio: float, granularity: int) -> Counts:
    """Count one layer's units along an axis, and how many of them go."""
    sizes, where = model.description.layers[layer].mixer, _where(model, layer)
    assert sizes is not None
    t = table(sizes)
    if axis not in t.lead:
        others = " or ".join(m for a, m in _METHODS.items() if a in t.lead)
        raise MethodError(
            f"{where}: found a mixer without {WORDS[axis]} to choose from; expected one that has "
            f"them. Choose {others} for this family."
        )
    *lead, n = t.shape(axis)
    times = math.prod(lead)
    if ratio == 0:
        return Counts(n * times, 0)
    words = WORDS["r"] if axis == "g" and t.length["r"] == 1 else WORDS[axis]
    if axis == "r" and t.length["g"] > 1:
        words += " in a group"
    one = count(n, ratio, units=words, where=where, granularity=granularity)
    return Counts(one.all * times, one.gone * times)


def _where(model: Decoder, layer: int) -> str:
    return f"{model.description.family}: layer {layer}"


def slow_shapes(model: Decoder, dense: Description) -> list[str]:
    """Say which shapes left by pruning GPU kernels are slow on, and what would be fast.

    A head's states and channels that are no multiple of 16 are loaded one by one instead of in
    128-bit pieces (Triton specialises on divisibility by 16), which can cost more than was saved.

    Args:
        model: compressed.
        dense: what it was before; what it had then is not pruning's doing.

    Returns:
        A sentence for each kind of shape; none where all is well.
    """
    found: dict[tuple[str, int], int] = {}
    for spec, before in zip(model.description.layers, dense.layers, strict=True):
        now, then = spec.mixer, before.mixer
        if not isinstance(now, SSD) or not isinstance(then, SSD):
            continue
        pairs = {
            "states": (now.d_state, then.d_state),
            "channels of a head": (now.head_dim, then.head_dim),
        }
        for what, (n, n_then) in pairs.items():
            if n != n_then and n % 16:
                found[what, n] = found.get((what, n), 0) + 1
    return [
        f"{count} of {len(dense.layers)} layers keep {n} {what}, no multiple of 16, which GPU "
        f"kernels are slow on; `granularity: 16` keeps {math.ceil(n / 16) * 16} (docs/gpu.md)"
        for (what, n), count in found.items()
    ]
