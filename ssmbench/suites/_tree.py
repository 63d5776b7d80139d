"""Which requests run together: shared beginnings become one prefix that is forked.

Several requests of one document begin with the same tokens (a question, then each of its
answers). A `Tree` holds such requests: the shared tokens are run once, each rest is run
from the state that they leave. What may be shared is decided on token ids, never on text,
since a tokenizer may join the end of a context with the start of a continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

LOOK_BACK = 64
SUFFIX_STEP = 8


class Request(NamedTuple):
    """One continuation to score: where its answer goes, and its tokens (at least one)."""

    number: int
    targets: Sequence[int]


class Row(NamedTuple):
    """One input of the model and the requests that are read off it.

    Attributes:
        tokens: the input ids, context then continuation without its last token.
        context: how many of them are context, at least 1.
        requests: those whose targets are the tokens after the last len(targets) positions.
    """

    tokens: tuple[int, ...]
    context: int
    requests: tuple[Request, ...]


class Tree(NamedTuple):
    """Rows that agree in their first `fork` tokens; these run once."""

    fork: int
    rows: tuple[Row, ...]

    @property
    def going_on(self) -> list[Row]:
        """The rows that have tokens after the fork."""
        return [row for row in self.rows if len(row.tokens) > self.fork]

    @property
    def longest_suffix(self) -> int:
        """The most tokens that a row has after the fork."""
        return max(len(row.tokens) - self.fork for row in self.rows)


class Spots(NamedTuple):
    """Where a batch is read: flat position, expected token, and whose sum it enters."""

    positions: list[int]
    targets: list[int]
    owners: list[int]


ForkPoint = Callable[[Row, Row], int]


def shared_prefix(a: Row, b: Row) -> int:
    """Count the leading tokens that two rows have in common: exact for any causal model.

    With itself a row shares everything, so that it runs as one segment.
    """
    if a is b:
        return len(a.tokens)
    n = 0
    for x, y in zip(a.tokens, b.tokens, strict=False):
        if x != y:
            break
        n += 1
    return n


def whole_context(a: Row, b: Row) -> int:
    """Give the context's length where two rows have the same one, else 0.

    For models that drop tokens of a prompt: what is left of it depends on all of it, and what
    follows is never dropped. A row alone is cut there, too.
    """
    return a.context if a.tokens[: a.context] == b.tokens[: b.context] else 0


def make_row(number: int, context: Sequence[int], continuation: Sequence[int], limit: int) -> Row:
    """Join context and continuation, keeping the last `limit` + 1 tokens, as HFLM does.

    Raises:
        ValueError: one of the two is empty, or the continuation is longer than `limit`.
    """
    if not context or not 0 < len(continuation) <= limit:
        raise ValueError(f"{len(context)} context and {len(continuation)} continuation tokens")
    tokens = (*context, *continuation)[-(limit + 1) : -1]
    kept = len(tokens) - len(continuation) + 1
    return Row(tokens, kept, (Request(number, continuation),))


def plant(rows: Iterable[Row], *, fork_point: ForkPoint, budget: int) -> list[Tree]:
    """Divide rows into trees so that the fewest tokens are run.

    Equal rows are merged. The others are sorted by their tokens, so that those with a
    common beginning are neighbours, and the sorted list is cut where most is saved, by
    dynamic programming. A tree saves (rows - 1) · fork tokens; that must be worth a second
    pass of all its rows through the scan (`_fork_cost`).

    Args:
        rows: in any order.
        fork_point: how many leading tokens two rows may share; with itself, where a row
            alone is cut. Must be symmetric and not exceed either row's length.
        budget: the most tokens in one tree; a longer single row is a tree of its own.
    """
    unique = sorted(_merge(rows, fork_point), key=lambda row: row.tokens)
    shared = [fork_point(a, b) for a, b in pairwise(unique)]
    best = [0] * (len(unique) + 1)
    cut = [0] * (len(unique) + 1)
    for end in range(1, len(unique) + 1):
        best[end], cut[end] = best[end - 1], end - 1
        fork, length = len(unique[end - 1].tokens), len(unique[end - 1].tokens)
        for start in range(end - 2, max(-1, end - 1 - LOOK_BACK), -1):
            fork = min(fork, shared[start])
            length += len(unique[start].tokens)
            saved = (end - start - 1) * fork
            if not fork or length - saved > budget:
                break
            worth = best[start] + saved - _fork_cost(length)
            if worth > best[end]:
                best[end], cut[end] = worth, start
    return [_tree(unique[start:end], fork_point) for start, end in _cuts(cut)]


def alone(rows: Iterable[Row], *, fork_point: ForkPoint) -> list[Tree]:
    """Give each row a tree of its own: nothing is shared. The naive twin of `plant`."""
    return [_tree([row], fork_point) for row in rows]


def batches(trees: Sequence[Tree], *, budget: int) -> Iterator[list[Tree]]:
    """Pack trees, longest first, so that a batch padded to its longest fits the budget.

    Trees with suffixes of about one length stand together, among them those with prefixes
    of one length: scans are padded to the longest of each. A tree that does not fit alone
    is a batch of its own.
    """
    batch: list[Tree] = []
    for tree in sorted(trees, key=_size, reverse=True):
        if batch and _padded([*batch, tree]) > budget:
            yield _longest_first(batch)
            batch = []
        batch.append(tree)
    if batch:
        yield _longest_first(batch)


def _longest_first(batch: list[Tree]) -> list[Tree]:
    return sorted(batch, key=lambda tree: tree.fork, reverse=True)


def _size(tree: Tree) -> tuple[int, int]:
    return tree.longest_suffix // SUFFIX_STEP, tree.fork


def _fork_cost(length: int) -> int:
    """Give the tokens that a fork must save in a tree whose rows have `length` together."""
    return 8 + length // 10


def find_spots(batch: Sequence[Tree]) -> Spots:
    """Find the flat positions that predict the continuations of a batch."""
    spots = Spots([], [], [])
    begins, end = {}, sum(tree.fork for tree in batch)
    for i, row in tails(batch):
        begins[id(row)], end = end, end + len(row.tokens) - batch[i].fork
    prefix, owner = 0, 0
    for tree in batch:
        for row in tree.rows:
            n, after = len(row.tokens), begins.get(id(row), 0) - tree.fork
            for request in row.requests:
                start = n - len(request.targets)
                before = range(prefix + start, prefix + min(n, tree.fork))
                behind = range(after + max(start, tree.fork), after + n)
                spots.positions.extend(chain(before, behind))
                spots.targets.extend(request.targets)
                spots.owners.extend([owner] * len(request.targets))
                owner += 1
        prefix += tree.fork
    return spots


def tails(batch: Sequence[Tree]) -> list[tuple[int, Row]]:
    """Give the rows that go on after their tree's fork, with its number, the longest first.

    So rows of about one length are neighbours, and little is padded.
    """
    going_on = [(i, row) for i, tree in enumerate(batch) for row in tree.going_on]
    return sorted(going_on, key=lambda tail: batch[tail[0]].fork - len(tail[1].tokens))


def _merge(rows: Iterable[Row], fork_point: ForkPoint) -> Iterable[Row]:
    """Join rows of equal tokens and equal fork point into one with all their requests."""
    found: dict[tuple[tuple[int, ...], int], Row] = {}
    for row in rows:
        key = row.tokens, fork_point(row, row)
        seen = found.get(key)
        found[key] = row._replace(requests=seen.requests + row.requests) if seen else row
    return found.values()


def _tree(rows: Sequence[Row], fork_point: ForkPoint) -> Tree:
    pairs = list(pairwise(rows)) or [(rows[0], rows[0])]
    return Tree(min(fork_point(a, b) for a, b in pairs), tuple(rows))


def _cuts(cut: Sequence[int]) -> list[tuple[int, int]]:
    """Follow the cuts back from the end; gives (start, end) in order."""
    found, end = [], len(cut) - 1
    while end:
        found.append((cut[end], end))
        end = cut[end]
    return found[::-1]


def _padded(trees: Sequence[Tree]) -> int:
    prefixes = len(trees) * max(tree.fork for tree in trees)
    suffixes = sum(len(tree.going_on) for tree in trees)
    return prefixes + suffixes * max(tree.longest_suffix for tree in trees)
