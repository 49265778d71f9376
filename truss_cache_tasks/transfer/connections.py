"""Warm urllib3 connections, each of which another thread can end: while it connects, greets, waits or reads."""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProxyError
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.url import parse_url

from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.transfer.lifeline import Lifeline
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.reads import LimitedResponse, ReadLimit

_HOSTS = 64  # hosts whose connections are kept warm
_POLL_MS = 50
_URL_CHARACTERS = "%!$&'()*+,/:;=?@~"


class Answer:
    """A server's answer, and the connection that it comes on."""

    def __init__(self, pool: _Pool, connection: _Breakable, sock: Any, response: http.client.HTTPResponse) -> None:
        """Begin where the headers end.

        Args:
            sock: of the connection, which does not tell it any more where the server closes it after the body.
        """
        self.response = response
        self.sock = sock
        self.limit = connection.limit
        self._pool = pool
        self._connection = connection

    @property
    def status(self) -> int:
        """Of the answer."""
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Of any case."""
        return self.response.headers  # type: ignore[return-value]  # an email.Message, which has all of a Mapping

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        # After an early hint (1xx) the answer itself is still to come.
        reusable = self.response.isclosed() and not self.response.will_close and self.status >= 200
        self.response.close()
        self._pool.take_back(self._connection, reusable=reusable)


class _Breakable(HTTPConnection):
    """A connection with a second descriptor of its socket.

    A shutdown through that one ends a TLS handshake or read too, without touching the Python object that another
    thread is inside of.
    """

    lifeline: Lifeline | None = None  # whom it serves
    is_answering = False
    _second: socket.socket | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.limit = ReadLimit()
        # What http.client makes of a server's answer, and of a proxy's to CONNECT. Typed as a class, and only called.
        self.response_class = partial(LimitedResponse, limit=self.limit)  # type: ignore[assignment]

    def _new_conn(self) -> socket.socket:
        assert self.lifeline is not None, "a connection serves somebody before it connects"
        sock = _connect(self._dns_host, self.port, self.timeout, self.socket_options or (), self.lifeline)
        try:
            self._second = sock.dup()
            self.lifeline.check()  # a cut that came before there was a second descriptor
        except BaseException:
            sock.close()
            raise
        return sock

    def serve(self, lifeline: Lifeline) -> None:
        """Make `lifeline` the one whose cut ends what this connection is at."""
        self.lifeline = lifeline
        lifeline.connection = self
        lifeline.check()

    def shut_down(self, owner: Lifeline) -> None:
        second = self._second
        if self.lifeline is owner and second is not None:
            with suppress(OSError):
                second.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        try:
            super().close()
        finally:
            if not self.is_answering:  # else http.client closes what the server will close, and goes on reading it
                second, self._second = self._second, None
                if second is not None:
                    second.close()


class _BreakableTls(_Breakable, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    """urllib3's pool of connections, its proxies and its TLS, without the layers of its `urlopen`.

    Those take longer than a small file does (docs/adr/0012).
    """

    ConnectionCls = _Breakable

    def ask(self, url: str, headers: Mapping[str, str], means: Means) -> Answer:
        """Send a GET; return what it is answered, once the headers are there. Raises as urllib3 and http.client do."""
        parts, target = parse_url(url), request_target(url)
        tunnels = connection_requires_http_tunnel(self.proxy, self.proxy_config, parts.scheme)
        if self.proxy is not None and not tunnels:
            # Its Host as http.client makes it of the target would have the user and the password of that, if any.
            headers = {"Host": parts.netloc or "", **headers, **self.proxy_headers}
            target = f"{parts.scheme}://{parts.netloc}{target}"
        connection: _Breakable = self._get_conn()  # type: ignore[assignment]
        limits = means.limits
        try:
            connection.serve(means.lifeline)
            if connection.is_closed:
                connection.timeout = limits.connect_s
                connection.limit.begin(limits.connect_s, limits.overhead)  # for the answer of a proxy
                if tunnels:
                    self._prepare_proxy(connection)
                else:
                    connection.connect()
            sock = connection.sock
            sock.settimeout(limits.answer_s)
            connection.limit.begin(limits.answer_s, limits.overhead)
            connection.is_answering = True
            http.client.HTTPConnection.request(connection, "GET", target, headers=headers)
            return Answer(self, connection, sock, http.client.HTTPConnection.getresponse(connection))
        except BaseException as exc:
            reached = connection.proxy is None or connection.has_connected_to_proxy
            self.take_back(connection, reusable=False)
            if not reached and isinstance(exc, OSError):
                raise ProxyError("the proxy cannot be reached", exc) from exc
            raise

    def take_back(self, connection: _Breakable, *, reusable: bool) -> None:
        """Keep a connection for the next request, or close it."""
        connection.is_answering = False
        if not reusable:
            connection.close()
        self._put_conn(connection)


class _TlsPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _BreakableTls


def request_target(url: str) -> str:
    """Return the path and the query of `url` as they are, with only those characters quoted that no URL has.

    urllib3 would resolve `.` and `..`, which are a part of the key of an S3 object, and of what is signed.

    >>> request_target("http://host/bucket/a/./b%20c//d ?x=1")
    '/bucket/a/./b%20c//d%20?x=1'
    """
    parts = urlsplit(url)
    path, query = quote(parts.path, safe=_URL_CHARACTERS), quote(parts.query, safe=_URL_CHARACTERS)
    return (path or "/") + (f"?{query}" if query else "")


def pool_for(url: str, means: Means) -> _Pool:
    """Return the process's pool for the host of `url`, by proxy and set of certificates.

    Raises:
        ConfigError: the proxy's URL or the CA bundle cannot be used.
    """
    network, process = means.network, means.process
    proxy = network.proxy_for(url)
    tls = url.startswith("https:") or (proxy or "").startswith("https:")
    with process.lock:
        key = (proxy, network.ca_bundle, tls)
        if key not in process.pools:
            trust = _trust(network.ca_bundle) if tls else None  # 20 ms, which plain http need not pay
            process.pools[key] = _make_pool(proxy, trust, means.limits.connections)
        pool: _Pool = process.pools[key].connection_from_url(url)
        return pool


def _make_pool(proxy: str | None, trust: ssl.SSLContext | None, connections: int) -> urllib3.PoolManager:
    options: dict[str, Any] = {"num_pools": _HOSTS, "maxsize": connections, "ssl_context": trust}
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        parts = urlsplit(proxy)
        credential = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
        headers = urllib3.make_headers(proxy_basic_auth=credential) if credential else {}
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        try:
            manager = urllib3.ProxyManager(bare, proxy_headers=headers, proxy_ssl_context=trust, **options)
        except (urllib3.exceptions.HTTPError, ValueError) as exc:
            raise ConfigError(
                f"the proxy variables name a proxy that cannot be used: {parts.scheme}://{parts.hostname}",
                hint="Set HTTPS_PROXY to http://host:port or https://host:port.",
            ) from exc
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


def _trust(ca_bundle: str | None) -> ssl.SSLContext:
    try:
        if ca_bundle is not None and os.path.isdir(ca_bundle):
            return ssl.create_default_context(capath=ca_bundle)
        trust = ssl.create_default_context(cafile=ca_bundle)
        if ca_bundle is None and not _has_roots(trust):
            _add_certifi(trust)
        return trust
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"the CA bundle {ca_bundle} cannot be used: {exc.strerror or exc}",
            hint="Set SSL_CERT_FILE, REQUESTS_CA_BUNDLE or AWS_CA_BUNDLE to a PEM file of certificates.",
        ) from exc


def _has_roots(trust: ssl.SSLContext) -> bool:
    """Whether the system has certificates of authorities, as a file or as a folder that is read on demand."""
    folder = ssl.get_default_verify_paths().capath
    return trust.cert_store_stats()["x509_ca"] > 0 or bool(folder and os.listdir(folder))


def _add_certifi(trust: ssl.SSLContext) -> None:
    """Trust Mozilla's list where the system (a slim image) has none, if requests or another brought it."""
    try:
        import certifi
    except ImportError:
        return
    trust.load_verify_locations(cafile=certifi.where())


def _connect(host: str, port: int, timeout: Any, options: Sequence[Any], lifeline: Lifeline) -> socket.socket:
    """Return a connected socket, trying each address of `host`; the lifeline is asked all the while."""
    failure: OSError = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    lifeline.check()
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.setblocking(False)
            number = sock.connect_ex(address)
            if number == errno.EINPROGRESS:
                number = _connected(sock, time.monotonic() + timeout, lifeline)
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


def _connected(sock: socket.socket, until: float, lifeline: Lifeline) -> int:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while not poll.poll(_POLL_MS):
        lifeline.check()
        if time.monotonic() > until:
            return errno.ETIMEDOUT
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
