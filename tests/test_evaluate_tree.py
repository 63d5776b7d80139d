"""Which requests share their beginning, and what that saves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssmbench.suites._tree import Row, Tree, alone, batches, make_row, plant, shared_prefix


def rows_of(*texts: str, context: int = 1) -> list[Row]:
    """One row a text, a token a letter; the last letter is the continuation's last token."""
    ids = [[ord(c) for c in text] for text in texts]
    return [make_row(i, t[:context], t[context:], 100) for i, t in enumerate(ids)]


def n_tokens(trees: list[Tree]) -> int:
    return sum(t.fork + sum(len(r.tokens) - t.fork for r in t.rows) for t in trees)


def test_choices_of_a_document_fork_where_they_part() -> None:
    stem = "x" * 20
    trees = plant(
        rows_of(stem + "abcd", stem + "abce", stem + "zzzz"), fork_point=shared_prefix, budget=999
    )
    # abc (the last letter is only a target) comes twice: one row; zzz is the other.
    assert [(t.fork, len(t.rows)) for t in trees] == [(20, 2)]
    assert n_tokens(trees) == 20 + 3 + 3


def test_a_chance_common_beginning_does_not_spoil_a_documents_own() -> None:
    """All begin with "Q:"; each document's choices must still share their whole question."""
    texts = [f"Q:{letter * 20}{i}{i}{i}" for letter in "abc" for i in range(4)]
    trees = plant(rows_of(*texts), fork_point=shared_prefix, budget=999)
    assert [(t.fork, len(t.rows)) for t in trees] == [(22, 4)] * 3


def test_too_little_in_common_is_not_worth_a_fork() -> None:
    trees = plant(rows_of("ab" * 10, "ac" * 10), fork_point=shared_prefix, budget=999)
    assert [t.fork for t in trees] == [19, 19]


def test_equal_rows_run_once_for_all_their_requests() -> None:
    (tree,) = plant(rows_of("abcdef", "abcdeg", "abcdef"), fork_point=shared_prefix, budget=999)
    assert [len(r.requests) for r in tree.rows] == [3]


def test_a_row_that_another_continues_ends_at_the_fork() -> None:
    stem = "x" * 20
    (tree,) = plant(rows_of(stem + "a", stem + "abcd"), fork_point=shared_prefix, budget=999)
    assert (tree.fork, len(tree.going_on)) == (20, 1)


def test_alone_shares_and_merges_nothing() -> None:
    trees = alone(rows_of("abcdef", "abcdef"), fork_point=shared_prefix)
    assert [(t.fork, len(t.going_on)) for t in trees] == [(5, 0), (5, 0)]


def test_truncation_keeps_the_last_tokens_and_one_of_context() -> None:
    row = make_row(0, [1, 2, 3, 4], [5, 6, 7], 3)
    assert (row.tokens, row.context) == ((4, 5, 6), 1)


@given(
    st.lists(st.text("ab", min_size=2, max_size=30), min_size=1, max_size=40),
    st.integers(1, 80),
)
def test_every_request_is_planted_once_and_no_more_tokens_run(
    texts: list[str], budget: int
) -> None:
    rows = rows_of(*texts)
    trees = plant(rows, fork_point=shared_prefix, budget=budget)
    numbers = [q.number for t in trees for r in t.rows for q in r.requests]
    assert sorted(numbers) == list(range(len(texts)))
    assert n_tokens(trees) <= n_tokens(alone(rows, fork_point=shared_prefix))
    for tree in trees:
        assert len({r.tokens[: tree.fork] for r in tree.rows}) == 1
        assert len(tree.rows) == 1 or n_tokens([tree]) <= budget


@given(
    st.lists(st.text("ab", min_size=2, max_size=30), min_size=1, max_size=40),
    st.integers(1, 80),
)
def test_batches_hold_every_tree_once_within_the_budget(texts: list[str], budget: int) -> None:
    trees = plant(rows_of(*texts), fork_point=shared_prefix, budget=budget)
    packed = list(batches(trees, budget=budget))
    assert sorted(t for b in packed for t in b) == sorted(trees)
    assert all(len(b) == 1 or n_tokens(b) <= budget for b in packed)
