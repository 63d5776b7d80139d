"""The Python interface: the same steps that an attempt of a grid takes, one at a time."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench import plugins
from ssmbench.errors import MethodError
from ssmbench.execute.compress import Windows, chain, checked, tokenizer_of
from ssmbench.execute.compress import compress as compress_in_place
from ssmbench.grid.catalogue import catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.export import Layout

__all__ = ["compress", "evaluate", "load", "results", "save", "tokenizer_of"]


def load(
    name_or_path: str,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Decoder:
    """Load a model, ready to evaluate: `logits = model(input_ids)`, float32 (batch, length, vocab).

    Args:
        name_or_path: a name of the catalogue (`zoo-mamba-s`, `mamba2-130m`), a folder, or a hub id.
        tokenizer: folder or hub id; the catalogue's or the model's own where None.
        revision: of the hub.
        dtype: "float32", "bfloat16" or "float16", what weights are rounded to. Projections run in
            it too, but where a processor has no units for it: there in float32, of weights that
            stay in half precision in memory.
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        CheckpointError: the folder cannot be read as a model.
    """
    from ssmbench.models import checkpoint

    known = catalogue().get(name_or_path)
    return checkpoint.load(
        known.source if known else name_or_path,
        tokenizer=tokenizer or (known.tokenizer if known else None),
        revision=revision,
        dtype=dtype,
        device=device,
        name=name_or_path,
    )


def compress(
    model: Decoder,
    method: str,
    ratio: float | None = None,
    *,
    calibration: str | None = None,
    samples: int = 128,
    length: int = 128,
    seed: int = 0,
    data: str | Path | None = None,
    **params: Any,
) -> Decoder:
    """Compress a copy of a model; the given one stays as it is.

    Args:
        model: as `load` gives it.
        method: its name, such as "wanda", or a chain of several, such as "state+wanda".
        ratio: fraction to remove, in [0, 1); of each step of a chain that has none of its own.
        calibration: the text that the method may look at: "wikitext", "c4", "tinyworld", or a
            file or folder; "tinyworld" for the zoo and "wikitext" otherwise where None.
        samples: calibration windows.
        length: tokens of each.
        seed: of the windows and of methods that draw at random.
        data: folder of local data sets, as `--data` on the command line.
        params: the method's parameters; a chain's by step name: `wanda={"ratio": 0.5}`.

    Raises:
        CommandError: a ratio or parameter that the method does not take.
        MethodError: the method cannot do its job on this model.
    """
    steps = chain(method, ratio, params)
    folder = Path(data) if data else None
    windows = Windows(calibration, samples=samples, length=length, seed=seed, folder=folder)
    compressed = copy.deepcopy(model)
    compress_in_place(compressed, steps, windows)
    return compressed


def save(model: Decoder, folder: str | Path, *, layout: Layout = "ssmbench") -> None:
    """Write a model and its tokenizer to a new folder, which `load` and grids then take.

    Args:
        model: of any shape; its tensors are written in the dtypes that they have.
        folder: must be empty or not there yet; it appears whole or not at all.
        layout: "ssmbench" holds any model. "upstream" is the layout that the family was published
            in, "transformers" that of transformers' own class; both hold what their config can
            say (docs/checkpoints.md).

    Raises:
        CommandError: the folder holds something, or cannot be written.
        CheckpointError: the layout cannot say this model.
    """
    from ssmbench.execute.export import write

    write(model, Path(folder), layout=layout)


def evaluate(
    model: Decoder,
    suites: Sequence[str | Mapping[str, Any]],
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_tokens: int = 16384,
    backend: str = "auto",
) -> dict[str, pl.DataFrame]:
    """Measure a model. On a CPU the process henceforth keeps memory that it frees, for its own use.

    Args:
        model: as `load` or `compress` gives it.
        suites: names, or mappings as in a grid: `{"suite": "perplexity", "length": 512}`.
        data: folder of local data sets, as `--data` on the command line.
        limit: score the first N documents of each task only.
        seed: for suites that draw at random.
        batch_tokens: positions that run at once.
        backend: whose kernels compute, as a grid's `backend`.

    Returns:
        The tables `metrics`, `samples`, `latency` and `layers`, with a column `suite`.

    Raises:
        CommandError: a suite parameter that does not exist or does not fit.
        DataError: a data set is missing.
        PrerequisiteError: the backend was named, and cannot compute on this machine.
    """
    import polars as pl

    from ssmbench.kernels import backends
    from ssmbench.kernels.memory import keep_freed_memory
    from ssmbench.suites._context import Context

    if model.device.type == "cpu":
        keep_freed_memory()
    names = ("metrics", "samples", "latency", "layers")
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    tokenizer = tokenizer_of(model)
    dtype, computed_in = (str(t).removeprefix("torch.") for t in (model.dtype, model.compute_dtype))
    with backends.using(backend, str(model.device), dtype):
        for wanted in suites:
            given = {"suite": wanted} if isinstance(wanted, str) else dict(wanted)
            name = str(given.pop("suite", ""))
            plugin = plugins.load("suite", name)
            params = checked(plugin, f"suite {name}", given)
            with tempfile.TemporaryDirectory(prefix="ssmbench-") as scratch:
                context = Context(
                    model=model,
                    tokenizer=tokenizer,
                    dense=lambda: _dense(model),
                    data=Path(data) if data else None,
                    limit=limit,
                    seed=seed,
                    batch_tokens=batch_tokens,
                    scratch=Path(scratch),
                    report=lambda _step, _done, _total: None,
                )
                with backends.recording() as computed:
                    result = plugin.run(context, params)
            for table, rows in tables.items():
                told = {"backend": computed.text, "compute_dtype": computed_in}
                more = {} if table == "samples" else told
                rows += [{"suite": name, **row, **more} for row in getattr(result, table)]
    return {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()}


def results(run_folder: str | Path) -> dict[str, pl.DataFrame]:
    """Read a run's tables: cells, metrics, samples, latency, layers, training and attempts.

    Args:
        run_folder: local, or an address such as "s3://bucket/run".

    Raises:
        StoreError: the folder is not a run folder, or damaged.
    """
    from ssmbench.store.folder import RunFolder
    from ssmbench.store.read import tables

    frames = tables(RunFolder.open(str(run_folder)))
    return {name: frame.collect() for name, frame in frames.items()}


def _dense(model: Decoder) -> Decoder:
    """Load the uncompressed model that a compressed one came from."""
    from ssmbench.models import checkpoint

    if model.origin is None:
        raise MethodError("the model was not loaded from anywhere, so it has no dense twin.")
    return checkpoint.load(
        model.origin.source,
        tokenizer=model.origin.tokenizer,
        revision=model.origin.revision,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        name=model.origin.name,
    )
