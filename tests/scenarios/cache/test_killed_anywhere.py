"""Death by SIGKILL at the changes that a command makes to the disk: what is left has an owner, and is right or unseen.

Every few changes; `doit reliability` tries each of them (scenarios.cache.sweep says what is checked).
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from odd_disk import variables
from servers.hub import Hub
from servers.tools import require
from trusses import tree

from scenarios.cache.forks import ForkedTruss, Forks
from scenarios.cache.sweep import (
    ACTS,
    BARE,
    BEFORE,
    LARGE,
    LAYOUTS,
    Death,
    check_both_ways,
    check_clean,
    check_rerun,
    death_at,
    death_at_a_moment,
    deaths,
    fast_folder,
    machine,
)
from scenarios.cache.upstreams import OnHub, config, root_of

STRIDES = {"clean": 40, "prune": 25, "lock": 3}  # changes between two deaths; of other acts: 90


@pytest.fixture
def lives() -> Iterator[Path]:
    """A folder where fsync costs nothing, as far as this machine has one."""
    require("gcc", "apt-get install gcc libc6-dev")
    with fast_folder() as folder:
        yield folder


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("act", ACTS)
def test_what_a_kill_left_is_right_or_unseen_and_a_rerun_or_a_clean_ends_it(
    act: str, layout: str, lives: Path, hub: Hub, forks: Forks
) -> None:
    found = list(map(check_and_tell, deaths(act, layout, lives, hub, forks, stride=STRIDES.get(act, 90))))
    assert found[0]
    assert not found[-1]


def check_and_tell(death: Death) -> bool:
    check_both_ways(death)
    return death.was_killed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clean_takes_what_the_first_steps_of_a_killed_fetch_left(
    layout: str, lives: Path, hub: Hub, forks: Forks
) -> None:
    """The file of the project's roots, its lock and temporary, and the first folder of the hub cache."""
    for number in range(8, 26):
        death = death_at(number, "fetch", layout, lives, hub, forks)
        assert death.was_killed
        check_clean(death)


@pytest.mark.parametrize(("act", "layout", "number"), [("fetch", "hub", 75), ("update", "volume", 90)])
def test_a_kill_on_a_disk_without_links_and_locks_is_ended_by_a_rerun(
    act: str, layout: str, number: int, lives: Path, hub: Hub, forks: Forks
) -> None:
    death = death_at(number, act, layout, lives, hub, forks, disk=BARE)
    assert death.was_killed
    check_rerun(death)
    check_clean(death)


def test_a_kill_between_a_file_and_the_folder_in_its_place_leaves_a_prune_complete(
    lives: Path, hub: Hub, forks: Forks
) -> None:
    """The superseded manifest still lists `x`, where the new one has `x/new.bin`."""
    death = machine("update", "volume", lives, hub, forks, BEFORE)
    rules = variables(
        death.truss.root, "change=kill@2", only="/model_cache/m/x"
    )  # x is removed, and x/ is not made yet, or empty
    assert death.truss.fork("run", "-a", **rules).end().code == -signal.SIGKILL
    assert not (death.truss.model_cache / "m" / "x").is_file()
    check_rerun(death)
    check_clean(death)


def test_a_kill_at_any_moment_costs_the_parts_in_flight_and_no_other(lives: Path, hub: Hub, forks: Forks) -> None:
    chance = random.Random(3)
    for layout in LAYOUTS:
        for _ in range(2):
            death = death_at_a_moment("fetch", layout, lives, hub, forks, chance=chance, files=LARGE)
            check_rerun(death)
            check_clean(death)


@pytest.mark.parametrize("layout", ["volume", "mount"])
def test_a_file_of_the_user_that_a_killed_replace_did_not_reach_is_never_removed(
    layout: str, lives: Path, hub: Hub, forks: Forks
) -> None:
    theirs = {path: f"the user's {path}".encode() for path in BEFORE}
    code, number, left = -signal.SIGKILL, 1, set()
    while code:
        upstream = OnHub(hub, f"org/replace-{layout}-{number}")
        truss = ForkedTruss(lives / f"{number:04}", forks=forks, hub=hub)
        truss.config(config(layout, upstream.entry("main", layout, "m")))
        upstream.put("main", BEFORE)
        shown = root_of(truss, layout) / "m"
        for path, data in theirs.items():
            (shown / path).parent.mkdir(parents=True, exist_ok=True)
            (shown / path).write_bytes(data)
        code = truss.fork("run", "--replace", **variables(truss.root, f"rename=kill@{number}")).end().code
        untouched = {path: data for path, data in tree(shown).items() if data == theirs.get(path)}
        left.add(len(untouched))
        assert truss.cli("run").code == int(bool(untouched)), "refused, by name"
        truss.cli("clean")
        assert {path: (shown / path).read_bytes() for path in untouched} == untouched
        number += 2
    assert len(left) > 2, "cut between the files"
