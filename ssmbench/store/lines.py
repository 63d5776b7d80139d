"""One JSON object on one line, that ends in a checksum of itself: what has changed is noticed.

    {"event": "commit", …, "crc32": "1c291ca3"}

The checksum is of the line up to the comma before it. Lines without one, which earlier versions
wrote, are taken as they are.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "crc32"


def encode(record: Mapping[str, Any]) -> bytes:
    """Write an object that is not empty as one line, with its newline.

    Raises:
        ValueError: a number in it is not finite.
    """
    start = json.dumps(record, allow_nan=False).encode()[:-1]
    return start + _tail(start) + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read such a line, with or without its newline; the checksum is left out.

    Raises:
        ValueError: it is not JSON, not an object, or not as it was written.
    """
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError:
        raise ValueError("is not JSON") from None
    if not isinstance(record, dict):
        raise ValueError("is not an object")  # noqa: TRY004 - of the file, not of an argument
    if _NAME in record:
        start = line.rstrip(b"\n")[: -len(_tail(b""))]
        if line.rstrip(b"\n") != start + _tail(start):
            raise ValueError("does not match its checksum")
        del record[_NAME]
    return record


def _tail(start: bytes) -> bytes:
    return f', "{_NAME}": "{zlib.crc32(start):08x}"}}'.encode()
