"""Simba's fine-tuning loss: the language-model loss with tokens dropped, plus the one without.

Source: Simba, arXiv:2505.20698, Table 2: of each training sequence another fraction of tokens
is dropped, drawn from [0, 0.9]; the loss is taken "on available logits", of which each
has for its target the token that followed it in the original sequence. Equal weights of both
parts are our reading, and so is that each sequence counts alike, however many tokens it has left:
then a step does not depend on which sequences run together.

Which tokens stay is chosen without gradients. As in the paper, the choice looks at the sequence's
last token, so that the kept set tells a little of what comes.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.errors import MethodError
from ssmbench.finetune.losses import ce_loss
from ssmbench.models.forest import Forest
from ssmbench.surgery.tokens import TokenReducer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ssmbench.models.decoder import Decoder


class DenseSparse(NamedTuple):
    """A loss and its parts, scalars in nats.

    Attributes:
        total: dense + sparse, with a gradient.
        dense: over all tokens of a pass that drops none.
        sparse: over the tokens that are left.
    """

    total: Tensor
    dense: Tensor
    sparse: Tensor


def sample_ratio(low: float, high: float, *, seed: int, number: int) -> float:
    """Draw the fraction of its tokens that a window loses, uniformly.

    Args:
        low: the least.
        high: the most, below 1.
        seed: of the training.
        number: the window's place in the whole training; the draw depends on both alone.
    """
    return random.Random(f"{seed} {number}").uniform(low, high)


def check_ratios(model: Decoder, low: float, high: float) -> None:
    """Refuse a model that drops no tokens, or ratios down to which its layers cannot.

    Raises:
        MethodError: it is so.
    """
    _reducer(model).at_ratios((low, high))


def dense_sparse_loss(
    model: Decoder, ids: Tensor, ratios: Sequence[float], *, piece: int | None = None
) -> DenseSparse:
    """Give the mean over sequences of both parts.

    Args:
        model: whose reducer ranks and drops tokens; its own ratio does not matter.
        ids: (batch, length) int64, length ≥ 2: all but the last are read, all but the first
            are targets.
        ratios: of each sequence, the fraction of its tokens gone at the last layer, in [0, 1).
        piece: positions whose logits exist at once, as in `ce_loss`.

    Raises:
        MethodError: the model drops no tokens, or its layers cannot drop so many.
    """
    reducer = _reducer(model).at_ratios(ratios)
    inputs, targets = ids[:, :-1], ids[:, 1:].flatten()
    forest = Forest.batch(inputs)
    hidden, _ = model.hidden(forest, keep_state=False)
    dense = ce_loss(hidden, model.lm_head, targets, None, piece=piece)

    hidden, index = model.left(replace(forest, prompted=True), reducer)
    row = index // inputs.shape[1]
    weights = 1 / row.bincount(minlength=len(ids))[row]
    sparse = ce_loss(hidden, model.lm_head, targets[index], None, weights=weights, piece=piece)
    return DenseSparse(dense + sparse, dense.detach(), sparse.detach())


def _reducer(model: Decoder) -> TokenReducer:
    if not isinstance(model.reducer, TokenReducer):
        raise MethodError(
            f"{model.description.family}: found a model that drops no tokens; expected one that "
            "does, since the loss is taken with and without them. Chain a method that does, such "
            "as `simba`, or choose another `fine_tune`."
        )
    return model.reducer
