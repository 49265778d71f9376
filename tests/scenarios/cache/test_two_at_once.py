"""One command stands still just before a call, while another one begins and ends: neither fails, nothing is lost.

`doit reliability` stops at any call of five pairs of commands.
"""

from __future__ import annotations

import pytest
from servers.hub import Hub
from servers.tools import require

from scenarios.cache.forks import Forks
from scenarios.cache.sweep import fast_folder, interleaving


@pytest.mark.parametrize(
    ("pair", "calls", "only"),
    [
        pytest.param(("run", "run"), "open", "/model_cache/m", id="a file that another shows is no file of the user's"),
        pytest.param(("run", "clean"), "stat", "/{repo}$", id="a repo folder that a clean removes is made again"),
    ],
)
def test_a_run_that_another_command_overtakes_between_two_looks_at_the_disk_succeeds(
    pair: tuple[str, str], calls: str, only: str, hub: Hub, forks: Forks
) -> None:
    require("gcc", "apt-get install gcc libc6-dev")
    with fast_folder() as lives:
        for number in range(1, 7):
            assert interleaving(number, pair, "volume", lives, hub, forks, calls=calls, only=only)
