"""Connections whose reads are limited in time and that another thread can end.

They need names of urllib3 and http.client that are not documented; no other module but `bounded` uses such names.
Documented are only urllib3's constructors, `urlopen`, and http.client's request and response methods. What else is used
in the two, and why:

http.client.HTTPConnection
    response_class: answers whose reads are limited, also the proxy's answer to CONNECT
    request, getresponse of http.client itself: urllib3's cost more than a small file does (docs/adr/0012)
    _tunnel: to restore the timeout of the socket after a CONNECT
    sock, timeout: the timeout of each step, and reads that bypass http.client's buffer
http.client.HTTPResponse
    fp: all reads of the socket go through it
    length, chunked, will_close, isclosed: what is left of a body, and whether its connection is free
    begin, headers = None: to skip interim answers (1xx); http.client itself skips `100 Continue` alone
urllib3.connection.HTTPConnection
    _new_conn, _dns_host, socket_options: a connect that can be cancelled
    is_closed, proxy, has_connected_to_proxy: whether to connect, and whether it was the proxy that failed
urllib3.connectionpool.HTTPConnectionPool
    ConnectionCls: pools of these connections
    _get_conn, _put_conn, _prepare_proxy: the pool without `urlopen` (docs/adr/0012)
    proxy, proxy_config, proxy_headers: requests through a proxy
urllib3.PoolManager
    pool_classes_by_scheme: set by the users of `bounded_pools` and `POOLS`
urllib3.util
    proxy.connection_requires_http_tunnel, url.parse_url: CONNECT or not, and the Host, as urllib3 decides

`tests/network/test_connections.py` uses each of them against a real server; CI runs it with the newest urllib3 too.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProxyError
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.url import parse_url

from truss_cache_tasks.network.cancel import WorkerToken
from truss_cache_tasks.network.exchange import AnyLimit, ReadLimit
from truss_cache_tasks.network.sockets import BufferReader, connect

_POLL_S = 0.25  # how often a read that waits asks whether it may go on
_URL_CHARACTERS = "%!$&'()*+,/:;=?@~"


# -- the way through a proxy


def route(pool: HTTPConnectionPool, url: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str], bool]:
    """Return what a GET of `url` asks the pool's connections for, its headers, and whether a tunnel leads there."""
    parts, target = parse_url(url.partition("?")[0]), request_target(url)  # its errors quote the URL, not the secret
    tunnels = connection_requires_http_tunnel(pool.proxy, pool.proxy_config, parts.scheme)
    if pool.proxy is not None and not tunnels:
        # http.client would take the Host from the target, together with a user and a password in its URL.
        headers = {"Host": parts.netloc or "", **headers, **pool.proxy_headers}
        target = f"{parts.scheme}://{parts.netloc}{target}"
    return target, headers, tunnels


def open_connection(pool: HTTPConnectionPool, connection: HTTPConnection, *, tunnels: bool) -> None:
    """Connect, to the server or to its proxy, with a tunnel if one leads there."""
    if tunnels:
        pool._prepare_proxy(connection)
    else:
        connection.connect()


def has_reached_proxy(connection: HTTPConnection) -> bool:
    """Whether it is not the proxy that could not be reached."""
    return connection.proxy is None or connection.has_connected_to_proxy


# -- answers whose every read of the socket is limited


class _LimitedReader(io.RawIOBase):
    """Reads the socket for http.client, within a limit.

    http.client loops over `100 Continue`, headers, chunk sizes and trailers, and gives each read a fresh timeout: a
    server that sends a byte now and then would keep it reading without end.
    """

    def __init__(self, sock: Any, raw: io.RawIOBase, limit: AnyLimit) -> None:
        """Begin.

        Args:
            sock: the socket, or urllib3's substitute for one where TLS runs within TLS.
            raw: the reader that http.client made of it; the socket stays open until this is closed.
        """
        self._sock = sock
        self._raw = raw
        self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while True:
            self._sock.settimeout(min(self._limit.left_s(), _POLL_S))
            try:
                size: int = self._sock.recv_into(buffer)
            except TimeoutError:
                continue
            self._limit.received(size)
            return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class LimitedResponse(http.client.HTTPResponse):
    """An answer of http.client that is read within a limit."""

    def __init__(
        self, sock: Any, debuglevel: int = 0, method: str | None = None, url: str | None = None, *, limit: AnyLimit
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_LimitedReader(sock, self.fp.detach(), limit))


class TunnellingConnection(HTTPConnection):
    """A connection whose TLS handshake in a tunnel has the whole time to connect."""

    def _tunnel(self) -> None:
        super()._tunnel()
        self.sock.settimeout(self.timeout)  # for the TLS handshake: the reads of the answer set shorter ones


# -- for the transfer: connections that another thread can end


class _BreakableConnection(TunnellingConnection):
    """A connection with a second descriptor of its socket, through which another thread shuts it down.

    That ends a TLS handshake or read too, and does not touch the Python object that the worker is using.
    """

    token: WorkerToken | None = None  # of the worker that it serves
    is_answering = False  # a request was sent, and its Answer is not closed yet
    _second: socket.socket | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.limit = ReadLimit()
        self.response_class = partial(LimitedResponse, limit=self.limit)  # type: ignore[assignment]  # http.client only calls it

    def _new_conn(self) -> socket.socket:
        assert self.token is not None, "a connection serves a worker before it connects"
        sock = connect(self._dns_host, self.port, self.timeout, self.socket_options or (), self.token)
        try:
            self._second = sock.dup()
            self.token.check()  # a cancel before there was a second descriptor shut nothing down
        except BaseException:
            sock.close()
            raise
        return sock

    def serve(self, token: WorkerToken) -> None:
        """Let a cancel of `token` end what this connection does from now on."""
        self.token = token
        token.connection = self
        token.check()

    def shut_down(self, owner: WorkerToken) -> None:
        """Make reads and writes fail at once, if this serves `owner` now."""
        second = self._second
        if self.token is owner and second is not None:
            with suppress(OSError):
                second.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        try:
            super().close()
        finally:
            # http.client closes a connection as soon as it reads `Connection: close`, and the answer still reads the
            # socket. Until that Answer is closed, a cancel needs the second descriptor.
            if not self.is_answering:
                second, self._second = self._second, None
                if second is not None:
                    second.close()


class _BreakableTlsConnection(_BreakableConnection, HTTPSConnection):
    """The same over TLS."""


class ConnectionPool(HTTPConnectionPool):
    """urllib3's pool of connections, its proxies and its TLS, without the layers of its `urlopen` (docs/adr/0012)."""

    ConnectionCls = _BreakableConnection

    def ask(
        self,
        url: str,
        headers: Mapping[str, str],
        token: WorkerToken,
        *,
        connect_s: float,
        answer_s: float,
        overhead: int,
    ) -> Answer:
        """Send a GET; return its answer once the headers are there. Raises as urllib3 and http.client do.

        Args:
            token: whose cancel ends it.
            connect_s: seconds to connect, TLS and a proxy's CONNECT included.
            answer_s: seconds from the request to the end of the answer's headers.
            overhead: bytes that the headers may have.
        """
        target, headers, tunnels = route(self, url, headers)
        connection: _BreakableConnection = self._get_conn()  # type: ignore[assignment]  # ours, by ConnectionCls
        try:
            connection.serve(token)
            if connection.is_closed:
                connection.timeout = connect_s
                connection.limit.begin(connect_s, overhead)  # for the answer of a proxy
                open_connection(self, connection, tunnels=tunnels)
            sock = connection.sock
            sock.settimeout(answer_s)
            connection.limit.begin(answer_s, overhead)
            connection.is_answering = True
            http.client.HTTPConnection.request(connection, "GET", target, headers=headers)
            return Answer(self, connection, sock, http.client.HTTPConnection.getresponse(connection))
        except BaseException as exc:
            reached = has_reached_proxy(connection)
            self.take_back(connection, reusable=False)
            if not reached and isinstance(exc, OSError):
                raise ProxyError("the proxy cannot be reached", exc) from exc
            raise

    def take_back(self, connection: _BreakableConnection, *, reusable: bool) -> None:
        """Keep a connection for the next request, or close it."""
        connection.is_answering = False
        if not reusable:
            connection.close()
        self._put_conn(connection)


class TlsConnectionPool(ConnectionPool, HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = _BreakableTlsConnection


POOLS: dict[str, type[HTTPConnectionPool]] = {"http": ConnectionPool, "https": TlsConnectionPool}


class Answer:
    """A server's answer, and the connection that it comes on."""

    def __init__(
        self, pool: ConnectionPool, connection: _BreakableConnection, sock: Any, response: http.client.HTTPResponse
    ) -> None:
        """Begin where the headers end.

        Args:
            sock: of the connection. `connection.sock` is None by now where the server closes it after the body.
        """
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers  # type: ignore[assignment]  # has all of a Mapping
        self._response = response
        self._limit = connection.limit
        self._pool = pool
        self._connection = connection
        # Only a real socket can be read directly; TLS within a proxy's TLS is read through http.client.
        self._sock: socket.socket | None = sock if type(sock) in (socket.socket, ssl.SSLSocket) else None
        self._direct: BufferReader | None = None  # None until http.client's buffer is known to be empty

    def begin(self, seconds: float, size: int) -> None:
        """Begin a step that ends `seconds` from now and reads about `size` bytes at most."""
        self._limit.begin(seconds, size)

    @property
    def is_at_end(self) -> bool:
        """Whether a body of known length was read to its end."""
        return self._response.length == 0

    def read1(self, size: int) -> bytes:
        """Return what one read of the socket brings, `size` bytes at most; b"" at the end."""
        return self._response.read1(size)

    def read(self, size: int | None = None) -> bytes:
        """Return the next `size` bytes, or all that is left; at the end of the body this frees the connection."""
        return self._response.read(size)

    def readinto(self, buffer: memoryview, stall_s: float, overhead: int) -> int:
        """Put the next bytes into `buffer`; return how many, 0 at the end.

        Args:
            stall_s: seconds that a read may last without one byte.
            overhead: bytes that may come beside those of the body: chunk sizes.
        """
        response = self._response
        if self._sock is None or not response.length:
            return self._read_buffered(buffer, stall_s, overhead)
        rest = buffer[: response.length]
        if self._direct is None:
            size = self._read_buffered(rest, stall_s, overhead)
            if size < len(rest):  # else http.client's buffer may hold more
                self._direct = BufferReader(self._sock, stall_s)
            return size
        size = self._direct.readinto(rest)
        response.length -= size
        return size

    def _read_buffered(self, buffer: memoryview, stall_s: float, overhead: int) -> int:
        response = self._response
        self._limit.begin(stall_s, len(buffer) + overhead)
        if response.chunked or response.length is None:
            data = response.read1(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        if response.fp is None or not response.length:
            return 0
        size: int = response.fp.readinto1(buffer[: response.length])
        response.length -= size
        return size

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        # An interim answer (1xx) is followed by the answer itself: such a connection is not free.
        reusable = self._response.isclosed() and not self._response.will_close and self.status >= 200
        self._response.close()
        self._pool.take_back(self._connection, reusable=reusable)


def request_target(url: str) -> str:
    """Return the path and the query of `url` unchanged, but with characters quoted that a URL must not have.

    urllib3 would resolve `.` and `..`, which belong to the key of an S3 object and to the signed text.

    >>> request_target("http://host/bucket/a/./b%20c//d ?x=1")
    '/bucket/a/./b%20c//d%20?x=1'
    """
    parts = urlsplit(url)
    path, query = quote(parts.path, safe=_URL_CHARACTERS), quote(parts.query, safe=_URL_CHARACTERS)
    return (path or "/") + (f"?{query}" if query else "")
