"""What the attempts of a file share: its location."""

from __future__ import annotations

from truss_cache_tasks.model.listing import Location
from truss_cache_tasks.network.cancel import WorkerToken
from truss_cache_tasks.transfer.attempts import LocationCache


def test_a_refused_location_is_asked_for_anew_whenever_bytes_came_or_were_forgotten_since() -> None:
    locations, token = LocationCache(lambda: Location("http://127.0.0.1/w")), WorkerToken()
    for have in (1000, 200, 300):  # the file started over, and its credential expired again
        assert locations.drop(locations.get(token), have)
    assert not locations.drop(locations.get(token), 300)
