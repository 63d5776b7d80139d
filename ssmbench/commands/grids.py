"""Commands on a grid file: run it, plan it, check it."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time

from ssmbench import console
from ssmbench.arguments import pairs
from ssmbench.errors import DONE, CommandError


def run(
    grid: Path,
    /,
    *,
    out: str | None = None,
    inline: bool = False,
    only: tuple[str, ...] = (),
    limit: int | None = None,
    data: Path | None = None,
    model: tuple[str, ...] = (),
    tokenizer: tuple[str, ...] = (),
    address: str | None = None,
    retry_failed: bool = False,
    steal_lock: bool = False,
    plain: bool = False,
) -> int:
    """Run a grid, or what is left of it: the same command continues.

    Args:
        grid: the grid file.
        out: the run folder, local or s3://BUCKET/FOLDER; runs/NAME of the grid by default.
        inline: run in this process, one attempt at a time; a debugger works.
        only: only cells that match, as in 'model=zoo-*,ratio>=0.5', or a cell's id; repeatable.
        limit: score the first N documents of each task only; such scores are for trials.
        data: folder of local task data (docs/local-data.md); nothing is downloaded for tasks.
        model: NAME=PATH, where a model of the grid is; repeatable.
        tokenizer: NAME=PATH, where a model's tokenizer is; repeatable.
        address: a running Ray cluster, such as auto; by default Ray starts on this machine.
        retry_failed: also run what has failed before.
        steal_lock: take over from another driver of the same run folder.
        plain: plain lines, no live display.
    """
    from ssmbench.execute.prepare import Request
    from ssmbench.execute.run import Ways
    from ssmbench.execute.run import run as run_grid

    if inline and address is not None:
        raise CommandError("--inline and --address: expected one of them at most.")
    request = Request(
        grid=grid,
        out=out,
        only=only,
        limit=limit,
        data=data,
        models=pairs("--model", model),
        tokenizers=pairs("--tokenizer", tokenizer),
        inline=inline,
        address=address,
    )
    ways = Ways(retry_failed=retry_failed, steal_lock=steal_lock, plain=plain)
    return run_grid(request, ways)


def plan(
    grid: Path,
    /,
    *,
    out: str | None = None,
    only: tuple[str, ...] = (),
    limit: int | None = None,
    data: Path | None = None,
    model: tuple[str, ...] = (),
    tokenizer: tuple[str, ...] = (),
) -> int:
    """Show what `run` would do and why, one line a cell; nothing is run.

    Args:
        grid: the grid file.
        out: the run folder, local or s3://BUCKET/FOLDER; runs/NAME of the grid by default.
        only: only cells that match; repeatable.
        limit: as for `run`.
        data: as for `run`.
        model: NAME=PATH, where a model of the grid is; repeatable.
        tokenizer: NAME=PATH, where a model's tokenizer is; repeatable.
    """
    from ssmbench.execute.prepare import Request
    from ssmbench.execute.show import show_plan

    show_plan(
        Request(
            grid=grid,
            out=out,
            only=only,
            limit=limit,
            data=data,
            models=pairs("--model", model),
            tokenizers=pairs("--tokenizer", tokenizer),
        )
    )
    return DONE


def validate(grid: Path, /) -> int:
    """Check a grid file and list every mistake.

    Args:
        grid: the grid file.
    """
    from ssmbench.execute.prepare import Request, prepare

    prepared = prepare(Request(grid=grid))
    console.result(f"{grid}: {console.count(len(prepared.entries), 'cell')}, no mistakes")
    return DONE
