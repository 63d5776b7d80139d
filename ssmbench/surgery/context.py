"""What a method is given besides the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssmbench.errors import MethodError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.coupling import Axis

Report = Callable[[str, int, int], None]
"""Called with (step, done, total) as work goes on."""

Remove = Callable[["Decoder", int, "Axis", "Tensor"], None]
"""`axes.take`, or `axes.mask` where a test asks whether they agree."""

RemoveMixer = Callable[["Decoder", int], None]
"""`axes.remove_mixer`, or `axes.mask_mixer` in such a test."""

Share = Callable[["Mapping[str, Any]", "Callable[[], dict[str, Tensor]]"], "dict[str, Tensor]"]
"""Called with (key, compute): gives what `compute` gives, perhaps from another cell's work."""


def silent(step: str, done: int, total: int) -> None:
    """Ignore progress."""


def unshared(
    _key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Compute anew."""
    return compute()


def take(model: Decoder, layer: int, axis: Axis, keep: Tensor) -> None:
    """Do as `axes.take` does, which needs torch."""
    from ssmbench.surgery import axes

    axes.take(model, layer, axis, keep)


def take_mixer(model: Decoder, layer: int) -> None:
    """Do as `axes.remove_mixer` does, which needs torch."""
    from ssmbench.surgery import axes

    axes.remove_mixer(model, layer)


@dataclass(frozen=True)
class MethodContext:
    """The seed, the calibration windows and the batch size of one cell.

    Attributes:
        seed: of the cell; the only source of randomness that a method may use.
        calibration: (samples, length) int64; None where no step of the chain needs it.
        batch_tokens: positions that run at once.
        report: progress.
        remove: how structured methods remove what they do not keep.
        remove_mixer: how they remove a layer's whole mixer.
        share: where a method asks for statistics of the model as it is before the method's step
            that depend on the calibration windows alone. The key says which statistics; the
            model, the windows and the steps before are added by whoever shares.
    """

    seed: int
    calibration: Tensor | None
    batch_tokens: int = 16384
    report: Report = silent
    remove: Remove = take
    remove_mixer: RemoveMixer = take_mixer
    share: Share = unshared

    def windows(self) -> Tensor:
        """Give the calibration windows.

        Raises:
            MethodError: the cell was given none.
        """
        if self.calibration is None:
            raise MethodError(
                "found no calibration text; this method needs it. Set `calibration:`."
            )
        return self.calibration
