"""Token scores against programs that literally remove a token; schedules and choices by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ssmbench.kernels import deletion, influence
from ssmbench.models import description as d
from ssmbench.models import mixers
from ssmbench.models.forest import Stage
from ssmbench.models.reduction import Shown
from ssmbench.surgery import token_scores
from ssmbench.surgery.schedule import counts
from ssmbench.surgery.tokens import Account, keep_best, observe, spearman

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SIZES = {
    "mamba": d.SelectiveScan(d_inner=6, d_state=4, dt_rank=2),
    "mamba2": d.SSD(4, 3, 5, dt_limit=(0.05, 2.0)),
    "grouped": d.SSD(6, 3, 4, n_groups=3, norm_groups=3),
    "xb": d.SSD(6, 2, 4, n_groups=2, shared="xb", norm_groups=6),
    "discrete": d.SSD(4, 3, 5, discrete=True, conv_activation="none", norm_groups=0),
}
SCORED = ("input", "none", "both")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def shown_of(sizes: d.Mixer, lengths: tuple[int, ...], *, carried: bool = False) -> Shown:
    """Give random float64 inputs of a scan, of rows of these lengths."""
    mixer = mixers.build(8, sizes).double()
    with torch.no_grad():
        for i, parameter in enumerate(mixer.parameters()):
            parameter.copy_(0.5 * drawn(*parameter.shape, seed=90 + i))
    b, length = len(lengths), max(lengths)
    stage = Stage(lengths, 0, None, torch.device("cpu"))
    if isinstance(sizes, d.SelectiveScan):
        e, n = sizes.d_inner, sizes.d_state
        shapes = ((b, length, e), (b, length, e), (b, length, n), (b, length, n), (b, e, n))
    else:
        g, n = sizes.n_groups, sizes.d_state
        n_x, n_c = (sizes.n_heads, g) if sizes.shared == "bc" else (g, sizes.n_heads)
        state = (b, sizes.n_heads, sizes.head_dim, n)
        shapes = ((b, length, n_x, sizes.head_dim), (b, length, sizes.n_heads),
                  (b, length, g, n), (b, length, n_c, n), state)  # fmt: skip
    x, raw, B, C, state = (drawn(*shape, seed=i) for i, shape in enumerate(shapes))
    return Shown(mixer, stage, x, raw, B, C, state if carried else None)


def literal(shown: Shown, row: int, bias: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write a row's recurrence out, channel by channel and state by state.

    Returns:
        decays and inputs (length, channels, states), the last C (channels, states), and the
        state before (channels, states): h = decay · h + input, y = Σ C h.
    """
    mixer, n = shown.mixer, shown.stage.lengths[row]
    x, raw, B, C = (t[row, :n] for t in (shown.x, shown.raw, shown.B, shown.C))
    carried = None if shown.state is None else shown.state[row]
    if isinstance(mixer, mixers.SelectiveScanMixer):
        full, plain = F.softplus(raw + mixer.dt_proj.bias), F.softplus(raw)
        slow, scaling = full if bias == "both" else plain, plain if bias == "none" else full
        decays = torch.stack([torch.exp(-s[:, None] * mixer.A_log.exp()) for s in slow])
        inputs = torch.stack([torch.outer(scaling[t] * x[t], B[t]) for t in range(n)])
        last = C[-1].expand(x.shape[1], -1)
        return decays, inputs, last, torch.zeros_like(last) if carried is None else carried
    s = mixer.sizes
    decays, inputs, last, before = [], [], [], []
    for h in range(s.n_heads):
        g = h // s.heads_per_group
        if s.discrete:
            decay, scale = torch.sigmoid(-raw[:, h]), torch.ones(n, dtype=torch.float64)
        else:
            full = F.softplus(raw[:, h] + mixer.dt_bias[h]).clamp(*s.dt_limit)
            plain = F.softplus(raw[:, h]).clamp(*s.dt_limit)
            rate = mixer.A_log[h].exp()
            decay = torch.exp(-(full if bias == "both" else plain) * rate)
            scale = plain if bias == "none" else full
        for p in range(s.head_dim):
            decays.append(decay[:, None].expand(-1, s.d_state))
            own = x[:, h if s.shared == "bc" else g, p]
            inputs.append((scale * own)[:, None] * B[:, g])
            last.append(C[-1, g if s.shared == "bc" else h])
            before.append(torch.zeros(s.d_state) if carried is None else carried[h, p])
    stacked = torch.stack(decays, 1), torch.stack(inputs, 1)
    return *stacked, torch.stack(last), torch.stack(before).double()


def last_output(decays: Tensor, inputs: Tensor, C: Tensor, h: Tensor) -> Tensor:
    for decay, entering in zip(decays, inputs, strict=True):
        h = decay * h + entering
    return (C * h).sum(1)


def without_input(decays: Tensor, inputs: Tensor, C: Tensor, h: Tensor) -> Tensor:
    """Give (length, channels): what y_T loses without each token's input."""
    whole, rows = last_output(decays, inputs, C, h), []
    for t in range(len(inputs)):
        less = inputs.clone()
        less[t] = 0
        rows.append(whole - last_output(decays, less, C, h))
    return torch.stack(rows)


def without_token(decays: Tensor, inputs: Tensor, C: Tensor, h: Tensor) -> Tensor:
    """Give (length − 1, channels): what y_T loses if each token before had never been."""
    whole, rows = last_output(decays, inputs, C, h), []
    for t in range(len(inputs) - 1):
        rest = [i for i in range(len(inputs)) if i != t]
        rows.append(whole - last_output(decays[rest], inputs[rest], C, h))
    return torch.stack(rows)


AGGREGATED = {
    "max": lambda change: change.amax(1),
    "absmax": lambda change: change.abs().amax(1),
    "l2": lambda change: change.square().sum(1).sqrt(),
}


@pytest.mark.parametrize("aggregate", AGGREGATED)
@pytest.mark.parametrize("bias", SCORED)
@pytest.mark.parametrize("name", SIZES)
def test_influence_is_what_the_last_output_loses_without_a_tokens_input(name, bias, aggregate):
    shown = shown_of(SIZES[name], (9, 4, 1))
    for log in (False, True):
        found = token_scores.by_influence(shown, aggregate=aggregate, bias=bias, log=log)
        for row, n in enumerate(shown.stage.lengths):
            expected = AGGREGATED[aggregate](without_input(*literal(shown, row, bias)))
            if log:
                expected = expected.clamp_min(0).log()
            assert_close(found[row, :n], expected, **EXACT)


@pytest.mark.parametrize("aggregate", AGGREGATED)
@pytest.mark.parametrize("carried", [False, True], ids=["from_nothing", "carried"])
@pytest.mark.parametrize("name", SIZES)
def test_deletion_is_what_the_last_output_loses_without_the_token(name, carried, aggregate):
    shown = shown_of(SIZES[name], (20, 7, 2), carried=carried)
    for log in (False, True):
        found = token_scores.by_deletion(shown, aggregate=aggregate, log=log)
        for row, n in enumerate(shown.stage.lengths):
            expected = AGGREGATED[aggregate](without_token(*literal(shown, row, "both")))
            mine = found[row, : n - 1].exp() if log else found[row, : n - 1]
            assert_close(mine, expected.clamp_min(0) if log else expected, **EXACT)


def test_deletion_and_influence_are_not_the_same():
    shown = shown_of(SIZES["mamba"], (30,))
    removed, deleted = (
        token_scores.by_influence(shown, bias="both", aggregate="l2", log=False),
        token_scores.by_deletion(shown, aggregate="l2", log=False),
    )
    gap = ((removed - deleted).abs() / removed)[0, :-1].median()
    assert 0.05 < gap < 1


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_influences_add_up_to_the_last_output(name):
    """Of one channel, where the largest over channels is the influence itself."""
    narrow = d.SelectiveScan(1, 4, 1) if name == "mamba" else d.SSD(1, 1, 4)
    shown = shown_of(narrow, (12,))
    found = token_scores.by_influence(shown, bias="both", log=False)
    assert_close(found.sum(), last_output(*literal(shown, 0, "both")).sum(), **EXACT)


@pytest.mark.parametrize("name", SIZES)
def test_readings_of_the_bias_differ_exactly_where_they_should(name):
    shown = shown_of(SIZES[name], (5,))
    found = {bias: token_scores.steps(shown, bias) for bias in SCORED}
    a, none, both = found["input"], found["none"], found["both"]
    assert torch.equal(a.decay, none.decay)
    if name == "discrete":
        assert a.weight is none.weight is both.weight is None
        assert torch.equal(a.decay, both.decay)
        return
    assert torch.equal(a.weight, both.weight)
    assert not torch.allclose(a.weight, none.weight)
    assert not torch.allclose(a.decay, both.decay)
    without = replace_bias(shown)
    zeroed = token_scores.steps(without, "both")
    assert torch.equal(zeroed.decay, none.decay)
    assert torch.equal(zeroed.weight, none.weight)


def replace_bias(shown: Shown) -> Shown:
    mixer = shown.mixer
    with torch.no_grad():
        if isinstance(mixer, mixers.SelectiveScanMixer):
            mixer.dt_proj.bias.zero_()
        else:
            mixer.dt_bias.zero_()
    return shown


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("score", [token_scores.by_influence, token_scores.by_deletion])
def test_a_padded_rows_scores_are_those_of_the_row_alone(name, score):
    whole = shown_of(SIZES[name], (14, 5, 1))
    together = score(whole)
    for row, n in enumerate(whole.stage.lengths):
        stage = Stage((n,), 0, None, torch.device("cpu"))
        parts = (t[row : row + 1, :n] for t in (whole.x, whole.raw, whole.B, whole.C))
        alone = score(Shown(whole.mixer, stage, *parts))
        assert_close(together[row : row + 1, :n], alone, **EXACT)


def far_scan(length: int) -> tuple[Tensor, ...]:
    """Mamba-1 inputs whose decay without the bias leaves nothing of far tokens in float32."""
    u, dt, B, C = drawn(1, length, 8), drawn(1, length, 8, seed=1), *drawn(2, 1, length, 16, seed=2)
    A = -torch.arange(1.0, 17.0, dtype=torch.float64).expand(8, -1)
    return u, F.softplus(dt - 4), F.softplus(dt), A, B, C


@pytest.mark.parametrize("aggregate", AGGREGATED)
def test_logarithms_rank_as_the_values_do_and_where_these_are_all_zero(aggregate):
    inputs = [t.float() for t in far_scan(1000)]
    linear, logs = (
        influence.selective_scan_influence(*inputs, aggregate=aggregate, log=log)[0]
        for log in (False, True)
    )
    assert (linear == 0).double().mean() > 0.5
    # The largest signed is −∞ where all eight channels are negative.
    finite = logs[logs.isfinite()]
    assert len(finite) > (0.98 if aggregate == "max" else 0.999) * len(logs)
    assert len(finite.unique()) == len(finite)
    # Squares, of which the norm is taken, underflow at the root of what values do.
    order = linear.argsort(descending=True)[: int((linear > 1e-15).sum())]
    assert len(order) > 20
    # 1e-4: float32 rounds logarithms near −70 at 4e-6, and two scores may be that close.
    assert (logs[order].diff() < 1e-4).all()
    assert_close(logs[order].exp(), linear[order], rtol=1e-4, atol=0)
    exact = influence.selective_scan_influence(*far_scan(1000), aggregate=aggregate)[0]
    assert_close(logs.double(), exact, rtol=1e-5, atol=1e-4)


def test_the_sum_of_later_steps_keeps_its_digits_near_the_end():
    steps = F.softplus(drawn(1, 2000, 64))
    found = influence.steps_after(steps.float(), None)[0, -40:-1]
    assert_close(found.double(), influence.steps_after(steps, None)[0, -40:-1], rtol=1e-6, atol=0)
    assert influence.steps_after(steps, None)[0, -1].eq(0).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_where_only_the_best_are_asked_for_these_are_the_same(data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    n_kept = [data.draw(st.integers(1, n)) for n in lengths]
    aggregate, speed = data.draw(st.sampled_from(["max", "absmax"])), data.draw(st.floats(-6, 1))
    b, length, e = len(lengths), max(lengths), data.draw(st.sampled_from([3, 60]))
    u, dt, B = (drawn(b, length, w, seed=length + i) for i, w in enumerate((e, e, 4)))
    u = u if data.draw(st.booleans()) else u.abs() * -1
    inputs = u, F.softplus(dt + speed), F.softplus(dt + speed), -drawn(e, 4).exp(), B, B.flip(1)
    how = {"lengths": torch.tensor(lengths), "aggregate": aggregate}
    whole, few = (
        keep_best(influence.selective_scan_influence(*inputs, **how, **more), lengths, n_kept)
        for more in ({}, {"n_kept": n_kept})
    )
    assert torch.equal(whole, few)


@pytest.mark.parametrize("aggregate", AGGREGATED)
def test_blocks_of_channels_change_nothing(monkeypatch, aggregate):
    inputs = far_scan(20)
    whole = influence.selective_scan_influence(*inputs, aggregate=aggregate)
    monkeypatch.setattr(influence, "BLOCK_ELEMENTS", 3 * 20 * 16)
    assert_close(influence.selective_scan_influence(*inputs, aggregate=aggregate), whole, **EXACT)


def test_deletion_keeps_its_digits_where_a_token_changes_little():
    """A tiny step: h_t − h_{t−1} by subtraction would have no digit left in float32."""
    shapes = ((1, 20, 3, 4), (1, 20, 3), (1, 20, 1, 5), (1, 20, 1, 5))
    x, dt, B, C = (drawn(*shape, seed=i) for i, shape in enumerate(shapes))
    weight, state = dt.abs() * 1e-6, drawn(1, 3, 4, 5, seed=9)
    exact = deletion.ssd_deletion(x, weight, -weight, B, C, state=state, log=False)
    narrow = (t.float() for t in (x, weight, -weight, B, C))
    found = deletion.ssd_deletion(*narrow, state=state.float(), log=False)
    assert_close(found.double()[:, :-1], exact[:, :-1], rtol=1e-3, atol=0)


def test_the_linear_schedule_is_the_papers():
    long, short = (counts(t, 64, ratio=0.9) for t in (1000, 139))
    assert (long[:4], long[-3:]) == ((1000, 986, 971, 957), (129, 114, 100))
    assert (short[:4], short[-3:]) == ((139, 137, 135, 133), (18, 16, 14))


@given(
    st.integers(1, 3000), st.integers(2, 70), st.floats(0, 0.99),
    st.sampled_from(["linear", "linear_out", "power", "geometric"]), st.integers(1, 5),
)  # fmt: skip
def test_schedules_never_rise_and_keep_a_token(tokens, n_layers, ratio, shape, every):
    found = counts(tokens, n_layers, ratio=ratio, shape=shape, power=0.7, every=every)
    assert found[0] == tokens
    assert list(found) == sorted(found, reverse=True)
    assert found[-1] >= 1
    assert all(found[i] == found[i - 1] for i in range(n_layers) if i % every)


@pytest.mark.parametrize("n_layers", [24, 64])
def test_schedules_end_and_average_as_their_formulas_say(n_layers):
    k = 0.1
    means = {
        "linear": (1 + k) / 2,
        "linear_out": 1 - (1 - k) * (n_layers - 1) / (2 * n_layers),
        "power": 1 - (1 - k) / 3,
        "geometric": (1 - k) / math.log(1 / k),
    }
    ends = {"linear_out": 1 - 0.9 * (n_layers - 1) / n_layers}
    for shape, mean in means.items():
        found = counts(10_000, n_layers, ratio=0.9, shape=shape, power=2)
        assert found[-1] == pytest.approx(10_000 * ends.get(shape, k), abs=0.51)
        # The sums of the last two are of curves: of as many pieces as there are layers.
        near = 1e-4 if shape.startswith("linear") else 0.5 / n_layers
        assert sum(found) / n_layers / 10_000 == pytest.approx(mean, abs=near)


def test_a_power_of_one_is_linear_and_ratio_zero_keeps_all():
    assert counts(333, 24, ratio=0.7, shape="power") == counts(333, 24, ratio=0.7)
    assert set(counts(333, 24, ratio=0)) == {333}


def test_equal_scores_keep_the_last():
    keep = keep_best(torch.zeros(1, 6), (6,), (3,))
    assert keep[0].tolist() == [False] * 3 + [True] * 3
    infinite = torch.tensor([[-torch.inf, 1.0, -torch.inf, -torch.inf, 0.0]])
    assert keep_best(infinite, (5,), (4,))[0].tolist() == [False, True, True, True, True]


@given(st.data())
@settings(max_examples=60)
def test_the_best_are_kept_and_always_the_last_token(data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    n_kept = [data.draw(st.integers(1, n)) for n in lengths]
    values = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0])
    scores = torch.tensor([[data.draw(values) for _ in range(max(lengths))] for _ in lengths])
    keep = keep_best(scores, lengths, n_kept)
    for row, (n, kept) in enumerate(zip(lengths, n_kept, strict=True)):
        # (score, place): of equal scores the later is the better.
        ranked = sorted(range(n - 1), key=lambda i: (float(scores[row, i]), i), reverse=True)
        assert keep[row].nonzero()[:, 0].tolist() == sorted([*ranked[: kept - 1], n - 1])


def test_even_spacing_is_the_rounded_line():
    shown = shown_of(SIZES["mamba"], (10, 7, 3))
    scores = token_scores.by_spacing(shown, (4, 3, 1))
    keep = keep_best(scores, (10, 7, 3), (4, 3, 1))
    assert [row.nonzero()[:, 0].tolist() for row in keep] == [[0, 3, 6, 9], [0, 3, 6], [2]]
    for n in range(1, 40):
        for kept in range(2, n + 1):
            part = shown._replace(stage=Stage((n,), 0, None, torch.device("cpu")), x=drawn(1, n, 1))
            places = token_scores.by_spacing(part, (kept,))[0].nonzero()[:, 0]
            line = torch.linspace(0, n - 1, kept, dtype=torch.float64)
            assert len(places) == kept
            assert (places[0], places[-1]) == (0, n - 1)
            assert ((places - line).abs() <= 0.5 + 1e-9).all()


def test_ranks_correlate_as_written_out():
    scores = torch.tensor([[3.0, 1.0, 1.0, 7.0, -torch.inf, 9.0], [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]])
    valid = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    ranks = torch.tensor([3, 1.5, 1.5, 4, 0, 5], dtype=torch.float64)
    expected = torch.corrcoef(torch.stack([ranks, torch.arange(6.0).double()]))[0, 1]
    found = spearman(scores, valid)
    assert_close(found, torch.stack([expected, torch.tensor(1.0).double()]))
    assert spearman(torch.ones(1, 4), torch.ones(1, 4).bool()).isnan().all()


def test_an_account_is_what_happened():
    shown = shown_of(SIZES["mamba"], (6, 4))
    stood = torch.tensor([0, 2, 4, 6, 8, 9, 0, 1, 2, 4])
    shown = shown._replace(stage=replace(shown.stage, offsets=stood, spans=(10, 5)))
    scores = torch.tensor([[-200.0, -200.0, -90.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0, 0.0, 9.0, 9.0]])
    keep = torch.tensor([[0, 0, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()
    account = Account()
    observe(account, scores, keep, shown, log=True)
    rows = {row["measure"]: row for row in account.rows()}
    # The second row drops nothing, so that only the first counts.
    assert {row["n"] for row in rows.values()} == {1}
    assert rows["kept_position"]["value"] == pytest.approx((4 + 8 + 9) / 3 / 9)
    assert rows["zeros"]["value"] == pytest.approx(2 / 5)
    assert rows["ties"]["value"] == pytest.approx(2 / 4)
    assert 0.9 < rows["rank_correlation"]["value"] < 1


def test_a_measure_that_no_prompt_had_is_null_with_a_reason():
    account = Account()
    account.add("ties", torch.tensor([torch.nan]))
    (row,) = account.rows()
    assert (row["value"], row["n"]) == (None, 0)
    assert row["reason"]
