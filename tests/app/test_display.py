"""The lines that people see about one entry, from the events that its run tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest

from truss_cache_tasks.app.display import EntryDisplay
from truss_cache_tasks.errors import NotFound
from truss_cache_tasks.events import (
    Committed,
    Event,
    Failed,
    Holder,
    How,
    Planned,
    Published,
    Received,
    Refetching,
    Relisting,
    Retrying,
    Started,
    Verified,
    Waiting,
    Warned,
)


class Shown:
    """A display with a clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        self.display = EntryDisplay("org/one", write=self.write, clock=lambda: self.now)

    def write(self, *lines: str) -> None:
        self.lines += lines

    def tell(self, *events: Event) -> list[str]:
        """Return the lines that came for these events."""
        before = len(self.lines)
        for event in events:
            self.display(event)
        return self.lines[before:]


@pytest.fixture
def shown() -> Iterator[Shown]:
    shown = Shown()
    yield shown
    shown.display.close()


def test_the_start_says_what_is_done_and_why(shown: Shown) -> None:
    stale = ("a.bin is missing", "revision: 'v1' -> 'v2'")
    assert shown.tell(Started(reasons=stale, lists=True, forced=False)) == [
        "org/one: fetching (a.bin is missing; revision: 'v1' -> 'v2')"
    ]


def test_a_forced_run_says_so(shown: Shown) -> None:
    assert shown.tell(Started(reasons=(), lists=False, forced=True)) == [
        "org/one: checking (forced: everything is hashed again)"
    ]


def test_the_end_says_what_came_how_fast_and_what_it_is_worth(shown: Shown) -> None:
    shown.now += 2
    done = Committed(how="fetched", files=3, size=5_000_000, unverified=0, fetched_files=2, fetched_size=4_000_000)
    assert shown.tell(done) == ["org/one: 3 files, 5.0 MB (all verified); fetched 2 files, 4.0 MB in 2.0 s, 2.0 MB/s"]
    nothing = Committed(how="claimed", files=1, size=10, unverified=1)
    assert shown.tell(nothing) == [
        "org/one: whole already: claimed, nothing fetched",
        "org/one: 1 file, 10 B (1 unverified: the store has no digest); fetched 0 files, 0 B in 2.0 s",
    ]
    for how in get_args(How):
        assert shown.tell(Committed(how=how, files=1, size=10, unverified=0))


def test_a_retry_that_waits_is_one_line(shown: Shown) -> None:
    cause = "org/one: w.bin: the server answered 429"
    event = Retrying(entry="org/one", path="w.bin", cause=cause, attempt=1, delay_s=3)
    assert shown.tell(event) == ["org/one: retrying w.bin in 3.0 s: the server answered 429"]


def test_a_listing_that_waits_is_one_line(shown: Shown) -> None:
    event = Retrying(cause="hub: the server answered 503", attempt=1, delay_s=0.25)
    assert shown.tell(event) == ["org/one: listing again in 0.2 s: hub: the server answered 503"]


def test_thousands_of_retries_are_one_line_in_some_seconds(shown: Shown) -> None:
    many = [Retrying(path=f"{n}.bin", cause="cut", attempt=1, delay_s=1) for n in range(1000)]
    assert len(shown.tell(*many)) == 1
    shown.now += 4.9
    assert shown.tell(*many) == []
    shown.now += 0.2
    assert shown.tell(*many) == ["org/one: retrying 0.bin in 1.0 s: cut"]


def test_a_wait_for_another_process_is_one_line(shown: Shown) -> None:
    assert shown.tell(
        Waiting(lock="entry", path="/cache"),
        Waiting(lock="file", path="w.bin"),
        Waiting(lock="root", path="/cache"),
    ) == [
        "org/one: waiting for another process that fetches this entry",
        "org/one: waiting for another process that fetches w.bin",
        "org/one: waiting for another process that changes /cache",
    ]


def test_a_wait_names_the_holder_since_when_and_how_far_it_is(shown: Shown) -> None:
    now = time.time()
    holder = Holder(host="build-7", pid=123, since=now, done=1_200_000_000, size=4_100_000_000)
    since = time.strftime("%H:%M", time.localtime(now))
    assert shown.tell(
        Waiting(lock="entry", path="/cache", holder=holder),
        Waiting(lock="file", path="w.bin", holder=replace(holder, waits=True), again=True),
        Waiting(lock="root", path="/cache", holder=replace(holder, since=0, done=None, size=None)),
    ) == [
        f"org/one: waiting for pid 123 on host build-7, which fetches this entry (since {since}, 1.2 GB of 4.1 GB)",
        "org/one: waiting for pid 123 on host build-7, which fetches w.bin "
        f"(since {since}, 1.2 GB of 4.1 GB, waits itself)",
        "org/one: waiting for pid 123 on host build-7, which changes /cache "
        f"(since {time.strftime('%Y-%m-%d %H:%M', time.localtime(0))})",
    ]


def test_wrong_bytes_that_are_fetched_again_are_one_line(shown: Shown) -> None:
    assert shown.tell(Refetching(path="w.bin", cause="w.bin: got sha256 1, expected 2")) == [
        "org/one: fetching w.bin again: got sha256 1, expected 2"
    ]


def test_a_warning_and_a_new_listing_are_one_line_each(shown: Shown) -> None:
    assert shown.tell(Warned(message="no digest"), Relisting(cause="w.bin: replaced")) == [
        "org/one: warning: no digest",
        "org/one: the source changed meanwhile: listing it again",
    ]


def test_what_is_counted_or_told_elsewhere_shows_no_line(shown: Shown) -> None:
    assert (
        shown.tell(
            Planned(files=1, size=1, missing_files=1, missing_size=1),
            Received(path="w.bin", size=1),
            Verified(path="w.bin", size=1, digest=""),
            Published(path="w.bin", size=1),
            Failed(error=NotFound("gone")),  # by the command, or by doit
        )
        == []
    )
