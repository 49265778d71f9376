"""A proxy before a real store: it counts what is asked and sent, and lies, refuses or waits where a test says so."""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from servers.azurite import ACCOUNT
from servers.s3 import PartChecksums


@dataclass
class Asked:
    """One request, and what it was for.

    Args:
        kind: `list`, `head`, `get` (bytes of an object), `proof` (its first byte), `token` or `other`.
        name: the object's full key, unquoted, or "".
    """

    kind: str
    name: str
    status: int = 0


@dataclass
class Front:
    """What came by, and what is to be done to some of it."""

    url: str = ""
    behind: str = ""  # host:port of the store
    asked: list[Asked] = field(default_factory=list)
    flips: dict[str, int] = field(default_factory=dict)  # end of an object's name -> answers still to be spoilt
    refused: dict[str, int] = field(default_factory=dict)  # kind -> the status that it gets
    elsewhere: dict[str, list[str]] = field(default_factory=dict)  # kind -> URLs that its next requests are sent to
    stripped: dict[str, str] = field(default_factory=dict)  # kind -> a header that its answers lack
    parts: PartChecksums | None = None  # what answers about parts tell besides
    etags: dict[str, str] = field(default_factory=dict)  # of the store -> what listings and answers tell instead
    before: Callable[[Asked], None] = lambda _asked: None  # called with each request before it is passed on

    def kinds(self) -> list[str]:
        """What was asked, in order, tokens left out: they are asked for once an entry."""
        return [asked.kind for asked in self.asked if asked.kind != "token"]

    def fetched(self) -> list[str]:
        """The names of the objects whose bytes were sent, sorted."""
        return sorted(asked.name for asked in self.asked if asked.kind == "get" and asked.status in (200, 206))

    @contextlib.contextmanager
    def watching(self) -> Iterator[Front]:
        """Forget what was asked before, and do nothing to what comes after the block."""
        self.asked.clear()
        try:
            yield self
        finally:
            self.flips.clear()
            self.refused.clear()
            self.stripped.clear()
            self.elsewhere.clear()
            self.parts = None
            self.etags.clear()
            self.before = lambda _asked: None


@contextlib.contextmanager
def front_of(url: str) -> Iterator[Front]:
    """Run a front before the store at `url`. The Host header is passed on as it came: signatures stay right."""
    front = Front(behind=url.removeprefix("http://"))

    class Handler(_Handler):
        of = front

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        front.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield front
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up has heard enough


class _Handler(BaseHTTPRequestHandler):
    of: Front
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = self._recognised()
        self.of.asked.append(asked)
        self.of.before(asked)
        if refusal := self.of.refused.get(asked.kind):
            asked.status = refusal
            self._send(refusal, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")
            return
        if urls := self.of.elsewhere.get(asked.kind):
            asked.status = 307
            self._send(307, [("Location", urls.pop(0))], b"")
            return
        connection = http.client.HTTPConnection(self.of.behind, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name != "If-Match" or not self.of.etags:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            data = response.read()
            lacks = (*_HOP, self.of.stripped.get(asked.kind, "").lower())
            headers = {n: v for n, v in response.getheaders() if n.lower() not in lacks}
            for etag, told in self.of.etags.items():
                data = data.replace(etag.encode(), told.encode()) if asked.kind == "list" else data
                headers = {n: v.replace(etag, told) if n.lower() == "etag" else v for n, v in headers.items()}
            if self.of.parts is not None:
                data = self.of.parts.put_in(self.path, headers, data)
            asked.status = response.status
            self._send(response.status, list(headers.items()), self._spoilt(asked, data))

    do_GET = do_HEAD = do_POST = answer

    def _recognised(self) -> Asked:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if url.path == "/token":
            return Asked("token", "")
        parts = url.path.split("/")
        if url.path.startswith("/storage/v1/b/"):  # GCS: /storage/v1/b/BUCKET/o[/NAME]
            name = urllib.parse.unquote(parts[6]) if len(parts) > 6 else ""
            kind = "list" if not name else "get" if query.get("alt") == "media" else "other"
        elif parts[1] == ACCOUNT:  # Azure: /ACCOUNT/CONTAINER[/NAME]
            name = urllib.parse.unquote("/".join(parts[3:]))
            kind = "list" if query.get("comp") == "list" else "get"
        elif "attributes" in query:
            return Asked("other", "")
        else:  # S3: /BUCKET[/KEY]
            name = urllib.parse.unquote("/".join(parts[2:]))
            kind = "list" if "list-type" in query else "head" if self.command == "HEAD" else "get"
        if kind == "get" and self.headers.get("Range") == "bytes=0-0":
            kind = "proof"
        return Asked(kind, name)

    def _spoilt(self, asked: Asked, data: bytes) -> bytes:
        for end, left in self.of.flips.items():
            if asked.kind == "get" and asked.name.endswith(end) and left and data:
                self.of.flips[end] = left - 1
                return bytes([data[0] ^ 1]) + data[1:]
        return data

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # the client has heard enough
                self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


_HOP = ("transfer-encoding", "connection", "date", "server")
