"""`ssmbench compress`: one model, compressed as a cell would be, as a folder of its own."""

from __future__ import annotations

import dataclasses
import re
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ssmbench
from ssmbench import console
from ssmbench.errors import (
    DONE,
    INTERRUPTED,
    CommandError,
    PrerequisiteError,
    UnknownName,
    suggest,
)
from ssmbench.execute import environment
from ssmbench.execute.compress import Windows, chain, compress, needs
from ssmbench.execute.executor import Step as Stage
from ssmbench.execute.export import check_free, write
from ssmbench.execute.progress import told
from ssmbench.grid.catalogue import catalogue
from ssmbench.grid.schema import ModelEntry
from ssmbench.plan.resolve import SPLITS, resolve_model, resolve_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ssmbench.execute.job import Report
    from ssmbench.models.decoder import Decoder
    from ssmbench.models.export import Layout
    from ssmbench.plan.cells import Model, Step

_LINE_EVERY_S = 60.0


@dataclass(frozen=True)
class Request:
    """What to compress, how and where to, as on the command line."""

    model: str
    method: str
    out: Path
    ratio: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = "ssmbench"
    windows: Windows = field(default_factory=Windows)
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"


def compress_one(request: Request) -> int:
    """Load, compress and write a model, print what it has become, and give the exit code.

    Raises:
        CommandError: something is asked that does not exist, or the folder holds something.
        CheckpointError: the layout cannot say the compressed model.
        MethodError: a method cannot do its job on this model.
    """
    from ssmbench.models import export as exports
    from ssmbench.surgery import facts, units

    steps = chain(request.method, request.ratio, request.params)
    check_free(request.out)
    windows = _windows(request, steps)
    entry = _entry(request)
    try:
        with _progress() as report:
            report(f"load {request.model}", 0, 0)
            found = resolve_model(entry, Path.cwd())
            model = _load(request, found)
            dense = model.description
            # Else an hour's work may end in a layout that the family does not have at all.
            exports.check(dense, request.layout)
            achieved = compress(model, steps, windows, report=report)
            _round(model, request.dtype)
            report("write", 0, 0)
            slow = units.slow_shapes(model, dense)
            figures = {**facts.measure(model, dense), "ratio_achieved": achieved}
            record = {**_record(request, found, model, steps), **figures}
            lacks = write(
                model,
                request.out,
                layout=request.layout,
                data=request.windows.folder,
                record=record,
            )
    except KeyboardInterrupt:
        console.note("interrupted; nothing was written")
        return INTERRUPTED
    _show(request, steps, record, lacks)
    for text in slow:
        console.note(text)
    return DONE


def _windows(request: Request, steps: Sequence[Step]) -> Windows:
    """Check what can be checked before anything is loaded, and give a text's whole path."""
    windows = request.windows
    if windows.folder is not None and not windows.folder.is_dir():
        raise CommandError(
            f"--data {windows.folder}: found no such folder; expected one laid out as in"
            " docs/local-data.md."
        )
    for name, least in (("samples", 1), ("length", 1), ("seed", 0)):
        if getattr(windows, name) < least:
            raise CommandError(f"--{name} {getattr(windows, name)}: expected {least} or more.")
    data = windows.data
    if data is None:
        return windows
    if "calibration" not in needs(steps):
        raise CommandError(
            f"--calibration {data}: '{request.method}' looks at no text; expected none."
        )
    path = Path(data).expanduser()
    if data not in SPLITS and not path.exists():
        raise CommandError(
            f"--calibration {data}: found neither a text of that name nor such a file."
            f"{suggest(data, SPLITS)}"
        )
    return windows if data in SPLITS else dataclasses.replace(windows, data=str(path.resolve()))


def _entry(request: Request) -> ModelEntry:
    """Give the model as a grid would name it: by the catalogue, or by where its files are.

    Raises:
        UnknownName: neither the catalogue nor a folder nor a hub id.
    """
    text = request.model
    known = text in catalogue()
    is_place = "/" in text or text.startswith(("zoo:", ".", "~")) or Path(text).is_dir()
    if not known and not is_place:
        raise UnknownName("model", text, catalogue())
    return ModelEntry(
        name=text if known else None,
        path=None if known else text,
        tokenizer=request.tokenizer,
        revision=request.revision,
    )


def _load(request: Request, found: Model) -> Decoder:
    from ssmbench.models import checkpoint

    _check_device(request.device)
    return checkpoint.load(
        found.source,
        tokenizer=found.tokenizer,
        revision=request.revision,
        dtype=request.dtype,
        device=request.device,
        name=found.name,
    )


def _check_device(device: str) -> None:
    import torch

    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise CommandError(f"--device {device}: expected cpu, cuda or cuda:N.")
    number = int(device.partition(":")[2] or 0)
    if device != "cpu" and number >= torch.cuda.device_count():
        raise PrerequisiteError(
            f"--device {device}: found {torch.cuda.device_count()} GPUs that torch can use; "
            "expected that one. Leave --device out to use the processor."
        )


def _round(model: Decoder, dtype: str) -> None:
    """Bring a model to the dtype that it is written in: what was held wider is rounded."""
    from ssmbench.models.checkpoint import DTYPES as PRECISIONS

    model.to(PRECISIONS[dtype])


def _record(
    request: Request, found: Model, model: Decoder, steps: Sequence[Step]
) -> dict[str, Any]:
    """Say how a model was made, for its ssmbench.json."""
    commit, dirty = environment.git_state()
    calibration = None
    if "calibration" in needs(steps):
        text = resolve_text(request.windows.text(model), Path.cwd())
        calibration = {
            **text._asdict(),
            "samples": request.windows.samples,
            "length": request.windows.length,
        }
    return {
        "ssmbench": ssmbench.__version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": environment.versions(),
        "model": found.name,
        "source": found.source,
        "fingerprint": found.fingerprint,
        "revision": request.revision,
        "family": model.description.family,
        "tokenizer": found.tokenizer,
        "method": request.method,
        "steps": [asdict(step) for step in steps],
        "ratio": steps[-1].ratio,
        "calibration": calibration,
        "seed": request.windows.seed,
        "dtype": request.dtype,
        "device": request.device,
        "layout": request.layout,
    }


def _show(
    request: Request, steps: Sequence[Step], record: Mapping[str, Any], lacks: str | None
) -> None:
    """Print what a model has become."""
    pairs = {
        "parameters of the SSM mixers": ("params_mixer_dense", "params_mixer"),
        "parameters of the model": ("params_model_dense", "params_model"),
        "state of a sequence, bytes": ("state_bytes_dense", "state_bytes"),
    }
    body = [[name, *(f"{record[key]:,}" for key in keys)] for name, keys in pairs.items()]
    console.rows(["", "before", "after"], body, right=["before", "after"])
    if record["compression_mixer"] is not None:
        exact, published = 100 * record["compression_mixer"], record["compression_paper_percent"]
        console.result(f"Comp. {exact:.2f} % of the mixers' parameters ({published} as published)")
        console.result(f"{record['nonzero_mixer']:,} of the mixers' parameters are not zero")
    if record["ratio_achieved"] is not None:
        asked = " · ".join(f"{step.name} {step.ratio:g}" for step in steps)
        console.result(f"removed {record['ratio_achieved']:.4f} (asked: {asked})")
    console.result(f"written to {request.out} in the layout '{request.layout}'")
    if lacks is not None:
        console.warn(f"{request.out} has no tokenizer: {lacks}")


@contextmanager
def _progress() -> Iterator[Report]:
    """Tell steps on stderr: one moving line on a terminal, else a line for each step."""
    if console.is_live(plain=False):
        with console.err().status("") as status:
            from rich.text import Text

            yield lambda *stage: status.update(Text(told(Stage(*stage))))
        return
    last = ("", 0.0)

    def tell(step: str, done: int, total: int, note: str = "", /) -> None:
        nonlocal last
        now_s = time.monotonic()
        if step != last[0] or now_s - last[1] >= _LINE_EVERY_S:
            last = (step, now_s)
            console.note(told(Stage(step, done, total, note)))

    yield tell
