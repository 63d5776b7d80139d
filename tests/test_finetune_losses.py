"""The losses in pieces against the plain formulas, and what they must never hold at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from ssmbench.finetune.losses import ce_loss, kd_loss, naive_ce_loss, naive_kd_loss

DOUBLE = torch.float64
# Both forms round each logit's float32 softmax once; sums over a few dozen of them.
SINGLE = {"rtol": 2e-5, "atol": 2e-6}
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def head(d_model: int, vocabulary: int, *, bias: bool = False, seed: int = 0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(d_model, vocabulary, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=DOUBLE))
    return made


def draw(*shape: int, seed: int = 0, dtype=DOUBLE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE).to(dtype)


def grads(loss: Tensor, hidden: Tensor, student: nn.Linear) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *student.parameters()]))


class Watched(TorchDispatchMode):
    """Notes the operations, and the shape of every tensor that one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.operations: list[str] = []
        self.casts: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        outs = out if isinstance(out, tuple | list) else (out,)
        self.shapes |= {tuple(o.shape) for o in outs if isinstance(o, Tensor)}
        self.operations.append(func.overloadpacket.__name__)
        if self.operations[-1] == "_to_copy":
            self.casts.append(tuple(out.shape))
        return out


@st.composite
def problems(draw_from):
    sizes = st.integers(1, 7)
    batch, length, d_model = (draw_from(sizes) for _ in range(3))
    valid = draw_from(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length))
    valid[draw_from(st.integers(0, batch * length - 1))] = True
    return {
        "shape": (batch, length, d_model, draw_from(st.integers(1, 9))),
        "d_teacher": draw_from(sizes),
        "valid": draw_from(st.sampled_from([None, torch.tensor(valid).view(batch, length)])),
        "temperature": draw_from(st.sampled_from([0.5, 1.0, 3.0])),
        "piece": draw_from(st.sampled_from([None, 1, 2, 3, 5, 1000])),
        "bias": draw_from(st.booleans()),
        "dtype": draw_from(st.sampled_from([DOUBLE, torch.float32])),
        "seed": draw_from(st.integers(0, 99)),
    }


@given(problems())
@settings(max_examples=150, deadline=None)
def test_kd_in_pieces_is_the_plain_formula_with_its_gradients(problem):
    (batch, length, d_model, vocabulary), dtype = problem["shape"], problem["dtype"]
    seed, temperature, valid = problem["seed"], problem["temperature"], problem["valid"]
    student = head(d_model, vocabulary, bias=problem["bias"], seed=seed, dtype=dtype)
    teacher = head(problem["d_teacher"], vocabulary, seed=seed + 1, dtype=dtype)
    hidden = draw(batch, length, d_model, seed=seed, dtype=dtype).requires_grad_()
    aim = draw(batch, length, problem["d_teacher"], seed=seed + 1, dtype=dtype)
    loss = kd_loss(
        hidden, student, aim, teacher, valid, temperature=temperature, piece=problem["piece"]
    )
    plain = naive_kd_loss(student(hidden), teacher(aim), valid, temperature)
    close = TIGHT if dtype is DOUBLE else SINGLE
    assert_close(loss, plain, **close)
    pairs = zip(grads(loss, hidden, student), grads(plain, hidden, student), strict=True)
    for found, expected in pairs:
        assert_close(found, expected, **close)


@given(problems())
@settings(max_examples=50, deadline=None)
def test_ce_weighs_positions_as_it_is_told(problem):
    batch, length, d_model, vocabulary = problem["shape"]
    student, valid = head(d_model, vocabulary, seed=problem["seed"]), problem["valid"]
    hidden = draw(batch, length, d_model, seed=problem["seed"]).requires_grad_()
    targets = torch.arange(batch * length).view(batch, length) * 5 % vocabulary
    weights = draw(batch, length, seed=problem["seed"]).abs()
    loss = ce_loss(hidden, student, targets, valid, weights=weights, piece=problem["piece"])
    each = -student(hidden).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    counted = weights if valid is None else weights * valid
    plain = (each * counted).sum() / counted.sum()
    assert_close(loss, plain, **TIGHT)
    pairs = zip(grads(loss, hidden, student), grads(plain, hidden, student), strict=True)
    for found, expected in pairs:
        assert_close(found, expected, **TIGHT)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_ce_in_pieces_is_the_plain_formula_with_its_gradients(problem):
    (batch, length, d_model, vocabulary), dtype = problem["shape"], problem["dtype"]
    student = head(d_model, vocabulary, bias=problem["bias"], seed=problem["seed"], dtype=dtype)
    hidden = draw(batch, length, d_model, seed=problem["seed"], dtype=dtype).requires_grad_()
    targets = torch.arange(batch * length).view(batch, length) * 5 % vocabulary
    loss = ce_loss(hidden, student, targets, problem["valid"], piece=problem["piece"])
    plain = naive_ce_loss(student(hidden), targets, problem["valid"])
    close = TIGHT if dtype is DOUBLE else SINGLE
    assert_close(loss, plain, **close)
    pairs = zip(grads(loss, hidden, student), grads(plain, hidden, student), strict=True)
    for found, expected in pairs:
        assert_close(found, expected, **close)


def test_the_plain_formulas_are_torchs():
    logits, aim, targets = draw(3, 5, 7), draw(3, 5, 7, seed=1), torch.arange(15).view(3, 5) % 7
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert_close(naive_ce_loss(logits, targets, None), expected, **TIGHT)
    expected = 4 * F.kl_div(
        (logits / 2).log_softmax(-1).flatten(0, 1),
        (aim / 2).softmax(-1).flatten(0, 1),
        reduction="batchmean",
    )
    assert_close(naive_kd_loss(logits, aim, None, 2.0), expected, **TIGHT)


def test_gradients_are_those_of_finite_differences():
    student, teacher = head(4, 6, bias=True), head(3, 6, seed=1)
    hidden, aim = draw(5, 4).requires_grad_(), draw(5, 3, seed=1)
    valid = torch.tensor([True, True, False, True, True])

    def kd(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        student.weight, student.bias = weight, bias
        return kd_loss(hidden, student, aim, teacher, valid, temperature=1.7, piece=2)

    def ce(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        student.weight, student.bias = weight, bias
        return ce_loss(hidden, student, torch.arange(5), valid, piece=3)

    for loss in (kd, ce):
        leaves = [nn.Parameter(draw(6, 4)), nn.Parameter(draw(6))]
        assert torch.autograd.gradcheck(loss, (hidden, *leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, DOUBLE])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_teacher_equal_to_student_gives_exactly_zero(dtype, temperature):
    hidden = (3 * draw(2, 33, 16, dtype=dtype)).requires_grad_()
    student = head(16, 211, bias=True, dtype=dtype)
    teacher = nn.Linear(16, 211, dtype=dtype)
    teacher.load_state_dict(student.state_dict())
    loss = kd_loss(
        hidden, student, hidden.detach().clone(), teacher, None, temperature=temperature, piece=7
    )
    assert loss.item() == 0
    assert all(g.count_nonzero() == 0 for g in grads(loss, hidden, student))


def test_what_stands_where_nothing_is_valid_means_nothing():
    student, teacher = head(4, 9, dtype=torch.float32), head(4, 9, seed=1, dtype=torch.float32)
    hidden, aim = draw(2, 6, 4, dtype=torch.float32), draw(2, 6, 4, seed=1, dtype=torch.float32)
    valid = torch.tensor([[True, True, True, False, False, False], [True] * 5 + [False]])
    poisoned = hidden.masked_fill(~valid[..., None], torch.nan).requires_grad_()
    hidden.requires_grad_()
    for poisoned_loss, loss in (
        (
            kd_loss(poisoned, student, aim * (0 / valid[..., None] + 1), teacher, valid),
            kd_loss(hidden, student, aim, teacher, valid),
        ),
        (
            ce_loss(poisoned, student, torch.full((2, 6), 10**9).where(~valid, 3), valid),
            ce_loss(hidden, student, torch.full((2, 6), 3), valid),
        ),
    ):
        assert torch.equal(poisoned_loss, loss)
        found = grads(poisoned_loss, poisoned, student)
        assert all(map(torch.equal, found, grads(loss, hidden, student)))
        assert found[0][~valid].count_nonzero() == 0
        assert found[0][valid].all()


def test_no_valid_position_is_refused():
    with pytest.raises(ValueError, match="no valid position"):
        ce_loss(draw(2, 3, 4), head(4, 5), torch.zeros(2, 3).long(), torch.zeros(2, 3).bool())


def test_bfloat16_is_summed_in_float32():
    student, teacher = (head(32, 500, seed=i, dtype=torch.bfloat16) for i in (0, 1))
    hidden = (draw(4, 50, 32, dtype=torch.bfloat16) / 8).requires_grad_()
    aim = draw(4, 50, 32, seed=1, dtype=torch.bfloat16) / 8
    targets = torch.arange(200).view(4, 50)
    for loss, plain in (
        (
            kd_loss(hidden, student, aim, teacher, None, piece=9),
            naive_kd_loss(student(hidden), teacher(aim), None),
        ),
        (
            ce_loss(hidden, student, targets, None, piece=9),
            naive_ce_loss(student(hidden), targets, None),
        ),
    ):
        assert loss.dtype == torch.float32
        # The logits are bfloat16 in both, and equal but for a rare rounding of one.
        assert_close(loss, plain, rtol=1e-4, atol=1e-5)
        pairs = zip(grads(loss, hidden, student), grads(plain, hidden, student), strict=True)
        for found, expected in pairs:
            assert found.dtype == torch.bfloat16
            error = (found.double() - expected.double()).norm() / expected.double().norm()
            assert error < 2**-7


def test_under_autocast_it_is_the_plain_formula_under_autocast():
    student, teacher = (head(32, 500, bias=True, seed=i, dtype=torch.float32) for i in (0, 1))
    hidden = (draw(200, 32, dtype=torch.float32) / 8).requires_grad_()
    aim, targets = draw(200, 32, seed=1, dtype=torch.float32) / 8, torch.arange(200)
    with torch.autocast("cpu", torch.bfloat16):
        pairs = (
            (
                kd_loss(hidden, student, aim, teacher, None, piece=9),
                naive_kd_loss(student(hidden), teacher(aim), None),
            ),
            (
                ce_loss(hidden, student, targets, None, piece=9),
                naive_ce_loss(student(hidden), targets, None),
            ),
        )
    for loss, plain in pairs:
        assert loss.dtype == torch.float32
        assert_close(loss, plain, rtol=1e-4, atol=1e-5)
        both = zip(grads(loss, hidden, student), grads(plain, hidden, student), strict=True)
        for found, expected in both:
            assert found.dtype == torch.float32
            assert (found - expected).norm() / expected.norm() < 2**-7
    student.requires_grad_(requires_grad=False)
    with torch.autocast("cpu", torch.bfloat16), Watched() as watched:
        kd_loss(hidden, student, aim, teacher, None, piece=9)
    assert watched.casts.count((500, 32)) == 2  # both heads, once; not for each piece


def test_the_gradient_of_a_scaled_loss_is_scaled():
    hidden, student = draw(9, 4).requires_grad_(), head(4, 6, bias=True)
    targets = torch.arange(9) % 6
    once = grads(ce_loss(hidden, student, targets, None, piece=4), hidden, student)
    thrice = grads(3 * ce_loss(hidden, student, targets, None, piece=4), hidden, student)
    for a, b in zip(once, thrice, strict=True):
        assert_close(3 * a, b, **TIGHT)


def seen(loss) -> set[tuple[int, ...]]:
    with Watched() as watched:
        loss().backward()
    return watched.shapes


def test_no_more_than_a_piece_of_logits_exists_and_no_gradient_that_nobody_wants():
    student, teacher = (head(4, 101, bias=True, seed=i) for i in (0, 1))
    hidden, aim = draw(2, 40, 4).requires_grad_(), draw(2, 40, 4, seed=1)
    teacher.requires_grad_(requires_grad=False)
    targets, valid = torch.zeros(2, 40).long(), torch.ones(2, 40).bool()

    def kd() -> Tensor:
        return kd_loss(hidden, student, aim, teacher, valid, piece=8)

    def ce() -> Tensor:
        return ce_loss(hidden, student, targets, valid, piece=8)

    for loss in (kd, ce):
        student.requires_grad_(requires_grad=True)
        shapes = seen(loss)
        logits = {s for s in shapes if s and s[-1] == 101}
        assert max(s[0] for s in logits if len(s) == 2) == 8
        assert (101, 4) in shapes
        assert student.weight.grad is not None
        student.requires_grad_(requires_grad=False)
        # Its transposed view is all that is left of the head.
        assert (101, 4) not in seen(loss)
    assert teacher.weight.grad is None


def test_without_gradients_none_is_taken():
    student, hidden = head(4, 101), draw(40, 4).requires_grad_()
    targets = torch.zeros(40).long()
    with torch.no_grad(), Watched() as watched:
        loss = ce_loss(hidden, student, targets, None, piece=8)
    assert not loss.requires_grad
    assert watched.operations.count("mm") == 5
    with Watched() as watched:
        loss_with = ce_loss(hidden, student, targets, None, piece=8)
    assert torch.equal(loss, loss_with.detach())
    assert watched.operations.count("mm") == 15


def test_no_gradient_reaches_the_teacher():
    aim, hidden = draw(9, 4, seed=1).requires_grad_(), draw(9, 4).requires_grad_()
    student, teacher = head(4, 6), head(4, 6, seed=1)
    kd_loss(hidden, student, aim, teacher, None).backward()
    assert aim.grad is None
    assert teacher.weight.grad is None
    assert student.weight.grad is not None
