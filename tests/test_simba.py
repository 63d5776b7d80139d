"""Simba on every family, in float64: one pass against steps, rows alone, chunks, plain programs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from token_helpers import (
    MODELS,
    answered,
    build,
    deep,
    drawn,
    left,
    prompts,
    record,
    reduce,
    written_out,
)
from torch.testing import assert_close

from ssmbench import plugins
from ssmbench.errors import MethodError
from ssmbench.kernels import naive
from ssmbench.methods import simba
from ssmbench.models import description as d
from ssmbench.models.forest import Forest
from ssmbench.models.reduction import Watch
from ssmbench.surgery import token_scores
from ssmbench.surgery.context import MethodContext
from ssmbench.surgery.schedule import counts

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CRITERIA = ("influence", "random", "uniform", "recent", "dt_norm", "clip_sum", "delete")


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
    """Let what the models do in float32 be done in float64, so that rounding hides nothing."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(params=MODELS)
def model(request) -> Decoder:
    return build(MODELS[request.param])


def test_ratio_zero_is_the_dense_model_bit_by_bit(model):
    forest = answered(drawn(20, 9), drawn(4, 2, seed=1), [0, 1])
    dense, _ = model.hidden(replace(forest, prompted=False))
    reduce(model, ratio=0, chunk=4)
    assert model.reducer is None
    assert torch.equal(model.hidden(forest)[0], dense)


def test_a_text_without_a_prompt_runs_densely(model):
    ids = torch.tensor(drawn(30))
    dense = model(ids)
    assert torch.equal(reduce(model)(ids), dense)


@pytest.mark.parametrize("aggregate", ["max", "absmax", "l2"])
@pytest.mark.parametrize("bias", ["input", "both"])
def test_it_is_what_a_plain_program_makes_of_the_tokens_that_are_left(model, bias, aggregate):
    (ids,) = drawn(33)
    wanted = counts(33, len(model.layers), ratio=0.7)
    score = partial(token_scores.by_influence, bias=bias, aggregate=aggregate)
    expected, stood = written_out(model, ids, wanted, score)
    found, _ = reduce(model, bias=bias, aggregate=aggregate).hidden(prompts(ids))
    assert left(found) == stood
    assert_close(found[stood], expected, **CLOSE)


@pytest.mark.parametrize(("criterion", "score"), [
    ("recent", lambda shown: torch.arange(shown.x.shape[1])[None]),
    ("clip_sum", lambda shown: shown.output.clamp_min(0).sum(-1)),
    ("delete", token_scores.by_deletion),
])  # fmt: skip
def test_other_criteria_are_what_the_plain_program_makes_of_them(model, criterion, score):
    (ids,) = drawn(30, seed=3)
    expected, stood = written_out(model, ids, counts(30, len(model.layers), ratio=0.7), score)
    found, _ = reduce(model, criterion=criterion).hidden(prompts(ids))
    assert left(found) == stood
    assert_close(found[stood], expected, **CLOSE)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_dt_norm_is_the_norm_of_the_step(family):
    model = build(MODELS[family])
    (ids,) = drawn(30, seed=3)

    def score(shown):
        mixer = shown.mixer
        bias = mixer.dt_proj.bias if family == "mamba" else mixer.dt_bias
        return F.softplus(shown.raw + bias).square().sum(-1)

    _, stood = written_out(model, ids, counts(30, 6, ratio=0.7), score)
    assert left(reduce(model, criterion="dt_norm").hidden(prompts(ids))[0]) == stood


@pytest.mark.parametrize("site", ["after_mixer", "before_scan"])
def test_one_pass_equals_a_pruned_prefill_and_single_steps(model, site):
    rows, answers = drawn(25, 6), drawn(7, 7, seed=1)
    reduce(model, site=site)
    whole, _ = model.hidden(answered(rows, answers, [0, 1]))
    hidden, state = model.hidden(prompts(*rows))
    assert_close(hidden, whole[: len(hidden)], **CLOSE, equal_nan=True)
    following = whole[31:].view(2, 7, -1)
    for t in range(7):
        step, state = model.hidden(Forest.batch(torch.tensor(answers)[:, t : t + 1]), state)
        assert_close(step, following[:, t], **CLOSE)


@pytest.mark.parametrize("site", ["after_mixer", "before_scan"])
def test_several_tokens_at_once_continue_a_pruned_prompt_as_single_ones_do(model, site):
    """What a cache that starts its scan anew would fail."""
    (row,), (answer,) = drawn(25), drawn(6, seed=1)
    reduce(model, site=site)
    _, state = model.hidden(prompts(row))
    at_once, _ = model.hidden(Forest.batch(torch.tensor([answer])), state)
    whole, _ = model.hidden(answered([row], [answer], [0]))
    assert_close(at_once, whole[25:], **CLOSE)


def test_greedy_words_are_those_that_one_pass_would_say(model):
    (row,) = drawn(25)
    reduce(model)
    hidden, state = model.hidden(prompts(row))
    said = [int(model.logits(hidden[-1]).argmax())]
    for _ in range(8):
        hidden, state = model.hidden(Forest.batch(torch.tensor([said[-1:]])), state)
        said.append(int(model.logits(hidden[-1]).argmax()))
    whole, _ = model.hidden(answered([row], [said[:-1]], [0]))
    assert model.logits(whole[24:]).argmax(-1).tolist() == said


@pytest.mark.parametrize("site", ["after_mixer", "before_scan"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_rows_do_not_know_of_each_other(criterion, site):
    if (criterion, site) == ("clip_sum", "before_scan"):
        site = "after_mixer"
    model = reduce(build(MODELS["mamba"]), criterion=criterion, site=site)
    rows, answers, parents = drawn(31, 12, 2, 1), drawn(4, 1, 6, 3, 2, seed=1), [0, 0, 1, 2, 3]
    whole, _ = model.hidden(answered(rows, answers, parents))
    parts = whole.split([len(r) for r in (*rows, *answers)])
    for row, part in zip(rows, parts[:4], strict=True):
        alone, _ = model.hidden(prompts(row))
        assert left(part) == left(alone)
        assert_close(part, alone, **CLOSE, equal_nan=True)
    for answer, parent, part in zip(answers, parents, parts[4:], strict=True):
        alone, _ = model.hidden(answered([rows[parent]], [answer], [0]))
        assert_close(part, alone[len(rows[parent]) :], **CLOSE)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_of_any_rows_the_right_tokens_are_left(data):
    lengths = data.draw(st.lists(st.integers(1, 18), min_size=1, max_size=3))
    answers = [data.draw(st.integers(0, 4)) for _ in lengths]
    criterion = data.draw(st.sampled_from([c for c in CRITERIA if c != "dt_norm"]))
    ratio = data.draw(st.floats(0.05, 0.95))
    chunk = data.draw(st.sampled_from([None, 2, 5]))
    name = data.draw(st.sampled_from(["mamba", "grouped", "hybrid"]))
    model = reduce(build(MODELS[name]), ratio, criterion=criterion, chunk=chunk)
    rows = drawn(*lengths, seed=sum(lengths))
    forest = answered(rows, drawn(*answers, seed=1), range(len(rows)))
    hidden, _ = model.hidden(forest)
    n = sum(lengths)
    assert not hidden[n:].isnan().any()
    for row, part in zip(rows, hidden[:n].split(lengths), strict=True):
        kept = left(part)
        size = chunk or len(row)
        pieces = [range(i, min(i + size, len(row))) for i in range(0, len(row), size)]
        for piece in pieces:
            mine = [t for t in kept if t in piece]
            assert mine[-1] == piece[-1]
            if name != "hybrid":  # its last layers are attention's, which drop none
                assert len(mine) == counts(len(piece), len(model.layers), ratio=ratio)[-1]
        alone, _ = model.hidden(prompts(row))
        assert left(alone) == kept


def test_what_each_layer_sees_falls_by_the_schedule(model):
    reduce(model)
    seen = record(model)
    model.hidden(prompts(*drawn(40, 13)))
    before = [set(range(40)), set(range(13))]
    for layer, rows in seen:
        for row, (places, n) in enumerate(zip(rows, (40, 13), strict=True)):
            assert places == sorted(places)
            assert len(set(places)) == len(places)
            assert set(places) <= before[row]
            assert places[-1] == n - 1
            before[row] = set(places)
            if layer and isinstance(model.description.layers[layer - 1].mixer, d.SSD):
                assert len(places) == counts(n, len(model.layers), ratio=0.7)[layer]


def test_layers_that_the_schedule_passes_over_drop_none():
    model = reduce(build(MODELS["mamba2"]), every=3)
    seen = record(model)
    hidden, _ = model.hidden(prompts(*drawn(30)))
    assert [layer for layer, _ in seen] == [2]
    assert len(left(hidden)) == counts(30, 6, ratio=0.7)[3]


def test_before_the_scan_the_last_layer_drops_and_the_first_does_not():
    model = reduce(build(MODELS["mamba2"]), site="before_scan")
    seen = record(model)
    hidden, _ = model.hidden(prompts(*drawn(30)))
    assert [layer for layer, _ in seen] == [1, 2, 3, 4, 5]
    assert len(left(hidden)) == 9


def test_before_the_scan_what_is_dropped_has_no_part_in_it(model):
    mixer = model.layers[0].mixer
    u = torch.randn(10, mixer.in_proj.in_features, generator=torch.Generator().manual_seed(0))
    keep, noted = torch.arange(10) % 3 != 1, []
    forest = Forest.batch(torch.zeros(1, 10, dtype=torch.long))
    watch = Watch(forest, lambda shown: (noted.append(shown), keep[None])[1], before_scan=True)
    found, _ = mixer(u, forest, None, watch)
    (shown,) = noted
    x, raw, B, C = (t[:, keep] for t in (shown.x, shown.raw, shown.B, shown.C))
    if isinstance(mixer.sizes, d.SelectiveScan):
        z = mixer.in_proj(u).chunk(2, -1)[1][keep]
        dt, A = F.softplus(raw + mixer.dt_proj.bias), -mixer.A_log.exp()
        y, _ = naive.selective_scan(x, dt, A, B, C, D=mixer.D)
        assert_close(found, mixer.out_proj(y[0] * F.silu(z)), **CLOSE)
        return
    s = mixer.sizes
    z = mixer.in_proj(u)[keep, : s.d_inner] + (mixer.z_bias if s.z_bias else 0)
    decay, weight = -F.softplus(raw), None
    if not s.discrete:
        weight = F.softplus(raw + mixer.dt_bias).clamp(*s.dt_limit)
        decay = -weight * mixer.A_log.exp()
    if s.shared == "xb":
        x, B = (t.repeat_interleave(s.heads_per_group, 2) for t in (x, B))
    y, _ = naive.ssd(x, decay, weight, B, C, D=mixer.D)
    y = y[0].flatten(1) * F.silu(z)
    if s.norm_groups:
        y = y.unflatten(1, (s.norm_groups, -1))
        y = y * (y.square().mean(2, keepdim=True) + s.norm_eps).rsqrt()
        y = y.flatten(1) * mixer.norm.weight
    assert_close(found, mixer.out_proj(y), **CLOSE)


def test_attention_sees_the_kept_tokens_where_they_stood():
    model = reduce(build(MODELS["hybrid"]))
    (row,), (answer,) = drawn(20), drawn(4, seed=1)
    noted = []
    mixer = model.layers[3].mixer
    mixer.register_forward_hook(lambda _m, given, gave: noted.append((given[0], given[1], gave[0])))
    model.hidden(answered([row], [answer], [0]))
    ((u, forest, gave),) = noted
    stood = [*forest.stages[0].places[0].tolist(), 20, 21, 22, 23]
    assert stood[:-4] != list(range(len(stood) - 4))
    s, n = mixer.sizes, len(stood)
    q, k, v = (p(u).view(n, -1, s.head_dim) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    half = s.rotary_dim // 2

    def turned(x):
        speed = s.rope_theta ** -(torch.arange(half, dtype=torch.float32) / half).double()
        turn = torch.polar(torch.ones(n, half), torch.tensor(stood)[:, None] * speed)
        pairs = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn[:, None]
        return torch.cat([pairs.real, pairs.imag, x[..., 2 * half :]], -1)

    q, k = turned(q), turned(k)
    rows = []
    for t in range(n):
        heads = []
        for h in range(s.n_heads):
            g = h // (s.n_heads // s.n_kv_heads)
            weight = (k[: t + 1, g] @ q[t, h] / s.head_dim**0.5).softmax(0)
            heads.append(weight @ v[: t + 1, g])
        rows.append(torch.cat(heads))
    # 1e-6: frequencies are float32 in both.
    assert_close(mixer.o_proj(torch.stack(rows)), gave, rtol=1e-6, atol=1e-6)


def test_a_chunk_as_long_as_the_prompt_changes_no_bit(model):
    forest = answered(drawn(24, 11), drawn(3, 5, 2, seed=1), [0, 1, 1])
    whole, state = reduce(model).hidden(forest)
    chunked, other = reduce(model, chunk=24).hidden(forest)
    assert_close(whole, chunked, rtol=0, atol=0, equal_nan=True)
    for mine, theirs in zip(state.layers, other.layers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("criterion", ["influence", "delete", "random"])
@pytest.mark.parametrize("site", ["after_mixer", "before_scan"])
def test_chunks_are_prompts_that_continue_each_other(model, site, criterion):
    rows, answers = drawn(26, 5, 14, 1), drawn(3, 4, 2, 5, seed=1)
    reduce(model, criterion=criterion, site=site, chunk=6)
    found, _ = model.hidden(answered(rows, answers, range(4)))
    parts = found.split([len(r) for r in (*rows, *answers)])
    model.reducer.chunk = None
    for row, answer, part, after in zip(rows, answers, parts[:4], parts[4:], strict=True):
        state, pieces = None, []
        for i in range(0, len(row), 6):
            piece, state = model.hidden(prompts(row[i : i + 6]), state)
            assert not piece[-1].isnan().any()
            pieces.append(piece)
        assert_close(part, torch.cat(pieces), **CLOSE, equal_nan=True)
        following, _ = model.hidden(Forest.ragged([answer]), state)
        assert_close(after, following, **CLOSE)


def test_chunks_after_a_state_are_refused():
    model = reduce(build(MODELS["mamba"]), chunk=4)
    _, state = model.hidden(prompts(*drawn(9)))
    with pytest.raises(ValueError, match="prompts in chunks"):
        model.hidden(prompts(*drawn(9)), state)


def kept_by(model, *rows):
    hidden, _ = model.hidden(prompts(*rows))
    return [left(part) for part in hidden.split([len(r) for r in rows])]


def test_a_draw_hangs_on_the_seed_the_layer_and_the_prompt_alone():
    model = build(MODELS["mamba"])
    rows = drawn(40, 40)
    first = kept_by(reduce(model, criterion="random", seed=1), *rows)
    assert first == [kept_by(model, row)[0] for row in rows]
    assert first == kept_by(model, *rows[::-1])[::-1]
    assert first[0] != first[1]
    assert first == kept_by(reduce(model, criterion="random", seed=1), *rows)
    assert first != kept_by(reduce(model, criterion="random", seed=2), *rows)


def test_a_draw_is_fresh_at_every_layer():
    model = reduce(build(MODELS["mamba"]), criterion="random")
    noted, score = [], model.reducer.score

    def drawn_twice(shown, turn):
        noted.append([score(shown, turn), score(shown, turn._replace(layer=turn.layer + 1))])
        return noted[-1][0]

    model.reducer.score = drawn_twice
    model.hidden(prompts(*drawn(40)))
    assert len(noted) == 5
    assert not any(torch.equal(here, there) for here, there in noted)


def test_even_spacing_and_the_last_ones_by_hand():
    model = build(of_two_layers())
    assert kept_by(reduce(model, 0.6, criterion="uniform"), *drawn(10)) == [[0, 3, 6, 9]]
    assert kept_by(reduce(model, 0.6, criterion="recent"), *drawn(10)) == [[6, 7, 8, 9]]


def of_two_layers() -> d.Description:
    return replace(deep("mamba"), layers=deep("mamba").layers[:2])


def test_the_account_says_what_each_layer_saw():
    model = reduce(build(MODELS["mamba2"]), criterion="recent")
    with model.reducer.accounted() as rows:
        model.hidden(prompts(*drawn(20, 11)))
        model.hidden(prompts(*drawn(20, seed=5)))
    found = {(row["layer"], row["measure"]): row for row in rows}
    long, short = counts(20, 6, ratio=0.7), counts(11, 6, ratio=0.7)
    for layer in range(6):
        row = found.pop((layer, "tokens"))
        assert (row["value"], row["n"]) == (pytest.approx((2 * long[layer] + short[layer]) / 3), 3)
        assert (row["place"], row["reason"]) == (None, None)
    assert {layer for layer, _ in found} == set(range(5))
    n = long[1]
    last = sum(range(20 - n, 20)) / n / 19, sum(range(11 - short[1], 11)) / short[1] / 10
    assert found[0, "kept_position"]["value"] == pytest.approx((2 * last[0] + last[1]) / 3)
    assert found[0, "rank_correlation"]["value"] == pytest.approx(1)
    assert found[0, "ties"]["value"] == 0
    assert (0, "zeros") not in found  # a place is no magnitude
    assert model.reducer.accounts is None
    with model.reducer.accounted() as rows:
        model.hidden(prompts(*drawn(20)))
    assert {row["n"] for row in rows} == {1}


def test_linear_zeros_are_counted_in_either_domain():
    model = build(MODELS["mamba2"])
    with torch.no_grad():
        for block in model.layers:
            block.mixer.A_log.fill_(4)
    zeros = {}
    for domain in ("log", "linear"):
        reduce(model, domain=domain)
        with model.reducer.accounted() as rows:
            model.hidden(prompts(*drawn(60)))
        zeros[domain] = {row["layer"]: row["value"] for row in rows if row["measure"] == "zeros"}
    assert zeros["log"][0] > 0.3
    # In float64 fewer of the linear ones are zero than float32 would make.
    assert 0 <= zeros["linear"][0] < zeros["log"][0]


def test_gradients_are_those_of_the_plain_program():
    """The target of a kept token is the one that followed it in the text."""
    model = build(MODELS["mamba2"])
    (ids,) = drawn(20)
    targets = torch.tensor([*ids[1:], 0])
    wanted = counts(20, 6, ratio=0.7)
    gradients = []
    for run in ("seam", "plain"):
        model.reducer = None
        model.requires_grad_(requires_grad=True).zero_grad()
        if run == "seam":
            hidden, _ = reduce(model).hidden(prompts(ids))
            stood = left(hidden)
            hidden = hidden[stood]
        else:
            hidden, stood = written_out(model, ids, wanted, token_scores.by_influence)
        F.cross_entropy(model.logits(hidden), targets[stood]).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, **CLOSE)
        assert a.isfinite().all()


REFUSED = {
    "clip_sum before the scan": (
        {"criterion": "clip_sum", "site": "before_scan"},
        "'clip_sum', which looks at the mixer's output, with site 'before_scan'",
    ),
    "a power without its schedule": ({"power": 2}, "`power` is for the schedule `power`"),
    "a chunk of one": ({"chunk": 1}, "greater than or equal to 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_that_do_not_fit_are_refused(case):
    given_, message = REFUSED[case]
    with pytest.raises(ValidationError, match=re.escape(message)):
        simba.Params(**given_)


def refuse(model: Decoder, message: str, **params) -> None:
    with pytest.raises(MethodError, match=message):
        simba.compress(
            model, ratio=0.5, params=simba.Params(**params), context=MethodContext(0, None)
        )


@pytest.mark.parametrize("family", plugins.names("family"))
def test_models_that_cannot_be_asked_are_refused_in_a_sentence(family):
    model = build(deep(family))
    kinds = [layer.mixer for layer in model.description.layers]
    if all(isinstance(m, d.Attention) for m in kinds):
        refuse(model, f"{family}: found no SSM mixer; expected one")
        return
    refuse(model, "none of the 6 layers drops a token", every=6)
    if any(isinstance(m, d.SSD) and m.discrete for m in kinds):
        refuse(model, f"{family}: found a discrete mixer", criterion="dt_norm")
    reduce(model)
    refuse(model, "drops tokens already")


def test_only_draws_need_the_seed():
    for criterion in CRITERIA:
        needed = simba.needs(simba.Params(criterion=criterion))
        assert needed == ({"seed"} if criterion == "random" else set())
