"""Eight processes of two projects on one cache, killed at random (`doit reliability` does it for a minute)."""

from __future__ import annotations

from servers.hub import Hub
from servers.tools import require

from scenarios.cache.forks import Forks
from scenarios.cache.storm import Storm
from scenarios.cache.sweep import fast_folder


def test_eight_processes_with_kills_and_cleans_fetch_each_blob_once_and_leave_right_files_or_none(
    hub: Hub, forks: Forks
) -> None:
    require("gcc", "apt-get install gcc libc6-dev")
    with fast_folder() as folder:
        storm = Storm(folder, hub, forks, seed=4)
        for removes in (False, True):
            storm.blow(commands=24, removes=removes)
        print(storm.figures)
        storm.check_right()
        storm.check_nothing_left()
