"""What every real server of the tests needs: its program, free ports, and waiting until it answers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def require(tool: str, install: str = "sh .ci/venv --group test") -> str:
    """Return the path of `tool`, of this Python's own scripts first. Without it: skip, but fail in CI (CI=true)."""
    beside = Path(sys.executable).parent
    # Debian's servers are in /usr/sbin, which is on no user's PATH.
    found = shutil.which(tool, path=os.pathsep.join([str(beside), os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if found is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"{tool} is not installed: {install}")
    return found


def free_ports(count: int) -> Sequence[int]:
    """Return `count` distinct ports of 127.0.0.1 that nobody listens on now.

    Below the range that outgoing connections take theirs from: those of other tests would win the race otherwise.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.sample(range(20000, 32000), 1000):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} free ports")


def die_with_parent() -> None:
    """Make this (child) process end with the test run, also when that is killed before it could clean up. Linux only.

    For `preexec_fn`, from the main thread: the signal comes when the thread that started the child is gone.
    """
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: not between fork and exec


def wait_until(ready: Callable[[], bool], what: str, *, alive: Callable[[], bool], timeout_s: float = 60) -> None:
    """Return when `ready()`; an OSError of it counts as not yet. Raises RuntimeError if it never is, or died."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.05)
    raise RuntimeError(f"{what} did not get ready")


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve HTTP on a free port of the loopback for the block; return the URL, without a final slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
