"""Nothing wrong becomes visible and nothing of the user's is touched, whatever happens in whatever order.

`doit fuzz --steps 5000 --seed N` takes more steps.
"""

from __future__ import annotations

import pytest
from servers.hub import Hub
from servers.objects import Objects

from scenarios.cache.world.invariants import check_clean, check_no_records_are_left, check_nothing_is_left, check_prune
from scenarios.cache.world.model import PROJECTS, Figures, World
from scenarios.cache.world.steps import begin, explore

SEED = 9  # the same steps in every run of the suite


@pytest.mark.timeout(600)  # of a failure: the steps are shrunk first, for five minutes at most
@pytest.mark.usefixtures("own_handlers")
def test_three_projects_on_one_cache_keep_every_promise_in_300_steps(hub: Hub, objects: Objects) -> None:
    figures = Figures()
    explore(hub, objects, figures, steps=300, length=30, seed=SEED)
    print(figures)
    assert figures.steps >= 250


@pytest.mark.parametrize("kind", ["manifests", "claims"])
@pytest.mark.usefixtures("own_handlers")
def test_without_its_record_a_repo_may_stay_after_a_clean_and_its_records_go_by_a_prune(
    kind: str, hub: Hub, objects: Objects
) -> None:
    """A link of a snapshot that no record lists may be huggingface_hub's."""
    with World(hub, objects) as world, world.explained():
        begin(world, fetched=True)
        world.upstreams["org/one"].change({"more.bin": b"more"})
        assert [world.run(project, "-a").code for project in PROJECTS] == [0, 0, 0]
        for path in (world.base / "hub" / "models--org--one").glob(f".truss_cache/{kind}/*.json"):
            path.unlink()
            world.lost.add(path.parents[2])
        for project in PROJECTS:
            check_clean(world, project)
        check_nothing_is_left(world)
        check_prune(world, PROJECTS[0])
        check_no_records_are_left(world)
