"""Dropping prompt tokens: which stay, and an account of it.

Source: Simba, arXiv:2505.20698, section 3.2; rows of differing length are ours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.errors import MethodError
from ssmbench.models.reduction import Merging, Shown, Watch
from ssmbench.models.token_flops import Drop, Ranking, free

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.forest import Forest
else:
    from ssmbench.lazy import torch

LEAST_LOG = math.log(2**-149)
"""Of the smallest positive float32: influences whose logarithm is less would be equal zeros."""


class Turn(NamedTuple):
    """One layer's choice.

    Attributes:
        layer: which.
        n_kept: tokens that each row keeps.
        prompts: a digest of each row's own tokens, those dropped before included: what may seed
            a draw that other rows must not change.
        whole: whether every score is read, not only which tokens are the n_kept best.
    """

    layer: int
    n_kept: Sequence[int]
    prompts: Sequence[bytes]
    whole: bool = False


Score = Callable[[Shown, Turn], "Tensor"]
"""Gives (rows, length), larger = kept; what stands in the padding means nothing."""

Select = Callable[[Shown, "Tensor", Sequence[int]], Merging]
"""Called with (shown, scores, tokens that each row keeps): what stays, and where the rest goes."""

Counts = Callable[[int], tuple[int, ...]]
"""Called with a prompt's number of tokens: how many each layer processes."""


def check_free(model: Decoder) -> None:
    """Refuse a model that drops tokens already: two schedules would fight.

    Raises:
        MethodError: it does.
    """
    if model.reducer is not None:
        raise MethodError(
            f"{model.description.family}: found a model that drops tokens already; expected one "
            "that does not. Chain one method that does."
        )


def keep_best(scores: Tensor, lengths: Sequence[int], n_kept: Sequence[int]) -> Tensor:
    """Mark the best tokens of each row; its last always, and of equal ones the later.

    Args:
        scores: (rows, length), any order-preserving values; −∞ is the least, and NaN the most,
            so that it comes out and is noticed.
        lengths: valid tokens of each row.
        n_kept: tokens to keep of each row, at least 1, at most its length.

    Returns:
        (rows, length) bool.
    """
    length = scores.shape[1]
    place = torch.arange(length, device=scores.device)
    ends = torch.tensor(lengths, device=scores.device)[:, None]
    ordered = scores.clamp_min(torch.finfo(scores.dtype).min)
    ordered = ordered.masked_fill(place >= ends, -torch.inf)
    ordered = ordered.masked_fill(place == ends - 1, torch.inf)
    best_first = length - 1 - ordered.flip(1).sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(best_first).scatter_(1, best_first, place.expand_as(best_first))
    return rank < torch.tensor(n_kept, device=scores.device)[:, None]


@dataclass
class Account:
    """Sums over prompts of what was seen at a layer, and over how many; both on its device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    n: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        """Add one value a prompt; NaN counts for none."""
        self.sums[name] = self.sums.get(name, 0) + values.double().nansum()
        self.n[name] = self.n.get(name, 0) + (~values.isnan()).sum()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the mean of each measure; null where no prompt had it."""
        for name, total in self.sums.items():
            n = int(self.n[name])
            yield {
                "measure": name,
                "place": None,
                "value": float(total) / n if n else None,
                "n": n,
                "reason": None if n else "no prompt had tokens enough here, with unlike scores",
            }


@dataclass
class TokenReducer:
    """Drops prompt tokens by a score, down to a schedule; a decoder's `reducer`.

    Attributes:
        score: gives each token's.
        counts: the schedule.
        at: gives the schedule of another ratio.
        before_scan: drop between a layer's convolution and its scan, not after the layer.
        chunk: tokens of a prompt that run through all layers before the next; None for all.
        select: says what stays and where the rest goes; None where the best stay and the rest
            goes nowhere.
        log: whether scores are logarithms; None where their size means nothing.
        ranking: the FLOPs of scoring, see `models/token_flops.py`.
        accounts: layer → what was dropped there; None where nobody asks.
        ratios: of each row its own, in place of `counts`; None where all have that.
    """

    score: Score
    counts: Counts
    at: Callable[[float], Counts]
    before_scan: bool = False
    chunk: int | None = None
    select: Select | None = None
    log: bool | None = None
    ranking: Ranking = free
    accounts: dict[int, Account] | None = None
    ratios: tuple[float, ...] | None = None

    @property
    def drop(self) -> Drop:
        """How tokens go, as far as counting FLOPs needs it."""
        return Drop(self.counts, self.ranking, self.before_scan, self.chunk)

    def begin(self, forest: Forest) -> TokenReduction:
        """Begin a pass over prompts."""
        stage = forest.stages[0]
        rows = forest.tokens[: stage.n_tokens].cpu().split(list(stage.lengths))
        prompts = [hashlib.sha256(row.numpy().tobytes()).digest() for row in rows]
        counts = [self.counts] * len(prompts)
        if self.ratios is not None:
            counts = [self.at(ratio) for ratio in self.ratios]
        schedule = [count(n) for count, n in zip(counts, stage.lengths, strict=True)]
        return TokenReduction(self, schedule, prompts)

    def at_ratios(self, ratios: Sequence[float]) -> TokenReducer:
        """Give one that drops another fraction of each row's tokens.

        Args:
            ratios: as many as passes have rows, each in [0, 1). In chunks, all rows must have
                as many.

        Raises:
            MethodError: the model's layers cannot drop that many.
        """
        for ratio in set(ratios):
            self.at(ratio)
        return replace(self, ratios=tuple(ratios))

    @contextmanager
    def accounted(self) -> Iterator[list[dict[str, Any]]]:
        """Keep an account; at the end its rows stand in the list, of the store's table `layers`.

        The measures, means over prompts (over their chunks where they have several):

            tokens            that enter the layer
            kept_position     where in the prompt those stood that it kept: 0 first, 1 last
            zeros             fraction of scores that are zero, or would be in float32
            ties              fraction of scores that equal the next larger one
            rank_correlation  Spearman's, of score and position

        The last token, which is always kept, counts in the first two alone.
        """
        rows: list[dict[str, Any]] = []
        self.accounts = {}
        try:
            yield rows
        finally:
            for layer, account in sorted(self.accounts.items()):
                rows += [{"layer": layer, **row} for row in account.rows()]
            self.accounts = None

    def note(self, layer: int, scores: Tensor, keep: Tensor, shown: Shown) -> None:
        """Add a choice to the account, if one is kept."""
        if self.accounts is not None:
            observe(self.accounts[layer], scores, keep, shown, log=self.log)


@dataclass
class TokenReduction:
    """One pass: how many tokens of each row each layer is to process."""

    reducer: TokenReducer
    schedule: list[tuple[int, ...]]
    prompts: list[bytes]

    def watch(self, layer: int, forest: Forest) -> Watch | None:
        """Drop tokens in this layer where the next is to process fewer than there are."""
        lengths = forest.stages[0].lengths
        if self.reducer.accounts is not None:
            account = self.reducer.accounts.setdefault(layer, Account())
            account.add("tokens", torch.tensor(lengths, dtype=torch.float64))
        at = layer if self.reducer.before_scan else layer + 1
        if at == len(self.schedule[0]):
            return None
        n_kept = [min(n, row[at]) for n, row in zip(lengths, self.schedule, strict=True)]
        if n_kept == list(lengths):
            return None
        choose = partial(self._choose, layer=layer, n_kept=n_kept)
        return Watch(forest, choose, self.reducer.before_scan)

    def _choose(self, shown: Shown, *, layer: int, n_kept: list[int]) -> Tensor | Merging:
        with torch.no_grad():  # a choice has no gradient; what is kept has its own
            turn = Turn(layer, n_kept, self.prompts)
            scores = self.reducer.score(shown, turn)
            choice: Tensor | Merging
            if self.reducer.select is not None:
                choice = self.reducer.select(shown, scores, n_kept)
                keep = choice.keep
            else:
                choice = keep = keep_best(scores, shown.stage.lengths, n_kept)
            if self.reducer.accounts is not None:
                whole = self.reducer.score(shown, turn._replace(whole=True))
                self.reducer.note(layer, whole, keep, shown)
            return choice


def observe(
    account: Account, scores: Tensor, keep: Tensor, shown: Shown, *, log: bool | None = None
) -> None:
    """Add what one choice did: where the kept tokens stood, zeros, ties, ranks.

    Args:
        account: of the layer.
        scores: (rows, length).
        keep: (rows, length) bool.
        shown: what they were taken from.
        log: whether the scores are logarithms; None where no score is a zero.
    """
    stage = shown.stage
    lengths = torch.tensor(stage.lengths, device=scores.device)
    spans = torch.tensor(stage.spans or stage.lengths, device=scores.device)
    n_kept = keep.sum(1)
    # Rows that drop none here count for none, whichever rows they stand beside.
    drops = n_kept < lengths
    place = stage.places / (spans - 1)[:, None]
    account.add("kept_position", ((place * keep).sum(1) / n_kept).where(drops, torch.nan))
    others = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None] - 1
    others &= drops[:, None]
    n_others = others.sum(1)
    if log is not None:
        zero = scores < LEAST_LOG if log else scores == 0
        account.add("zeros", (zero & others).sum(1) / n_others)
    ordered = scores.masked_fill(~others, torch.nan).sort(1).values
    equal = (ordered[:, 1:] == ordered[:, :-1]).sum(1)
    account.add("ties", equal / torch.where(n_others > 1, n_others - 1, 0))
    account.add("rank_correlation", spearman(scores, others))


def spearman(scores: Tensor, valid: Tensor) -> Tensor:
    """Give each row's rank correlation of score and place; NaN below 2 tokens or all equal.

    Args:
        scores: (rows, length); equal ones share their mean rank.
        valid: (rows, length) bool, of each row the first few.
    """
    length = scores.shape[1]
    # NaN sorts last: what is not valid takes the last ranks, and no rank of the others.
    ordered, order = scores.double().masked_fill(~valid, torch.nan).sort(1)
    place = torch.arange(length, dtype=torch.float64, device=scores.device).expand_as(ordered)
    unlike = (ordered[:, 1:] != ordered[:, :-1]).long().cumsum(1)
    group = torch.cat([unlike.new_zeros(len(unlike), 1), unlike], 1)
    mean = torch.zeros_like(ordered).scatter_reduce(1, group, place, "mean", include_self=False)
    rank = torch.zeros_like(ordered).scatter(1, order, mean.gather(1, group))
    n = valid.sum(1, keepdim=True)
    centred = [(t - (t * valid).sum(1, keepdim=True) / n) * valid for t in (rank, place)]
    a, b = centred
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
