"""Which tokens follow which: segments of tokens that form trees, run as one flat batch.

A forest has stages. The rows of the first stage begin from a carried state (or from nothing);
a row of a later stage continues a row of the stage before it, and several may continue the
same one. Projections, norms and MLPs see the flat tokens of all segments at once; only
convolutions, scans and attention see rows. A plain batch is a forest of one stage without
padding; a context with several continuations is one of two.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Stage:
    """Rows of tokens that stand side by side; padded on the right when lengths differ.

    Attributes:
        lengths: tokens of each row.
        start: where the stage's tokens begin in the flat order; rows follow one another.
        parents: (rows,) int64, the row of the stage before that each row continues; None for
            the first stage.
        device: where index tensors live.
        offsets: (tokens of the stage,) int64, where in its row each token stood before others
            were dropped; None where none were.
        spans: tokens of each row before any were dropped; None likewise.
        ends: nothing continues the rows, so that the state after them need not be known.
    """

    lengths: tuple[int, ...]
    start: int
    parents: Tensor | None
    device: torch.device
    offsets: Tensor | None = None
    spans: tuple[int, ...] | None = None
    ends: bool = False

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(self.lengths)

    @cached_property
    def length(self) -> int:
        """The longest row."""
        return max(self.lengths, default=0)

    @cached_property
    def even(self) -> bool:
        """Whether all rows are equally long, so that nothing is padded."""
        return len(set(self.lengths)) <= 1

    @cached_property
    def row_lengths(self) -> Tensor | None:
        """(rows,) int64; None where nothing is padded."""
        return None if self.even else torch.tensor(self.lengths, device=self.device)

    @cached_property
    def valid(self) -> Tensor | None:
        """(rows, length) bool, True where a token is; None where nothing is padded."""
        if self.row_lengths is None:
            return None
        return torch.arange(self.length, device=self.device) < self.row_lengths[:, None]

    @cached_property
    def _pad_index(self) -> Tensor:
        ends = torch.tensor(self.lengths, device=self.device).cumsum(0)
        starts = ends - torch.tensor(self.lengths, device=self.device)
        index = starts[:, None] + torch.arange(self.length, device=self.device)
        return index.clamp_max(self.n_tokens - 1).flatten() + self.start

    @cached_property
    def _flat_index(self) -> Tensor:
        assert self.valid is not None
        return self.valid.flatten().nonzero()[:, 0]

    def rows(self, flat: Tensor) -> Tensor:
        """Take (rows, length, …) from (tokens of the forest, …); padding repeats other tokens."""
        shape = (len(self.lengths), self.length, *flat.shape[1:])
        if self.even or not self.n_tokens:
            return flat[self.start : self.start + self.n_tokens].reshape(shape)
        return flat.index_select(0, self._pad_index).view(shape)

    def parts(self, cost: int) -> list[tuple[slice, Stage]]:
        """Divide the rows, in their order, so that little is padded.

        Args:
            cost: what another part costs, in positions of a row: it must save more.

        Returns:
            Which rows, and the stage that they are.
        """
        if cost not in self._parts:
            bounds = _divided(self.lengths, 0, len(self.lengths), cost)
            self._parts[cost] = [
                (slice(a, b), self._part(a, b)) for a, b in itertools.pairwise(bounds)
            ]
        return self._parts[cost]

    def _part(self, a: int, b: int) -> Stage:
        first, last = sum(self.lengths[:a]), sum(self.lengths[:b])
        return replace(
            self,
            lengths=self.lengths[a:b],
            start=self.start + first,
            parents=None if self.parents is None else self.parents[a:b],
            offsets=None if self.offsets is None else self.offsets[first:last],
            spans=None if self.spans is None else self.spans[a:b],
        )

    @cached_property
    def _parts(self) -> dict[int, list[tuple[slice, Stage]]]:
        return {}

    def flat(self, rows: Tensor) -> Tensor:
        """Give (tokens of the stage, …) from (rows, length, …): the inverse of `rows`."""
        flat = rows.reshape(-1, *rows.shape[2:])
        return flat if self.even else flat.index_select(0, self._flat_index)

    @cached_property
    def places(self) -> Tensor:
        """(rows, length) int64: where in its row each token stood before others were dropped."""
        if self.offsets is None:
            return torch.arange(self.length, device=self.device).expand(len(self.lengths), -1)
        return replace(self, start=0).rows(self.offsets)

    def thin(self, keep: Tensor) -> tuple[Stage, Tensor]:
        """Drop tokens from every row.

        Args:
            keep: (rows, length) bool; padding is never kept.

        Returns:
            The stage of the kept tokens, in their order, and their indices (n,) into this
            stage's tokens.
        """
        if self.valid is not None:
            keep = keep & self.valid
        lengths = tuple(keep.sum(1).tolist())
        stage = Stage(
            lengths,
            self.start,
            self.parents,
            self.device,
            offsets=self.places[keep],
            spans=self.spans or self.lengths,
            ends=self.ends,
        )
        return stage, self.flat(keep).nonzero()[:, 0]


def _divided(lengths: Sequence[int], first: int, last: int, cost: int) -> list[int]:
    """Give where parts of rows first … last − 1 begin and end, so that a cut saves its cost."""
    n, its = last - first, lengths[first:last]
    longest_before = list(itertools.accumulate(its, max))
    longest_after = list(itertools.accumulate(reversed(its), max))[::-1]
    padded = [i * longest_before[i - 1] + (n - i) * longest_after[i] for i in range(1, n)]
    if not padded or n * longest_before[-1] - min(padded) <= cost:
        return [first, last]
    middle = first + 1 + padded.index(min(padded))
    left, right = (_divided(lengths, a, b, cost) for a, b in ((first, middle), (middle, last)))
    return [*left, *right[1:]]


@dataclass(frozen=True)
class Forest:
    """Flat tokens and the stages that they form.

    `prompted` says that each row of the first stage is a whole prompt, whose last token is where
    its answers begin: what methods that drop prompt tokens must know.
    """

    tokens: Tensor
    stages: tuple[Stage, ...]
    prompted: bool = False

    def thin(self, keep: Tensor) -> tuple[Forest, Tensor]:
        """Drop tokens of the first stage's rows.

        Args:
            keep: (rows, length) bool over the first stage.

        Returns:
            The forest that is left and the indices (n,) of its tokens in this one's flat order.
        """
        first, index = self.stages[0].thin(keep)
        rest = torch.arange(self.stages[0].n_tokens, len(self.tokens), device=index.device)
        index = torch.cat([index, rest])
        return replace(self, tokens=self.tokens[index], stages=self.after(first)), index

    def ending(self) -> Forest:
        """Give the forest whose last rows nothing will continue."""
        *stages, last = self.stages
        return replace(self, stages=(*stages, replace(last, ends=True)))

    def after(self, first: Stage) -> tuple[Stage, ...]:
        """Give the stages with another one in the first's place."""
        stages, start = [first], first.n_tokens
        for stage in self.stages[1:]:
            stages.append(replace(stage, start=start))
            start += stage.n_tokens
        return tuple(stages)

    @classmethod
    def batch(cls, input_ids: Tensor) -> Forest:
        """Stand for a plain batch: input_ids (batch, length) int64."""
        b, length = input_ids.shape
        stage = Stage((length,) * b, 0, None, input_ids.device)
        return cls(input_ids.flatten(), (stage,))

    @classmethod
    def ragged(cls, rows: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> Forest:
        """Stand for rows of differing lengths."""
        device = torch.device(device)
        tokens = torch.tensor([t for row in rows for t in row], dtype=torch.long, device=device)
        return cls(tokens, (Stage(tuple(map(len, rows)), 0, None, device),))

    @classmethod
    def fork(
        cls,
        prefixes: Sequence[Sequence[int]],
        suffixes: Sequence[Sequence[int]],
        parents: Sequence[int],
        *,
        device: torch.device | str = "cpu",
    ) -> Forest:
        """Stand for suffixes that continue shared prefixes; suffix i follows prefixes[parents[i]].

        Flat order: the prefixes one after another, then the suffixes. Suffixes may be empty.
        """
        device = torch.device(device)
        flat = [t for row in (*prefixes, *suffixes) for t in row]
        first = Stage(tuple(map(len, prefixes)), 0, None, device)
        second = Stage(
            tuple(map(len, suffixes)),
            first.n_tokens,
            torch.tensor(parents, dtype=torch.long, device=device),
            device,
        )
        tokens = torch.tensor(flat, dtype=torch.long, device=device)
        return cls(tokens, (first, second))
