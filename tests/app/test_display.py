"""The display of a process: which lines are written when, by the clock of the test."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from terminal import Screen

from truss_cache_tasks.app import output
from truss_cache_tasks.app.display.ci import Buildkite, GitHub, Service
from truss_cache_tasks.app.display.display import Display, EntryDisplay, Mode, mode_of, shared_display
from truss_cache_tasks.app.display.lines import format_waiting
from truss_cache_tasks.app.display.live import LiveBlock
from truss_cache_tasks.errors import NotFound, Stopped
from truss_cache_tasks.events import (
    Committed,
    Event,
    Evicted,
    Failed,
    Holder,
    How,
    Planned,
    Received,
    Refetching,
    Relisting,
    Retrying,
    Started,
    Verified,
    Waiting,
    Warned,
)

MB = 1_000_000
STARTED = Started(reasons=("not fetched yet",), lists=True, forced=False)
PLAN = Planned(files=12, size=412 * MB, missing_files=10, missing_size=366 * MB)
DONE = Committed(
    how="fetched", files=12, size=412 * MB, unverified=0, fetched_files=10, fetched_size=366 * MB, path="/cache/one"
)


class Shown:
    """A display with a clock that stands still until it is set."""

    def __init__(self, mode: Mode = "lines", service: Service | None = None) -> None:
        self.now = 100.0
        self.written = ""
        self.screen = Screen(100, 12)
        self.display = Display(
            mode, write=self.write, clock=lambda: self.now, epoch=lambda: 7.0, service=service, make_block=self.block
        )

    def write(self, text: str) -> None:
        self.written += text
        self.screen.feed(text.replace("\n", "\r\n"))

    def block(self) -> LiveBlock:
        return LiveBlock(self.screen.feed, lambda: (100, 12), colors=False, unicode=True)

    def tell(self, entry: EntryDisplay, *events: Event) -> list[str]:
        """Return the lines that came for these events."""
        before = len(self.written)
        for event in events:
            entry(event)
        return self.written[before:].splitlines()

    def at(self, seconds: float) -> list[str]:
        """Return the lines that came when the clock reached so many seconds."""
        before = len(self.written)
        while self.now < 100 + seconds:
            self.now += 0.5
            self.display.tick()
        return self.written[before:].splitlines()


def test_a_log_has_a_plan_then_lines_at_10_20_40_80_s_and_each_minute_and_an_end() -> None:
    shown = Shown()
    entry = shown.display.open("org/one")
    assert shown.tell(entry, STARTED) == []
    plan = "org/one: fetching 10 files, 366 MB; 2 files, 46.0 MB here already (not fetched yet)"
    assert shown.tell(entry, PLAN) == [plan.replace("366 MB", "366.0 MB")]
    lines: dict[float, str] = {}
    for half in range(1, 500):
        entry(Received(path="w.bin", size=MB // 2))
        for line in shown.at(half / 2):
            lines[half / 2] = line
    assert list(lines) == [10, 20, 40, 80, 140, 200]
    assert lines[20] == "org/one: 20 of 366 MB, 5 %, 1.0 MB/s, 5 min 46 s left"
    assert lines[200].startswith("org/one: 200 of 366 MB, 54 %, 1.0 MB/s, ")
    shown.now = 100 + 366.0
    assert shown.tell(entry, DONE) == [
        "org/one: fetched 10 files, 366.0 MB in 6 min 6 s, 681 kB/s; reused 2 files, 46.0 MB (all verified)",
        "org/one: in /cache/one",
    ]
    entry.close()


def test_a_slow_listing_is_a_line_too() -> None:
    shown = Shown()
    shown.tell(shown.display.open("org/one"), STARTED)
    assert shown.at(10) == ["org/one: listing for 10 s"]


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("claimed", "fetched 0 files, whole already: claimed (a.bin is missing); 1 file, 10 B (UNVERIFIED)"),
        ("repaired", "fetched 0 files, put right from this disk (a.bin is missing); 1 file, 10 B (UNVERIFIED)"),
        ("fresh", "whole already: 1 file, 10 B (UNVERIFIED)"),
        ("fetched", "fetched 0 files, 0 B in 0.0 s; reused 1 file, 10 B (UNVERIFIED)"),
    ],
)
def test_what_needs_no_bytes_says_why_it_ran_and_what_it_is_worth(how: How, end: str) -> None:
    shown = Shown()
    entry = shown.display.open("org/one")
    shown.tell(entry, Started(reasons=("a.bin is missing",), lists=False, forced=False))
    assert shown.tell(entry, Committed(how=how, files=1, size=10, unverified=1)) == [
        "org/one: " + end.replace("UNVERIFIED", "1 unverified: the store has no digest")
    ]


def test_a_plan_without_missing_files_says_so() -> None:
    shown = Shown()
    plan = Planned(files=2, size=10, missing_files=0, missing_size=0)
    assert shown.tell(shown.display.open("org/one"), plan) == ["org/one: 2 files, 10 B, here already"]


def test_thousands_of_retries_and_waits_are_one_line_in_ten_seconds() -> None:
    shown = Shown()
    entry = shown.display.open("org/one")
    causes = {f"{number}.bin": f"org/one: {number}.bin: cut" for number in range(99)}
    many = [Retrying(entry="org/one", path=path, cause=causes[path], attempt=1, delay_s=1) for path in causes]
    waits = [Waiting(lock="file", path=f"{n}.bin") for n in range(99)]
    first = ["org/one: retrying 0.bin in 1.0 s: cut", "org/one: waiting for another process that fetches 0.bin"]
    assert shown.tell(entry, *many, *waits) == first
    shown.now += 9
    assert shown.tell(entry, *many, *waits) == []
    shown.now += 1
    assert shown.tell(entry, *many, *waits) == first


def test_a_wait_names_the_holder_since_when_and_how_far_it_is() -> None:
    now = time.time()
    holder = Holder(host="build-7", pid=123, since=now, done=1_200 * MB, size=4_100 * MB)
    since = time.strftime("%H:%M", time.localtime(now))
    shown = Shown()
    entry = shown.display.open("org/one")
    first = Waiting(lock="entry", path="/cache", holder=holder)
    who = "org/one: waiting for pid 123 on host build-7, which"
    assert shown.tell(entry, first) == [f"{who} fetches this entry (since {since}, 1.2 of 4.1 GB)"]
    further = replace(holder, done=2_000 * MB, waits=True)
    assert shown.tell(entry, replace(first, again=True, holder=further)) == []
    assert shown.at(10) == [f"{who} fetches this entry (since {since}, 2.0 of 4.1 GB, waits itself) for 10 s"]
    unknown = replace(holder, since=0, done=None, size=None)
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(0))
    assert shown.tell(entry, Waiting(lock="root", path="/cache", holder=unknown)) == [
        f"{who} changes /cache (since {day})"
    ]
    texts = format_waiting(first)
    assert texts[2:] == ("waiting for pid 123 on host build-7", "waiting for pid 123")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Refetching(path="w.bin", cause="w.bin: got sha256 1"), "fetching w.bin again: got sha256 1"),
        (Waiting(lock="entry", path="/cache"), "waiting for another process that fetches this entry"),
        (Waiting(lock="root", path="/cache"), "waiting for another process that changes /cache"),
        (Retrying(cause="hub: 503", attempt=1, delay_s=0.25), "listing again in 0.2 s: hub: 503"),
        (Warned(message="no digest"), "warning: no digest"),
        (Evicted(path="/cache", files=2, size=3 * MB), "evicted 3.0 MB that no claim lists from /cache"),
        (Relisting(cause="w.bin: replaced"), "the source changed meanwhile: listing it again"),
    ],
)
def test_what_happens_is_one_line(event: Event, line: str) -> None:
    shown = Shown()
    assert shown.tell(shown.display.open("org/one"), event) == [f"org/one: {line}"]


def test_a_failure_is_told_by_the_command_and_by_an_annotation() -> None:
    failed = Failed(error=NotFound("org/one: gone"))
    for mode in ("lines", "failures", "block"):
        shown = Shown(mode)
        assert shown.tell(shown.display.open("org/one"), failed) == []
        github = Shown(mode, GitHub("", ""))
        entry = github.display.open("org/one", "config.yaml:3: model_cache[0]")
        assert github.tell(entry, Failed(error=Stopped("stopped"))) == []
        assert github.tell(entry, failed) == ["::error file=config.yaml,line=3,title=org/one::org/one: gone"]


def test_results_come_after_the_group_and_the_total_last() -> None:
    shown = Shown(service=GitHub("", ""))
    one = shown.display.open("org/one", group="weights of 2 entries")
    two = shown.display.open("org/two", group="weights of 2 entries")
    for entry in (one, two):
        shown.tell(entry, STARTED, PLAN)
    shown.now += 10
    shown.tell(one, DONE)
    one.close()
    shown.tell(two, Warned(message="no digest"), Failed(error=NotFound("org/two: gone")))
    two.close()
    assert [line.split(" (")[0] for line in shown.written.splitlines()] == [
        "::group::weights of 2 entries",
        "org/one: fetching 10 files, 366.0 MB; 2 files, 46.0 MB here already",
        "org/two: fetching 10 files, 366.0 MB; 2 files, 46.0 MB here already",
        "org/two: warning: no digest",
        "::warning title=org/two::no digest",
        "::error title=org/two::org/two: gone",
        "::endgroup::",
        "org/one: fetched 10 files, 366.0 MB in 10.0 s; reused 2 files, 46.0 MB",
        "org/one: in /cache/one",
        "2 entries",
    ]


def test_one_group_follows_the_other() -> None:
    shown = Shown(service=Buildkite())
    for name in ("org/one", "org/two"):
        shown.display.open(name, group=name).close()
    assert shown.written == "--- org/one\n+++ Weights\n--- org/two\n+++ Weights\n"


def test_quiet_writes_nothing() -> None:
    shown = Shown("failures")
    entry = shown.display.open("org/one", group="weights")
    assert shown.tell(entry, STARTED, PLAN, Warned(message="w"), DONE) == []
    assert shown.at(30) == []
    entry.close()
    assert shown.written == ""


def test_a_block_shows_what_is_under_way_and_leaves_the_result() -> None:
    shown = Shown("block")
    one, two = shown.display.open("org/one"), shown.display.open("org/two")
    shown.tell(one, STARTED, PLAN)
    shown.tell(two, STARTED, Retrying(cause="429", attempt=1, delay_s=3, is_requested=True))
    shown.display.tick()
    assert "total" not in shown.screen.text, "what takes no time needs no block"
    for half in range(1, 9):
        one(Received(path="w.bin", size=8 * MB))
        shown.at(half / 2)
    assert shown.screen.rows[-3:] == [
        "org/one   64 of 366 MB   17 %  fetching, 16.0 MB/s, 19 s left, 2 of 12 files",
        "org/two                        rate limited, trying again",
        "total     64 of 366 MB   17 %  16.0 MB/s, 19 s left, 2 of 12 files, 0 of 2 entries",
    ]
    shown.tell(one, *[Verified(path="w", size=1, digest="")] * 10, DONE)
    one.close()
    shown.tell(two, Failed(error=NotFound("org/two: gone")))
    two.close()
    shown.display.tick()
    assert "%" not in shown.screen.text
    assert "org/one: in /cache/one" in shown.screen.rows
    assert shown.screen.scrolls_whole


def test_a_fault_of_the_display_ends_the_display_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(output, "notify", lambda *lines: said.extend(lines))
    shown = Shown()
    entry = shown.display.open("org/one")

    def fail(text: str) -> None:
        raise RuntimeError(text)

    shown.display._write = fail
    for _ in range(3):
        entry(PLAN)
    entry.close()
    (line,) = said
    assert line.startswith("the progress is not shown any more: internal error: RuntimeError ")


class OnTerminal:
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("env", "mode"),
    [
        ({"TERM": "xterm"}, "block"),
        ({"TERM": "dumb"}, "lines"),
        ({}, "lines"),
        ({"TERM": "xterm", "CI": "true"}, "lines"),
        ({"TERM": "xterm", "CI": "false"}, "block"),
        ({"TERM": "xterm", "BUILDKITE": "true"}, "lines"),
    ],
)
def test_a_terminal_that_can_show_it_gets_a_block(env: Mapping[str, str], mode: Mode, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.__stderr__", OnTerminal())
    for size, found in (((80, 24), mode), ((0, 0), "lines"), ((80, 4), "lines"), ((20, 24), "lines")):
        monkeypatch.setattr("os.get_terminal_size", lambda _fd, size=size: os.terminal_size(size))
        assert mode_of(env) == found


@pytest.mark.parametrize("has_stream", [False, True])
def test_without_a_stderr_there_are_lines(has_stream: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "closed").open("w") as file:
        pass
    monkeypatch.setattr("sys.__stderr__", file if has_stream else None)
    assert mode_of({"TERM": "xterm"}) == "lines"


def test_the_display_is_one_for_the_process_and_quiet_ones_are_apart() -> None:
    assert shared_display() is shared_display()
    assert shared_display(quiet=True) is not shared_display()
