"""nginx as the CDN of a large file: ranges ignored, no ETag, slow, too busy, restarted, gone."""

from __future__ import annotations

import hashlib

import pytest
from fast_clock import FastClock
from servers.hub import Hub
from servers.nginx import Nginx
from servers.tools import wait_until
from trusses import Truss, ended

from scenarios.large.conftest import BIG, COMMAND, PART, check_whole

BUSY = "limit_rate 24m; limit_conn one 1; limit_conn_status 503; error_page 503 = @busy;"


@pytest.fixture
def served(large: Truss, hub: Hub, web: Nginx) -> Nginx:
    """The CDN of `large`."""
    web.put(f"lfs/{hashlib.sha256(BIG).hexdigest()}/big.bin", BIG)
    hub.cdn_url = web.url
    return web


@pytest.mark.parametrize(
    ("said", "statuses", "connections"),
    [
        ("limit_rate 32m;", {206}, "8"),
        ("etag off;", {206}, "2"),
        ("max_ranges 0;", {200}, "2"),
        (BUSY, {206, 503}, "8"),
    ],
    ids=["slow", "no ETag", "no ranges", "busy"],
)
def test_a_large_file_comes_whole_from_an_nginx(
    large: Truss, served: Nginx, said: str, statuses: set[int], connections: str
) -> None:
    served.say(said)
    ran = large.doit("cache_weights", TRUSS_CACHE_CONNECTIONS=connections)
    assert ran.code == 0, ran.text
    check_whole(large)
    served.stop()  # so that it has noted all
    assert {asked.status for asked in served.log()} == statuses
    assert sum(asked.sent for asked in served.log() if asked.status < 300) == len(BIG)


def test_a_cdn_that_restarts_costs_the_parts_in_flight(large: Truss, served: Nginx) -> None:
    served.say("limit_rate 16m;")
    child = large.start(COMMAND)
    with ended(child):
        wait_until(lambda: len(served.log()) >= 2, "two parts", alive=lambda: child.poll() is None)
        served.say("")
        out, err = child.communicate(timeout=60)
    assert child.returncode == 0, out + err
    check_whole(large)
    served.stop()
    assert sum(asked.sent for asked in served.log()) <= len(BIG) + 2 * PART


def test_a_cdn_that_is_gone_is_one_error_and_a_rerun_fetches_the_missing_parts(large: Truss, served: Nginx) -> None:
    served.say("limit_rate 16m;")
    child = large.start(COMMAND)
    with ended(child):
        wait_until(lambda: len(served.log()) >= 2, "two parts", alive=lambda: child.poll() is None)
        served.stop()
        out, err = child.communicate(timeout=100)  # the waits of a whole budget
    assert child.returncode == 1, out + err
    assert (
        "big.bin: localhost: connection refused (tried 8 times)\nhint: Check the network. Run the command again" in err
    )
    assert (out + err).count("hint: ") == 1
    assert "Traceback" not in out + err
    before = served.log()
    whole = {asked.range for asked in before if asked.sent == PART}
    assert len(whole) >= 2
    served.say("")
    ran = large.doit("cache_weights")
    assert ran.code == 0, ran.text
    check_whole(large)
    served.stop()
    again = served.log()[len(before) :]
    assert not whole & {asked.range for asked in again}
    assert sum(asked.sent for asked in again) <= len(BIG) - len(whole) * PART


def test_a_cdn_without_a_name_is_one_error_after_a_few_attempts(large: Truss, hub: Hub, fast_clock: FastClock) -> None:
    hub.cdn_url = "http://nowhere.invalid"
    ran = large.doit("cache_weights:org/last", **fast_clock(20))
    assert ran.code == 1, ran.text
    assert "big.bin: nowhere.invalid: the name cannot be resolved (tried 8 times)\nhint: Check the network. " in ran.err
    assert len(hub.asked("GET", "big.bin")) == 8
