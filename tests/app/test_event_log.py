"""The event log of a run: `--events` and TRUSS_CACHE_EVENTS."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from fast_clock import FastClock
from in_process import Cli, cli
from schema import checked_lines, definitions
from servers.hub import Hub
from trusses import Truss

from truss_cache_tasks import events
from truss_cache_tasks.app.event_log import record_of

__all__ = ["cli"]


@pytest.fixture
def one(truss: Truss, hub: Hub) -> Truss:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000, "more.bin": b"m" * 1_500})
    truss.config("model_cache: [{repo_id: org/one}]\n")
    return truss


def test_a_run_appends_a_line_for_each_event(one: Truss, cli: Cli) -> None:
    log = one.folder / "events.jsonl"
    log.write_text("")
    assert cli("run", "--events", "events.jsonl").code == 0
    lines = checked_lines(log.read_text())
    kinds = [line["event"] for line in lines]
    assert (kinds[0], kinds[-1]) == ("started", "committed")
    assert sum(line["size"] for line in lines if line["event"] == "received") == 21_500
    assert {line["path"] for line in lines if line["event"] == "verified"} == {"one.bin", "more.bin"}
    assert {(line["entry"], line["config"]) for line in lines} == {("org/one", str(one.folder / "config.yaml"))}
    before = log.read_text()
    assert cli(TRUSS_CACHE_EVENTS="events.jsonl").code == 0
    assert log.read_text() == before, "an entry that is fresh has no line"
    assert cli("-a", TRUSS_CACHE_EVENTS="events.jsonl").code == 0
    assert log.read_text().startswith(before), "it is appended to"
    assert len({line["run"] for line in checked_lines(log.read_text())}) == 2


def test_a_failure_has_its_class_and_hint(one: Truss, cli: Cli) -> None:
    one.config("model_cache: [{repo_id: org/none}]\n")
    assert cli("--events", "log").code == 1
    last = checked_lines((one.folder / "log").read_text())[-1]
    assert (last["event"], last["error"]["class"]) == ("failed", "NotFound")
    assert last["error"]["hint"]


def test_every_event_has_a_schema_and_each_of_its_fields() -> None:
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event)]
    kinds.remove(events.Event)
    assert {f"event.{kind.__name__.lower()}" for kind in kinds} == {
        name for name in definitions() if name.startswith("event.")
    }
    for kind in kinds:
        known = definitions()[f"event.{kind.__name__.lower()}"]["properties"]
        head = {"schema", "time", "run", "pid", "config", "event"}
        assert set(kind.__dataclass_fields__) == set(known) - head, kind


def test_the_fields_of_an_event_are_the_members_of_its_line() -> None:
    holder = events.Holder(host="h", pid=1, since=2.0)
    waiting = events.Waiting(entry="org/one", lock="entry", path="/r", holder=holder)
    assert record_of(waiting) == {
        "event": "waiting",
        "entry": "org/one",
        "lock": "entry",
        "path": "/r",
        "holder": {"host": "h", "pid": 1, "since": 2.0, "waits": False, "done": None, "size": None},
        "again": False,
    }


@pytest.mark.parametrize("path", ["no/such/folder/log", ".", "config.yaml/log", "/dev/fd/99", "/dev/stdin"])
def test_what_cannot_be_appended_to_is_3_before_the_fetch(one: Truss, hub: Hub, path: str) -> None:
    for ran in (one.cli("--events", path), one.cli(TRUSS_CACHE_EVENTS=path), one.doit(TRUSS_CACHE_EVENTS=path)):
        assert ran.code == 3, ran.text
        assert "cannot append events: " in ran.err
        assert "Traceback" not in ran.text
    assert hub.requests == []
    assert one.cli("why", TRUSS_CACHE_EVENTS=path).code == 0, "only a run has events"


def test_a_fifo_and_stderr_get_the_lines(one: Truss) -> None:
    fifo = one.root / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE, text=True)
    assert one.cli("--events", str(fifo)).code == 0
    assert checked_lines(reader.communicate(timeout=60)[0])[-1]["event"] == "committed"
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    ran = one.cli("-aq", "--events", "/dev/stderr")
    assert checked_lines(ran.err)[-1]["event"] == "committed"
    with open(one.root / "both", "wb") as file:
        done = subprocess.run(
            ["truss-cache", "-a", "--events", "/dev/stderr"],
            cwd=one.folder, env=one.env, stderr=file, check=True,
        )  # fmt: skip
    assert done.returncode == 0
    lines = (one.root / "both").read_text().splitlines()
    assert any(line.startswith("org/one: ") for line in lines), "neither overwrites the other"
    assert checked_lines("".join(f"{line}\n" for line in lines if line.startswith("{")))[-1]["event"] == "committed"


def test_a_fifo_without_a_reader_is_3_before_the_fetch(one: Truss, hub: Hub, fast_clock: FastClock) -> None:
    os.mkfifo(one.folder / "fifo")
    ran = one.cli("--events", "fifo", **fast_clock(20))
    assert (ran.code, "cannot append events: " in ran.err) == (3, True), ran.text
    assert hub.requests == []


def test_a_log_that_breaks_does_not_break_the_run(one: Truss) -> None:
    ran = one.cli("--events", "/dev/full")
    assert ran.code == 0
    assert ran.err.count("warning: the events are not logged any more: No space left on device\n") == 1
    refused = one.cli("--json", "--events", "/dev/stdout")
    assert (refused.code, "found both" in refused.err) == (3, True)


@pytest.mark.parametrize("how", [["-P", "thread"], ["-P", "process"]])
def test_tasks_side_by_side_share_a_log(truss: Truss, hub: Hub, how: list[str]) -> None:
    names = [f"org/{number}" for number in range(4)]
    for name in names:
        hub.create(name).commit({f"{part}.bin": f"{name} {part}".encode() * 1000 for part in range(10)})
    truss.config("model_cache:\n" + "".join(f"- repo_id: {name}\n" for name in names))
    assert truss.doit("run", "-n", "4", *how, TRUSS_CACHE_EVENTS="log").code == 0
    lines = checked_lines((truss.folder / "log").read_text())
    assert sorted(line["entry"] for line in lines if line["event"] == "committed") == names
    assert sum(line["event"] == "verified" for line in lines) == 40


def test_fetch_in_python_logs_too_and_says_why_it_cannot(one: Truss) -> None:
    code = "import sys; from truss_cache_tasks import fetch; print(fetch().ok)"
    assert one.python(code, TRUSS_CACHE_EVENTS="log").out == "True\n"
    assert checked_lines((one.folder / "log").read_text())[-1]["event"] == "committed"
    assert "ConfigError" in one.python(code, TRUSS_CACHE_EVENTS="no/log").err


def test_no_secret_is_in_a_line(one: Truss, hub: Hub) -> None:
    (one.secrets / "hf_access_token").write_text("hf_verySecretToken")
    hub.create("org/gated", gated=True).commit({"a.bin": b"a"})
    one.config("model_cache: [{repo_id: org/one}, {repo_id: org/gated}]\n")
    ran = one.cli("--json", "--events", "log")
    text = ran.text + Path(one.folder, "log").read_text()
    assert "hf_verySecretToken" not in text
