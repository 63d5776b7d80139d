"""What a Ray cluster says of its machines: who is there, who leaves, who answers."""

from __future__ import annotations

import math
import re
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmbench.execute.policy import Fate

_ASK_EVERY_S = 5.0
_ANSWER_S = 2.0
_ASK_AGAIN_S = 3.0
# NodeDeathInfo.Reason of Ray's gcs.proto: expected termination (SIGTERM, `ray stop`), and
# drained by the autoscaler because of a preemption or for being idle.
_LEFT_IN_ORDER = {1, 3, 4}
_NODE_ID = re.compile(r"\b[0-9a-f]{56}\b")


class Cluster:
    """The machines of the cluster that this process is connected to."""

    def __init__(self, ray: Any) -> None:
        """Ask nothing yet."""
        self._ray = ray
        self._nodes: dict[str, dict[str, Any]] = {}
        self._asked_s = -math.inf
        self._leaving: set[str] = set()
        self._answers: dict[str, tuple[float, bool]] = {}

    def alive(self) -> list[dict[str, Any]]:
        """Give the machines that take work; they come and go, so they are asked for often."""
        if time.monotonic() - self._asked_s > _ASK_EVERY_S:
            self._ask()
        return [n for n in self._nodes.values() if n["Alive"] and n["NodeID"] not in self._leaving]

    def fate(self, node: str | None) -> Fate | None:
        """Say what has become of a machine, as of now; None for one that was never there."""
        self._ask()
        found = self._nodes.get(node or "")
        if found is None:
            return None
        if node in self._leaving or (not found["Alive"] and _left_in_order(found)):
            return "leaving"
        return "alive" if found["Alive"] else "lost"

    def is_reachable(self, node: str) -> bool:
        """Whether the machine is one of the living and its raylet takes a connection."""
        now = time.monotonic()
        asked_s, answer = self._answers.get(node, (-math.inf, False))
        if now - asked_s > _ASK_AGAIN_S:
            self._ask()
            found = self._nodes.get(node)
            answer = found is not None and found["Alive"] and _answers(found)
            self._answers[node] = (now, answer)
        return answer

    def _ask(self) -> None:
        self._asked_s = time.monotonic()
        self._nodes = {node["NodeID"]: node for node in self._ray.nodes()}
        if not self._ray.util.client.ray.is_connected():
            # Ray's client (`ray://`) has no way to ask this.
            self._leaving |= set(self._ray._private.state.state.get_draining_nodes())


def node_in(error: BaseException) -> str | None:
    """Find the id of the machine that one of Ray's errors speaks of."""
    found = _NODE_ID.search(str(error))
    return found[0] if found else None


def _left_in_order(node: dict[str, Any]) -> bool:
    return node.get("DeathReason") in _LEFT_IN_ORDER


def _answers(node: dict[str, Any]) -> bool:
    try:
        with socket.create_connection(
            (node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_ANSWER_S
        ):
            return True
    except OSError:
        return False
