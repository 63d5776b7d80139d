"""The command line: each command is a plain function; what it needs is imported inside it.

So `ssmbench --help` needs neither torch nor Ray nor polars. The grid file is the interface: no
flag here changes a number, but for `--limit`, which is part of what it marks as a trial.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Literal

from cyclopts import App, CycloptsError, Parameter

import ssmbench
from ssmbench import console
from ssmbench.arguments import pairs, values
from ssmbench.errors import DONE, INTERRUPTED, USAGE, CommandError, SsmbenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

app = App(
    name="ssmbench",
    help="Measure what compression does to state-space language models.",
    version=ssmbench.__version__,
    # No --no-inline, no --empty-only: a flag that is not given is off.
    default_parameter=Parameter(negative=(), show_default=False),
    help_format="plaintext",
)


@app.command
def run(
    grid: Path,
    /,
    *,
    out: Path | None = None,
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
        out: the run folder; runs/NAME of the grid by default.
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


@app.command
def plan(
    grid: Path,
    /,
    *,
    out: Path | None = None,
    only: tuple[str, ...] = (),
    limit: int | None = None,
    data: Path | None = None,
    model: tuple[str, ...] = (),
    tokenizer: tuple[str, ...] = (),
) -> int:
    """Show what `run` would do and why, one line a cell; nothing is run.

    Args:
        grid: the grid file.
        out: the run folder; runs/NAME of the grid by default.
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


@app.command
def validate(grid: Path, /) -> int:
    """Check a grid file and list every mistake.

    Args:
        grid: the grid file.
    """
    from ssmbench.execute.prepare import Request, prepare

    prepared = prepare(Request(grid=grid))
    console.result(f"{grid}: {console.count(len(prepared.entries), 'cell')}, no mistakes")
    return DONE


@app.command
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
        dtype: of the weights as they are written, and as they are computed with on a GPU.
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


@app.command
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


@app.command
def status(run_folder: Path, /) -> int:
    """Show where a run stands; safe while it runs.

    Args:
        run_folder: the run folder.
    """
    from ssmbench.execute.show import show_status

    show_status(run_folder)
    return DONE


@app.command
def sql(
    run_folder: Path, query: str, /, *, format: Literal["table", "csv", "json"] = "table"
) -> int:
    """Query a run's tables: cells, metrics, samples, latency, layers, attempts.

    Args:
        run_folder: the run folder.
        query: one SELECT, such as "select * from metrics".
        format: how to print the result.
    """
    from ssmbench.store.folder import RunFolder
    from ssmbench.store.sql import query as run_query

    console.frame(run_query(RunFolder.open(run_folder), query), format=format)
    return DONE


@app.command
def report(
    run_folder: Path,
    /,
    *,
    format: Literal["terminal", "md", "csv"] = "terminal",
    out: Path | None = None,
) -> int:
    """Show a run's tables of quality and cost.

    Args:
        run_folder: the run folder.
        format: terminal, md (Markdown) or csv (plain numbers, one table after another).
        out: write instead of printing: a file for md, a folder of files for csv.
    """
    from ssmbench.report import _build, _render
    from ssmbench.store.folder import RunFolder

    tables = _build.build_all(RunFolder.open(run_folder))
    if format == "terminal":
        if out is not None:
            raise CommandError("--out: expected --format md or csv with it.")
        console.renderables(_render.terminal(table, width=console.width()) for table in tables)
    elif format == "md":
        console.write(_render.markdown(tables, title=run_folder.name), to=out)
    elif out is None:
        console.write("\n".join(f"# {t.name}\n{_render.csv_text(t)}" for t in tables if t.csv))
    else:
        _render.write(tables, out, title=run_folder.name)
    return DONE


@app.command
def models() -> int:
    """List the models that a grid can name."""
    from ssmbench.grid.catalogue import catalogue

    body = [[name, str(entry.source)] for name, entry in catalogue().items()]
    console.rows(["model", "source"], body)
    return DONE


@app.command
def methods() -> int:
    """List the compression methods."""
    _list_plugins("method")
    return DONE


@app.command
def suites() -> int:
    """List what can be measured."""
    _list_plugins("suite")
    return DONE


@app.command
def version() -> int:
    """Show the version."""
    console.result(f"ssmbench {ssmbench.__version__}")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code; a user's mistake shows no traceback.

    Args:
        arguments: what follows `ssmbench`; the process's own where None.
    """
    try:
        code = app(
            arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except CycloptsError as error:
        console.error(f"{_one_line(error)} Try `ssmbench --help`.")
        return USAGE
    except SsmbenchError as error:
        console.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        console.note("interrupted; the same command continues")
        return INTERRUPTED
    except BrokenPipeError:
        # `ssmbench … | head` has read enough. Python would complain at exit otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code if isinstance(code, int) else DONE


def _one_line(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."


def _list_plugins(kind: str) -> None:
    from ssmbench import plugins

    body = []
    for name in plugins.names(kind):
        text = plugins.load(kind, name).__doc__ or ""
        body.append([name, text.strip().splitlines()[0]])
    console.rows([kind, ""], body)
