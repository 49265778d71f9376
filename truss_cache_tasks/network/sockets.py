"""Calls on plain sockets: a connect that a CancelToken ends, and reads that fill a whole buffer."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from truss_cache_tasks.network.cancel import CancelToken

_POLL_MS = 50
_GATHER_S = 1.0  # a slow connection returns what it has, so that its rate can be judged


def connect(host: str, port: int, timeout: Any, options: Sequence[Any], token: CancelToken) -> socket.socket:
    """Return a connected socket, trying each address of `host`.

    Args:
        timeout: seconds for each address; stays the timeout of the socket.
        options: arguments of `setsockopt`.
        token: checked after the name is resolved, and while a connect is under way.
    """
    failure: OSError = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    token.check()
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.setblocking(False)
            number = sock.connect_ex(address)
            if number == errno.EINPROGRESS:
                number = _wait_for_connect(sock, time.monotonic() + timeout, token)
            if number:
                raise OSError(number, os.strerror(number))
            sock.settimeout(timeout)
            return sock
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
    raise failure


def _wait_for_connect(sock: socket.socket, until: float, token: CancelToken) -> int:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while not poll.poll(_POLL_MS):
        token.check()
        if time.monotonic() > until:
            return errno.ETIMEDOUT
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class BufferReader:
    """Reads a body of known length straight from its socket, a whole buffer at a time.

    One read of a socket returns what has arrived, of TLS 16 KiB at most; a write for each would cost too much.
    """

    def __init__(self, sock: socket.socket, stall_s: float) -> None:
        """Begin where no other buffer holds bytes of the body.

        Args:
            stall_s: seconds that a read may last without one byte.
        """
        sock.settimeout(stall_s)
        self._sock = sock
        self._failure: OSError | None = None  # raised by the next call: the bytes read before it still count

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer`, or as much of it as comes in time; return how many bytes, 0 at the end."""
        if self._failure is not None:
            raise self._failure
        got, until = 0, time.monotonic() + _GATHER_S
        while got < len(buffer):
            try:
                size = self._sock.recv_into(buffer[got:])
            except OSError as exc:
                if not got:
                    raise
                self._failure = exc
                break
            got += size
            if not size or time.monotonic() > until:
                break
        return got
