"""What an attempt is asked to do, as a value that travels to a worker as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ssmbench.plan.cells import Cell, Kind, Suite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.execute.policy import ErrorClass


class Report(Protocol):
    """Takes in how far a running attempt is."""

    def __call__(self, step: str, done: int, total: int, note: str = "", /) -> None:
        """Take in a step.

        Args:
            step: what is being done.
            done: how much of it.
            total: of how much; 0 means "not known".
            note: what else there is to say, such as `loss 0.123 · 1.2 k tokens/s · 3 min left`.
        """


@dataclass(frozen=True)
class Job:
    """One attempt: one cell's missing suites of one kind.

    Attributes:
        folder: the run folder, absolute.
        cell: the compressed model to build.
        suites: what to measure on it, all of one kind.
        attempt_id: unique; names every file that the attempt writes.
        number: 1 for the first attempt of these suites in this run, then 2, ...
        log: the log file's path relative to the run folder; created when the work starts.
        data: the folder of local task data, absolute; None for the hub.
        device: "cpu" or "cuda".
        batch_tokens: the most tokens in one forward pass.
        num_cpus: CPUs given; their whole number is the number of torch threads.
        offline: nothing may be asked of the hub: data is local and so is every model.
        capture: send everything that the process prints to the log (in a worker; not inline,
            where a debugger needs the terminal).
        gpu_share: the part of one GPU's memory that is the attempt's, above 0 up to 1.
        checkpoint_s: how often a training is saved, in seconds.
        backend: whose kernels compute, one of `kernels.backends.NAMES`.
    """

    folder: str
    cell: Cell
    suites: tuple[Suite, ...]
    attempt_id: str
    number: int
    log: str
    data: str | None
    device: str
    batch_tokens: int
    num_cpus: float
    offline: bool
    capture: bool
    gpu_share: float = 1.0
    checkpoint_s: float = 600
    backend: str = "auto"

    @property
    def kind(self) -> Kind:
        """What its suites measure: "quality" or "timing"."""
        return self.suites[0].kind

    def to_json(self) -> dict[str, Any]:
        """Give every field as JSON; `from_json` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Build the job that `to_json` described."""
        suites = tuple(Suite.from_json(s) for s in data["suites"])
        return cls(**{**data, "cell": Cell.from_json(data["cell"]), "suites": suites})


class SuiteFailure(NamedTuple):
    """Why suites have no numbers: their ids, the class of the error, one line for people."""

    suites: tuple[str, ...]
    error_class: ErrorClass
    message: str
