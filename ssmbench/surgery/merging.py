"""Dropping prompt tokens that another is like, and averaging some of them into it.

Source: Zhan et al. 2024, arXiv:2410.14725, section 4.2. The paper leaves open which of the dropped
tokens are pruned and what becomes of several that are most like the same one: here all of these
count alike in its mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbench.models.reduction import Merging
from ssmbench.surgery.tokens import keep_best

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.models.reduction import Shown

Split = Literal["importance", "alternate"]
Pruned = Literal["least_important", "least_similar", "most_similar"]


class Match(NamedTuple):
    """Tokens of one row that are to go, the most similar first.

    Attributes:
        dropped: (n,) int64, their places in the row.
        partner: (n,) int64, the place of the kept token that each is most like.
        similarity: (n,) cosines.
    """

    dropped: Tensor
    partner: Tensor
    similarity: Tensor


def select(
    shown: Shown,
    scores: Tensor,
    n_kept: Sequence[int],
    *,
    split: Split,
    pruned: Pruned,
    merge_share: float,
    residual_merge_share: float,
) -> Merging:
    """Choose the tokens that go, and where.

    Args:
        shown: a layer, with its output, by which tokens are compared.
        scores: (rows, length), importance.
        n_kept: tokens that each row keeps, at least half of them.
        split: candidates to go are the less important half, or every other token.
        pruned: which of those that go are not averaged.
        merge_share: fraction of those that go whose addition to the residual stream is
            averaged into that of the token that they are most like, in [0, 1].
        residual_merge_share: likewise of the residual stream itself.
    """
    assert shown.output is not None
    lengths = shown.stage.lengths
    kept = _receivers(scores, lengths, split)
    keep = torch.ones_like(kept)
    residual = torch.full(kept.shape, -1, device=kept.device)
    added = residual.clone()
    # Row by row: the comparison is quadratic, and no row may depend on its neighbours.
    for row, (length, n) in enumerate(zip(lengths, n_kept, strict=True)):
        found = match(shown.output[row, :length].float(), kept[row, :length], length - n)
        keep[row, found.dropped] = False
        order = _merged_first(found, scores[row], pruned)
        for into, share in ((residual, residual_merge_share), (added, merge_share)):
            first = order[: math.floor(share * len(order) + 0.5)]
            into[row, found.dropped[first]] = found.partner[first]
    return Merging(keep, residual, added)


def match(features: Tensor, kept: Tensor, n: int) -> Match:
    """Find the n tokens that are most like one that is surely kept; of equal ones the earlier.

    Args:
        features: (length, width), by whose cosine tokens are compared.
        kept: (length,) bool, what surely stays.
        n: tokens to go, at most as many as may.
    """
    unit = F.normalize(features, dim=-1)
    candidates, receivers = (~kept).nonzero()[:, 0], kept.nonzero()[:, 0]
    similarity, partner = (unit[candidates] @ unit[receivers].T).max(1)
    best = similarity.sort(descending=True, stable=True).indices[:n]
    return Match(candidates[best], receivers[partner[best]], similarity[best])


def _receivers(scores: Tensor, lengths: Sequence[int], split: Split) -> Tensor:
    """Mark the half of each row that stays, (rows, length) bool; the last token is of it."""
    if split == "importance":
        return keep_best(scores, lengths, [n - n // 2 for n in lengths])
    place = torch.arange(scores.shape[1], device=scores.device)
    from_end = torch.tensor(lengths, device=scores.device)[:, None] - 1 - place
    return (from_end % 2 == 0) & (from_end >= 0)


def _merged_first(found: Match, scores: Tensor, pruned: Pruned) -> Tensor:
    """Order the tokens that go, (n,) int64, so that the last are those to prune."""
    if pruned == "least_important":
        return scores[found.dropped].sort(descending=True, stable=True).indices
    return found.similarity.sort(descending=pruned == "least_similar", stable=True).indices
