"""A large file that broke off is gone on with: by the next run, and not fetched twice."""

from __future__ import annotations

import random

import pytest
from entries import entry
from machine import Judge, Machine, Trussed
from servers.hub import Hub

from truss_cache_tasks.errors import AccessDenied

MAIN = "org/name"
BIG = random.Random(3).randbytes((24 << 20) + 5)  # 4 parts of 8 MiB


def partials(machine: Machine) -> list[str]:
    return sorted(path.suffix for path in (machine.repo() / ".truss_cache/partials").glob("*"))


def broken_off(machine: Machine, hub: Hub) -> Trussed:
    """Return a Truss whose run came as far as the first part."""
    hub.create(MAIN).commit({"big.safetensors": BIG, "config.json": b"{}"})
    hub.fail("big.safetensors", "pass", *["403"] * 20, host="cdn")
    machine.connections = 1  # else a refusal ends the first part, which is still under way
    truss = machine.truss(entry(MAIN))
    with pytest.raises(AccessDenied):
        truss.run()
    return truss


def test_a_rerun_fetches_the_parts_that_are_missing(machine: Machine, hub: Hub, judge: Judge) -> None:
    truss = broken_off(machine, hub)
    assert ".parts" in partials(machine)
    hub.faults.clear()
    hub.requests.clear()
    truss.run()
    ranges = [request.headers["range"] for request in hub.asked("GET", "big.safetensors") if request.host == "cdn"]
    assert len(ranges) == 3
    assert "bytes=0-8388607" not in ranges
    assert judge.snapshot(machine) == {"big.safetensors": BIG, "config.json": b"{}"}
    assert partials(machine) == []
    judge.scan(machine)


def test_one_resolve_serves_all_parts(machine: Machine, hub: Hub, judge: Judge) -> None:
    hub.create(MAIN).commit({"big.safetensors": BIG})
    machine.truss(entry(MAIN)).run()
    asked = [request.host for request in hub.asked("GET", "big.safetensors")]
    assert (asked.count("hub"), asked.count("cdn")) == (1, 4)
    assert hub.leaks == []


def test_a_clean_takes_what_broke_off(machine: Machine, hub: Hub) -> None:
    broken_off(machine, hub)
    machine.truss(entry(MAIN, allow_patterns=["*.json"])).run()
    assert ".parts" in partials(machine)  # another entry's commit leaves it to the next run
    machine.truss(entry(MAIN, allow_patterns=["*.json"])).clean()
    assert partials(machine) == []
