"""What cells and attempts of one run have in common, computed once.

Calibration windows, statistics of models, and what a training gave.

Whoever needs something first computes and publishes it as an artifact; the others find it. What
is given is always what the artifact holds, so a cell's numbers are the same bits either way.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.errors import StoreError
from ssmbench.execute import isolation
from ssmbench.execute.environment import n_threads
from ssmbench.kernels import backends
from ssmbench.plan.cells import identity_of
from ssmbench.store.artifacts import Artifacts
from ssmbench.store.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from ssmbench.execute.job import Job
    from ssmbench.finetune.train import Trained
    from ssmbench.store.artifacts import Series

log = logging.getLogger(__name__)

_FILE = "tensors.safetensors"
_RECORD = "training.json"


class Found(NamedTuple):
    """A finished training.

    Attributes:
        record: rows, loss_before, loss_after and n, the windows held out.
        tensors: what was trained; None where this attempt's model has it already.
    """

    record: dict[str, Any]
    tensors: dict[str, Tensor] | None


class Shared:
    """The artifacts of a job's run folder, as one cell asks for them."""

    def __init__(self, job: Job) -> None:
        """Compute and read nothing yet."""
        from ssmbench.models.precision import compute_dtype

        self._artifacts = Artifacts(RunFolder.at(job.folder))
        self._seed = job.cell.seed
        cell, on_cpu = job.cell, job.device == "cpu"
        text = identity_of(cell.calibration) if cell.calibration else None
        tokenizer = cell.model.tokenizer_fingerprint or cell.model.fingerprint
        self._text = {"tokenizer": tokenizer, "calibration": text}
        # Sums over other batches, on another kind of device, by another number of threads, in
        # another type or by other kernels have other last bits.
        self._model: dict[str, Any] = {
            "model": cell.model.fingerprint,
            "dtype": cell.dtype,
            "compute_dtype": compute_dtype(cell.dtype, job.device),
            "device": "cpu" if on_cpu else "cuda",
            "threads": n_threads(job.num_cpus) if on_cpu else None,
            "batch_tokens": job.batch_tokens,
        }
        if providers := dict(backends.current().providers):
            self._model["backend"] = providers

    def windows(self, draw: Callable[[], Tensor]) -> Tensor:
        """Give the cell's calibration windows, (samples, length) int64.

        Args:
            draw: draws them from the text.

        Raises:
            StoreError: the artifact is damaged.
        """
        key = {"artifact": "windows", **self._text}
        return self._tensors("calibration windows", key, lambda: {"windows": draw()})["windows"]

    def statistics(
        self, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Give statistics of the cell's model over its calibration windows; `context.share`.

        Args:
            key: JSON: which statistics, and whatever they depend on beside the model, its
                number format, the windows and the device.
            compute: computes them.

        Returns:
            What `compute` gives, on the CPU.

        Raises:
            StoreError: the artifact is damaged.
        """
        whole = {"artifact": "statistics", **self._text, **self._model, "of": dict(key)}
        return self._tensors(f"statistics '{key.get('statistics')}'", whole, compute)

    def trained(self, key: Mapping[str, Any], train: Callable[[Series], Trained]) -> Found:
        """Give a training, finished before or now.

        Args:
            key: JSON: everything on which it depends beside the kind of device.
            train: does it, going on from the newest of the checkpoints that it is given.

        Raises:
            StoreError: the artifact is damaged.
        """
        whole = {**key, "device": self._model["device"]}
        finished = {"artifact": "trained", **whole}
        series = self._artifacts.series({"artifact": "training", **whole})
        path = self._artifacts.get(finished)
        if path is not None:
            log.info("training: found, artifact %s", path)
            series.clear()
            record = json.loads((path / _RECORD).read_bytes())
            return Found(record, _load(path / _FILE))
        isolation.seed_everything(self._seed)
        trained = train(series)
        record = {
            "rows": trained.rows,
            "loss_before": trained.loss_before,
            "loss_after": trained.loss_after,
            "n": trained.n_held_out,
        }

        def write(folder: Path) -> None:
            _save(trained.tensors, folder / _FILE)
            (folder / _RECORD).write_text(json.dumps(record, allow_nan=False), "utf-8")

        path = self._artifacts.publish(finished, write)
        log.info(
            "training: loss %.4g before and %.4g after, on %d held-out windows; artifact %s",
            *(trained.loss_before, trained.loss_after, trained.n_held_out, path),
        )
        series.clear()
        return Found(record, None)

    def _tensors(
        self, name: str, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        path = self._artifacts.get(key)
        if path is None:
            started_s = time.monotonic()
            # Neither what was drawn before nor the cell's seed may show in what others will find.
            isolation.seed_everything(0)
            tensors = compute()
            took_s = time.monotonic() - started_s
            path = self._artifacts.publish(key, lambda folder: _save(tensors, folder / _FILE))
            log.info("%s: computed in %.1f s, artifact %s", name, took_s, path)
        else:
            log.info("%s: found, artifact %s", name, path)
        isolation.seed_everything(self._seed)
        return _load(path / _FILE)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path)


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as problem:
        raise StoreError(
            f"{path.parent}: is damaged ({problem}). Delete this folder and run again: what it"
            " held is computed anew."
        ) from None
