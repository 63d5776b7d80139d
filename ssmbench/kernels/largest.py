"""The largest influence over Mamba-1's channels, with a sum over states for few tokens.

A channel's influence |Δ_t x_t Σ_n C_T B_t exp(A_n S_t)| is at most |Δ_t x_t| e^{max_n A_n S_t}
Σ_n |C_T B_t|, which needs no exponential for every state. A token whose bound is below enough
others' influence on a few channels cannot be kept, and one whose influence on these is above
enough others' bounds is kept: the sums over states are taken of the tokens between alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG2E = math.log2(math.e)
# How far log2(1 + x) rises above x between 0 and 1.
CHORD = 0.0861

# Elements of a block of tokens × channels, and of tokens × states × channels: what is done to a
# block, one step after another, stays in a core's cache.
BLOCK_ELEMENTS = 1 << 17
STATE_ELEMENTS = 1 << 18
# Channels on which every token's influence is taken: the largest of these is a lower bound.
SAMPLE = 32
# What a float32 still holds with all its digits, as a logarithm.
LEAST = -80.0


class Scan(NamedTuple):
    """What the influence on a scan's last output is made of, of tokens one after another.

    Attributes:
        u: (tokens, E), what enters the scan.
        dt: (tokens, E), the step that scales it.
        after: (tokens, E), the sum of the later steps.
        CB: (tokens, N), the last token's C times each token's B.
        slowest: (E,), the largest of each channel's rates A, which are < 0.
        rates: (N, E), (A − slowest) · log2 e, ≤ 0, contiguous.
        signed: whether only positive influence counts.
    """

    u: Tensor
    dt: Tensor
    after: Tensor
    CB: Tensor
    slowest: Tensor
    rates: Tensor
    signed: bool

    def tokens(self, index: Tensor | slice) -> Scan:
        """Take some of the tokens."""
        u, dt, after, CB = (t[index] for t in (self.u, self.dt, self.after, self.CB))
        return self._replace(u=u, dt=dt, after=after, CB=CB)

    def spans(self) -> list[slice]:
        """Cut the tokens into blocks."""
        reach = max(1, BLOCK_ELEMENTS // self.u.shape[1])
        return [slice(i, i + reach) for i in range(0, len(self.u), reach)]


@torch.no_grad()
def largest(scan: Scan) -> Tensor:
    """Give the logarithm of each token's largest influence, (tokens,), without gradient."""
    return _exact(scan, _tops(scan))


@torch.no_grad()
def ranked(scan: Scan, lengths: Sequence[int], n_kept: Sequence[int]) -> Tensor:
    """Give scores by which the best tokens of each row are those with the largest influence.

    Args:
        scan: rows of equal length, one after another.
        lengths: valid tokens of each row.
        n_kept: how many are the best, with the row's last, which always is one of them.

    Returns:
        (rows, length), without gradient: a token's bound, or its influence where bounds do not
        tell.
    """
    top = _tops(scan)
    above = (top + scan.CB.abs().sum(-1).log()).view(len(lengths), -1)
    below = _sampled(scan, len(lengths)).view(above.shape)
    scores, between = _decided(above, below, lengths, n_kept)
    index = between.flatten().nonzero()[:, 0]
    scores.view(-1)[index] = _exact(scan.tokens(index), top[index])
    return scores


def _tops(scan: Scan) -> Tensor:
    """Bound each token's influence on any channel, but for Σ|C_T B_t|, (tokens,)."""
    tops = []
    log2_rates = scan.slowest * LOG2E
    for span in scan.spans():
        size = log2_above((scan.u[span] * scan.dt[span]).abs_())
        tops.append(size.addcmul_(scan.after[span], log2_rates).amax(-1))
    return torch.cat(tops) / LOG2E if tops else scan.u.new_empty(0)


def log2_above(x: Tensor) -> Tensor:
    """Bound log2 x from above, by at most 0.09, for x ≥ 0; of 0 what is finite.

    A float32's bits, read as an integer, grow with its logarithm, linearly between two powers of
    two; to read them takes a fraction of a logarithm's time.
    """
    if x.dtype != torch.float32:
        return x.clamp_min(torch.finfo(x.dtype).tiny).log2()
    return x.view(torch.int32).to(torch.float32).mul_(2**-23).sub_(127 - CHORD)


def _sampled(scan: Scan, n_rows: int) -> Tensor:
    """Give each token's largest influence on the channels that forget the slowest, (tokens,)."""
    n = min(SAMPLE, scan.u.shape[1])
    # After a row's first token come the most steps.
    firsts = scan.after.view(n_rows, -1, scan.after.shape[1])[:, 0]
    channels = (firsts.amax(0) * scan.slowest).topk(n).indices
    u, dt, after, rates = (
        t.index_select(1, channels) for t in (scan.u, scan.dt, scan.after, scan.rates)
    )
    slowest = scan.slowest[channels]
    return _logarithms(scan._replace(u=u, dt=dt, after=after, rates=rates, slowest=slowest))


def _logarithms(scan: Scan) -> Tensor:
    """Give each token's largest influence, each channel's by its logarithm."""
    influence = _mixed(scan) * (scan.u * scan.dt)
    influence = influence.clamp_min_(0) if scan.signed else influence.abs_()
    return influence.log_().add_(scan.after * scan.slowest).amax(-1)


def _decided(
    above: Tensor, below: Tensor, lengths: Sequence[int], n_kept: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rank the tokens that bounds suffice for.

    Args:
        above: (rows, length), no score is above this but for rounding.
        below: likewise below.
        lengths: valid tokens of each row.
        n_kept: tokens that each keeps, its last among them.

    Returns:
        Scores on the right side of the border, and a mask of the tokens that still need theirs.
    """
    length = above.shape[1]
    place = torch.arange(length, device=above.device)
    ends = torch.tensor(lengths, device=above.device)[:, None]
    n = torch.tensor(n_kept, device=above.device)[:, None]
    last, padding = place == ends - 1, place >= ends
    # What rounding may have moved a bound by, generously.
    eps = 4 * torch.finfo(above.dtype).eps
    above = above + (1e-4 + eps * above.abs())
    below = below - (1e-4 + eps * below.abs())
    above, below = (
        t.masked_fill(last, math.inf).masked_fill(padding, -math.inf) for t in (above, below)
    )
    enough = below.sort(1, descending=True).values.gather(1, n - 1)
    most = above.sort(1, descending=True).values.gather(1, n.clamp_max(length - 1))
    most = most.masked_fill(n == length, -math.inf)
    out, in_ = above < enough, below > most
    return torch.where(out, above, below), ~(out | in_ | last | padding)


def _exact(scan: Scan, top: Tensor) -> Tensor:
    """Give each token's largest influence, (tokens,).

    Args:
        scan: of the tokens.
        top: (tokens,), their bounds.
    """
    if not len(top):
        return top
    best = torch.cat([_relative(scan.tokens(span), top[span]) for span in scan.spans()])
    # Where the bound is far off, float32 may hold nothing of what is relative to it.
    index = (best < LEAST).nonzero()[:, 0]
    best += top
    if len(index):
        best[index] = _logarithms(scan.tokens(index))
    return best


def _relative(scan: Scan, top: Tensor) -> Tensor:
    """Give the logarithm of each token's largest influence over e^top: one logarithm a token."""
    exponent = (scan.after * (scan.slowest * LOG2E)).sub_((top * LOG2E)[:, None])
    grown = exponent.clamp_(max=126).exp2_()
    influence = _mixed(scan).mul_(scan.u * scan.dt).mul_(grown)
    if not scan.signed:
        influence.abs_()
    return influence.amax(-1).clamp_min_(0).log_()


def _mixed(scan: Scan) -> Tensor:
    """Sum over states, each relative to the slowest: (tokens, E)."""
    mixed = torch.empty_like(scan.u)
    n, e = scan.rates.shape
    reach = max(1, STATE_ELEMENTS // (n * e))
    grown = scan.u.new_empty(min(reach, len(mixed)), n, e)
    for i in range(0, len(mixed), reach):
        part = grown[: min(reach, len(mixed) - i)]
        torch.mul(scan.after[i : i + reach, None], scan.rates, out=part).exp2_()
        torch.bmm(scan.CB[i : i + reach, None], part, out=mixed[i : i + reach, None])
    return mixed
