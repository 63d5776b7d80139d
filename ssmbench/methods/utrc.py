"""UTRC: prompt tokens that a more important one is like are dropped, some averaged into it.

After each of a few anchor layers, the prompt's tokens are split into a less and a more important
half by the clipped sum of the mixer's output. Each less important one is matched with the more
important one that it is most like by cosine, and those that are most alike go. A share of them
is pruned and the rest averaged into their partners, as far as the layer's output is concerned;
on the residual stream all are averaged.

Re-implemented from the paper, whose code has no licence, under Simba's protocol: the prompt alone
loses tokens, never the labels or what is generated, and never the prompt's last token. (The
authors' code drops prompt and labels together and scores the logits that are left.) `ratio` is
the fraction of the prompt gone at the end, as in `simba`, in equal proportion at each anchor.

What falls out: `merge_share` and `residual_merge_share` both 0 prune only and both 1 merge only, in
the paper's Table 5 "P-only" and "M-only"; merging only with `split: alternate` is ToMe and PuMer.
EViT, which prunes the least important whatever they are like, is `simba` with `clip_sum`.

Where the paper is silent or its code differs: importance is taken on the mixer's output, as the
code does, not on the scan's (equation 5); several tokens with one partner are averaged alike; and
of the tokens that go, the least important are pruned.

Source: Zhan et al. 2024, "Rethinking Token Reduction for State Space Models", arXiv:2410.14725.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from ssmbench.errors import MethodError
from ssmbench.models import description as d
from ssmbench.models import token_flops
from ssmbench.models.token_flops import Drop
from ssmbench.surgery import schedule
from ssmbench.surgery.tokens import TokenReducer, Turn, check_free

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.reduction import Shown
    from ssmbench.surgery.context import MethodContext

VERSION = 1
SOURCE = "Zhan et al. 2024, arXiv:2410.14725"

# The paper's layers for models of 48 layers (mamba-1.4b, mamba2-1.3b) and 64 (mamba-2.8b,
# mamba2-2.7b), section 5.1.
PUBLISHED = {48: tuple(range(10, 36, 5)), 64: tuple(range(12, 43, 5))}


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which tokens go, what becomes of them, and after which layers."""

    merge_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Of the tokens that go, the part whose layer output is averaged into that of "
        "the token that they are like; the rest is pruned.",
    )
    residual_merge_share: float = Field(
        default=1.0, ge=0, le=1, description="The same part for the residual stream."
    )
    pruned: Literal["least_important", "least_similar", "most_similar"] = Field(
        default="least_important", description="Which of the tokens that go are pruned."
    )
    split: Literal["importance", "alternate"] = Field(
        default="importance",
        description="What may go: the less important half, or every other token.",
    )
    anchors: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        description="The layers, from 0, after which tokens go. By default the paper's: 12, 17, …, "
        "42 of 64 layers, 10, 15, …, 35 of 48, and in proportion in other models; evenly spaced "
        "over all layers where these are too few for the ratio.",
    )


def needs(params: Params) -> frozenset[str]:
    """Tokens are ranked by what the model makes of them alone."""
    return frozenset()


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> None:
    """Set the model's reducer; no weight changes.

    Raises:
        MethodError: no SSM mixer before the last layer, a model that drops tokens already, or
            anchors that are not such layers or too few, since each halves the tokens at most.
    """
    if ratio == 0:
        return
    check_free(model)
    drop = drops(model.description, ratio=ratio, params=params)
    from ssmbench.surgery import merging

    model.reducer = TokenReducer(
        score=_importance,
        counts=drop.counts,
        at=lambda ratio: drops(model.description, ratio=ratio, params=params).counts,
        select=partial(merging.select, **params.model_dump(exclude={"anchors"})),
        ranking=drop.score,
    )


def drops(description: d.Description, *, ratio: float, params: Params) -> Drop:
    """Say how tokens go and what ranking them costs: all that counting FLOPs needs.

    Raises:
        MethodError: as for `compress`.
    """
    n = len(description.layers)
    mixers = [layer.mixer for layer in description.layers[:-1]]
    able = [i for i, mixer in enumerate(mixers) if isinstance(mixer, d.SSD | d.SelectiveScan)]
    if not able:
        raise MethodError(
            f"{description.family}: found no SSM mixer before the last layer; expected one, after "
            "which tokens go. Choose a family that has it."
        )
    chosen = anchors(able, n, ratio=ratio, params=params, where=description.family)
    counts = partial(schedule.anchored, n_layers=n, ratio=ratio, anchors=chosen)
    return Drop(counts, partial(token_flops.likeness, d_model=description.d_model))


def anchors(
    able: Sequence[int], n_layers: int, *, ratio: float, params: Params, where: str
) -> tuple[int, ...]:
    """Give the layers after which tokens go.

    Args:
        able: the layers that have an SSM mixer, without the last.
        n_layers: of the model.
        ratio: fraction of the prompt gone at the end, above 0.
        params: whose `anchors` are taken where there are any.
        where: begins the message of an error.

    Raises:
        MethodError: a layer that is not able, or too few of them.
    """
    needed = math.ceil(math.log2(1 / (1 - ratio)) - 1e-9)
    found = params.anchors
    if found is None:
        usual = PUBLISHED.get(n_layers) or [round(n_layers * i / 64) for i in PUBLISHED[64]]
        near = {min(able, key=lambda i: abs(i - layer)) for layer in usual} if able else ()
        found = tuple(sorted(near))
        if len(found) < needed <= len(able):
            step = len(able) / needed
            found = tuple(able[int(i * step)] for i in range(needed))
    if list(found) != sorted(set(found) & set(able)):
        raise MethodError(
            f"{where}: found anchors {list(found)}; expected layers with an SSM mixer before "
            f"the last, in order: some of {list(able)}."
        )
    if len(found) < needed:
        raise MethodError(
            f"{where}: found {len(found)} anchor layers for ratio {ratio}; expected {needed} or "
            "more, since each halves the tokens at most. Lower the ratio or add anchors."
        )
    return found


def _importance(shown: Shown, _turn: Turn) -> Tensor:
    from ssmbench.surgery import token_scores

    return token_scores.by_clip_sum(shown)
