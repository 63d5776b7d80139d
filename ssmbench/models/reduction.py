"""The seam where a method drops prompt tokens between layers, or before a layer's scan.

A `Reducer` on a decoder is asked, for each forward pass over prompts, for a `Reduction`; this one
gives a `Watch` for each layer that drops tokens. The mixer shows the watch what enters its scan;
what the watch keeps is all that comes after sees. A dropped token may be averaged into a kept one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from ssmbench.models.forest import Forest, Stage
    from ssmbench.models.token_flops import Drop


class Shown(NamedTuple):
    """What enters a layer's scan, of the prompts alone, as rows.

    Attributes:
        mixer: the module, for its A, biases and sizes.
        stage: the rows, with their lengths.
        x: (rows, length, E) for Mamba-1, (rows, length, heads, head_dim) for SSD.
        raw: (rows, length, E or H), the step before bias and softplus, float32.
        B: (rows, length, N), or (rows, length, G, N).
        C: likewise; (rows, length, H, N) where each head has its own.
        state: the scan's state that the rows begin from; None for zeros.
        step: raw's shape, the step after bias and softplus; None where it is not at hand.
        output: (rows, length, d_model), what the mixer adds to the residual stream; None before
            the scan.
    """

    mixer: nn.Module
    stage: Stage
    x: Tensor
    raw: Tensor
    B: Tensor
    C: Tensor
    state: Tensor | None = None
    step: Tensor | None = None
    output: Tensor | None = None


class Merging(NamedTuple):
    """A choice that averages dropped tokens into kept ones.

    Attributes:
        keep: (rows, length) bool, the prompt tokens to keep.
        residual: (rows, length) int64: the place in its row of the kept token into which a
            dropped token's residual stream, as it entered the layer, is averaged; −1 for none,
            and for what is kept.
        added: likewise for what the layer added to it.
    """

    keep: Tensor
    residual: Tensor
    added: Tensor


@dataclass
class Watch:
    """One layer's dropping of tokens, in one forward pass.

    Attributes:
        forest: what the layer sees; after it dropped, what is left.
        choose: gives the (rows, length) bool mask of prompt tokens to keep; or, after the layer,
            what becomes of the others besides.
        before_scan: drop between convolution and scan, not after the layer.
        index: (n,) int64, the tokens left, in the flat order of the forest that the layer saw;
            None until it dropped some.
    """

    forest: Forest
    choose: Callable[[Shown], Tensor | Merging]
    before_scan: bool = False
    index: Tensor | None = None
    _shown: Shown | None = None
    _merged: tuple[Stage, Merging] | None = None

    def scanning(self, shown: Shown) -> Stage | None:
        """Take in what enters the scan; give the thinner stage where tokens are dropped here."""
        self._shown = shown
        return self._drop(shown) if self.before_scan else None

    def finish(self, mixed: Tensor) -> None:
        """Take in what the mixer gives out, flat; drop tokens unless that is done.

        Args:
            mixed: (tokens, d_model).
        """
        if not self.before_scan and self._shown is not None:
            self._drop(self._shown._replace(output=self._shown.stage.rows(mixed)))
        self._shown = None

    def left(self, before: Tensor, after: Tensor) -> Tensor:
        """Give what is left of the residual stream, `before` and `after` the layer, flat."""
        if self.index is None or self.before_scan:
            return after
        if self._merged is None:
            return after.index_select(0, self.index)
        stage, merging = self._merged
        added = averaged(after - before, merging.added, stage)
        return (averaged(before, merging.residual, stage) + added).index_select(0, self.index)

    def _drop(self, shown: Shown) -> Stage:
        choice = self.choose(shown)
        if isinstance(choice, Merging):
            assert not self.before_scan
            self._merged = shown.stage, choice
        keep = choice.keep if isinstance(choice, Merging) else choice
        self.forest, self.index = self.forest.thin(keep)
        return self.forest.stages[0]


def averaged(flat: Tensor, into: Tensor, stage: Stage) -> Tensor:
    """Replace tokens by the mean of themselves and of all that are averaged into them.

    Args:
        flat: (tokens, width), the stage's first.
        into: (rows, length) int64, as in `Merging`.
        stage: the rows.
    """
    starts = into.new_tensor([0, *accumulate(stage.lengths)][:-1])[:, None]
    target = stage.flat((into + starts).masked_fill(into < 0, -1))
    source = (target >= 0).nonzero()[:, 0]
    target = target[source]
    n = flat.new_ones(len(flat), 1).index_add(0, target, flat.new_ones(len(target), 1))
    return flat.index_add(0, target, flat[source]) / n


class Reduction(Protocol):
    """What a method does to the tokens of one forward pass."""

    def watch(self, layer: int, forest: Forest) -> Watch | None:
        """Say how a layer drops tokens; None where it drops none."""


class Reducer(Protocol):
    """A method that drops prompt tokens, as a decoder holds it.

    `chunk` is how many tokens of a prompt run through all layers before its next ones; None for
    all at once. Each chunk is then begun, scored and dropped from as a prompt of its own.
    """

    chunk: int | None

    @property
    def drop(self) -> Drop | None:
        """How tokens go, as far as counting FLOPs needs it; None where none do."""

    def begin(self, forest: Forest) -> Reduction:
        """Begin a forward pass over a forest whose first stage's rows are prompts."""

    def accounted(self) -> AbstractContextManager[list[dict[str, Any]]]:
        """Keep an account of what is dropped; at the end its rows stand in the list."""
