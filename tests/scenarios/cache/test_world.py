"""Nothing wrong becomes visible and nothing of the user's is touched, whatever happens in whatever order.

`doit fuzz --steps 5000 --seed N` takes more steps.
"""

from __future__ import annotations

import pytest
from servers.hub import Hub
from servers.objects import Objects

from scenarios.cache.world.model import Figures
from scenarios.cache.world.steps import explore

SEED = 9  # the same steps in every run of the suite


@pytest.mark.timeout(600)  # of a failure: the steps are shrunk first, for five minutes at most
@pytest.mark.usefixtures("own_handlers")
def test_three_projects_on_one_cache_keep_every_promise_in_300_steps(hub: Hub, objects: Objects) -> None:
    figures = Figures()
    explore(hub, objects, figures, steps=300, length=30, seed=SEED)
    print(figures)
    assert figures.steps >= 250
