"""SIGINT and SIGTERM while the parts of a large file come: an end at once, and a rerun of what was not complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from servers.hub import Hub
from servers.tools import wait_until
from trusses import BIN, Truss, ended, gone

from scenarios.large.conftest import BIG, PART, check_whole, forget, ranges

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
DOIT = [sys.executable, "-m", "doit", "run"]
COMMANDS = {
    "sequential": DOIT,
    "thread": [*DOIT, "-n", "2", "-P", "thread"],
    "process": [*DOIT, "-n", "2", "-P", "process"],
    "truss-cache": [str(BIN / "truss-cache")],
}
DEADLINE_S = 20  # the promise is 1 s; a busy machine may take longer
COMPLETE = 3  # parts that came whole before the signal


def stop(child: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Signal as a terminal does (SIGINT, to all) or a supervisor (SIGTERM, to one); return exit status and text."""
    if number is signal.SIGINT:
        os.killpg(child.pid, number)
    else:
        child.send_signal(number)
    out, err = child.communicate(timeout=DEADLINE_S)
    assert gone(child), "a child is left"
    return child.returncode, out + err


def check_stop(truss: Truss, mode: str, number: signal.Signals, ended_with: tuple[int, str]) -> None:
    code, text = ended_with
    assert code == CODES[number], text
    assert "Traceback" not in text
    assert "Error" not in text
    assert text.count("stopped: what is complete is kept") == 1
    if mode != "truss-cache":  # doit's database can be read
        listed = truss.doit("list", "--all", "--status")
        assert listed.code == 0, listed.text
        assert "U cache_weights:org/first" in listed.out
        assert "R cache_weights:org/last" in listed.out


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("mode", COMMANDS)
def test_a_stop_while_parts_stall_costs_the_parts_in_flight(
    large: Truss, hub: Hub, mode: str, number: signal.Signals
) -> None:
    hub.fail("big.bin", *["pass"] * COMPLETE, *["stall"] * 9, host="cdn")
    child = large.start(COMMANDS[mode])

    def stalls() -> bool:
        first = large.hub_cache / "models--org--first/.truss_cache/claims"  # the last that a run writes
        return any(first.glob("*.json")) and hub.sent["cdn"] == COMPLETE * PART + 2 * (PART // 2)

    with ended(child):
        wait_until(stalls, "the stall of both connections", alive=lambda: child.poll() is None)
        check_stop(large, mode, number, stop(child, number))
    complete = list(ranges(hub))[:COMPLETE]
    forget(hub)
    done = large.run(COMMANDS[mode])
    assert done.code == 0, done.text
    assert not set(ranges(hub)) & set(complete)
    assert hub.sent["cdn"] <= len(BIG) - COMPLETE * PART
    check_whole(large)


@pytest.mark.parametrize("mode", ["process", "truss-cache"])
def test_a_stop_while_bytes_flow_costs_the_parts_in_flight(large: Truss, hub: Hub, mode: str) -> None:
    hub.rate = 2 * PART  # a second, for each of two connections
    child = large.start(COMMANDS[mode])
    with ended(child):
        wait_until(lambda: hub.sent["cdn"] > 2.5 * PART, "half of the file", alive=lambda: child.poll() is None)
        check_stop(large, mode, signal.SIGINT, stop(child, signal.SIGINT))
    before = ranges(hub)
    forget(hub)
    hub.rate = None
    done = large.run(COMMANDS[mode])
    assert done.code == 0, done.text
    assert len(before) > 2
    assert len(set(before) & set(ranges(hub))) <= 2
    assert hub.sent["cdn"] <= len(BIG) - (len(before) - 2) * PART
    check_whole(large)
