"""How far an entry is, folded from its events: no terminal, no clock but the one of the test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truss_cache_tasks.app.display.lines import format_duration, format_part, format_state, line_of_progress
from truss_cache_tasks.app.display.progress import Progress, fold, total_of
from truss_cache_tasks.errors import NotFound
from truss_cache_tasks.events import (
    Committed,
    Event,
    Failed,
    Hashing,
    Planned,
    Published,
    Received,
    Relisting,
    Retrying,
    Started,
    Verified,
    Waiting,
    Warned,
)

MB = 1_000_000
STARTED = Started(reasons=("not fetched yet",), lists=True, forced=False)
PLAN = Planned(files=4, size=400 * MB, missing_files=3, missing_size=300 * MB)
LIMITED = Retrying(path="w.bin", cause="429", attempt=1, delay_s=12, is_requested=True)


def after(*events: Event, now: float = 0.0) -> Progress:
    progress = Progress(began=0.0)
    for event in events:
        progress = fold(progress, event, now)
    return progress


def received(progress: Progress, size: int, now: float) -> Progress:
    return fold(progress, Received(path="w.bin", size=size), now)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([Started(reasons=(), lists=False, forced=True)], "checking"),
        ([STARTED], "listing"),
        ([STARTED, Hashing(size=0, total=5)], "hashing"),
        ([STARTED, PLAN], "fetching"),
        ([STARTED, replace(PLAN, missing_files=0, missing_size=0)], "publishing"),
        ([STARTED, PLAN, Received(path="a", size=300 * MB)], "verifying"),
        ([STARTED, PLAN, *[Verified(path="a", size=1, digest="")] * 3], "publishing"),
        ([STARTED, PLAN, LIMITED], "retrying"),
        ([STARTED, PLAN, Waiting(lock="file", path="a")], "waiting"),
        ([STARTED, PLAN, Waiting(lock="file", path="a"), Warned(message="look")], "waiting"),
        ([STARTED, PLAN, Waiting(lock="file", path="a"), Received(path="b", size=1)], "fetching"),
        ([STARTED, PLAN, LIMITED, Received(path="a", size=1)], "fetching"),
        ([STARTED, PLAN, Relisting(cause="replaced")], "listing"),
    ],
)
def test_the_state_follows_the_events(events: list[Event], state: str) -> None:
    assert after(*events).state(0.0) == state


def test_the_rate_is_that_of_the_last_seconds() -> None:
    progress = after(STARTED, PLAN)
    for tenth in range(1, 101):
        progress = received(progress, MB, tenth / 10)  # 10 MB a second, for 10 s
    assert progress.rate(10.0) == pytest.approx(10 * MB, rel=0.05)
    for tenth in range(101, 161):
        progress = received(progress, MB // 10, tenth / 10)  # then a tenth of it
    assert progress.rate(16.0) == pytest.approx(MB, rel=0.15)
    assert len(progress.samples) < 20
    assert progress.rate(16.0 + 60) < MB / 60, "then nothing"


def test_a_pause_does_not_slow_the_rate_after_it() -> None:
    progress = received(received(after(STARTED, PLAN), MB, 1.0), MB, 2.0)
    for tenth in range(601, 631):
        progress = received(progress, MB, tenth / 10)
    assert progress.rate(63.0) == pytest.approx(10 * MB, rel=0.15)


def test_bytes_of_an_earlier_run_are_there_but_have_no_rate() -> None:
    progress = fold(after(STARTED, PLAN), Received(path="w.bin", size=100 * MB, resumed=True), 0.5)
    progress = received(received(progress, 10 * MB, 0.5), 10 * MB, 1.0)
    assert (progress.done, progress.total, progress.resumed, progress.fresh) == (120 * MB, 300 * MB, 100 * MB, 20 * MB)
    assert progress.rate(1.0) == 20 * MB
    assert line_of_progress(progress, 1.0) == "120 of 300 MB, 40 %, 20.0 MB/s, 9 s left, 100.0 MB by an earlier run"


def test_files_that_were_here_count_as_done() -> None:
    progress = after(STARTED, PLAN, Verified(path="a", size=1, digest=""), Published(path="a", size=1))
    assert (progress.files_done, progress.files) == (2, 4)


def test_bytes_that_are_fetched_again_are_not_there() -> None:
    progress = received(received(after(STARTED, PLAN), 200 * MB, 1.0), -200 * MB, 2.0)
    assert (progress.done, progress.rate(3.0)) == (0, 0.0)


def test_a_second_plan_begins_anew() -> None:
    progress = received(after(STARTED, PLAN), 100 * MB, 1.0)
    progress = fold(progress, Relisting(cause="replaced"), 2.0)
    progress = fold(progress, replace(PLAN, missing_size=50 * MB, missing_files=1), 2.0)
    assert (progress.done, progress.total, progress.fresh) == (0, 50 * MB, 100 * MB)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-100, 400), st.booleans(), st.floats(0, 5)), max_size=40))
def test_no_bytes_make_more_than_all_or_less_than_nothing(events: list[tuple[int, bool, float]]) -> None:
    progress, now = after(STARTED, PLAN), 0.0
    for size, resumed, later in events:
        now += later
        progress = fold(progress, Received(path="w", size=size * MB, resumed=resumed and size > 0), now)
        assert 0 <= progress.done <= progress.total
        assert progress.rate(now) >= 0
        assert line_of_progress(progress, now)


@pytest.mark.parametrize(
    ("events", "now", "line"),
    [
        ([STARTED], 7.0, "listing for 7 s"),
        ([STARTED, PLAN], 3.0, "0 of 300 MB, 0 %, no bytes in the last seconds"),
        ([STARTED, PLAN, LIMITED], 0.4, "rate limited, next try in 12 s, 0 of 300 MB, 0 %"),
        ([STARTED, replace(LIMITED, is_requested=False, delay_s=2)], 0.5, "failed, next try in 2 s"),
        ([STARTED, LIMITED], 12.5, "rate limited, trying again"),
        (
            [STARTED, Waiting(lock="entry", path="/cache")],
            65.0,
            "waiting for another process that fetches this entry for 65 s",
        ),
        ([Hashing(size=0, total=40 * 10**9), Hashing(size=3 * 10**9, total=40 * 10**9)], 2.0, "hashing 3.0 of 40.0 GB"),
    ],
)
def test_a_line_says_what_is_under_way(events: list[Event], now: float, line: str) -> None:
    assert line_of_progress(after(*events), now).startswith(line)


def test_how_it_ended_is_kept() -> None:
    error = NotFound("gone")
    assert after(STARTED, Failed(error=error), now=3.0).failed is error
    end = Committed(how="claimed", files=1, size=1, unverified=0)
    done = after(STARTED, end, now=3.0)
    assert (done.committed, done.elapsed(99.0)) == (end, 3.0)


def test_the_total_is_of_all_entries_and_the_rate_of_those_under_way() -> None:
    one = received(received(after(STARTED, PLAN), 10 * MB, 0.5), 10 * MB, 1.0)
    two = fold(one, Committed(how="fetched", files=4, size=1, unverified=0), 1.0)
    total = total_of([one, two, after(STARTED)], 1.0)
    assert (total.done, total.total, total.files, total.files_done) == (40 * MB, 600 * MB, 8, 5)
    assert (total.entries, total.entries_done, total.rate) == (3, 1, 20 * MB)


@given(st.integers(0, 10**16), st.integers(0, 10**16))
def test_two_sizes_are_in_one_unit(first: int, second: int) -> None:
    done, total = sorted((first, second))
    text = format_part(done, total)
    assert len(text) <= 24
    assert text.split(" ")[1] == "of"


@given(st.floats(0, 10**8))
def test_a_duration_is_short(seconds: float) -> None:
    assert 3 <= len(format_duration(seconds)) <= 12


def test_a_state_has_shorter_forms() -> None:
    assert format_state(after(LIMITED), 0.0) == ("rate limited, next try in 12 s", "rate limited, 12 s")
    waiting = after(Waiting(lock="root", path="/cache"))
    assert format_state(waiting, 0.0)[1:] == ("waiting for another process", "waiting")
