"""Scoring trees of requests in one forward pass: needs torch alone.

Projections run on packed tokens; only convolution, scan and attention see the tree, and the head
only the positions that predict a continuation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssmbench.models.forest import Forest
from ssmbench.suites._tree import Tree, find_spots, tails

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.models.decoder import Decoder

LOGITS_BUDGET = 1 << 25
"""Elements of the largest logits tensor: 128 MiB in float32."""


def batch_scores(model: Decoder, batch: Sequence[Tree]) -> tuple[Tensor, Tensor]:
    """Score every request of a batch of trees, in the order of trees, rows and requests.

    Args:
        model: in evaluation mode; where it drops tokens, it does so of the prefixes.
        batch: trees that run together.

    Returns:
        nats: (requests,) float64 on the CPU, the log-likelihood of each continuation.
        greedy: (requests,) bool on the CPU, whether each of its tokens is the argmax.
    """
    spots = find_spots(batch)
    forest = forest_of(batch, model.device, prompted=model.reducer is not None)
    hidden, _ = model.hidden(forest, keep_state=False)
    nats, greedy = read(model, hidden, spots.positions, spots.targets)
    owners = torch.tensor(spots.owners)
    n = sum(len(row.requests) for tree in batch for row in tree.rows)
    zeros = torch.zeros(n, dtype=torch.float64)
    misses = zeros.index_add(0, owners, (~greedy).double())
    return zeros.index_add(0, owners, nats), misses == 0


def read(
    model: Decoder, hidden: Tensor, positions: Sequence[int], targets: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Read the log-probability of tokens off hidden states, the head only where needed.

    Args:
        model: gives `logits` of hidden states.
        hidden: (T, d_model), flat.
        positions: rows of `hidden`; a row may occur several times and is projected once.
        targets: the token expected after each position.

    Returns:
        nats: (len(positions),) float64 on the CPU, log softmax in float32.
        greedy: (len(positions),) bool on the CPU, whether the target is the argmax.
    """
    where = torch.tensor(positions, dtype=torch.long, device=hidden.device)
    expected = torch.tensor(targets, dtype=torch.long, device=hidden.device)
    rows, inverse = torch.unique(where, return_inverse=True)
    order = torch.argsort(inverse)
    chunk = max(1, LOGITS_BUDGET // model.description.vocab_size)
    bounds = torch.arange(0, len(rows) + chunk, chunk, device=hidden.device)
    ends = torch.searchsorted(inverse[order], bounds).tolist()
    nats = torch.empty(len(where), device=hidden.device)
    greedy = torch.empty(len(where), dtype=torch.bool, device=hidden.device)
    for i, first in enumerate(range(0, len(rows), chunk)):
        logits = model.logits(hidden.index_select(0, rows[first : first + chunk])).float()
        mine = order[ends[i] : ends[i + 1]]
        local, token = inverse[mine] - first, expected[mine]
        chosen, greedy[mine] = logits[local, token], logits.argmax(-1)[local] == token
        nats[mine] = chosen - _logsumexp_of_own(logits)[local]
    return nats.cpu().double(), greedy.cpu()


def _logsumexp_of_own(logits: Tensor) -> Tensor:
    """Give (rows,) of (rows, vocabulary), which is overwritten: memory of its size is slow."""
    most = logits.amax(-1, keepdim=True)
    return logits.sub_(most).exp_().sum(-1).log_().add_(most[:, 0])


def forest_of(batch: Sequence[Tree], device: torch.device, *, prompted: bool) -> Forest:
    """Make the forest that a batch of trees runs as: prefixes, then the rows that go on."""
    prefixes = [tree.rows[0].tokens[: tree.fork] for tree in batch]
    going_on = tails(batch)
    if not going_on:
        return replace(Forest.ragged(prefixes, device=device), prompted=prompted)
    parents = [i for i, _ in going_on]
    suffixes = [row.tokens[batch[i].fork :] for i, row in going_on]
    forest = Forest.fork(prefixes, suffixes, parents, device=device)
    return replace(forest, prompted=prompted)
