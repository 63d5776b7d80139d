"""What a training makes smaller, as one callable for each kind: a mean over windows, in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from ssmbench.finetune.losses import ce_loss, kd_loss
from ssmbench.finetune.sparse import check_ratios, dense_sparse_loss, sample_ratio
from ssmbench.models.forest import Forest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssmbench.models.decoder import Decoder


class Loss(NamedTuple):
    """Nats a token, each a mean over windows; the two parts only where there are two."""

    total: Tensor
    dense: Tensor | None = None
    sparse: Tensor | None = None


class Objective(Protocol):
    """Gives the loss of some windows; that of several batches is the mean, by windows."""

    def __call__(self, model: Decoder, ids: Tensor, numbers: range) -> Loss:
        """Run a model over windows.

        Args:
            model: the one that trains.
            ids: (windows, length) int64, on the model's device, no padding.
            numbers: the windows' places in the whole training, below 0 for those held out:
                whatever is drawn for a window depends on its number alone.
        """


class Distillation:
    """Forward KL to the uncompressed model, over every position."""

    def __init__(self, teacher: Decoder, *, temperature: float) -> None:
        """Keep the teacher; `share_equal` may make it smaller afterwards."""
        self.teacher, self._temperature = teacher, temperature

    def __call__(self, model: Decoder, ids: Tensor, numbers: range) -> Loss:  # noqa: ARG002
        """See `Objective`."""
        with torch.no_grad():
            aim, _ = self.teacher.hidden(Forest.batch(ids), keep_state=False)
        hidden, _ = model.hidden(Forest.batch(ids), keep_state=False)
        heads = model.lm_head, self.teacher.lm_head
        loss = kd_loss(hidden, heads[0], aim, heads[1], None, temperature=self._temperature)
        return Loss(loss)


class CrossEntropy:
    """Cross-entropy of each token after a window's first."""

    def __call__(self, model: Decoder, ids: Tensor, numbers: range) -> Loss:  # noqa: ARG002
        """See `Objective`."""
        hidden, _ = model.hidden(Forest.batch(ids[:, :-1]), keep_state=False)
        return Loss(ce_loss(hidden, model.lm_head, ids[:, 1:].flatten(), None))


class DenseAndSparse:
    """Simba's loss: every window with all its tokens, and with a share of them dropped."""

    def __init__(self, model: Decoder, ratios: tuple[float, float], *, seed: int) -> None:
        """Keep the bounds of each window's ratio and the seed that it is drawn from.

        Raises:
            MethodError: the model drops no tokens, or not so many.
        """
        check_ratios(model, *ratios)
        self._ratios, self._seed = ratios, seed

    def __call__(self, model: Decoder, ids: Tensor, numbers: range) -> Loss:
        """See `Objective`."""
        low, high = self._ratios
        drawn = [sample_ratio(low, high, seed=self._seed, number=n) for n in numbers]
        return Loss(*dense_sparse_loss(model, ids, drawn))


def share_equal(model: nn.Module, other: nn.Module) -> int:
    """Let one model's parameters that equal another's lie where those do.

    Args:
        model: gives up its own tensors; they must not be written to afterwards, nor the other's.
        other: of the same parameter names, or some of them.

    Returns:
        The bytes that are no longer held twice.
    """
    theirs = dict(other.named_parameters())
    saved = 0
    for name, parameter in model.named_parameters():
        same = theirs.get(name)
        if (
            same is not None
            and same.data_ptr() != parameter.data_ptr()
            and same.device == parameter.device
            and same.dtype == parameter.dtype
            and torch.equal(same, parameter)
        ):
            parameter.data = same.data
            saved += parameter.nbytes
    return saved
