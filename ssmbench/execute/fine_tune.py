"""The fine-tuning of an attempt's compressed model: done once, then found by whoever needs it.

What was trained is an artifact of its own, under a key that holds the compressed weights
themselves: an attempt that retries or measures time finds it, and so does every ratio of a
method that only drops tokens, since that changes no weight. What depends on the number of
threads or on the batch in the last bits alone is left out of the key, so that a cell has one
training, not one for each kind of attempt.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ssmbench import plugins
from ssmbench.plan.cells import identity_of
from ssmbench.suites._context import Training

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from ssmbench.execute.job import Job, Report
    from ssmbench.execute.share import Shared
    from ssmbench.finetune.train import Trained
    from ssmbench.grid.fine_tune import Recipe
    from ssmbench.models.decoder import Decoder
    from ssmbench.plan.cells import Cell
    from ssmbench.store.artifacts import Series

log = logging.getLogger(__name__)


def fine_tune(
    job: Job,
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    shared: Shared,
    *,
    dense: Callable[[], Decoder],
    report: Report,
) -> Training | None:
    """Train a cell's compressed model in place, or make of it what an earlier training did.

    Args:
        job: says how, if at all.
        model: compressed.
        tokenizer: the model's.
        shared: where trainings and their checkpoints are.
        dense: loads the uncompressed model anew.
        report: progress.

    Returns:
        How it went; None for a cell that is not to be trained.

    Raises:
        MethodError: nothing to train, or something that no gradient reaches.
        NumericalError: the training diverged.
        DataError: its text is missing.
    """
    cell = job.cell
    recipe = cell.fine_tune.recipe
    if recipe is None:
        return None
    from ssmbench.finetune import data, train
    from ssmbench.surgery import compress

    report("fine-tune", 0, recipe.steps)
    keep_zeros = any(compress.zeros(model, step) is not None for step in cell.steps)
    recipe = _computed(recipe, cell)

    def run(series: Series) -> Trained:
        windows, held_out = data.windows(
            recipe,
            tokenizer=tokenizer,
            path=cell.fine_tune.path,
            folder=Path(job.data) if job.data else None,
        )
        return train.fine_tune(
            model,
            teacher=dense,
            recipe=recipe,
            windows=windows,
            held_out=held_out,
            keep_zeros=keep_zeros,
            batch_tokens=job.batch_tokens,
            seed=recipe.seed + cell.seed,
            report=report,
            checkpoints=series,
            checkpoint_s=job.checkpoint_s,
        )

    found = shared.trained(_key(cell, model, keep_zeros=keep_zeros), run)
    if found.tensors is not None:
        train.apply_trained(model, recipe, found.tensors, keep_zeros=keep_zeros)
    return Training(data=_name(cell), **found.record)


def _computed(recipe: Recipe, cell: Cell) -> Recipe:
    """Leave the type to compute in to the cell where it is the cell's.

    A processor without units for half precision computes such a cell in float32, and so its
    training.
    """
    return recipe.model_copy(update={"dtype": None}) if recipe.dtype == cell.dtype else recipe


def _key(cell: Cell, model: Decoder, *, keep_zeros: bool) -> dict[str, Any]:
    """Give what a training depends on beside the machine."""
    return {
        "weights": weights_digest(model),
        "model": cell.model.fingerprint,
        "tokenizer": cell.model.tokenizer_fingerprint or cell.model.fingerprint,
        "fine_tune": identity_of(cell.fine_tune),
        # A training draws the ratios at which tokens are dropped; the cell's own is not used.
        "drops": [
            {"name": step.name, "version": step.version, "params": dict(step.params)}
            for step in cell.steps
            if hasattr(plugins.load("method", step.name), "drops")
        ],
        "keep_zeros": keep_zeros,
        "seed": cell.seed,
        "dtype": cell.dtype,
    }


def weights_digest(model: Decoder) -> str:
    """Hash a model's description and every weight: SHA-256, in hex."""
    import torch

    found = hashlib.sha256(repr(model.description).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _name(cell: Cell) -> str:
    """Name the text as people do."""
    path = cell.fine_tune.path
    return PurePath(path).stem if path else str(cell.fine_tune.params["data"])
