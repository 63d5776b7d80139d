"""The loop: what a step does, that it equals the plain way, and when it gives up."""

from __future__ import annotations

import logging
import math
from itertools import pairwise

import pytest
import torch
from finetune_helpers import (
    LENGTH,
    Memory,
    dense,
    fine_tuned,
    noisy,
    prune,
    pruned,
    recipe,
    stories,
    windows,
    zoo,
)
from surgery_helpers import MODELS
from torch import nn

from ssmbench import plugins
from ssmbench.errors import MethodError, NumericalError
from ssmbench.finetune import adapters, data, loop, train
from ssmbench.finetune.losses import naive_ce_loss, naive_kd_loss
from ssmbench.finetune.objectives import CrossEntropy, Distillation, share_equal
from ssmbench.models import mixers
from ssmbench.surgery.context import MethodContext
from ssmbench.surgery.facts import measure
from ssmbench.surgery.projections import projections

SCHEDULES = ("linear", "cosine", "constant")


def weights(model) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def simba(name: str = "mamba2", ratio: float = 0.5):
    model = dense(name)
    method = plugins.load("method", "simba")
    context = MethodContext(seed=0, calibration=None)
    method.compress(model, ratio=ratio, params=method.Params(), context=context)
    return model


def plainly(model, teacher, wanted, ids) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train as one writes it down: whole logits, one batch, torch's own schedule."""
    trained = adapters.attach(model, wanted, seed=0, keep_zeros=False)
    optimiser = torch.optim.AdamW(
        trained.values(), lr=wanted.learning_rate, betas=(0.9, 0.999), weight_decay=0.01
    )
    from transformers import get_linear_schedule_with_warmup

    schedule = get_linear_schedule_with_warmup(optimiser, wanted.warmup, wanted.steps)
    losses = []
    for step in range(wanted.steps):
        chosen = data.order(len(ids), size=wanted.batch, step=step, seed=0)
        batch = ids[chosen].long()
        logits = model(batch)
        if wanted.kind == "kd":
            loss = naive_kd_loss(logits, teacher(batch), None)
        else:
            loss = naive_ce_loss(logits[:, :-1], batch[:, 1:], None)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.values(), wanted.clip)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return {n: p.detach() for n, p in trained.items()}, losses


@pytest.mark.parametrize("kind", ["kd", "ce"])
@pytest.mark.parametrize("name", ["mamba2", "mamba", "hybrid_llama"])
def test_a_training_is_the_plain_one(kind, name):
    wanted = recipe(kind, dropout=0.0, log_every=1, clip=0.1)
    found = fine_tuned(noisy(name), wanted, name=name)
    expected, losses = plainly(noisy(name), dense(name), wanted, windows(name))
    assert [row["loss"] for row in found.rows] == pytest.approx(losses, rel=1e-4)
    for n, tensor in expected.items():
        # AdamW's steps have the learning rate's size wherever a gradient is not zero.
        assert (found.tensors[n] - tensor).abs().max() < 0.02 * wanted.learning_rate, n


@pytest.mark.parametrize("kind", ["kd", "ce", "dense+sparse"])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(kind):
    teacher = dense()
    given = {"dropout": 0.0} if kind != "dense+sparse" else {}
    wanted = recipe(kind, batch=5, **given)

    def gradients(at_once: int) -> tuple[list[float], dict[str, torch.Tensor]]:
        model = simba() if kind == "dense+sparse" else noisy()
        objective = train._objective(model, lambda: teacher, wanted, 0)
        trained = adapters.attach(model, wanted, seed=0, keep_zeros=False)
        with torch.no_grad():
            for n, p in trained.items():
                p.add_(0.01 if n.endswith(".B") else 0)
        steps = loop.Loop(model, objective, wanted, trained, windows(), at_once, 0, lambda *_: None)
        chosen = [3, 0, 8, 1, 5]
        losses = [steps._backward(chosen[i : i + at_once], 10 + i, 5) for i in range(0, 5, at_once)]
        total = [math.fsum(part) for part in zip(*losses, strict=True)]
        return total, {n: p.grad for n, p in trained.items()}

    whole, expected = gradients(5)
    for at_once in (1, 2, 3):
        losses, found = gradients(at_once)
        assert losses == pytest.approx(whole, rel=1e-5)
        for n, g in expected.items():
            assert (found[n] - g).abs().max() <= 1e-4 * g.abs().max(), n


def test_less_memory_means_smaller_pieces_of_the_same_batch(monkeypatch):
    sizes = []
    whole = loop.Loop._backward

    def count(self, chosen, number, size):
        sizes.append(len(chosen))
        return whole(self, chosen, number, size)

    monkeypatch.setattr(loop.Loop, "_backward", count)
    wanted = recipe(steps=2, dropout=0.0)
    first = fine_tuned(noisy(), wanted, batch_tokens=10_000)
    assert sizes == [1, 4, 4]
    sizes.clear()
    second = fine_tuned(noisy(), wanted, batch_tokens=3 * LENGTH)
    assert sizes == [1, 3, 1, 3, 1]
    sizes.clear()
    third = fine_tuned(noisy(), wanted, batch_tokens=1)
    assert sizes == [1] * 9
    for other in (second, third):
        assert other.rows[0]["loss"] == pytest.approx(first.rows[0]["loss"], rel=1e-5)
        assert other.loss_after == pytest.approx(first.loss_after, rel=1e-3)


@pytest.mark.parametrize("keep_zeros", [False, True])
@pytest.mark.parametrize(
    ("kind", "adapted", "dtype"),
    [
        ("kd", "lora", "float32"),
        ("ce", "all", "float32"),
        ("kd", "all", "bfloat16"),
        ("dense+sparse", "all", "float32"),
    ],
)
def test_the_same_seed_gives_the_same_bits_and_so_does_the_artifact(
    kind, adapted, dtype, keep_zeros
):
    wanted = recipe(kind, adapters=adapted, dtype=dtype)

    def start():
        if kind == "dense+sparse":
            return simba()
        return pruned() if keep_zeros else noisy()

    first, second, third, other = start(), start(), start(), start()
    torch.manual_seed(1)
    found = fine_tuned(first, wanted, keep_zeros=keep_zeros)
    torch.manual_seed(2)
    again = fine_tuned(second, wanted, keep_zeros=keep_zeros)
    assert same(found.tensors, again.tensors)
    assert same(weights(first), weights(second))
    train.apply_trained(third, wanted, found.tensors, keep_zeros=keep_zeros)
    assert same(weights(third), weights(first))
    fine_tuned(other, wanted, keep_zeros=keep_zeros, seed=1)
    assert not same(weights(other), weights(first))
    plain = [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows]
    assert plain == [{k: v for k, v in row.items() if k != "seconds"} for row in again.rows]
    assert (found.loss_before, found.loss_after) == (again.loss_before, again.loss_after)
    assert not any(p.requires_grad for p in first.parameters())
    assert not any(m.training for m in first.modules())


@pytest.mark.parametrize(("adapted", "rate"), [("lora", 1e-2), ("all", 3e-3)])
def test_training_helps_and_keeps_zeros_where_it_must(adapted, rate):
    wanted = recipe(adapters=adapted, steps=15, batch=4, length=64, learning_rate=rate)
    ids, held_out = stories(60)
    given = {"teacher": zoo, "windows": ids, "held_out": held_out}
    for keep_zeros in (True, False):
        model = prune(zoo(), 0.6)
        zeros = {p.where: p.module.weight == 0 for p in projections(model, "both", "all")}
        before = measure(model, model.description)["nonzero_mixer"]
        found = fine_tuned(model, wanted, keep_zeros=keep_zeros, **given)
        assert found.loss_after < 0.9 * found.loss_before
        kept = [
            torch.equal(p.module.weight == 0, zeros[p.where])
            for p in projections(model, "both", "all")
        ]
        assert all(kept) if keep_zeros else not any(kept)
        after = measure(model, model.description)["nonzero_mixer"]
        assert (after == before) == keep_zeros


@pytest.mark.parametrize("kind", ["kd", "ce"])
def test_losses_before_and_after_are_those_of_the_plain_models(kind):
    model, ids = noisy(), windows(n=3, seed=2).long()

    def loss(student) -> float:
        if kind == "kd":
            return float(naive_kd_loss(student(ids), dense()(ids), None))
        return float(naive_ce_loss(student(ids)[:, :-1], ids[:, 1:], None))

    before = loss(noisy())
    found = fine_tuned(model, recipe(kind), batch_tokens=2 * LENGTH)
    assert found.loss_before == pytest.approx(before, rel=1e-5)
    assert found.loss_after == pytest.approx(loss(model), rel=1e-5)
    assert found.n_held_out == 3


def test_rows_are_means_since_the_row_before():
    each = fine_tuned(noisy(), recipe(steps=7, log_every=1)).rows
    rows = fine_tuned(noisy(), recipe(steps=7, log_every=3)).rows
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert [row["tokens"] for row in rows] == [3 * 4 * LENGTH, 6 * 4 * LENGTH, 7 * 4 * LENGTH]
    spans = ((0, 3), (3, 6), (6, 7))
    for row, (a, b) in zip(rows, spans, strict=True):
        assert row["loss"] == pytest.approx(sum(r["loss"] for r in each[a:b]) / (b - a))
        assert row["gradient_norm"] == each[b - 1]["gradient_norm"] > 0
        assert row["learning_rate"] == each[b - 1]["learning_rate"]
        assert (row["dense_loss"], row["sparse_loss"]) == (None, None)
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(rows))


def test_two_losses_are_told_apart():
    model = simba()
    reducer = model.reducer
    rows = fine_tuned(model, recipe("dense+sparse")).rows
    for row in rows:
        assert row["loss"] == pytest.approx(row["dense_loss"] + row["sparse_loss"])
        assert row["dense_loss"] != row["sparse_loss"]
    assert model.reducer is reducer


def test_a_model_that_drops_nothing_is_refused_for_two_losses():
    with pytest.raises(MethodError, match="drops no tokens"):
        fine_tuned(dense(), recipe("dense+sparse"))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_learning_rate_is_that_of_transformers(schedule, warmup):
    from transformers import get_scheduler

    wanted = recipe(steps=10, warmup=warmup, schedule=schedule)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=wanted.learning_rate)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimiser, num_warmup_steps=warmup, num_training_steps=10)
    for step in range(10):
        assert loop.learning_rate(wanted, step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_only_matrices_decay():
    model = noisy()
    wanted = recipe(adapters="all")
    trained = adapters.attach(model, wanted, seed=0, keep_zeros=False)
    decaying, others = loop.optimiser_of(trained, wanted).param_groups
    names = {id(p): n for n, p in trained.items()}
    kept = {names[id(p)].rpartition(".")[2] for p in others["params"]}
    assert kept <= {"bias", "dt_bias", "A_log", "D", "z_bias", "weight"}
    assert all(p.ndim < 2 or "A_log" in names[id(p)] for p in others["params"])
    assert all(p.ndim >= 2 for p in decaying["params"])
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert len(decaying["params"]) + len(others["params"]) == len(trained)


@pytest.mark.parametrize("adapted", ["lora", "all"])
def test_an_absurd_learning_rate_is_noticed_at_once(adapted):
    wanted = recipe(adapters=adapted, steps=200, length=64, learning_rate=100.0, warmup=0)
    ids, held_out = stories(40)
    model, told = prune(zoo(), 0.5), []
    names = list(model.state_dict())
    with pytest.raises(NumericalError, match=r"step \d+: found .*it began at") as e:
        fine_tuned(
            model,
            wanted,
            teacher=zoo,
            windows=ids,
            held_out=held_out,
            checkpoints=Memory(),
            report=lambda *step: told.append(step),
        )
    assert len(told) < 5
    assert f"step {len(told) + 1}: " in str(e.value)
    assert list(model.state_dict()) == names


def test_only_a_tenfold_loss_is_divergence():
    steps = loop.Loop.__new__(loop.Loop)
    steps.numbers = loop.checkpoint.Numbers(step=7, loss_before=1.0, start=3.0)
    steps._check(30.0, 1.0)
    with pytest.raises(NumericalError, match=r"step 8: found a loss of 30\.1; it began at 3,"):
        steps._check(30.1, 1.0)
    for loss, norm in ((math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, math.nan)):
        with pytest.raises(NumericalError, match="step 8"):
            steps._check(loss, norm)
    steps.numbers.step = 0
    steps._check(50.0, 1.0)
    with pytest.raises(NumericalError):
        steps._check(math.nan, 1.0)


def test_the_start_is_of_the_untrained_model():
    wanted = recipe(steps=4, learning_rate=1e-12, log_every=1)
    for held_out in (windows(n=1, seed=3), windows(n=3, seed=2)):
        whole = loop.Loop._note
        starts = []

        def note(self, *rest, whole=whole, starts=starts):
            whole(self, *rest)
            starts.append(self.numbers.start)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Loop, "_note", note)
            found = fine_tuned(noisy(), wanted, held_out=held_out)
        assert set(starts) == {max(found.loss_before, found.rows[0]["loss"])}


def test_a_model_of_no_numbers_is_refused_before_the_first_step():
    model = noisy()
    model.layers[0].mixer.out_proj.weight[0, 0] = math.nan
    with pytest.raises(NumericalError, match="nan over the held-out windows"):
        fine_tuned(model, recipe())


def test_a_teacher_and_a_student_that_are_equal_learn_nothing_and_say_so():
    wanted = recipe(adapters="all")
    with pytest.raises(MethodError, match=r"would not learn.*\n.*a gradient of zero"):
        fine_tuned(dense(), wanted)


def test_the_teacher_shares_what_is_equal_and_stays_as_it_was(caplog):
    student, teacher = noisy(), dense()
    expected = weights(dense())
    saved = share_equal(teacher, student)
    theirs = dict(student.named_parameters())
    shared = [n for n, p in teacher.named_parameters() if p.data_ptr() == theirs[n].data_ptr()]
    changed = {f"{p.where}.weight" for p in projections(student, "both", "all")}
    assert set(shared) == set(theirs) - changed
    assert saved == sum(theirs[n].nbytes for n in shared)
    assert share_equal(teacher, student) == 0
    with caplog.at_level(logging.INFO):
        fine_tuned(student, recipe(), teacher=lambda: teacher)
    assert same(weights(teacher), expected)


def test_a_teacher_that_shares_adapted_weights_outlives_the_merge():
    """With MLPs left as they were, adapters sit on weights that both models share."""
    student, teacher = dense("phi_mamba"), dense("phi_mamba")
    student.layers[0].mixer.out_proj.weight.mul_(0.5)
    expected = weights(dense("phi_mamba"))
    fine_tuned(student, recipe(), name="phi_mamba", teacher=lambda: teacher)
    assert same(weights(teacher), expected)
    assert not torch.equal(student.layers[0].mlp.fc1.weight, teacher.layers[0].mlp.fc1.weight)


@pytest.mark.parametrize("name", ["mamba2", "mamba", "hybrid_llama"])
def test_half_precision_is_for_projections_and_scans_stay_whole(name, monkeypatch):
    seen, scanned = set(), []

    def scan(whole):
        def watched(*args, **options):
            scanned.append(torch.is_autocast_enabled("cpu"))
            return whole(*args, **options)

        return watched

    for kernel in ("ssd", "selective_scan"):
        monkeypatch.setattr(mixers, kernel, scan(getattr(mixers, kernel)))
    linear = torch.nn.Linear.forward

    def watch(self, x):
        y = linear(self, x)
        if y.requires_grad or self.training:
            seen.add(y.dtype)
        return y

    monkeypatch.setattr(torch.nn.Linear, "forward", watch)
    half = fine_tuned(noisy(name), recipe(dtype="bfloat16", steps=10), name=name)
    assert seen == {torch.bfloat16}
    assert scanned
    assert not any(scanned)
    seen.clear()
    whole = fine_tuned(noisy(name), recipe(steps=10), name=name)
    assert seen == {torch.float32}
    assert half.loss_after == pytest.approx(whole.loss_after, rel=0.02)
    assert half.loss_after != whole.loss_after
    assert half.loss_before == whole.loss_before


def test_weights_of_half_precision_train_in_float32_and_come_back():
    for wanted in (recipe(adapters="all", dtype="bfloat16"), recipe(dtype="float32")):
        model = noisy().bfloat16()
        found = fine_tuned(model, wanted, teacher=lambda: dense().bfloat16())
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert {t.dtype for t in found.tensors.values()} == {torch.float32}
        other = noisy().bfloat16()
        train.apply_trained(other, wanted, found.tensors, keep_zeros=False)
        assert same(weights(other), weights(model))


def test_float16_is_refused():
    with pytest.raises(MethodError, match="gradients underflow; expected bfloat16 or float32"):
        fine_tuned(noisy(), recipe(dtype="float16"))
    with pytest.raises(MethodError, match="gradients underflow"):
        fine_tuned(noisy().half(), recipe(dtype=None).model_copy(update={"dtype": None}))


def test_progress_tells_loss_speed_and_time_left():
    told = []
    fine_tuned(noisy(), recipe(steps=3), report=lambda *step: told.append(step))
    assert [step[:3] for step in told] == [("fine-tune", i, 3) for i in (1, 2, 3)]
    import re

    for step in told:
        assert re.fullmatch(r"loss \d\.\d{3} · [\d.]+( k)? tokens/s · \d+ s left", step[3])


@pytest.mark.parametrize("objective", [CrossEntropy(), Distillation(dense(), temperature=2.0)])
def test_an_objective_is_a_mean_over_windows(objective):
    model, ids = noisy(), windows(n=5).long()
    whole = float(objective(model, ids, range(5)).total)
    each = [float(objective(model, ids[i : i + 1], range(i, i + 1)).total) for i in range(5)]
    assert sum(each) / 5 == pytest.approx(whole, rel=1e-5)


def test_every_family_can_be_trained():
    for name in MODELS:
        found = fine_tuned(noisy(name), recipe(steps=3), name=name)
        assert found.loss_after != found.loss_before, name
