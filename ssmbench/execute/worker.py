"""What runs on Ray's side: an attempt in its worker, and the board that hears of all of them."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.execute.executor import Step, load_attempt
from ssmbench.execute.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BEAT_EVERY_S = 5.0

_REPORT_EVERY_S = 0.25
_REMEMBERED = 1000
# Far beyond the silence after which the driver gives an attempt up: its process is gone.
_FORGOTTEN_S = 600.0
_ARRIVES_S = 10.0
_is_fresh = True


class Heard(NamedTuple):
    """What the board knows of a running attempt: its last step, its node, the silence since."""

    step: Step
    node: str
    silent_s: float


class Board:
    """The actor that running attempts give their signs of life to.

    It lives on the driver's node, so that no other node's loss silences everybody. Losing it
    loses the display and the view of silent attempts, until the next sign of each.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; `clock` gives seconds."""
        self._clock = clock
        self._running: dict[str, tuple[Step, str, float]] = {}
        self._nodes: OrderedDict[str, str] = OrderedDict()

    def put(self, attempt_id: str, node: str, step: Step | None) -> None:
        """Note an attempt's step; None when it has ended."""
        self._nodes[attempt_id] = node
        while len(self._nodes) > _REMEMBERED:
            self._nodes.popitem(last=False)
        if step is None:
            self._running.pop(attempt_id, None)
        else:
            self._running[attempt_id] = (step, node, self._clock())

    def snapshot(self) -> dict[str, Heard]:
        """Give what is known of each running attempt."""
        now = self._clock()
        gone = [k for k, (_, _, heard_s) in self._running.items() if now - heard_s > _FORGOTTEN_S]
        for name in gone:
            del self._running[name]
        return {
            name: Heard(step, node, now - heard_s)
            for name, (step, node, heard_s) in self._running.items()
        }

    def forget(self, attempt_id: str) -> str | None:
        """Drop an attempt whose process is gone; give the node that it was on, where known."""
        self._running.pop(attempt_id, None)
        return self._nodes.get(attempt_id)


def work(target: str, job: Mapping[str, Any], board: Any) -> tuple[str, dict[str, Any]]:
    """Run an attempt in a worker and tell the board its steps, a few each second.

    Returns:
        The id of the node that it ran on, and the attempt's outcome.
    """
    global _is_fresh
    import ray

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A cluster that a script started in the background ignores Ctrl-C, and so would Ray's
        # cancellation be ignored, by which a training learns that it is to keep its place.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    node: str = ray.get_runtime_context().get_node_id()
    voice = _Voice(board, job["attempt_id"], node)
    if _is_fresh:
        # A machine may be such that processes die in their first moments: tell who it is.
        _arrive(voice.tell())
        _is_fresh = False
    voice.begin()
    try:
        return node, load_attempt(target)(Job.from_json(job), voice.report)
    except BaseException:
        _arrive(voice.tell())
        raise
    finally:
        voice.end()


def _arrive(message: Any) -> None:
    """Wait until the board has a message, but not for long."""
    import ray

    with contextlib.suppress(Exception):
        ray.get(message, timeout=_ARRIVES_S)


class _Voice:
    """An attempt's way to the board: its steps as they come, and signs of life in between.

    A thread says that the attempt has begun, that it lives, and that it has ended: each costs
    a millisecond that is not the attempt's. Steps are told by the attempt itself, since what
    measures time knows when nobody else may work.
    """

    def __init__(self, board: Any, attempt_id: str, node: str) -> None:
        self._board, self._attempt_id, self._node = board, attempt_id, node
        self._step = Step("start", 0, 0)
        self._told_s = time.monotonic()
        self._ended = threading.Event()

    def begin(self) -> None:
        """Go on giving signs of life until the end; the attempt may be silent for minutes."""
        threading.Thread(target=self._live, daemon=True).start()

    def report(self, step: str, done: int, total: int, note: str = "", /) -> None:
        """Tell a step, unless another was told just now."""
        self._step = Step(step, done, total, note)
        now = time.monotonic()
        if now - self._told_s >= _REPORT_EVERY_S:
            self._told_s = now
            self.tell()

    def end(self) -> None:
        """Say that the attempt has ended."""
        self._ended.set()

    def tell(self) -> Any:
        """Tell the last step; give the message."""
        return self._tell(self._step)

    def _live(self) -> None:
        self.tell()
        # Steps that followed one another quickly were not told: once, do not let it wait.
        pause_s = _REPORT_EVERY_S * 4
        while not self._ended.wait(pause_s):
            self.tell()
            pause_s = BEAT_EVERY_S
        self._tell(None)

    def _tell(self, step: Step | None) -> Any:
        # Whatever happens to the board is not the attempt's business.
        with contextlib.suppress(Exception):
            return self._board.put.remote(self._attempt_id, self._node, step)
        return None
