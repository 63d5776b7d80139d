"""A real S3-compatible server on loopback (moto's), that fails on demand."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
    "<Message>made up by the test</Message><RequestId>1</RequestId></Error>"
)

# What to answer instead: a status with S3's error code, "reset" (the connection ends without an
# answer), "lost" (the request is done, the answer is not given) or None (the truth).
Fault = tuple[int, str] | str | None


class Server:
    """Serves from construction to `close`, from memory.

    Attributes:
        url: for AWS_ENDPOINT_URL.
        fault: asked with (method, path) before each request.
        requests: what came in.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                pass

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.fault: Callable[[str, str], Fault] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def new_bucket(self) -> str:
        """Make an empty bucket and give its name."""
        from pyarrow.fs import S3FileSystem

        name = f"bucket-{uuid.uuid4().hex[:12]}"
        S3FileSystem(
            access_key="key",
            secret_key="secret",
            region="us-east-1",
            endpoint_override=self.url,
            allow_bucket_creation=True,
        ).create_dir(name)
        return name

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if environ.get("QUERY_STRING"):
            path = f"{path}?{environ['QUERY_STRING']}"
        self.requests.append((method, path))
        fault = self.fault(method, path)
        if fault == "lost":
            list(self._app(environ, lambda *args: None))
        if isinstance(fault, str):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if fault is not None:
            status, code = fault
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{status} {code}", [("Content-Type", "application/xml")])
            return [] if method == "HEAD" else [_ERROR.format(code=code).encode()]
        return self._app(environ, start_response)


def environment(server: Server) -> dict[str, str]:
    """Give what a process needs in its environment to find the server."""
    return {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": server.url}
