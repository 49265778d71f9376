"""Fixtures for every test: real servers, started once, and a folder that holds a Truss with all that it touches.

A test is `slow` where it lies below scenarios/, or has a fixture that starts a server or a process (`STARTERS`).
Another one that starts either fails, and wants the mark itself.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3.connection  # noqa: F401 - when it is imported, it binds a socket to learn of IPv6; below, that counts
from servers.hub import Hub
from trusses import MADE, Truss, written_secrets

pytest.register_assert_rewrite("truss_cache_tasks.sources.testing")
pytest_plugins = [
    "fast_clock",
    "servers.fixtures_faults",
    "servers.fixtures_s3",
    "servers.fixtures_gcs",
    "servers.fixtures_azure",
    "servers.fixtures_network",
]

STARTERS = {"hub", "truss", "seaweed", "moto", "gcs", "azure", "azure_tls", "token_server", "web", "proxy", "server"}
STARTERS |= {"secure", "fast_clock"}
STARTS = {"socket.bind", "subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}  # audit events
_started: list[str] = []


def _note_start(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS:
        _started.append(f"{event}{arguments}")


sys.addaudithook(_note_start)


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_auto_num_workers() -> int:
    """Return how many tests run at once under `-n auto`: two more than there are cores, as many of them wait."""
    return len(os.sched_getaffinity(0)) + 2 if hasattr(os, "sched_getaffinity") else 4


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        named = {*getattr(item, "fixturenames", ())}
        if hasattr(item, "callspec"):  # a parametrized test may name a server, and get it while it runs
            named |= {value for value in item.callspec.params.values() if isinstance(value, str)}
        if "scenarios" in item.path.parts or named & STARTERS:
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    yield
    if written := [where for truss in MADE for where in written_secrets(truss)]:
        pytest.fail(f"a secret was written: {written}")
    if _started and not item.get_closest_marker("slow"):
        pytest.fail(f"this starts a server or a process, and is not marked slow: {_started}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _started.clear()
    MADE.clear()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every command that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def truss(tmp_path: Path, hub: Hub) -> Truss:
    """A Truss whose Hub is the stand-in; config.yaml is still to be written."""
    return Truss(tmp_path, hub=hub)
