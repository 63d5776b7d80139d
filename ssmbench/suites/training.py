"""How fine-tuning went, step by step. Every fine-tuned cell has it; a grid does not name it.

It measures nothing: the attempt that trained hands over what the training told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ssmbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.suites._context import Context, Result, Row, Training

VERSION = 1
KIND = "quality"


class Params(BaseModel):
    """None: all that makes the numbers is the cell's."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: nothing."""
    return {}


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are scored: none."""
    return []


def tokens(params: Params, limit: int | None) -> int | None:
    """Give the tokens that a model runs over for this: none."""
    return 0


def run(context: Context, params: Params) -> Result:
    """Give the loss curve, and the loss on held-out windows before and after.

    Raises:
        DataError: the model was not fine-tuned.
    """
    from ssmbench.suites._context import Result

    told = context.training
    if told is None:
        raise DataError("suite training: this model was not fine-tuned; leave the suite out.")
    return Result(
        metrics=[
            _row(told, "loss_before", told.loss_before),
            _row(told, "loss_after", told.loss_after),
        ],
        training=[dict(row) for row in told.rows],
    )


def _row(told: Training, metric: str, value: float) -> Row:
    return {
        "task": told.data,
        "metric": metric,
        "value": value,
        "n": told.n,
        "higher_is_better": False,
    }
