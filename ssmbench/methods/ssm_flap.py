"""SSM-FLAP: whole heads go by how much their output fluctuates; a bias restores its mean.

Source: An et al. 2023, arXiv:2312.11983 (WIFV, AL-AM), carried over to SSM heads by "On Pruning
State-Space LLMs", arXiv:2502.18886. That paper's public code mixes up groups and heads
on Mamba-2 and the Llama hybrids; here every head stays with its group and its norm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, Field

from ssmbench.errors import MethodError, NumericalError
from ssmbench.models.description import SSD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext
else:
    from ssmbench.lazy import torch

VERSION = 1
SOURCE = "An et al. 2023, arXiv:2312.11983; arXiv:2502.18886"


class Params(BaseModel, frozen=True, extra="forbid"):
    """How few heads a layer may be left with; whether the lost mean is given back."""

    min_heads: int = Field(
        default=1, ge=1, description="Every layer keeps at least so many heads, if it has them."
    )
    bias: bool = Field(
        default=True, description="Add what the removed heads gave on average to out_proj's bias."
    )


def needs(params: Params) -> frozenset[str]:
    """Say what the result depends on besides the model."""
    return frozenset({"calibration"})


class Heads(NamedTuple):
    """One layer's heads: its index, its sizes, and a score for each, (groups, heads of one)."""

    layer: int
    sizes: SSD
    scores: Tensor


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Remove the heads that score lowest over all layers, in place.

    The inputs of every out_proj are measured on the model as it is before this step. A head's
    score says how unusual its fluctuation is within its layer, so layers end up with differing
    numbers of heads. Where heads share a group, every group of a layer loses as many, and what
    the layer keeps is rounded up to that; where each head is its own group, its B and C go too.
    At ratio 0 nothing is touched.

    The bias is what the removed heads sent out on average. It restores the mean output exactly
    where a norm spans no more than a head, or where there is none; Mamba-2's spans all, so that
    there the heads which stay come out larger than before.

    Returns:
        Heads removed / heads there were.

    Raises:
        MethodError: the model has no heads (Mamba-1), or none would go, or its norms would lose
            unlike numbers.
        NumericalError: a layer's fluctuations are not finite, or all the same.

    Source: An et al. 2023 (AL-AM), with the threshold of its code (`n_kept`).
    """
    layers = _ssd_layers(model)
    if ratio == 0:
        return 0.0
    moments = _moments(model, layers, context)
    heads = []
    for i, sizes in layers.items():
        scores = head_scores(moments[f"{i}.variance"], _out_proj(model, i), sizes, layer=i)
        heads.append(Heads(i, sizes, scores))
    wanted = kept_per_layer([h.scores for h in heads], ratio)
    keeps = [
        choose(head.scores, max(count, params.min_heads))
        for head, count in zip(heads, wanted, strict=True)
    ]
    total = sum(keep.numel() for keep in keeps)
    removed = total - sum(int(keep.sum()) for keep in keeps)
    if not removed:
        raise MethodError(
            f"{model.description.family}: removes 0 of {total} heads at ratio {ratio:g}, since "
            f"each layer keeps at least {params.min_heads}, and as many in every group. Choose a "
            "larger ratio or a smaller `min_heads`."
        )
    for done, (head, keep) in enumerate(zip(heads, keeps, strict=True)):
        context.report("compress: ssm_flap", done, len(heads))
        mean = moments[f"{head.layer}.mean"] if params.bias else None
        _remove(model, head, keep, mean, context)
    return removed / total


def head_scores(variance: Tensor, weight: Tensor, sizes: SSD, *, layer: int) -> Tensor:
    """Score each head by the fluctuation of what its channels send into the residual stream.

    A channel's metric is (σ² · ‖w‖²)², σ² its variance and w its column of out_proj; metrics are
    standardised within the layer (unbiased standard deviation), and a head has the mean of its
    channels'.

    The published code has about T · σ² in place of σ², T the window's length, by a running update
    that forgets the first window and weighs the next few less; such factors, the same for all
    channels, cancel in the standardisation. Here σ² is the population variance over all
    calibration positions, in float64, whatever their order.

    Args:
        variance: (heads · head_dim,) float64, of out_proj's input.
        weight: (d_model, heads · head_dim), of out_proj.
        sizes: the mixer's.
        layer: its index, for the message.

    Returns:
        (groups, heads per group) float64, on the CPU.

    Raises:
        NumericalError: a metric is not finite, or all are the same.

    Source: An et al. 2023 (WIFV), squared as its code does.
    """
    metric = (variance.to(weight.device) * weight.double().square().sum(0)).square()
    apart = metric - metric.mean()
    spread = (apart.square().sum() / max(1, len(metric) - 1)).sqrt()
    finite = math.isfinite(float(spread))
    # Equal metrics are a rounding error apart, which must not decide what goes.
    if not finite or float(spread) <= 1e-12 * float(metric.mean()):
        raise NumericalError(
            f"layers.{layer}.mixer.out_proj: found fluctuations that are "
            f"{'all the same' if finite else 'not finite'}; expected numbers that differ. "
            "Do the calibration windows differ?"
        )
    shape = (sizes.n_groups, sizes.heads_per_group, sizes.head_dim)
    scores: Tensor = (apart / spread).view(shape).mean(-1)
    return scores.cpu()


def n_kept(n: int, ratio: float) -> int:
    """Count the heads of all layers that score above the threshold, if no two are equal.

    The published threshold is the score of the k-th best head, k nearest to n · (1 − ratio), and
    only what lies strictly above it stays: one head more goes than was asked, ratio · n + 1
    where that is whole. Of 768 heads 193 and 385 go at 0.25 and 0.5.
    """
    return max(1, math.ceil(n * (1 - ratio) - 0.5 - 1e-9)) - 1


def kept_per_layer(scores: Sequence[Tensor], ratio: float) -> list[int]:
    """Count the heads of each layer above the threshold that all share.

    Nothing is rounded here: a layer may be left with no head.

    Args:
        scores: each layer's, of any shape.
        ratio: fraction to remove, in (0, 1).
    """
    ranked = torch.cat([s.flatten() for s in scores]).sort(descending=True).values
    threshold = ranked[n_kept(len(ranked), ratio)]
    return [int((s > threshold).sum()) for s in scores]


def choose(scores: Tensor, count: int) -> Tensor:
    """Mark a layer's best heads, as many in every group; equal scores keep the lower index.

    Args:
        scores: (groups, heads per group).
        count: heads to keep at least; more where it does not divide among the groups, and never
            more than there are.

    Returns:
        (groups, heads per group) bool, True = kept. With one head a group it is the groups that
        are chosen.
    """
    groups, per_group = scores.shape
    rows = scores.T if per_group == 1 else scores
    each = min(rows.shape[1], math.ceil(count / rows.shape[0]))
    best = rows.argsort(dim=1, descending=True, stable=True)[:, :each]
    keep = torch.zeros(rows.shape, dtype=torch.bool).scatter_(1, best, value=True)
    return keep.view(groups, per_group)


def _ssd_layers(model: Decoder) -> dict[int, SSD]:
    """Give the sizes of the SSM mixers by layer."""
    found = {}
    for i, spec in enumerate(model.description.layers):
        if isinstance(spec.mixer, SSD):
            found[i] = spec.mixer
    if not found:
        raise MethodError(
            f"{model.description.family}: found no SSM heads; expected layers whose SSM has "
            "heads to remove. Choose Mamba-2 or a relative of it."
        )
    return found


def _out_proj(model: Decoder, layer: int) -> Tensor:
    """Give out_proj's weight, (d_model, heads · head_dim)."""
    return model.get_submodule(f"layers.{layer}.mixer.out_proj").get_parameter("weight")


def _moments(
    model: Decoder, layers: Mapping[int, SSD], context: MethodContext
) -> dict[str, Tensor]:
    """Give "LAYER.mean" and "LAYER.variance" of every out_proj's input, float64."""
    windows = context.windows()

    def compute() -> dict[str, Tensor]:
        from ssmbench.surgery.projections import projections
        from ssmbench.surgery.statistics import Moments, run

        modules = {
            str(p.layer): p.module for p in projections(model, "out_proj") if p.layer in layers
        }
        with Moments(modules) as moments:
            run(model, windows, batch_tokens=context.batch_tokens)
        means = {f"{i}.mean": mean.cpu() for i, mean in moments.means().items()}
        return means | {f"{i}.variance": v.cpu() for i, v in moments.variances().items()}

    return context.share({"statistics": "moments of out_proj", "version": 1}, compute)


def _remove(
    model: Decoder, head: Heads, keep: Tensor, mean: Tensor | None, context: MethodContext
) -> None:
    """Remove the heads that are not kept, and give their mean output back as a bias."""
    from ssmbench.surgery import axes

    if bool(keep.all()):
        return
    weight = _out_proj(model, head.layer)
    gone = (~keep).flatten().repeat_interleave(head.sizes.head_dim)
    lost = None if mean is None else weight.double() @ (mean * gone).to(weight.device)
    if keep.shape[1] == 1:
        context.remove(model, head.layer, "g", keep[:, 0].nonzero()[:, 0])
    else:
        context.remove(model, head.layer, "r", keep.nonzero()[:, 1].view(len(keep), -1))
    if lost is not None:
        axes.add_output_bias(model, head.layer, lost)
