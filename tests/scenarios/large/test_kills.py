"""SIGKILL at random points of a large file's way: the next run fetches at most the parts in flight again."""

from __future__ import annotations

import random
import sys

import pytest
from servers.hub import Hub
from servers.tools import wait_until
from trusses import BIN, Truss, ended

from scenarios.large.conftest import BIG, PART, big_of, ranges

KILLS = 3
HUGE = BIG + BIG  # 11 parts


@pytest.mark.parametrize(
    ("command", "connections"),
    [([sys.executable, "-m", "doit", "cache_weights"], 1), ([str(BIN / "truss-cache")], 2)],
    ids=["doit-1", "truss-cache-2"],
)
def test_each_kill_costs_at_most_the_parts_in_flight(
    large: Truss, hub: Hub, command: list[str], connections: int
) -> None:
    large.env["TRUSS_CACHE_CONNECTIONS"] = str(connections)
    hub.rate = 6 * PART  # a second, of each answer: a kill is to come between two chunks, not after the last one
    hub.repos["org/last"].commit({"big.bin": HUGE})
    dice, kills = random.Random(connections), 0
    for _ in range(KILLS):
        point = hub.sent["cdn"] + connections * PART + dice.randrange(2 * PART)
        child = large.start(command)
        with ended(child):
            ready = lambda: child.poll() is not None or hub.sent["cdn"] > point  # noqa: B023, E731 - called in this turn
            wait_until(ready, "bytes", alive=lambda: True)
            kills += child.poll() is None
            child.kill()
            child.communicate()
    done = large.run(command)
    assert done.code == 0, done.text
    asked = ranges(hub)
    assert kills > 1
    assert asked.total() - len(asked) <= kills * connections
    assert hub.sent["cdn"] <= len(HUGE) + kills * connections * PART
    assert big_of(large).read_bytes() == HUGE
    assert large.cli("verify").code == 0
