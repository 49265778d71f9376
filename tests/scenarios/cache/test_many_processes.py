"""Three processes of three projects at once on one cache, each of which may die at any change of the disk.

Each command is a process of its own, forked from this one: the SDKs are loaded once, and not in each of a hundred.
"""

from __future__ import annotations

import random

import pytest
from servers.hub import Hub
from servers.objects import Objects

from scenarios.cache.world.invariants import check, check_clean, check_exit, check_nothing_is_left, check_run
from scenarios.cache.world.model import DONE, FAILED, INCOMPLETE, PROJECTS, World
from scenarios.cache.world.steps import NAMES, Change, begin, change_upstream, places_of

ROUNDS = 20
SEED = 9
COMMANDS = (("run",), ("run",), ("run", "-a"), ("run", "-a"), ("clean",))
PATHS = tuple(name for name in NAMES if name != "sub")  # else a file is rightly refused where others have a folder


@pytest.mark.usefixtures("own_handlers")
def test_three_processes_that_may_die_anywhere_leave_nothing_that_the_next_run_does_not_put_right(
    hub: Hub, objects: Objects
) -> None:
    chance = random.Random(SEED)
    with World(hub, objects) as world, world.explained():
        begin(world, fetched=False)
        for _ in range(ROUNDS):
            change_upstream(world, any_change(chance), places_of(world, chance.choice(PROJECTS)))
            at_once(world, chance)
            check(world)
            for project in PROJECTS:
                names = {target.name: entry for entry, target, _ in world.targets(project)}
                ran = world.run(project)
                check_run(world, ran, project, entries=world.projects[project], names=names)
                check_exit(world, ran, allowed={DONE})
            check(world)
        print(world.figures)
        assert world.figures.kills >= ROUNDS // 2
        for project in PROJECTS:
            check_clean(world, project)
        check_nothing_is_left(world)


def at_once(world: World, chance: random.Random) -> None:
    """Start a command of each project at once; two of three die if they come that far. Wait for all of them."""
    children = []
    for project in PROJECTS:
        arguments = chance.choice(COMMANDS)
        at = chance.choice([None, chance.randint(1, 60), chance.randint(1, 200)])
        children.append((project, arguments, at, world.start(project, arguments, at)))
    for project, arguments, at, child in children:
        ran = world.ended(child, project, f"{' '.join(arguments)}, at once with the others, to die at change {at}")
        if ran is not None:
            check_exit(world, ran, allowed={DONE, INCOMPLETE if "clean" in arguments else FAILED})


def any_change(chance: random.Random) -> Change:
    what = chance.choice(["upload", "swap names", "rename and reuse the name", "roll back", "move the tag"])
    pick = [chance.randrange(40) for _ in range(3)]
    return Change(
        pick[0], what, pick[1], pick[2], chance.choice(PATHS), chance.choice(["json", "lfs", "forty a", "in parts"])
    )
