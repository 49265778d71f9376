"""Ways to get bytes from a socket into a file, each as a bare loop, to see what the engine's own loop could gain.

    python benchmarks/loops.py [--files 4] [--mib 1024] [--runs 5] [--tls]

Each way is a process of its own with a thread a file: one GET, then nothing but its loop, into a file that
`posix_fallocate` made; nothing is hashed. nginx serves from tmpfs; the destination is tmpfs. Ways take turns; medians.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import mmap
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import servers
from weights import Weights

MIB = 1 << 20
Loop = Callable[[Any, int, bytes, int], None]  # socket, descriptor, what came with the headers, bytes in all


def recv_pwrite(size: int, flags: int) -> Loop:
    def loop(sock: Any, descriptor: int, head: bytes, total: int) -> None:
        at = os.pwrite(descriptor, head, 0)
        buffer = memoryview(bytearray(size))
        while at < total:
            got = sock.recv_into(buffer[: total - at], 0, flags) if flags else sock.recv_into(buffer[: total - at])
            at += os.pwrite(descriptor, buffer[:got], at)

    return loop


def gather_pwrite(sock: Any, descriptor: int, head: bytes, total: int) -> None:
    """As the engine does with TLS, whose records are 16 KiB: fill a buffer, then write."""
    at = os.pwrite(descriptor, head, 0)
    buffer = memoryview(bytearray(MIB))
    while at < total:
        want, got = min(MIB, total - at), 0
        while got < want:
            got += sock.recv_into(buffer[got:want])
        at += os.pwrite(descriptor, buffer[:got], at)


def with_timeout(loop: Loop) -> Loop:
    """As Python's own timeouts are: each read asks the socket first whether something is there."""

    def timed(sock: Any, descriptor: int, head: bytes, total: int) -> None:
        sock.settimeout(10)
        loop(sock, descriptor, head, total)

    return timed


def splice(read_back: bool) -> Loop:
    def loop(sock: Any, descriptor: int, head: bytes, total: int) -> None:
        at = os.pwrite(descriptor, head, 0)
        source, sink = os.pipe()
        fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, MIB)
        buffer = memoryview(bytearray(MIB))
        while at < total:
            got = os.splice(sock.fileno(), sink, min(MIB, total - at))
            while got:
                moved = os.splice(source, descriptor, got, offset_dst=at)
                if read_back:
                    os.preadv(descriptor, [buffer[:moved]], at)
                at, got = at + moved, got - moved

    return loop


def mapped(sock: Any, descriptor: int, head: bytes, total: int) -> None:
    with mmap.mmap(descriptor, total) as memory, memoryview(memory) as view:
        view[: len(head)] = head
        at = len(head)
        while at < total:
            at += sock.recv_into(view[at : min(total, at + MIB)], 0, socket.MSG_WAITALL)


def urllib3_read(url: str, descriptor: int, total: int, trust: ssl.SSLContext | None) -> None:
    import urllib3

    with urllib3.PoolManager(ssl_context=trust) as pool:
        answer = pool.request("GET", url, preload_content=False)
        at = 0
        while at < total:
            at += os.pwrite(descriptor, answer.read(MIB // 4), at)


WAYS: dict[str, Loop] = {
    "recv_into(MSG_WAITALL), 1 MiB, pwrite": recv_pwrite(MIB, socket.MSG_WAITALL),
    "the same, 256 KiB": recv_pwrite(MIB // 4, socket.MSG_WAITALL),
    "the same, 4 MiB": recv_pwrite(4 * MIB, socket.MSG_WAITALL),
    "recv_into as it comes, 256 KiB, pwrite": recv_pwrite(MIB // 4, 0),
    "recv_into as it comes with Python's timeout, 1 MiB, pwrite": with_timeout(recv_pwrite(MIB, 0)),
    "recv_into with Python's timeout until 1 MiB is full, pwrite: the engine's": with_timeout(gather_pwrite),
    "splice through a pipe of 1 MiB: no bytes reach Python": splice(read_back=False),
    "the same, read back to be hashed": splice(read_back=True),
    "recv_into(MSG_WAITALL) into mmap": mapped,
}
TLS_WAYS: dict[str, Loop] = {
    "recv_into until 1 MiB is full, pwrite: the engine's": gather_pwrite,
    "recv_into as it comes, pwrite": recv_pwrite(MIB, 0),
}
URLLIB3 = "urllib3 read(256 KiB), pwrite"


def fetch(way: str, url: str, path: Path, total: int, authority: str | None) -> None:
    trust = ssl.create_default_context(cafile=authority) if authority else None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, total)
    if way == URLLIB3:
        return urllib3_read(url, descriptor, total, trust)
    parts = urlsplit(url)
    sock: Any = socket.create_connection((parts.hostname, parts.port))
    if trust is not None:
        sock = trust.wrap_socket(sock, server_hostname=parts.hostname)
    sock.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(4096)
    (TLS_WAYS if trust else WAYS)[way](sock, descriptor, head.partition(b"\r\n\r\n")[2], total)
    return None


def child(way: str, urls: list[str], folder: str, total: int, authority: str | None) -> None:
    jobs = [(way, url, Path(folder, str(number)), total, authority) for number, url in enumerate(urls)]
    threads = [threading.Thread(target=fetch, args=job) for job in jobs]
    began, spent = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([time.perf_counter() - began, time.process_time() - spent]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tls", action="store_true")
    asked = parser.parse_args()
    ways = [*(TLS_WAYS if asked.tls else WAYS), URLLIB3]
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        weights = Weights(Path(scratch, "weights"), asked.files, asked.mib * MIB, alike=True).make()
        with servers.s3(weights, Path(scratch, "s3"), tls=asked.tls, digests=False) as env:
            base = f"{env['S3_ENDPOINT_URL']}/{servers.BUCKET}/{servers.PREFIX}"
            urls = [f"{base}/{name}" for name in weights.names]
            for _ in range(asked.runs):
                for way in ways:
                    with tempfile.TemporaryDirectory(dir=scratch) as folder:
                        job = json.dumps([way, urls, folder, weights.size, env.get("SSL_CERT_FILE")])
                        ran = subprocess.run(
                            [sys.executable, __file__, "--child", job], check=True, capture_output=True, text=True
                        )
                    found[way].append(json.loads(ran.stdout))
    gib = asked.files * asked.mib / 1024
    print("| way | s | CPU s a GiB |\n|---|---|---|")
    for way, runs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {way} | {wall:.2f} | {cpu / gib:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*json.loads(sys.argv[2]))
    else:
        main()
