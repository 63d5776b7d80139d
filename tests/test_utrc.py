"""UTRC: which tokens go, into which others they are averaged, and that nothing else changes."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch
from pydantic import ValidationError
from surgery_helpers import GQA, MLP, ONE_GROUP, RMS, build, context, of
from torch import Tensor

from ssmbench.errors import MethodError
from ssmbench.methods import utrc
from ssmbench.models import description as d
from ssmbench.models.forest import Forest, Stage
from ssmbench.models.reduction import averaged
from ssmbench.surgery.merging import match
from ssmbench.surgery.schedule import anchored

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder

MAMBA = d.SelectiveScan(d_inner=48, d_state=4, dt_rank=3)
MODELS = {
    "mamba": of("mamba", *[d.Layer(MAMBA, RMS)] * 5),
    "mamba2": of("mamba2", *[d.Layer(ONE_GROUP, RMS)] * 5),
    "hybrid": of(
        "hybrid_llama",
        d.Layer(ONE_GROUP, RMS, MLP),
        d.Layer(GQA, RMS, MLP),
        d.Layer(ONE_GROUP, RMS, MLP),
        d.Layer(GQA, RMS, MLP),
    ),
}
PROMPT = [7, 3, 11, 3, 50, 8, 8, 23, 9, 40, 2, 17, 33, 5, 60, 1, 29]
LABELS = [4, 12, 9]
# Float32 sums in another order; see surgery_helpers.assert_same.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def reduced(name: str, ratio: float = 0.7, **params) -> Decoder:
    model = build(MODELS[name])
    utrc.compress(
        model,
        ratio=ratio,
        params=utrc.Params(**params),
        context=context(model.description),
    )
    return model


def prompts(*rows: list[int]) -> Forest:
    forest = Forest.ragged(rows)
    return Forest(forest.tokens, forest.stages, prompted=True)


def answered(*rows: tuple[list[int], list[int]]) -> Forest:
    forest = Forest.fork([p for p, _ in rows], [a for _, a in rows], range(len(rows)))
    return Forest(forest.tokens, forest.stages, prompted=True)


def naive(model: Decoder, tokens: list[int], counts: tuple[int, ...], p: utrc.Params) -> Tensor:
    """Run one prompt token by token over the paper's steps; NaN where a token is gone."""
    h = model.embedding(torch.tensor(tokens)).float()
    alive = list(range(len(tokens)))
    for i, block in enumerate(model.layers):
        n, zeros = len(alive), torch.zeros(len(alive), dtype=torch.long)
        stood = Stage((n,), 0, None, h.device, torch.tensor(alive), (len(tokens),))
        forest = Forest(zeros, (stood,))
        after, _ = block(h, forest, None)
        drop = n - counts[i + 1] if i + 1 < len(counts) else 0
        if not drop:
            h = after
            continue
        y = block.mixer(block.norm(h), forest, None)[0]
        importance = [sum(max(0.0, float(v)) for v in y[t]) for t in range(n)]
        if p.split == "importance":
            ranked = sorted(range(n - 1), key=lambda t: importance[t])
            less = sorted(ranked[: n // 2])
        else:
            less = [t for t in range(n) if (n - 1 - t) % 2]
        more = [t for t in range(n) if t not in less]

        def cosine(a: int, b: int, y: Tensor = y) -> float:
            return float(y[a] @ y[b] / (y[a].norm() * y[b].norm()))

        partner = {a: max(more, key=lambda b: cosine(a, b)) for a in less}
        gone = sorted(less, key=lambda a: -cosine(a, partner[a]))[:drop]
        if p.pruned == "least_important":
            order = sorted(gone, key=lambda a: -importance[a])
        else:
            sign = -1 if p.pruned == "least_similar" else 1
            order = sorted(gone, key=lambda a: sign * cosine(a, partner[a]))
        left = [t for t in range(n) if t not in gone]
        parts = []
        for what, share in ((h, p.residual_merge_share), (after - h, p.merge_share)):
            merged = order[: math.floor(share * drop + 0.5)]
            parts.append(
                torch.stack(
                    [what[[t, *(a for a in merged if partner[a] == t)]].mean(0) for t in left]
                )
            )
        h = parts[0] + parts[1]
        alive = [alive[t] for t in left]
    out = torch.full((len(tokens), h.shape[1]), torch.nan)
    out[alive] = model.norm_f(h)
    return out


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"merge_share": 0.0, "residual_merge_share": 0.0},
        {"merge_share": 1.0, "split": "alternate"},
        {"merge_share": 0.3, "residual_merge_share": 0.6, "pruned": "least_similar"},
        {"pruned": "most_similar"},
    ],
    ids=str,
)
def test_every_token_is_as_a_naive_program_has_it(name: str, params: dict) -> None:
    model = reduced(name, ratio=0.6, **params)
    counts = model.reducer.counts(len(PROMPT))
    assert len(set(counts)) > 2
    found, _ = model.hidden(prompts(PROMPT))
    model.reducer = None
    expected = naive(model, PROMPT, counts, utrc.Params(**params))
    torch.testing.assert_close(found, expected, equal_nan=True, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_a_ragged_batch_are_as_they_are_alone(name: str) -> None:
    model = reduced(name)
    rows = [PROMPT, PROMPT[:5], [3], PROMPT[2:13]]
    together, _ = model.hidden(prompts(*rows))
    apart = torch.cat([model.hidden(prompts(row))[0] for row in rows])
    torch.testing.assert_close(together, apart, equal_nan=True, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_a_fork_equals_a_continuation_of_the_carried_state(name: str) -> None:
    model = reduced(name)
    rows = [(PROMPT, LABELS), (PROMPT[4:], LABELS[:1])]
    forked, _ = model.hidden(answered(*rows))
    _, state = model.hidden(prompts(*[p for p, _ in rows]))
    continued, _ = model.hidden(Forest.ragged([a for _, a in rows]), state)
    n_labels = sum(len(a) for _, a in rows)
    assert not forked[-n_labels:].isnan().any()
    torch.testing.assert_close(forked[-n_labels:], continued, **CLOSE)


def test_labels_do_not_move_what_happens_to_the_prompt() -> None:
    model = reduced("mamba2")
    alone, _ = model.hidden(prompts(PROMPT))
    for labels in (LABELS, [60], []):
        forked, _ = model.hidden(answered((PROMPT, labels)))
        torch.testing.assert_close(forked[: len(PROMPT)], alone, equal_nan=True, **CLOSE)


def test_the_last_prompt_token_is_kept_and_the_given_fraction_goes() -> None:
    for ratio in (0.3, 0.5, 0.9):
        model = reduced("mamba", ratio, anchors=(0, 1, 2, 3))
        found, _ = model.hidden(prompts(PROMPT * 10))
        gone = found.isnan().all(1)
        assert not gone[-1]
        assert gone.sum() == len(gone) - math.floor((1 - ratio) * len(gone) + 0.5)


def test_ratio_0_is_dense_bit_for_bit() -> None:
    model = reduced("mamba2", 0)
    dense = build(MODELS["mamba2"])
    forest = answered((PROMPT, LABELS))
    assert torch.equal(model.hidden(forest)[0], dense.hidden(forest)[0])


def test_twice_the_same_bits() -> None:
    forest = answered((PROMPT, LABELS))
    first, second = (reduced("mamba2").hidden(forest)[0] for _ in range(2))
    assert torch.equal(first.nan_to_num(7), second.nan_to_num(7))


def test_a_match_by_hand() -> None:
    # Tokens 1 and 3 stay. Of the others, 0 points as 1 does, 2 between the two, 4 away from both.
    features = torch.tensor([[2.0, 0], [5, 0], [1, 0.9], [0, 3], [-1, -1.1]])
    kept = torch.tensor([False, True, False, True, False])
    found = match(features, kept, 2)
    assert found.dropped.tolist() == [0, 2]
    assert found.partner.tolist() == [1, 1]
    torch.testing.assert_close(found.similarity, torch.tensor([1.0, 1 / 1.81**0.5]))


def test_tokens_with_one_partner_count_alike_in_its_mean() -> None:
    flat = torch.tensor([[1.0], [4.0], [7.0], [10.0], [20.0], [99.0]])
    stage = Stage((3, 2), 0, None, torch.device("cpu"))
    into = torch.tensor([[1, -1, 1], [1, -1, -1]])
    found = averaged(flat, into, stage)[:, 0]
    assert found.tolist() == [1, 4, 7, 10, 15, 99]


@pytest.mark.parametrize("tokens", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_the_schedule_ends_at_the_ratio_and_never_more_than_halves(tokens, ratio) -> None:
    counts = anchored(tokens, 8, ratio=ratio, anchors=(1, 2, 4, 5))
    assert counts[:2] == (tokens, tokens)
    assert all(b <= a <= 2 * b for a, b in itertools.pairwise(counts))
    assert abs(counts[-1] - (1 - ratio) * tokens) <= 1
    assert len(set(counts)) <= 5


def layers_of(n: int, ratio: float, **params) -> tuple[int, ...]:
    return utrc.anchors(range(n - 1), n, ratio=ratio, params=utrc.Params(**params), where="here")


def test_anchors_are_the_papers_and_enough_for_the_ratio() -> None:
    assert layers_of(64, 0.3) == (12, 17, 22, 27, 32, 37, 42)
    assert layers_of(48, 0.3) == (10, 15, 20, 25, 30, 35)
    assert layers_of(24, 0.9) == (4, 6, 8, 10, 12, 14, 16)
    assert layers_of(48, 0.99) == (0, 6, 13, 20, 26, 33, 40)
    assert layers_of(2, 0.5) == (0,)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(MethodError, match=r"found 1 anchor layers for ratio 0\.9; expected 4"):
        layers_of(2, 0.9)
    with pytest.raises(MethodError, match=r"found anchors \[1\]; expected layers with an SSM"):
        reduced("hybrid", 0.3, anchors=(1,))
    with pytest.raises(MethodError, match="drops tokens already"):
        utrc.compress(
            reduced("mamba2"),
            ratio=0.5,
            params=utrc.Params(),
            context=context(MODELS["mamba2"]),
        )
    with pytest.raises(ValidationError):
        utrc.Params(merge_share=1.5)
