"""A file with several places: another one is asked when a server is unavailable, and for no other reason."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, content_of, error_of, job_for, pull_one
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import AccessDenied, IntegrityError, TransientError
from truss_cache_tasks.model.listing import Location

BODY = bytes(range(256)) * 4096  # 1 MiB
CUT = replace(FAST, buffer=64 << 10, part_min=256 << 10)


class Places:
    """Places of one file, each of which is left once."""

    def __init__(self, *urls: str) -> None:
        self.at = 0
        self.places = [
            Location(url, validator_header="", pins_version=True, elsewhere=partial(self.leave, at))
            for at, url in enumerate(urls)
        ]

    def locate(self) -> Location:
        return self.places[self.at]

    def leave(self, at: int) -> bool:
        self.at = max(self.at, min(at + 1, len(self.places) - 1))
        return self.at > at


def pull(places: Places, limits: transfer.Limits = FAST, **named: Any) -> Any:
    return pull_one(job_for("", BODY, locate=places.locate, **named), limits)


@pytest.mark.parametrize("fault", ["503", "429", "500", "408", "hang-up", "reset"])
def test_another_place_is_asked_after_three_failures_in_a_row(server: FaultServer, fault: str) -> None:
    places = Places(server.add("/one", BODY, *[fault] * 9), server.add("/two", BODY, etag='"another"'))
    done = pull(places, CUT)
    assert content_of(done.job) == BODY
    assert [asked.path for asked in server.asked].count("/one") >= 3
    assert "/two" in [asked.path for asked in server.asked]


def test_two_failures_in_a_row_are_no_reason(server: FaultServer) -> None:
    places = Places(server.add("/one", BODY, "503", "503"), server.add("/two", BODY))
    assert content_of(pull(places).job) == BODY
    assert {asked.path for asked in server.asked} == {"/one"}


def test_a_server_that_asks_for_a_long_wait_is_left_at_once(server: FaultServer) -> None:
    places = Places(server.add("/one", BODY, *["503"] * 9), server.add("/two", BODY))
    server.files["/one"].headers["Retry-After"] = "60"
    done = pull(places, replace(FAST, retry_after_cap_s=0.01))
    assert content_of(done.job) == BODY


def test_what_came_from_one_place_is_not_asked_of_another(server: FaultServer) -> None:
    one = server.add("/one", BODY, "ok", *["503"] * 99)
    places = Places(one, server.add("/two", BODY, etag='"another"'))
    done = pull(places, replace(CUT, connections=1))
    assert content_of(done.job) == BODY
    assert server.sent == len(BODY)


@pytest.mark.parametrize("status", ["401", "403", "404", "400", "410"])
def test_a_refusal_is_no_reason_whatever_the_source_makes_of_it(server: FaultServer, status: str) -> None:
    for error in (AccessDenied("no"), TransientError("the link is old")):
        server.asked.clear()
        places = Places(server.add("/one", BODY, *[status] * 99), server.add("/two", BODY))
        ended = pull(places, explain=lambda *_, error=error: error)
        assert type(error_of(ended)) is type(error)
        assert {asked.path for asked in server.asked} == {"/one"}


def test_wrong_bytes_are_no_reason(server: FaultServer) -> None:
    places = Places(server.add("/one", BODY), server.add("/two", BODY))
    server.files["/one"].spoilt = {7: "xx"}
    assert type(error_of(pull(places))) is IntegrityError
    assert {asked.path for asked in server.asked} == {"/one"}


def test_the_last_place_has_the_whole_budget(server: FaultServer) -> None:
    places = Places(*(server.add(path, BODY, *["503"] * 99) for path in ("/one", "/two")))
    assert type(error_of(pull(places))) is TransientError
    paths = [asked.path for asked in server.asked]
    assert (paths.count("/one"), paths.count("/two")) == (3, 8)


def test_a_place_explains_its_own_refusals(server: FaultServer) -> None:
    url = server.add("/one", BODY, "403")

    def locate() -> Location:
        return Location(url, explain=lambda *_: AccessDenied("of the place"))

    ended = pull_one(job_for(url, BODY, locate=locate, explain=lambda *_: AccessDenied("of the source")))
    assert str(error_of(ended)) == "of the place"
