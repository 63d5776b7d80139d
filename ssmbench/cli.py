"""The command line: `main` turns one line of words into an exit code.

Each command is a plain function of `ssmbench/commands/`; what it needs is imported inside it, so
that `ssmbench --help` needs neither torch nor Ray nor polars. The grid file is the interface: no
flag here changes a number, but for `--limit`, which is part of what it marks as a trial.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Parameter

import ssmbench
from ssmbench import console
from ssmbench.commands import cluster, grids, judge, lists, models, published, runs
from ssmbench.errors import DONE, INTERRUPTED, USAGE, SsmbenchError

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
def version() -> int:
    """Show the version."""
    console.result(f"ssmbench {ssmbench.__version__}")
    return DONE


for command in (
    grids.run,
    grids.plan,
    grids.validate,
    cluster.submit,
    cluster.doctor,
    models.compress,
    models.flops,
    runs.status,
    runs.logs,
    runs.cancel,
    runs.sql,
    runs.report,
    judge.compare,
    judge.gate,
    published.published,
    lists.models,
    lists.methods,
    lists.suites,
):
    app.command(command)


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
    except OSError as error:
        if error.filename is None:
            raise  # No file that the user could mend.
        console.error(f"{os.fsdecode(error.filename)}: cannot be used ({error.strerror}).")
        return USAGE
    return code if isinstance(code, int) else DONE


def _one_line(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."
