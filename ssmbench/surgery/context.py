"""What a method is given besides the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmbench.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor

Report = Callable[[str, int, int], None]
"""Called with (step, done, total) as work goes on."""


def silent(step: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class MethodContext:
    """The seed, the calibration windows and the batch size of one cell.

    Attributes:
        seed: of the cell; the only source of randomness that a method may use.
        calibration: (samples, length) int64; None where no step of the chain needs it.
        batch_tokens: positions that run at once.
        report: progress.
    """

    seed: int
    calibration: Tensor | None
    batch_tokens: int = 16384
    report: Report = silent

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
