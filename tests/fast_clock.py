"""A clock that goes on while a command waits: the library of tests/fast_clock.c, preloaded into it.

def test_...(fast_clock, truss):
    truss.cli(**fast_clock(20))     # a wait of 20 s, as before a request is repeated, takes 1 s

For what takes as long as the limits of a run say: these are never replaced by others. A server that answers has that
much less time to do so: 20 keeps 1.5 s of the 30 s that an answer may take.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from preload import build

FastClock = Callable[[int], dict[str, str]]


@pytest.fixture(scope="session")
def fast_clock(tmp_path_factory: pytest.TempPathFactory) -> FastClock:
    """Return what makes the variables of a command whose waits take that many times less."""
    library = build("fast_clock", tmp_path_factory.mktemp("fast_clock"))
    return lambda speed: {"LD_PRELOAD": str(library), "FAST_CLOCK": str(speed)}
