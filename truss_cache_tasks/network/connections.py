"""urllib3's connections, each of whose requests is an Exchange: for every library that sends through urllib3."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.network.exchange import Exchange, ExchangeLimits

_POLL_S = 0.25  # how often a read that waits asks whether the work is cancelled


def bounded_pools(limits: ExchangeLimits, cancel: CancelToken) -> dict[str, type[HTTPConnectionPool]]:
    """Return pool classes for urllib3's `PoolManager.pool_classes_by_scheme`."""

    class Plain(_BoundedConnection):
        start = staticmethod(lambda: Exchange(limits, cancel))

    class Tls(Plain, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


class _BoundedConnection(HTTPConnection):
    start: Callable[[], Exchange]
    _exchange: Exchange

    def connect(self) -> None:
        self._exchange = self.start()  # of the CONNECT to a proxy, where there is one
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._exchange = self.start()
        super().request(*args, **kwargs)

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> _BoundedResponse:  # type: ignore[override]
        """Return what http.client reads an answer with."""
        return _BoundedResponse(sock, self._exchange, *args, **kwargs)


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, exchange: Exchange, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        assert isinstance(self.fp, io.BufferedReader)
        self.fp = io.BufferedReader(_BoundedReader(sock, self.fp.detach(), exchange))
        self._exchange = exchange

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]  # http.client's sign that none were read; it skips 100 alone
            super().begin()
        self._exchange.begin_body(self.status)

    def read(self, amt: int | None = None) -> bytes:
        """Read on; unlike http.client's own, fail where the end comes before it was announced."""
        data = super().read(amt)
        if amt and not data and self.length:
            raise http.client.IncompleteRead(data, self.length)
        return data


class _BoundedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, raw: io.RawIOBase, exchange: Exchange) -> None:
        """Read `sock` by itself; `raw`, which http.client made of it, keeps it open until this is closed."""
        self._sock = sock
        self._raw = raw
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while True:
            self._sock.settimeout(min(self._exchange.left_s(), _POLL_S))
            try:
                size = self._sock.recv_into(buffer)
            except TimeoutError:
                continue
            self._exchange.came(size)
            return size

    def close(self) -> None:
        self._raw.close()
        super().close()
