"""Pools for listings, by libraries (botocore, requests) or by `BoundedPool.send`: each request is an Exchange.

`connections` says which names of urllib3 and http.client are used here that are not documented.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProxyError

from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.network.connections import (
    LimitedResponse,
    TunnellingConnection,
    has_reached_proxy,
    open_connection,
    route,
)
from truss_cache_tasks.network.exchange import Exchange, ExchangeLimits, decode_body


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
        with self._answer(method, url, headers, body, limits) as response:
            chunks = iter(partial(response.read, 1 << 16), b"")
            read = decode_body(chunks, response.getheader("Content-Encoding", ""), limits.body(response.status))
        return WholeAnswer(status=response.status, headers=response.headers, body=read)  # type: ignore[arg-type]  # has all of a Mapping

    def get_head(self, url: str, headers: Mapping[str, str], limits: ExchangeLimits) -> WholeAnswer:
        """Send a GET, and read no body: the connection is closed instead."""
        with self._answer("GET", url, headers, None, limits) as response:
            return WholeAnswer(status=response.status, headers=response.headers, body=b"")  # type: ignore[arg-type]  # as above

    @contextmanager
    def _answer(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, limits: ExchangeLimits
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and lend its answer; keep the connection if the block read the whole body."""
        target, headers, tunnels = route(self, url, headers)
        connection: _BoundedConnection = self._get_conn()  # type: ignore[assignment]  # ours, by ConnectionCls
        reusable = False
        try:
            if connection.is_closed:
                connection.timeout = limits.connect_s
                open_connection(self, connection, tunnels=tunnels)
            with connection.send_once(method, target, headers, body) as response:
                yield response
                reusable = response.isclosed() and not response.will_close
        except OSError as exc:
            if not has_reached_proxy(connection):
                raise ProxyError("the proxy cannot be reached", exc) from exc
            raise
        finally:
            if not reusable:
                connection.close()
            self._put_conn(connection)


class _BoundedConnection(TunnellingConnection):
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


class _BoundedResponse(LimitedResponse):
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
