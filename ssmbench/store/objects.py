"""Requests to an object store, by pyarrow: patience for what passes, a sentence for what does not.

What is built on it needs two things of a store: an object appears whole or not at all, and a
listing shows every object whose write has returned. S3 gives both since December 2020.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ssmbench.errors import StoreError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

# A store that has answered before is waited for as long as a fault of minutes lasts; the first
# request may also have the wrong address.
PATIENCE_S, FIRST_PATIENCE_S = 180.0, 8.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_SILENT_S = 10.0

_DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_SIGNATURE",
    "INCOMPLETE_SIGNATURE",
    "UNRECOGNIZED_CLIENT",
    "INVALID_CLIENT_TOKEN_ID",
    "MISSING_AUTHENTICATION_TOKEN",
    "OPT_IN_REQUIRED",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "HTTP status 401",
    "HTTP status 403",
)
_NO_BUCKET = ("NO_SUCH_BUCKET", "InvalidBucketName")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "HTTP status 301")

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What a listing says of an object, or of a folder (`is_folder`: a common beginning of keys).

    `written_s` is Unix time by the store's clock, in whole seconds on S3.
    """

    key: str
    is_folder: bool
    n_bytes: int
    written_s: float


class Store:
    """One bucket. Keys are relative to it, without `/` at either end."""

    def __init__(self, root: str, options: str) -> None:
        """Make the client; nothing is asked of the store, but where it lies may be.

        Args:
            root: scheme and bucket, as in `s3://bucket`.
            options: what stands behind the `?` of the address, or nothing.

        Raises:
            StoreError: pyarrow cannot make a file system of it.
        """
        self._root = root
        self._bucket = root.partition("://")[2]
        self._answered = False
        self._fs, self._base = self._patiently("", lambda: _file_system(root, options))
        self._answered = False  # An endpoint that is given is not asked to make a client.

    def read(self, key: str) -> bytes:
        """Give an object's content.

        Raises:
            FileNotFoundError: there is no such object.
            StoreError: access is denied, or the store does not answer.
        """

        def ask() -> bytes:
            with self._fs.open_input_stream(self._path(key)) as stream:
                return bytes(stream.read())

        return self._patiently(key, ask)

    def write(self, key: str, data: Any) -> None:
        """Put an object in one step, over what is there.

        Args:
            key: its name.
            data: the whole content: bytes, or a buffer such as a mapped file.

        Raises:
            StoreError: as for `read`, or there is no such bucket.
        """

        def ask() -> None:
            # One call: a stream that is left between two of them, by an exception too, is closed
            # and what it has got by then becomes the object.
            with self._fs.open_output_stream(self._path(key)) as stream:
                stream.write(data)

        self._patiently(key, ask)

    def find(self, key: str) -> Entry | None:
        """Look for an object or folder; None where there is none (nor a bucket)."""
        info = self._patiently(key, lambda: self._fs.get_file_info(self._path(key)))
        return self._entry(info) if info.type.value else None

    def has_bucket(self) -> bool:
        """Whether the bucket is there; True too where that may not be asked."""
        try:
            return bool(self._patiently("", lambda: self._fs.get_file_info(self._base)).type.value)
        except StoreError as problem:
            if isinstance(problem, UnreachableError):
                raise
            return True

    def entries(self, key: str, *, below: bool = False) -> list[Entry]:
        """List a folder, or with `below` everything under it; in no order, empty if not there."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path(key), recursive=below, allow_not_found=True)
        infos = self._patiently(key, lambda: self._fs.get_file_info(selector))
        return [self._entry(info) for info in infos]

    def delete(self, key: str) -> None:
        """Remove an object.

        Raises:
            FileNotFoundError: there is none.
        """
        self._patiently(key, lambda: self._fs.delete_file(self._path(key)))

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    def _entry(self, info: Any) -> Entry:
        key = info.path[len(self._base) :].strip("/")
        seconds = info.mtime_ns / 1e9 if info.mtime_ns else 0.0
        return Entry(key, info.type.name == "Directory", info.size or 0, seconds)

    def _patiently(self, key: str, ask: Callable[[], _T]) -> _T:
        """Ask again, later and later, as long as the answer is one that may pass."""
        began_s, pause_s = time.monotonic(), _PAUSE_S
        shown = f"{self._root}/{key}" if key else self._root
        while True:
            try:
                answer = ask()
            except FileNotFoundError:
                self._answered = True
                raise
            except OSError as problem:
                text = _error_in(str(problem))
                lasting = _explain(text, self._bucket)
                if lasting is not None:
                    raise StoreError(f"{shown}: {lasting}") from None
                patience_s = PATIENCE_S if self._answered else FIRST_PATIENCE_S
                waited_s = time.monotonic() - began_s
                if waited_s + pause_s > patience_s:
                    raise UnreachableError(
                        f"{shown}: the object store does not answer ({waited_s:.0f} s; {text})."
                        f" Check the network and {endpoint()}, then run again."
                    ) from None
                level = logging.WARNING if waited_s > _SILENT_S else logging.INFO
                _log.log(level, "%s: no answer (%s); asking again", shown, text)
                time.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except ValueError as problem:  # What pyarrow says of arguments.
                raise StoreError(f"{shown}: cannot be used as an address ({problem}).") from None
            else:
                self._answered = True
                return answer


@functools.cache
def store(root: str, options: str) -> Store:
    """Give the process's client of a bucket; see `Store`."""
    return Store(root, options)


def _file_system(root: str, options: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    given = [options] if options else []
    if root.startswith("s3:") and "allow_delayed_open" not in options:
        # One request for a small object instead of three.
        given.append("allow_delayed_open=true")
    fs, base = FileSystem.from_uri(root + ("?" + "&".join(given) if given else ""))
    return fs, base.rstrip("/")


def _error_in(text: str) -> str:
    """Take the store's own words out of pyarrow's: what was asked is said elsewhere."""
    text = " ".join(text.split())
    return text.partition("AWS Error ")[2].partition("; Details:")[0] or text


def _explain(text: str, bucket: str) -> str | None:
    """Say what to do about an error that stays; None for one that may pass."""
    if any(mark in text for mark in _NO_BUCKET):
        return (
            f"there is no bucket '{bucket}' at {endpoint()}. Create it, or correct the address"
            " or the variable."
        )
    if any(mark in text for mark in _DENIED):
        missing = [n for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if n not in os.environ]
        state = f" ({' and '.join(missing)} not set)" if missing else ""
        return (
            f"access is denied{state}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and"
            " AWS_SESSION_TOKEN with temporary keys, to ones that may list, read, write and"
            " delete there."
        )
    if any(mark in text for mark in _ELSEWHERE):
        return "the bucket is in another region. Set AWS_REGION to it."
    return None


def endpoint() -> str:
    """Name the variable that says where the store is, and its value."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f"AWS_ENDPOINT_URL ({url})" if url else "AWS_ENDPOINT_URL (not set: Amazon S3)"
