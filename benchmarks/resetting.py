"""An S3 that resets the connection in the middle of some bodies, and counts what it sends.

A server of its own, since nginx cannot: threads, and os.sendfile, which seldom needs the interpreter.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator

from servers import BUCKET, PREFIX, listing_xml, s3_env
from weights import Weights

ETAG = "0123456789abcdef-1"  # no MD5: the CRC is what there is to compare
AT_ONCE = 8 << 20


class ResettingS3(socketserver.ThreadingTCPServer):
    """Serves `weights`.

    Attributes:
        hits: told the number of a GET of bytes, from 0, whether it is reset half way; `begin` sets it.
        sent: bytes of bodies since `begin`.
        resets: how many there were since `begin`.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, weights: Weights) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.weights, self.listing = weights, listing_xml(weights, ETAG).encode()
        self.lock = threading.Lock()
        self.begin(lambda _: False)

    def begin(self, hits: Callable[[int], bool]) -> None:
        """Start counting anew, with other hits."""
        self.hits, self.sent, self.resets, self.numbers = hits, 0, 0, itertools.count()

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: a client that hangs up is its own business."""


class _Connection(socketserver.StreamRequestHandler):
    server: ResettingS3
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while line := self.rfile.readline():
            method, target, _ = line.decode().split(" ", 2)
            headers = {}
            while (header := self.rfile.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            path = target.partition("?")[0]
            if path.rstrip("/") == f"/{BUCKET}":
                self.answer(200, len(self.server.listing), "Content-Type: application/xml")
                self.wfile.write(self.server.listing)
            else:
                self.file(method, path.removeprefix(f"/{BUCKET}/{PREFIX}/"), headers.get("range", ""))

    def file(self, method: str, name: str, asked: str) -> None:
        size, crc = self.server.weights.size, self.server.weights.crc64nvme[name]
        about = f'ETag: "{ETAG}"\r\nLast-Modified: Tue, 01 Sep 2026 00:00:00 GMT\r\nAccept-Ranges: bytes'
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked):
            start, end = int(found[1]), min(int(found[2] or size) + 1, size)
            self.answer(206, end - start, f"{about}\r\nContent-Range: bytes {start}-{end - 1}/{size}")
        else:
            start, end = 0, size
            checksum = f"x-amz-checksum-crc64nvme: {crc}\r\nx-amz-checksum-type: FULL_OBJECT"
            self.answer(200, size, f"{about}\r\n{checksum}")
        if method == "GET":
            self.body(name, start, end)

    def answer(self, status: int, length: int, headers: str) -> None:
        self.wfile.write(f"HTTP/1.1 {status} OK\r\nContent-Length: {length}\r\n{headers}\r\n\r\n".encode())

    def body(self, name: str, start: int, end: int) -> None:
        hit = self.server.hits(next(self.server.numbers))
        stop = (start + end) // 2 if hit else end
        with (self.server.weights.folder / name).open("rb") as file:
            while start < stop:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, min(AT_ONCE, stop - start))
                start += sent
                with self.server.lock:
                    self.server.sent += sent
        if hit:
            with self.server.lock:
                self.server.resets += 1
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()  # with that option: RST
            raise ConnectionAbortedError


@contextlib.contextmanager
def resetting_s3(weights: Weights) -> Iterator[tuple[ResettingS3, dict[str, str]]]:
    """Run one; yield it and the environment of its clients."""
    with ResettingS3(weights) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server, s3_env(f"http://127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()
