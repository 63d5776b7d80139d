"""Commands on one model: compress it, count its FLOPs."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import Literal

from ssmbench.arguments import values


def compress(
    model: str,
    /,
    *,
    method: str,
    out: Path,
    ratio: float | None = None,
    param: tuple[str, ...] = (),
    layout: Literal["ssmbench", "upstream", "transformers"] = "ssmbench",
    calibration: str | None = None,
    samples: int = 128,
    length: int = 128,
    seed: int = 0,
    data: Path | None = None,
    tokenizer: str | None = None,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
) -> int:
    """Compress one model as a cell would be, and write it to a folder (docs/checkpoints.md).

    Args:
        model: a model of the catalogue, a folder or a hub id.
        method: a method's name, or a chain such as state+wanda.
        out: the folder to write; new or empty.
        ratio: the fraction removed, in [0, 1); of every step of a chain without its own.
        param: NAME=VALUE, a parameter of the method; STEP.NAME=VALUE in a chain; repeatable.
        layout: ssmbench (the default) holds any model; the others what their config can say.
        calibration: wikitext, c4, tinyworld, or a file or folder, for methods that look at text.
        samples: calibration windows (128).
        length: tokens of each (128).
        seed: of the windows and of methods that draw at random (0).
        data: folder of local data (docs/local-data.md).
        tokenizer: folder or hub id, where it is not with the model.
        revision: of the hub.
        dtype: of the weights as they are written, and as they are computed with where the device
            has units for it.
        device: cpu, cuda or cuda:N.
    """
    from ssmbench.execute.compress import Windows
    from ssmbench.execute.compress_one import Request, compress_one

    windows = Windows(calibration, samples=samples, length=length, seed=seed, folder=data)
    request = Request(
        model=model,
        method=method,
        out=out,
        ratio=ratio,
        params=values("--param", param),
        layout=layout,
        windows=windows,
        tokenizer=tokenizer,
        revision=revision,
        dtype=dtype,
        device=device,
    )
    return compress_one(request)


def flops(
    model: str,
    /,
    *,
    method: str = "dense",
    ratio: float | None = None,
    param: tuple[str, ...] = (),
    prompt: int = 1000,
    answer: int = 10,
    json: bool = False,
) -> int:
    """Show what one input costs a model, from its configuration alone; nothing is downloaded.

    Args:
        model: a model of the catalogue, or a folder with its config.json.
        method: one that drops tokens, such as simba; none by default.
        ratio: the fraction of the prompt gone at the last layer, in [0, 1).
        param: NAME=VALUE, a parameter of the method; repeatable.
        prompt: tokens of the prompt (1000).
        answer: tokens of the answer, which are never dropped (10).
        json: print JSON, in FLOPs.
    """
    from ssmbench.execute.flops import Request, show_flops

    request = Request(
        model=model,
        method=method,
        ratio=ratio,
        params=values("--param", param),
        prompt=prompt,
        answer=answer,
    )
    return show_flops(request, as_json=json)
