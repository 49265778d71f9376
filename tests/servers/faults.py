"""A loopback HTTP server that misbehaves by script, and counts what it was asked and what it sent."""

from __future__ import annotations

import contextlib
import email.utils
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PACE_S = 0.01
_WITHOUT_END = {"continue", "huge-head", "drip-head", "drip", "flood", "drip-chunk"}


@dataclass
class Served:
    """One path, and what its next requests get: a fault each, then health.

    Faults, `:N` where a number may follow:
        `503` or any status          that status, `{"said": "no"}` as its body
        `429:N`, `503:N`, `429:date` with Retry-After: N seconds, or a date one second from now
        `cut:N`, `reset:N`           FIN or RST after N bytes of the body (half of it)
        `trickle:N`                  the body, N bytes every tenth of a second
        `stall:N`                    N bytes of the body, then silence until the server ends
        `pause:N`                    N bytes of the body, and the rest once `go` is set
        `silence`                    not even headers
        `hang-up`                    closes without an answer
        `early-hints`                an answer of its own (103) before the one that counts, which follows a little later
        `flip`                       one bit of the body's first byte is wrong
        `ignore-range`               200 and the whole body, whatever was asked
        `no-length`                  the body ends with the connection, no Content-Length
        `announce-short`, `announce-long`  a Content-Length of other than the file's bytes, and a body to match
        `long`                       bytes after the body that no header tells of (the connection is kept)
        `chunked`                    in chunks, as a proxy may send it
        `chunked-stall:N`            N bytes as a chunk, then silence until the server ends
        `endless`                    no Content-Length, and bytes after the body
        `wrong-content-range`        206 with another start
        `etag-change`                this and every later answer has another ETag
        `etag-stray`                 this answer alone has another ETag
        `range-200`                  200 with Content-Range, and the bytes of the range that was asked for
        `continue`, `continue:slow`  `100 Continue` without an end
        `huge-head`                  headers of 6 MB
        `drip-head`                  headers without an end, a byte at a time
        `drip:S`, `flood:S`          status S with a body a byte at a time, or without an end; `302 URL` redirects
        `drip-chunk`                 a chunk whose size never ends, a byte at a time
        `trailers`, `trailers:slow`  in chunks, the whole body, and then trailers without an end
        `redirect:URL`               302
        `redirect-loop`              302 to itself (consumed never)

    What is slow, or comes a byte at a time, has a hundredth of a second between two pieces. A CONNECT gets `drip-head`.

    `spoilt` is of bytes, wherever an answer begins: {7: ".x"} makes byte 7 wrong in the second answer that holds it.
    """

    body: bytes
    faults: deque[str] = field(default_factory=deque)
    etag: str | None = '"v1"'
    needs: str | None = None  # the Authorization that it takes to get anything but 401
    spoilt: dict[int, str] = field(default_factory=dict)  # offset -> "x" for each answer that has a wrong byte there
    headers: dict[str, str] = field(default_factory=dict)  # further ones of each answer that gives bytes


@dataclass
class Asked:
    """One request as it came, and what was sent back."""

    path: str
    headers: dict[str, str]  # lower-case names
    status: int = 0
    sent: int = 0  # bytes of body


class FaultServer:
    """Serves `files`; ready once made."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.ending = threading.Event()
        self.go = threading.Event()  # ends every `pause`
        self.lock = threading.Lock()
        self.in_flight = 0
        self.most_in_flight = 0
        self.connections = 0
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.base = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def add(self, path: str, body: bytes, *faults: str, etag: str | None = '"v1"', needs: str | None = None) -> str:
        """Serve `body` at `path`; return its URL."""
        self.files[path] = Served(body, deque(faults), etag, needs)
        return self.base + path

    @property
    def sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(asked.sent for asked in self.asked)

    def ranges(self) -> list[str | None]:
        """Return the Range header of each request, in order."""
        return [asked.headers.get("range") for asked in self.asked]

    def close(self) -> None:
        self.ending.set()
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def fault_server(tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    server = FaultServer(tls)
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is part of the tests


class _Handler(BaseHTTPRequestHandler):
    server_of: FaultServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        with self.server_of.lock:
            self.server_of.connections += 1

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server_of
        path = self.path.partition("?")[0]
        asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()})
        served = server.files.get(path)
        with server.lock:
            server.asked.append(asked)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            fault = "404" if served is None else "401" if self._lacks(served) else _next_fault(served)
        try:
            self._answer(asked, served or Served(b""), fault)
        finally:
            with server.lock:
                server.in_flight -= 1

    def do_CONNECT(self) -> None:
        self._hold(Asked(self.path, {}), "drip-head", "")

    def _lacks(self, served: Served) -> bool:
        return served.needs is not None and self.headers.get("Authorization") != served.needs

    def _answer(self, asked: Asked, served: Served, fault: str) -> None:
        name, _, argument = fault.partition(":")
        if name.isdecimal():
            return self._refuse(asked, int(name), argument)
        if name == "silence":
            self.server_of.ending.wait()
            self.close_connection = True
            return None
        if name == "hang-up":
            self.close_connection = True
            return None
        if name in _WITHOUT_END:
            return self._hold(asked, name, argument)
        if name in ("redirect", "redirect-loop"):
            return self._redirect(asked, argument or self.path)
        if name == "early-hints":
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
            self.server_of.go.wait()
        if name == "etag-change":
            served.etag = '"v2"'
        return self._give(asked, served, name, argument)

    def _hold(self, asked: Asked, name: str, argument: str) -> None:
        """Answer without an end."""
        self.close_connection = True
        asked.status = int(argument[:3]) if argument[:3].isdigit() else 200
        status = f"HTTP/1.1 {asked.status} Said\r\n".encode()
        is_slow = name.startswith("drip") or argument == "slow"
        if name == "continue":
            self._repeat(asked, b"HTTP/1.1 100 Continue\r\n\r\n", is_slow=is_slow)
        elif name == "huge-head":
            lines = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 60_000) for n in range(99))
            self._send(asked, status + lines + b"\r\n")
        elif name == "drip-head":
            self.wfile.write(status)
            self._repeat(asked, b"X", is_slow=is_slow)
        elif name == "drip-chunk":
            self.wfile.write(status + b'ETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\n1;')
            self._repeat(asked, b"x", is_slow=is_slow)
        else:
            target = argument[4:]
            location = f"Location: {target}\r\n".encode() if target else b""
            length = b"Content-Length: 9000\r\n" if is_slow else b"Transfer-Encoding: chunked\r\n"
            self.wfile.write(status + location + length + b"\r\n")
            self._repeat(asked, b"x" if is_slow else b"10000\r\n" + b"x" * 65536 + b"\r\n", is_slow=is_slow)

    def _repeat(self, asked: Asked, piece: bytes, *, is_slow: bool) -> None:
        while not self.server_of.ending.is_set():
            self._send(asked, piece)
            if is_slow:
                self.server_of.ending.wait(_PACE_S)

    def _refuse(self, asked: Asked, status: int, retry_after: str) -> None:
        asked.status = status
        body = b'{"said": "no"}'
        self.send_response(status)
        if retry_after == "date":
            self.send_header("Retry-After", email.utils.formatdate(time.time() + 1, usegmt=True))
        elif retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("X-Error-Code", "Said")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, asked: Asked, target: str) -> None:
        asked.status = 302
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _give(self, asked: Asked, served: Served, name: str, argument: str) -> None:
        whole = served.body
        start, end = 0, len(whole)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        ranged = match if name != "ignore-range" else None
        if ranged:
            start = int(ranged[1])
            end = min(end, int(ranged[2]) + 1) if ranged[2] else end
            if start >= len(whole):
                self._refuse(asked, 416, "")
                return
        body: bytes | bytearray | memoryview
        body = memoryview(whole)[start:end]  # no copy: tests measure this process's memory
        if name == "flip":
            body = bytes([body[0] ^ 1]) + bytes(body[1:])
        for at in [at for at in served.spoilt if start <= at < end]:
            with self.server_of.lock:
                now, served.spoilt[at] = served.spoilt[at][:1], served.spoilt[at][1:]
            if now == "x":
                body = bytearray(body)
                body[at - start] ^= 1
        if name == "announce-short":
            body = body[:-3]
        if name in ("announce-long", "endless"):
            body = bytes(body) + b"more"
        asked.status = 206 if ranged and name != "range-200" else 200
        self.send_response(asked.status)
        etag = '"stray"' if name == "etag-stray" else served.etag
        for header, value in [*([] if etag is None else [("ETag", etag)]), *served.headers.items()]:
            self.send_header(header, value)
        if ranged:
            shown = start + 1 if name == "wrong-content-range" else start
            self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{len(whole)}")
        if name in ("no-length", "endless"):
            self.send_header("Connection", "close")
        elif name.startswith("chunked") or name == "trailers":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send_body(asked, body, name, argument)

    def _send_body(self, asked: Asked, body: bytes | bytearray | memoryview, name: str, argument: str) -> None:
        breaks = name in ("cut", "reset", "stall", "pause")
        first = body[: int(argument) if argument else len(body) // 2] if breaks else body
        rest = body[len(first) :] if name == "pause" else b"beyond" if name == "long" else b""
        if name == "trickle":
            for at in range(0, len(body), int(argument)):
                self._send(asked, body[at : at + int(argument)])
                if self.server_of.ending.wait(0.1):
                    break
            return
        if name == "trailers":
            self.wfile.write(b"%x\r\n%b\r\n0\r\n" % (len(body), bytes(body)))
            self.close_connection = True
            self._repeat(asked, b"X-Trailer: x\r\n", is_slow=argument == "slow")
            return
        if name.startswith("chunked"):
            self._send_chunked(asked, body, int(argument) if argument else None)
            return
        self._send(asked, first)
        if name == "pause":
            self.server_of.go.wait()
        self._send(asked, rest)
        if name == "stall":
            self.server_of.ending.wait()
        if name == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = self.close_connection or name in ("cut", "reset", "stall")

    def _send_chunked(self, asked: Asked, body: bytes | bytearray | memoryview, stall_after: int | None) -> None:
        body = body[:stall_after]
        self.wfile.write(b"%x\r\n" % len(body))
        self._send(asked, body)
        if stall_after is not None:
            self.server_of.ending.wait()
            self.close_connection = True
        else:
            self.wfile.write(b"\r\n0\r\n\r\n")

    def _send(self, asked: Asked, data: bytes | bytearray | memoryview) -> None:
        for at in range(0, len(data), 65536):
            asked.sent += len(data[at : at + 65536])  # before the write: the client may be done before we go on
            self.wfile.write(data[at : at + 65536])
        self.wfile.flush()


def _next_fault(served: Served) -> str:
    if not served.faults:
        return ""
    return served.faults[0] if served.faults[0] == "redirect-loop" else served.faults.popleft()
