"""Simba's dense+sparse loss against each sequence run alone, and what its gradient must reach."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from token_helpers import MODELS, build, drawn, record, reduce, written_out
from torch import Tensor
from torch.testing import assert_close

from ssmbench.errors import MethodError
from ssmbench.finetune.losses import ce_loss
from ssmbench.finetune.sparse import check_ratios, dense_sparse_loss, sample_ratio
from ssmbench.methods import simba, utrc
from ssmbench.models.forest import Forest
from ssmbench.surgery import token_scores
from ssmbench.surgery.context import MethodContext

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder

RATIOS = (0.0, 0.35, 0.7, 0.9)
LENGTH = 22
# Float32 sums in another order, through six layers and back.
CLOSE = {"rtol": 1e-3, "atol": 2e-5}


def ids(n: int = len(RATIOS), length: int = LENGTH) -> Tensor:
    return torch.tensor(drawn(*[length] * n))


def trainable(name: str, **params) -> Decoder:
    return reduce(build(MODELS[name]).requires_grad_(requires_grad=True), 0.5, **params)


def alone(model: Decoder, row: Tensor, ratio: float) -> Tensor:
    """Give one sequence's sparse loss: block by block, with the tokens that are left gathered."""
    read = row[:-1].tolist()
    counts = simba.counts(model.description, ratio=ratio, params=simba.Params())(len(read))
    hidden, stood = written_out(model, read, counts, torch.no_grad()(token_scores.by_influence))
    following = torch.tensor([row[t + 1] for t in stood])  # in the sequence, not among the kept
    return F.cross_entropy(model.logits(hidden), following)


def gradients(loss: Tensor, model: Decoder) -> dict[str, Tensor]:
    names, leaves = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = expected[name].abs().max().clamp_min(1e-3)
        assert_close(
            gradient / scale, expected[name] / scale, **CLOSE, msg=partial("{}: {}".format, name)
        )


@pytest.mark.parametrize("name", ["mamba", "mamba2", "phi_mamba", "hybrid"])
def test_it_is_the_mean_over_sequences_that_run_alone(name):
    model, rows = trainable(name), ids()
    found = dense_sparse_loss(model, rows, RATIOS, piece=5)
    dense = torch.stack([F.cross_entropy(model(row[None, :-1])[0], row[1:]) for row in rows]).mean()
    sparse = torch.stack(
        [alone(model, row, ratio) for row, ratio in zip(rows, RATIOS, strict=True)]
    ).mean()
    assert_close(found.dense, dense, **CLOSE)
    assert_close(found.sparse, sparse, **CLOSE)
    assert_close(found.total, dense + sparse, **CLOSE)
    assert_same_gradients(gradients(found.total, model), gradients(dense + sparse, model))


def test_the_weights_of_both_parts_are_one():
    model, rows = trainable("mamba2"), ids()
    found = dense_sparse_loss(model, rows, RATIOS)
    assert torch.equal(found.total, found.dense + found.sparse)
    assert found.total.requires_grad
    assert not found.dense.requires_grad
    assert not found.sparse.requires_grad


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_where_nothing_is_dropped_both_parts_are_equal(name):
    found = dense_sparse_loss(trainable(name), ids(), (0.0,) * 4)
    assert torch.equal(found.dense, found.sparse)


def test_each_sequence_loses_its_own_fraction():
    model = trainable("mamba2")
    seen = record(model)
    dense_sparse_loss(model, ids(), RATIOS)
    last = dict(seen)[max(layer for layer, _ in seen)]
    # What enters the layer before the last, of 21: the last layer's own number is a fifth lower.
    expected = [
        simba.counts(model.description, ratio=ratio, params=simba.Params())(LENGTH - 1)[-2]
        for ratio in RATIOS
    ]
    assert [len(places) for places in last] == expected
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("share", [2, 3])
def test_sequences_that_run_in_parts_give_the_whole_ones_loss(share):
    model, rows = trainable("mamba"), ids()
    whole = dense_sparse_loss(model, rows, RATIOS)
    parts = [
        len(rows[i : i + share])
        / len(rows)
        * dense_sparse_loss(model, rows[i : i + share], RATIOS[i : i + share]).total
        for i in range(0, len(rows), share)
    ]
    assert_close(sum(parts), whole.total, **CLOSE)


def test_a_choice_has_no_gradient_and_what_is_kept_has():
    model, rows = trainable("mamba2"), ids(1)
    graphs = []
    score = model.reducer.score

    def noted(shown, turn):
        scores = score(shown, turn)
        graphs.append((scores.requires_grad, shown.x.requires_grad))
        return scores

    model.reducer.score = noted
    found = dense_sparse_loss(model, rows, (0.9,))
    assert graphs
    assert set(graphs) == {(False, True)}
    # Less the dense part's, what is left is the sparse part's own; it reaches every weight.
    dense = F.cross_entropy(model(rows[:, :-1])[0], rows[0, 1:])
    own = gradients(found.total - dense, model)
    assert all(g.isfinite().all() for g in own.values())
    assert all(g.abs().max() > 1e-6 for n, g in own.items() if "embedding" not in n)


def test_a_target_is_what_followed_in_the_sequence():
    model, rows = trainable("mamba2", criterion="uniform"), ids(1, 8)
    found = dense_sparse_loss(model, rows, (0.7,))
    stood = left_of(model, rows[:, :-1], 0.7)
    assert stood[-1] == 6
    assert len(stood) < 7
    hidden, _ = model.left(prompted(rows[:, :-1]), model.reducer.at_ratios((0.7,)))
    among_kept = [*stood[1:], 7]
    by_sequence = ce_loss(hidden, model.lm_head, rows[0, [t + 1 for t in stood]], None)
    assert_close(found.sparse, by_sequence.detach(), **CLOSE)
    assert among_kept != [t + 1 for t in stood]
    wrong = ce_loss(hidden, model.lm_head, rows[0, among_kept], None)
    assert abs(wrong - found.sparse) > 0.01


def prompted(rows: Tensor) -> Forest:
    return replace(Forest.batch(rows), prompted=True)


def left_of(model: Decoder, rows: Tensor, *ratios: float) -> list[int]:
    return model.left(prompted(rows), model.reducer.at_ratios(ratios))[1].tolist()


def test_what_is_left_stands_where_hidden_has_numbers():
    model, rows = trainable("mamba"), ids()
    hidden, _ = model.hidden(prompted(rows))
    kept, index = model.left(prompted(rows), model.reducer)
    assert torch.equal(hidden[index], kept)
    assert hidden.isnan().any(1).sum() == len(hidden) - len(index)


@pytest.mark.parametrize("params", [{"chunk": 6}, {"site": "before_scan"}, {"criterion": "random"}])
def test_every_form_of_simba_trains_as_alone(params):
    model, rows = trainable("mamba", **params), ids()
    found = dense_sparse_loss(model, rows, RATIOS)
    each = [
        dense_sparse_loss(reduce(model, 0.6, **params), rows[i : i + 1], (ratio,)).total
        for i, ratio in enumerate(RATIOS)
    ]
    assert_close(found.total, torch.stack(each).mean(), **CLOSE)
    assert_same_gradients(gradients(found.total, model), gradients(sum(each) / len(each), model))


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_utrc_trains_as_alone(name):
    rows = ids()
    model = build(MODELS[name]).requires_grad_(requires_grad=True)

    def drops(ratio: float) -> None:
        model.reducer = None
        context = MethodContext(0, None)
        utrc.compress(model, ratio=ratio, params=utrc.Params(), context=context)

    drops(0.5)
    found = dense_sparse_loss(model, rows, RATIOS)
    each = []
    for row, ratio in zip(rows, RATIOS, strict=True):
        dense = F.cross_entropy(model(row[None, :-1])[0], row[1:])
        drops(ratio)
        hidden, _ = model.hidden(prompted(row[None, :-1]), keep_state=False)
        stood = (~hidden.isnan()).all(1).nonzero()[:, 0]
        assert ratio == 0 or len(stood) < LENGTH - 1
        each.append(dense + F.cross_entropy(model.logits(hidden[stood]), row[stood + 1]))
    expected = torch.stack(each).mean()
    assert_close(found.total, expected, **CLOSE)
    assert_same_gradients(gradients(found.total, model), gradients(expected, model))


def test_ratios_are_drawn_evenly_and_by_seed_and_place_alone():
    ratios = [sample_ratio(0.1, 0.9, seed=3, number=i) for i in range(-100, 900)]
    assert all(0.1 <= ratio <= 0.9 for ratio in ratios)
    assert abs(sum(ratios) / 1000 - 0.5) < 0.03
    assert len(set(ratios)) == 1000
    torch.manual_seed(1)
    assert sample_ratio(0.1, 0.9, seed=3, number=7) == ratios[107]
    assert sample_ratio(0.1, 0.9, seed=4, number=7) != ratios[107]


def test_a_model_that_drops_nothing_is_refused():
    model = build(MODELS["mamba"])
    with pytest.raises(MethodError, match="found a model that drops no tokens"):
        check_ratios(model, 0.0, 0.9)
    with pytest.raises(MethodError, match="found a model that drops no tokens"):
        dense_sparse_loss(model, ids(1), (0.5,))


def test_ratios_that_the_layers_cannot_reach_are_refused():
    model = build(MODELS["mamba"])
    params = utrc.Params(anchors=(1, 2))
    utrc.compress(model, ratio=0.5, params=params, context=MethodContext(0, None))
    check_ratios(model, 0.0, 0.75)
    with pytest.raises(MethodError, match="found 2 anchor layers"):
        check_ratios(model, 0.0, 0.9)
