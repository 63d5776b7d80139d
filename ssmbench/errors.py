"""What can go wrong, as one tree; the exit code of each branch is the program's.

    SsmbenchError
    ├── CommandError       2  a command line that cannot be meant
    ├── GridError          2  a grid file with one or more problems, all listed
    │   └── PolicyError    2  a policy file, likewise
    ├── UnknownName        2  a name that nothing answers to
    ├── CheckpointError    2  a model folder that cannot be read as a model
    ├── DataError          2  a data set that is missing or not in the expected form
    ├── StoreError         2  a run folder that is damaged, foreign or locked
    │   └── UnreachableError  2  an object store that does not answer, as yet
    ├── MethodError        1  a method that cannot do its job on this cell
    ├── NumericalError     1  a value that is not finite where it must be
    └── PrerequisiteError  3  this machine lacks something that the command needs

A message says where, what was found, what was expected and what to do. These are shown
without a traceback; anything else is a bug and keeps its own.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DONE, SOME_FAILED, USAGE, CANNOT_RUN, INTERRUPTED = 0, 1, 2, 3, 130
# Of `ssmbench gate`: GO is DONE, NO-GO is SOME_FAILED.
INCONCLUSIVE = 4


class SsmbenchError(Exception):
    """Any mistake that the user can mend; catch this to catch them all."""

    exit_code = USAGE


class CommandError(SsmbenchError):
    """The command line asks for something that does not exist or contradicts itself."""


class GridError(SsmbenchError):
    """A grid file is wrong; `problems` holds one line for each mistake."""

    so = "nothing was run"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        n = len(self.problems)
        tail = f"{n} problem{'' if n == 1 else 's'}; {self.so}."
        super().__init__("\n".join([*self.problems, tail]))


class PolicyError(GridError):
    """A policy file is wrong; `problems` holds one line for each mistake."""

    so = "nothing was judged"


class UnknownName(SsmbenchError):
    """Nothing is called by this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no {kind} is called '{name}'.{suggest(name, known)}")


class CheckpointError(SsmbenchError):
    """A model folder lacks a file or tensor, has one too many, or one of the wrong shape."""


class DataError(SsmbenchError):
    """A data set is missing or is not in the documented form."""


class StoreError(SsmbenchError):
    """A run folder is damaged, belongs to something else, or is in use."""


class UnreachableError(StoreError, OSError):
    """An object store does not answer, and asking for minutes has not helped; it may yet.

    An OSError as well: whoever can do without a file can do without an object.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.strerror = message


class MethodError(SsmbenchError):
    """A method cannot do its job on this model; its cell fails with this sentence."""

    exit_code = SOME_FAILED


class NumericalError(SsmbenchError):
    """A value is NaN or infinite where a number is needed."""

    exit_code = SOME_FAILED


class PrerequisiteError(SsmbenchError):
    """This machine cannot run what was asked."""

    exit_code = CANNOT_RUN


def suggest(name: str, known: Iterable[str]) -> str:
    """Give the tail of an unknown-name message: the nearest name, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Known: {', '.join(names)}." if names else hint
