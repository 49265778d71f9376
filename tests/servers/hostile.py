"""A loopback HTTP server that breaks the protocol itself, in ways that http.server cannot: bytes by script.

with hostile_server(healthy) as server:
    server.faults[:] = ["drip-head", "503"]     # one for each coming request, then `healthy(path)` answers
    ... server.url ... server.asked
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator

TICK_S = 0.05  # between the bytes of what drips
CHUNK = b"\0" * 65536


def _bomb() -> bytes:
    """Return 2.5 MB of gzip that unpack to as many GB: after a full flush, one and the same block may follow again."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, again = (pack.compress(bytes(64 << 20)) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 39


BOMB = _bomb()
Healthy = Callable[[str], tuple[bytes, str]]


class HostileServer:
    """Serves one answer a connection. Faults, each of which lasts until the client hangs up or the server ends:

    `interim`, `drip-interim`     `100 Continue` without end, as fast as it goes, or one a tick
    `drip-head`                   a byte of the headers a tick
    `endless-head`                headers without end
    `drip-body`, `drip-refusal`, `drip-redirect`   whole headers (200, 403, 302 to itself), then a byte a tick
    `endless`, `endless-refusal`, `endless-redirect`   the same, with a body without end as fast as it goes
    `trailers`, `drip-trailers`   a whole chunked body, then trailers without end
    `bomb`                        gzip that unpacks to GBs
    `redirect`, `redirect:URL`    302 to itself, or to anything
    `silence`, `reset`, `cut`     nothing, RST, or half the healthy body and FIN
    a status, `503:7`             that status, with Retry-After: 7
    `early`                       a hint (103), then the healthy answer
    `junk`                        200, and bytes that are of no store
    """

    def __init__(self, healthy: Healthy) -> None:
        self.healthy = healthy
        self.faults: list[str] = []
        self.always = ""  # the fault of every request beyond `faults`
        self.asked: list[str] = []
        self.ending = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self.ending.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self.ending.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # a client that hangs up is what the tests want
            connection.settimeout(20)
            path = _read_request(connection)
            self.asked.append(path)
            fault = self.faults.pop(0) if self.faults else self.always
            self._answer(connection, path, fault)

    def _answer(self, connection: socket.socket, path: str, fault: str) -> None:
        name, _, argument = fault.partition(":")
        body, kind = self.healthy(path)
        if name == "silence":
            self.ending.wait()
        elif name == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif name.endswith("interim"):
            self._forever(connection, b"HTTP/1.1 100 Continue\r\n\r\n", drips=name.startswith("drip"))
        elif name == "drip-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self._forever(connection, b"a", drips=True)
        elif name == "endless-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            self._forever(connection, b"X-More: " + b"a" * 1000 + b"\r\n")
        elif name.endswith("trailers"):
            chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
            connection.sendall(_head(200, kind, b"Transfer-Encoding: chunked") + chunks)
            self._forever(connection, b"X-More: a\r\n", drips=name.startswith("drip"))
        elif name == "bomb":
            connection.sendall(_head(200, kind, b"Content-Encoding: gzip", b"Content-Length: %d" % len(BOMB)) + BOMB)
        elif name.startswith(("drip-", "endless")):
            status = {"refusal": 403, "redirect": 302}.get(name.partition("-")[2], 200)
            connection.sendall(_head(status, kind, b"Location: %s" % path.encode()))
            self._forever(connection, b"a" if name.startswith("drip") else CHUNK, drips=name.startswith("drip"))
        else:
            status = int(name) if name.isdecimal() else 302 if name == "redirect" else 200
            body = b"no" if status != 200 else b"\xff<>" if name == "junk" else body
            more = [b"Retry-After: %s" % argument.encode()] if argument else []
            if name == "redirect":
                more = [b"Location: %s" % (argument or path).encode()]
            if name == "early":
                connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")
            sent = body[: len(body) // 2] if name == "cut" else body
            connection.sendall(_head(status, kind, b"Content-Length: %d" % len(body), *more) + sent)

    def _forever(self, connection: socket.socket, piece: bytes, *, drips: bool = False) -> None:
        piece = piece if drips else piece * max(1, len(CHUNK) // len(piece))
        while not self.ending.is_set():
            connection.sendall(piece)
            if drips:
                self.ending.wait(TICK_S)


@contextlib.contextmanager
def hostile_server(healthy: Healthy) -> Iterator[HostileServer]:
    server = HostileServer(healthy)
    try:
        yield server
    finally:
        server.close()


def _head(status: int, kind: str, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Said" % status, b"Content-Type: " + kind.encode(), b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _read_request(connection: socket.socket) -> str:
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("no request")
        head += more
    return head.split(b" ")[1].decode()
