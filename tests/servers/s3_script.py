"""A loopback server that answers as a script says: what real stores with the S3 API answer, and no server here does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """The answer to requests whose method and path with query, `GET /b?list-type=2`, hold `to`."""

    to: str
    body: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    region: str = ""  # answers only requests that are signed for it


def error(code: str, message: str = "", more: str = "") -> str:
    """Return the body of a refusal."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


def page(*keys: str, token: str = "", etag: str = "&quot;e&quot;", size: int = 1, encoding: str = "") -> str:
    """Return a page of ListObjectsV2; one with a `token` is followed by another one."""
    contents = "".join(f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>{etag}</ETag></Contents>" for key in keys)
    following = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>"
    return f"<ListBucketResult>{encoding}{truncated}{following}{contents}</ListBucketResult>"


@dataclass
class Script:
    """A running server and what it was asked: method, path with query, and the region that was signed for."""

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def scripted_s3(replies: Sequence[Reply]) -> Iterator[Script]:
    """Answer each request by the first of `replies` that fits it; 404 without one. A HEAD gets no body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = f"{self.command} {self.path}"
            scope = self.headers.get("Authorization", "").partition("Credential=")[2].split("/")
            region = scope[2] if len(scope) > 2 else ""
            running.asked.append((asked, region))
            fits = (reply for reply in replies if reply.to in asked and reply.region in ("", region))
            reply = next(fits, Reply("", error("NoSuchKey"), 404))
            body = reply.body.encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        running = Script(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
