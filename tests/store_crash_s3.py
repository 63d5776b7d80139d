"""Run one scenario in children that die before their n-th change of an object store.

    python store_crash_s3.py SCENARIO s3://BUCKET/PARENT

Makes PARENT/0000, PARENT/0001, …: in the n-th, the child was killed before it could put or
remove its object number n. The last one is that of a child that got through. Reading changes
nothing, so these are all the states that a death between two requests can leave. Forked before
anything has started a thread.
"""

from __future__ import annotations

import os
import sys

from store_crash import child, interrupted, prepare

from ssmbench.store import objects, sealed
from ssmbench.store.address import Address, place


def die_at(limit: int) -> None:
    """Make this process vanish before its change number `limit`."""
    count = [0]

    def doomed(real):
        def call(*args):
            count[0] += 1
            if count[0] > limit:
                os._exit(9)
            return real(*args)

        return call

    for name in ("write", "delete"):
        setattr(objects.Store, name, doomed(getattr(objects.Store, name)))


def main(scenario: str, parent: Address) -> None:
    sealed.SETTLE_S = 0.0  # One process at a time.
    for n in range(1000):
        path = parent / f"{n:04d}"
        if child(prepare, path, scenario) != 0:
            sys.exit(1)

        def doomed(path: Address = path, n: int = n) -> None:
            die_at(n)
            interrupted(path, scenario)

        code = child(doomed)
        if code == 0:
            return
        if code != 9:
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], place(sys.argv[2]))
