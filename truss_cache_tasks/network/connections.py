"""Connections whose reads are limited in time and that another thread can end.

They need names of urllib3 and http.client that are not documented; no other module uses such names. Documented are only
urllib3's constructors, `urlopen`, and http.client's request and response methods. What else is used here, and why:

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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProxyError
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.url import parse_url

from truss_cache_tasks.network.cancel import CancelToken, WorkerToken
from truss_cache_tasks.network.exchange import AnyLimit, Exchange, ExchangeLimits, ReadLimit, decode_body
from truss_cache_tasks.network.sockets import BufferReader, connect

_POLL_S = 0.25  # how often a read that waits asks whether it may go on
_URL_CHARACTERS = "%!$&'()*+,/:;=?@~"


# -- the way through a proxy


def _route(pool: HTTPConnectionPool, url: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str], bool]:
    """Return what a GET of `url` asks the pool's connections for, its headers, and whether a tunnel leads there."""
    parts, target = parse_url(url), request_target(url)
    tunnels = connection_requires_http_tunnel(pool.proxy, pool.proxy_config, parts.scheme)
    if pool.proxy is not None and not tunnels:
        # http.client would take the Host from the target, together with a user and a password in its URL.
        headers = {"Host": parts.netloc or "", **headers, **pool.proxy_headers}
        target = f"{parts.scheme}://{parts.netloc}{target}"
    return target, headers, tunnels


def _connect(pool: HTTPConnectionPool, connection: HTTPConnection, *, tunnels: bool) -> None:
    if tunnels:
        pool._prepare_proxy(connection)
    else:
        connection.connect()


def _has_reached_proxy(connection: HTTPConnection) -> bool:
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


class _LimitedResponse(http.client.HTTPResponse):
    def __init__(
        self, sock: Any, debuglevel: int = 0, method: str | None = None, url: str | None = None, *, limit: AnyLimit
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_LimitedReader(sock, self.fp.detach(), limit))


class _TunnellingConnection(HTTPConnection):
    def _tunnel(self) -> None:
        super()._tunnel()
        self.sock.settimeout(self.timeout)  # for the TLS handshake: the reads of the answer set shorter ones


# -- for listings, by libraries (botocore, requests) or by `BoundedPool.send`: each request is an Exchange


def bounded_pools(limits: ExchangeLimits, cancel: CancelToken) -> dict[str, type[HTTPConnectionPool]]:
    """Return pool classes for urllib3's `PoolManager.pool_classes_by_scheme`, each request of which is an Exchange."""

    class Plain(_BoundedConnection):
        start = staticmethod(lambda: Exchange(limits, cancel))

    class Tls(Plain, HTTPSConnection):
        pass

    class PlainPool(BoundedPool):
        ConnectionCls = Plain

    class TlsPool(BoundedPool, HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeAnswer:
    """An answer with its whole body.

    Attributes:
        status: the HTTP status.
        headers: with names in any case.
        body: without its Content-Encoding.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class BoundedPool(HTTPConnectionPool):
    """urllib3's pool of connections, each request of which is an Exchange."""

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, limits: ExchangeLimits
    ) -> WholeAnswer:
        """Send a request; return its answer, also a redirect. Logs no URL, as `urlopen` does: it may hold a secret.

        Raises:
            UnreadableAnswer: the answer is too large, or in an unknown encoding.
            Exception: what urllib3 and http.client raise.
        """
        target, headers, tunnels = _route(self, url, headers)
        connection: _BoundedConnection = self._get_conn()  # type: ignore[assignment]  # ours, by ConnectionCls
        reusable = False
        try:
            if connection.is_closed:
                connection.timeout = limits.connect_s
                _connect(self, connection, tunnels=tunnels)
            with connection.send_once(method, target, headers, body) as response:
                chunks = iter(partial(response.read, 1 << 16), b"")
                read = decode_body(chunks, response.getheader("Content-Encoding", ""), limits.body(response.status))
                reusable = response.isclosed() and not response.will_close
            return WholeAnswer(status=response.status, headers=response.headers, body=read)  # type: ignore[arg-type]  # has all of a Mapping
        except OSError as exc:
            if not _has_reached_proxy(connection):
                raise ProxyError("the proxy cannot be reached", exc) from exc
            raise
        finally:
            if not reusable:
                connection.close()
            self._put_conn(connection)


class _BoundedConnection(_TunnellingConnection):
    start: Callable[[], Exchange]
    _exchange: Exchange

    def connect(self) -> None:
        self._exchange = self.start()  # of the CONNECT to a proxy, where there is one
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._exchange = self.start()
        super().request(*args, **kwargs)

    def send_once(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        """Send a request on the open connection; return its answer, with the body still to be read."""
        self._exchange = self.start()
        self.sock.settimeout(self._exchange.left_s())
        http.client.HTTPConnection.request(self, method, target, body=body, headers=headers)
        return http.client.HTTPConnection.getresponse(self)

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> _BoundedResponse:  # type: ignore[override]  # a class in urllib3
        """Return what http.client reads an answer with."""
        return _BoundedResponse(sock, *args, limit=self._exchange, **kwargs)


class _BoundedResponse(_LimitedResponse):
    def __init__(self, sock: socket.socket, *args: Any, limit: Exchange, **kwargs: Any) -> None:
        super().__init__(sock, *args, limit=limit, **kwargs)
        self._exchange = limit

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]  # while they are set, http.client's `begin` does nothing
            super().begin()
        self._exchange.begin_body(self.status)

    def read(self, amt: int | None = None) -> bytes:
        """Read as http.client does, and raise IncompleteRead also where only a part of the body was asked for."""
        data = super().read(amt)
        if amt and not data and self.length:
            raise http.client.IncompleteRead(data, self.length)
        return data


# -- for the transfer: connections that another thread can end


class _BreakableConnection(_TunnellingConnection):
    """A connection with a second descriptor of its socket, through which another thread shuts it down.

    That ends a TLS handshake or read too, and does not touch the Python object that the worker is using.
    """

    token: WorkerToken | None = None  # of the worker that it serves
    is_answering = False  # a request was sent, and its Answer is not closed yet
    _second: socket.socket | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.limit = ReadLimit()
        self.response_class = partial(_LimitedResponse, limit=self.limit)  # type: ignore[assignment]  # http.client only calls it

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
        self.limit.check = token.check
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
        target, headers, tunnels = _route(self, url, headers)
        connection: _BreakableConnection = self._get_conn()  # type: ignore[assignment]  # ours, by ConnectionCls
        try:
            connection.serve(token)
            if connection.is_closed:
                connection.timeout = connect_s
                connection.limit.begin(connect_s, overhead)  # for the answer of a proxy
                _connect(self, connection, tunnels=tunnels)
            sock = connection.sock
            sock.settimeout(answer_s)
            connection.limit.begin(answer_s, overhead)
            connection.is_answering = True
            http.client.HTTPConnection.request(connection, "GET", target, headers=headers)
            return Answer(self, connection, sock, http.client.HTTPConnection.getresponse(connection))
        except BaseException as exc:
            reached = _has_reached_proxy(connection)
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
