"""Commands on a cluster: hand it a grid, check that it can do the work."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time

from ssmbench.arguments import pairs


def submit(
    grid: Path,
    /,
    *,
    out: str | None = None,
    address: str | None = None,
    only: tuple[str, ...] = (),
    limit: int | None = None,
    data: Path | None = None,
    model: tuple[str, ...] = (),
    tokenizer: tuple[str, ...] = (),
    retry_failed: bool = False,
    steal_lock: bool = False,
) -> int:
    """Run a grid on a cluster, driven from its head: this machine may go (docs/cluster.md).

    Args:
        grid: the grid file; files beside it that it names are sent along.
        out: the run folder as every machine of the cluster sees it: absolute, or s3://….
        address: the dashboard of the cluster's head; http://127.0.0.1:8265 by default.
        only: as for `run`.
        limit: as for `run`.
        data: as for `run`, as every machine of the cluster sees it.
        model: NAME=PATH, as for `run`, as every machine of the cluster sees it; repeatable.
        tokenizer: NAME=PATH, likewise; repeatable.
        retry_failed: as for `run`.
        steal_lock: as for `run`.
    """
    from ssmbench.execute.submit import Submission
    from ssmbench.execute.submit import submit as submit_grid

    return submit_grid(
        Submission(
            grid=grid,
            out=out,
            address=address,
            only=only,
            limit=limit,
            data=data,
            models=pairs("--model", model),
            tokenizers=pairs("--tokenizer", tokenizer),
            retry_failed=retry_failed,
            steal_lock=steal_lock,
        )
    )


def doctor(
    grid: Path | None = None,
    /,
    *,
    address: str | None = None,
    out: str | None = None,
    data: Path | None = None,
    model: tuple[str, ...] = (),
    tokenizer: tuple[str, ...] = (),
) -> int:
    """Check that this machine, or each one of a cluster, can do the work; exit code 3 if not.

    Args:
        grid: look for the models of this grid on every machine.
        address: a running Ray cluster, such as auto, or its dashboard, http://HEAD:8265.
        out: try this run folder: every machine writes into it and reads what the others wrote.
        data: as for `run`.
        model: NAME=PATH, as for `run`; repeatable.
        tokenizer: NAME=PATH, as for `run`; repeatable.
    """
    from ssmbench.execute.doctor import Examination, examine

    return examine(
        Examination(
            address=address,
            out=out,
            grid=grid,
            data=data,
            models=pairs("--model", model),
            tokenizers=pairs("--tokenizer", tokenizer),
        )
    )
