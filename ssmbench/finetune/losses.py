"""Losses over the vocabulary, taken in pieces, so that the logits of a batch never exist whole.

A piece is a few positions with all of their logits. Its gradient with respect to the logits is
known in closed form as soon as they are, so it is carried on to the hidden states at once, and
the logits are let go: what stays for the backward pass has the hidden states' size.

    kd   the forward KL divergence from the teacher's distribution to the student's, times the
         square of the temperature, which keeps the gradient's size (Hinton et al. 2015,
         arXiv:1503.02531, section 2.1). "On Pruning State-Space LLMs" has it at temperature 1.
    ce   cross-entropy with the next token.

Each is a mean over valid positions, in nats. Arithmetic on logits is float32 or wider; under
autocast they come from products in its dtype, as they would from a call of the head.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Callable

    OfPiece = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
    """Called with a piece's logits (positions, vocabulary), which it may overwrite, and which
    positions they are of: gives each one's loss (positions,) and the gradient of their sum."""

# Logits of one piece: past it the handful of tensors of that size leave the caches of a CPU. But
# fewer positions than these would read the head's weight too often for what is done with it.
ELEMENTS, POSITIONS = 1 << 20, 128


def kd_loss(
    student_hidden: Tensor,
    student_head: nn.Linear,
    teacher_hidden: Tensor,
    teacher_head: nn.Linear,
    valid: Tensor | None,
    *,
    temperature: float = 1.0,
    piece: int | None = None,
) -> Tensor:
    """Give the mean over positions of T² · KL(teacher ‖ student), with T the temperature.

    Where both have the same hidden states and heads, loss and gradient are exactly 0.

    Args:
        student_hidden: (…, d_model), after the final norm; any floating dtype.
        student_head: gives the logits; gradients reach its weight and bias if they want any.
        teacher_hidden: (…, d_model of the teacher); no gradient reaches it.
        teacher_head: of the same vocabulary.
        valid: (…) bool, the positions that count, at least one; None for all.
        temperature: T, above 0, by which all logits are divided.
        piece: positions whose logits exist at once; None for a size that suits a CPU.

    Returns:
        A scalar, float32 or wider, in nats.
    """
    teacher = _Projected(_taken(teacher_hidden.detach(), valid), teacher_head)
    of_piece = partial(_kd_piece, teacher=teacher, temperature=temperature)
    return _mean(_taken(student_hidden, valid), student_head, of_piece, piece)


def ce_loss(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    valid: Tensor | None,
    *,
    weights: Tensor | None = None,
    piece: int | None = None,
) -> Tensor:
    """Give the mean over positions of the cross-entropy with each one's target.

    Args:
        hidden: (…, d_model), after the final norm; any floating dtype.
        head: gives the logits; gradients reach its weight and bias if they want any.
        targets: (…) int64, the token that follows each position; where not valid, anything.
        valid: (…) bool, the positions that count, at least one; None for all.
        weights: (…), how much each position counts, ≥ 0, not all 0; None for all alike.
        piece: positions whose logits exist at once; None for a size that suits a CPU.

    Returns:
        A scalar, float32 or wider, in nats.
    """
    of_piece = partial(_ce_piece, targets=_taken(targets[..., None], valid))
    if weights is not None:
        weights = _taken(weights[..., None], valid)
    return _mean(_taken(hidden, valid), head, of_piece, piece, weights)


def naive_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor | None, temperature: float = 1.0
) -> Tensor:
    """Give what `kd_loss` does, from logits (…, vocabulary), as the formula is written."""
    student = (_wide(student_logits) / temperature).log_softmax(-1)
    teacher = (_wide(teacher_logits) / temperature).log_softmax(-1)
    each = temperature**2 * (teacher.exp() * (teacher - student)).sum(-1)
    return (each if valid is None else each[valid]).mean()


def naive_ce_loss(logits: Tensor, targets: Tensor, valid: Tensor | None) -> Tensor:
    """Give what `ce_loss` does, from logits (…, vocabulary), as the formula is written."""
    if valid is not None:
        logits, targets = logits[valid], targets[valid]
    each = -_wide(logits).log_softmax(-1).gather(-1, targets[..., None])
    return each.mean()


class _Projected:
    """Hidden states (n, d_model) and the head that gives their logits, as autocast has them.

    The head is cast here once: inside of the pieces it would be cast for each.
    """

    def __init__(self, hidden: Tensor, head: nn.Linear) -> None:
        kind, dtype = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        bias = None if head.bias is None else head.bias.to(dtype)
        # A head may also be stored narrower than what enters it.
        self.inputs = (hidden.to(dtype), head.weight.to(dtype), bias)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _taken(x: Tensor, valid: Tensor | None) -> Tensor:
    """Take the valid positions of (…, width) as (n, width)."""
    x = x.flatten(0, -2)
    return x if valid is None else x.index_select(0, valid.flatten().nonzero()[:, 0])


def _mean(
    hidden: Tensor,
    head: nn.Linear,
    of_piece: OfPiece,
    piece: int | None,
    weights: Tensor | None = None,
) -> Tensor:
    if not len(hidden):
        raise ValueError("found no valid position to take a loss of; expected at least one")
    if weights is None:
        weights = hidden.new_ones((len(hidden), 1), dtype=torch.float64)
    weights = weights.double() / weights.sum(dtype=torch.float64)
    rows = piece or max(POSITIONS, ELEMENTS // head.out_features)
    student = _Projected(hidden, head)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _Pieces.apply(  # type: ignore[no-untyped-call]
            *student.inputs, of_piece, weights, rows, torch.is_grad_enabled()
        )
    return loss


def _kd_piece(
    logits: Tensor, rows: slice, *, teacher: _Projected, temperature: float
) -> tuple[Tensor, Tensor]:
    hidden, weight, bias = teacher.inputs
    aim = _wide(F.linear(hidden[rows], weight, bias))
    aim = aim.div_(temperature).log_softmax(-1)
    found = logits.div_(temperature).log_softmax(-1)
    wanted = torch.exp(aim)
    loss = aim.sub_(found).mul_(wanted).sum(-1)
    return loss * temperature**2, found.exp_().sub_(wanted).mul_(temperature)


def _ce_piece(logits: Tensor, rows: slice, *, targets: Tensor) -> tuple[Tensor, Tensor]:
    found, target = logits.log_softmax(-1), targets[rows]
    loss = -found.gather(-1, target)[:, 0]
    gradient = found.exp_()
    return loss, gradient.scatter_add_(-1, target, gradient.new_full(target.shape, -1.0))


class _Pieces(torch.autograd.Function):
    """The mean of a loss over positions; its gradients are ready when the forward pass is."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        of_piece: OfPiece,
        weights: Tensor,
        rows: int,
        enabled: bool,  # noqa: FBT001
    ) -> Tensor:
        # In a forward pass of a Function gradients are off, whatever they are outside of it.
        needed = [enabled and needs for needs in ctx.needs_input_grad[:3]]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        grads = (
            torch.empty_like(hidden) if needed[0] else None,
            torch.zeros_like(weight, dtype=wide) if needed[1] else None,
            torch.zeros_like(bias, dtype=wide) if needed[2] and bias is not None else None,
        )
        total = hidden.new_zeros((), dtype=torch.float64)
        for start in range(0, len(hidden), rows):
            span = slice(start, start + rows)
            part = hidden[span]
            loss, gradient = of_piece(_wide(F.linear(part, weight, bias)), span)
            total += loss.double() @ weights[span, 0]
            if any(needed):
                _carry(gradient.mul_(weights[span].to(wide)), part, weight, grads, span)
        ctx.save_for_backward(*(None if g is None else g.to(hidden.dtype) for g in grads))
        return total.to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        of_inputs = ctx.saved_tensors
        return (*(None if g is None else g * scale.to(g.dtype) for g in of_inputs), *(None,) * 4)


def _carry(
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
    span: slice,
) -> None:
    """Carry a piece's gradient from its logits to the hidden states and the head."""
    of_hidden, of_weight, of_bias = grads
    if of_bias is not None:
        of_bias += gradient.sum(0)
    gradient = gradient.to(weight.dtype)
    if of_hidden is not None:
        of_hidden[span] = gradient @ weight
    if of_weight is not None:
        of_weight += gradient.T @ hidden
