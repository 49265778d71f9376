"""How many connections a host gets, and what the words of the engine's own examples say."""

import doctest
import importlib
import math
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.faults import FaultServer

from transfer.conftest import job_for, pull_one
from truss_cache_tasks import transfer
from truss_cache_tasks.transfer.context import this_process
from truss_cache_tasks.transfer.limiter import ConcurrencyLimiter

BODY = bytes(range(256)) * 1024


@pytest.mark.parametrize(
    "module",
    [
        "transfer.limiter",
        "network.settings",
        "transfer.parts",
        "network.retry",
        "network.exchange",
        "network.connections",
        "network.proxies",
    ],
)
def test_the_examples_are_true(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"truss_cache_tasks.{module}"))
    assert found.attempted
    assert not found.failed


def run(limiter: ConcurrencyLimiter, rate: Callable[[int], int], windows: int, start: int = 0, most: int = 32) -> int:
    for now in range(start, start + windows):
        limiter.received(rate(limiter.allowed), now, most=most, is_full=True)
    return limiter.allowed


def test_connections_grow_to_their_bound_while_each_brings_as_much() -> None:
    assert run(ConcurrencyLimiter(1), lambda allowed: allowed * 1000, 40) == 32
    assert run(ConcurrencyLimiter(1), lambda allowed: allowed * 1000, 40, most=7) == 7


def test_connections_stay_few_where_more_bring_nothing() -> None:
    seen = set()

    def rate(allowed: int) -> int:
        seen.add(allowed)
        return 1000

    assert run(ConcurrencyLimiter(1), rate, 60) <= 6
    assert max(seen) <= 6


def test_growth_ends_at_what_the_link_gives() -> None:
    assert 8 <= run(ConcurrencyLimiter(1), lambda allowed: min(allowed, 9) * 1000, 200) <= 21


def test_a_host_that_is_not_full_is_no_ground_to_ask_more_of_it() -> None:
    limiter = ConcurrencyLimiter(1)
    for now in range(20):
        limiter.received(1000 * now, now, most=32, is_full=False)
    assert limiter.allowed == 4


def test_complaints_shrink_it_once_a_window_and_never_to_nothing() -> None:
    limiter = ConcurrencyLimiter(1)
    for now in range(30):
        for _ in range(9):
            limiter.overloaded(now)
    assert limiter.allowed == 1
    assert run(limiter, lambda allowed: allowed * 1000, 60, start=30) == 32
    assert math.isfinite(limiter._overloaded_at)


def test_a_server_that_says_429_gets_fewer_connections(server: FaultServer) -> None:
    assert isinstance(pull_one(job_for(server.add("/w", BODY, "429"), BODY)), transfer.Done)
    assert this_process().allowed(f"127.0.0.1:{server.port}") == 2


def test_a_system_without_certificates_borrows_certifis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from truss_cache_tasks.network.pools import load_trust

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] == 0
    assert load_trust(None).cert_store_stats()["x509_ca"] > 50
