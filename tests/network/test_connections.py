"""Every private name of urllib3 and http.client that `network/connections.py` uses, against real servers.

CI runs this file with the newest urllib3 too, so it asks for nothing but the package, pytest and the loopback servers.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from servers.faults import FaultServer
from servers.proxy import proxying
from urllib3.exceptions import ProxyError

from truss_cache_tasks.errors import Stopped
from truss_cache_tasks.network.bounded import bounded_pools
from truss_cache_tasks.network.cancel import NEVER, WorkerToken
from truss_cache_tasks.network.connections import POOLS, Answer, ConnectionPool
from truss_cache_tasks.network.exchange import AnswerTooLong, ExchangeLimits, UnreadableAnswer

BODY = bytes(range(256)) * 1024


def manager(proxy: str | None = None, authority: Path | None = None, user: str | None = None) -> urllib3.PoolManager:
    trust = ssl.create_default_context(cafile=authority) if authority else None
    if proxy is None:
        pools = urllib3.PoolManager(ssl_context=trust)
    else:
        headers = urllib3.make_headers(proxy_basic_auth=user) if user else {}
        pools = urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=trust)
    pools.pool_classes_by_scheme = POOLS
    return pools


def ask(url: str, pools: urllib3.PoolManager, token: WorkerToken | None = None, answer_s: float = 10) -> Answer:
    pool = pools.connection_from_url(url)
    assert isinstance(pool, ConnectionPool)
    token = token or WorkerToken()
    return pool.ask(url, {"User-Agent": "tests"}, token, connect_s=10, answer_s=answer_s, overhead=64 << 10)


def read_all(answer: Answer, size: int = len(BODY)) -> bytes:
    got, buffer = b"", memoryview(bytearray(50_000))
    with contextlib.closing(answer):
        while len(got) < size and (came := answer.readinto(buffer, 10, 1 << 16)):
            got += bytes(buffer[:came])
        answer.begin(10, 1 << 16)
        assert answer.read() == b""
    return got


# -- for the transfer


def test_a_body_that_was_read_to_its_end_gives_its_connection_back(server: FaultServer) -> None:
    pools = manager()
    for _ in range(3):
        assert read_all(ask(server.add("/w", BODY), pools)) == BODY
    assert server.connections == 1


def test_a_body_that_was_not_read_costs_its_connection(server: FaultServer) -> None:
    pools = manager()
    ask(server.add("/w", BODY), pools).close()
    assert read_all(ask(server.add("/w", BODY), pools)) == BODY
    assert server.connections == 2


@pytest.mark.parametrize("fault", ["chunked", "no-length"])
def test_a_body_of_unknown_length_comes_whole(server: FaultServer, fault: str) -> None:
    assert read_all(ask(server.add("/w", BODY, fault), manager()), len(BODY) + 1) == BODY


def test_the_answer_after_an_early_hint_is_not_taken_for_the_next_ones(server: FaultServer) -> None:
    server.go.set()
    pools = manager()
    hinted = ask(server.add("/w", BODY, "early-hints"), pools)
    assert hinted.status == 103
    hinted.close()
    assert read_all(ask(server.add("/w", BODY), pools)) == BODY


def test_a_body_over_tls_comes_whole_and_keeps_its_connection(
    secure: FaultServer, fault_authority: tuple[Path, ssl.SSLContext]
) -> None:
    pools = manager(authority=fault_authority[0])
    for _ in range(2):
        assert read_all(ask(secure.add("/w", BODY), pools)) == BODY
    assert secure.connections == 1


def test_a_proxy_is_asked_for_the_whole_url_with_its_password(server: FaultServer) -> None:
    with proxying("me", "mine") as proxy:
        pools = manager(f"http://127.0.0.1:{proxy.server_port}", user="me:mine")
        assert read_all(ask(server.add("/w", BODY), pools)) == BODY
        assert proxy.asked == [f"GET {server.base}/w HTTP/1.1"]
    assert server.asked[0].headers["host"] == f"127.0.0.1:{server.port}"


def test_a_proxy_that_cannot_be_reached_is_told_from_a_server() -> None:
    with pytest.raises(ProxyError):
        ask("http://127.0.0.1:9/w", manager("http://127.0.0.1:9"))
    with pytest.raises(ConnectionRefusedError):
        ask("http://127.0.0.1:9/w", manager())


@pytest.mark.parametrize("fault", ["silence", "stall:1000"])
def test_a_cancel_ends_a_wait_for_an_answer_and_a_read(server: FaultServer, fault: str) -> None:
    token = WorkerToken()
    threading.Timer(0.1, token.cancel).start()
    with pytest.raises((OSError, http.client.HTTPException, Stopped)):  # noqa: PT012  # either call may meet it
        read_all(ask(server.add("/w", BODY, fault), manager(), token, answer_s=60))
        token.check()


def test_a_cancelled_token_is_not_served(server: FaultServer) -> None:
    token = WorkerToken()
    token.cancel()
    with pytest.raises(Stopped):
        ask(server.add("/w", BODY), manager(), token)
    assert server.asked == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("continue", AnswerTooLong),
        ("huge-head", AnswerTooLong),
        ("continue:slow", TimeoutError),
        ("drip-head", TimeoutError),
    ],
)
def test_a_head_without_an_end_ends_by_its_bytes_or_its_seconds(
    server: FaultServer, fault: str, error: type[Exception]
) -> None:
    with pytest.raises((error, http.client.HTTPException)):
        ask(server.add("/w", BODY, fault), manager(), answer_s=0.5 if error is TimeoutError else 10)


# -- CONNECT


@contextlib.contextmanager
def tunnelling(port: int, before_s: float) -> Iterator[int]:
    """A proxy that answers CONNECT, and passes bytes on to `port` after `before_s`. Yields its own port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def pump(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with contextlib.suppress(OSError), listening.accept()[0] as client:
                while not client.recv(65536).endswith(b"\r\n\r\n"):
                    pass
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                time.sleep(before_s)
                with socket.create_connection(("127.0.0.1", port)) as server:
                    back = threading.Thread(target=pump, args=(server, client))
                    back.start()
                    pump(client, server)
                    back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                socket.create_connection(listening.getsockname(), 1).close()
            thread.join()


def test_a_handshake_behind_a_proxy_has_as_long_as_a_connect(
    secure: FaultServer, fault_authority: tuple[Path, ssl.SSLContext]
) -> None:
    with tunnelling(secure.port, 0.6) as proxy:  # longer than one poll of a read
        pools = manager(f"http://127.0.0.1:{proxy}", fault_authority[0])
        assert read_all(ask(secure.add("/w", BODY), pools)) == BODY
        pools.clear()


def test_a_listings_handshake_behind_a_proxy_has_as_long_as_a_connect(
    secure: FaultServer, fault_authority: tuple[Path, ssl.SSLContext]
) -> None:
    with tunnelling(secure.port, 0.6) as proxy:
        trust = ssl.create_default_context(cafile=fault_authority[0])
        pools = urllib3.ProxyManager(f"http://127.0.0.1:{proxy}", ssl_context=trust)
        pools.pool_classes_by_scheme = bounded_pools(ExchangeLimits(), NEVER)
        assert pools.request("GET", secure.add("/w", BODY), retries=False, timeout=10).data == BODY
        pools.clear()


# -- for the vendors' libraries


def bounded(limits: ExchangeLimits) -> urllib3.PoolManager:
    pools = urllib3.PoolManager(retries=False)
    pools.pool_classes_by_scheme = bounded_pools(limits, NEVER)
    return pools


def test_an_interim_answer_of_any_status_is_skipped_for_a_listing(server: FaultServer) -> None:
    server.go.set()
    answer = bounded(ExchangeLimits()).request("GET", server.add("/w", BODY, "early-hints"))
    assert (answer.status, answer.data) == (200, BODY)


def test_a_listing_that_ends_early_is_an_error(server: FaultServer) -> None:
    with pytest.raises(urllib3.exceptions.ProtocolError):
        bounded(ExchangeLimits()).request("GET", server.add("/w", BODY, "cut:1000"))


def test_a_listing_without_an_end_is_a_bad_response(server: FaultServer) -> None:
    with pytest.raises(Exception) as caught:  # urllib3 wraps it in one of its own
        bounded(ExchangeLimits(page=1 << 16)).request("GET", server.add("/w", BODY * 8, "flood:200"))
    causes = [
        caught.value,
        *(caught.value.args if caught.value.args else ()),
        caught.value.__cause__,
        caught.value.__context__,
    ]
    assert any(isinstance(cause, UnreadableAnswer) for cause in causes)
