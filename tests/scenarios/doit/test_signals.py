"""SIGINT and SIGTERM while bytes are on their way: what was published stays, nothing is left running, no traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from servers.hub import Hub
from servers.tools import wait_until
from trusses import BIN, Truss, ended, gone

DOIT = [sys.executable, "-m", "doit", "run"]
ALL_AT_ONCE = {
    "thread": (["-n", "3", "-P", "thread"], None),
    "fork": (["-n", "3", "-P", "process"], "fork"),
    "spawn": (["-n", "3", "-P", "process"], "spawn"),
    "forkserver": (["-n", "3", "-P", "process"], "forkserver"),
}
DODO = """
import multiprocessing, os, signal

if {method!r}:
    multiprocessing.set_start_method({method!r})

def mine(number, frame):
    with open("handled.txt", "a") as out:
        out.write(f"{{os.getpid()}} {{number}}\\n")

def set_mine():
    signal.signal(signal.SIGINT, mine)
    signal.signal(signal.SIGTERM, mine)

if {handlers}:
    set_mine()
from truss_cache_tasks import task_cache_weights
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture
def stalling(truss: Truss, hub: Hub) -> Truss:
    """One entry that arrives, and one whose second half never does."""
    hub.create("org/first").commit({"first.bin": b"1" * 20_000})
    hub.create("org/last").commit({"a.bin": b"a" * 20_000, "z.bin": b"z" * 2_000_000})
    hub.fail("z.bin", "stall", host="cdn")
    truss.config("model_cache:\n  - repo_id: org/first\n  - repo_id: org/last\n")
    return truss


def interrupt(truss: Truss, hub: Hub, command: list[str], number: signal.Signals, *, whom: str) -> tuple[int, str]:
    """Start `command`, send `number` once everything but the stalled file is published; return exit status and text.

    Args:
        whom: "group": all processes, as a terminal's Ctrl-C; "parent", as a supervisor; or only its "children".
    """
    first = truss.hub_cache / "models--org--first" / ".truss_cache" / "manifests"
    last = truss.hub_cache / "models--org--last"
    child = truss.start(command)

    def in_flight() -> bool:
        blobs = [path for path in (last / "blobs").iterdir() if len(path.name) in (40, 64)]
        return any(first.glob("*.json")) and len(blobs) == 1 and bool(hub.asked("GET", "/z.bin"))

    with ended(child):
        wait_until(in_flight, "the transfer", alive=lambda: child.poll() is None)
        if whom == "group":
            os.killpg(child.pid, number)
        for pid in [child.pid] if whom == "parent" else children_of(child.pid) if whom == "children" else []:
            with contextlib.suppress(ProcessLookupError):  # one that has nothing left to do
                os.kill(pid, number)
        out, err = child.communicate(timeout=60)
    assert gone(child), "a child is left"
    return child.returncode, out + err


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in listed.stdout.split()]


def check_rest(truss: Truss, hub: Hub, run: Callable[[], object]) -> None:
    """A rerun fetches only what had not arrived."""
    hub.requests.clear()
    run()
    fetched = [r.path.rsplit("/", 1)[-1] for r in hub.requests if r.host == "cdn"]
    assert fetched == ["z.bin"]
    assert truss.cli("verify").code == 0


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("mode", ["sequential", *ALL_AT_ONCE, "truss-cache"])
def test_a_signal_ends_a_run_and_loses_nothing_that_was_published(
    stalling: Truss, hub: Hub, mode: str, number: signal.Signals
) -> None:
    how, method = ALL_AT_ONCE.get(mode, ([], None))
    command = [str(BIN / "truss-cache")] if mode == "truss-cache" else [*DOIT, *how]
    stalling.dodo(DODO.format(method=method, handlers=False))
    code, text = interrupt(stalling, hub, command, number, whom="group" if number is signal.SIGINT else "parent")
    assert code == CODES[number], text
    assert "Traceback" not in text
    assert "Error" not in text
    assert text.count("stopped: what is complete is kept") == 1

    def rerun() -> None:
        done = stalling.doit() if mode != "truss-cache" else stalling.cli()
        assert done.code == 0, done.text

    check_rest(stalling, hub, rerun)


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("mode", ["sequential", *ALL_AT_ONCE])
def test_a_handler_that_dodo_set_is_called_too(stalling: Truss, hub: Hub, mode: str, number: signal.Signals) -> None:
    how, method = ALL_AT_ONCE.get(mode, ([], None))
    stalling.dodo(DODO.format(method=method, handlers=True))
    code, text = interrupt(stalling, hub, [*DOIT, *how], number, whom="parent")
    assert code == CODES[number], text
    assert "Traceback" not in text
    handled = (stalling.folder / "handled.txt").read_text().splitlines()
    assert [line.split()[1] for line in handled].count(str(int(number))) >= 1


def test_a_child_that_is_told_to_stop_ends_the_whole_run(stalling: Truss, hub: Hub) -> None:
    """doit hands a child's SystemExit on as text."""
    stalling.dodo(DODO.format(method="fork", handlers=False))
    code, text = interrupt(stalling, hub, [*DOIT, "-n", "2", "-P", "process"], signal.SIGTERM, whom="children")
    assert code == 143, text
    assert "Traceback" not in text


def test_a_signal_while_another_process_holds_the_lock_ends_the_wait(stalling: Truss, hub: Hub) -> None:
    """Two runs want the same file; the one that waits for the other can be stopped."""
    hub.fail("z.bin", *["stall"] * 6, host="cdn")  # on a busy machine the holder may give up a stalled answer meanwhile
    holder = stalling.start([str(BIN / "truss-cache")])
    try:
        wait_until(lambda: bool(hub.asked("GET", "/z.bin")), "the transfer", alive=lambda: holder.poll() is None)
        # It knows the Hub by another name, so that each request says whose it is.
        waiting = stalling.start([str(BIN / "truss-cache")], HF_ENDPOINT=hub.url.replace("127.0.0.1", "localhost"))
        told = threading.Event()
        lines: list[str] = []

        def read() -> None:
            assert waiting.stderr is not None
            for line in waiting.stderr:
                lines.append(line)
                if line.startswith("org/last: waiting for "):
                    told.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert told.wait(60)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(60) == 143
        reader.join()
        assert waiting.stdout is not None
        assert waiting.stderr is not None
        waiting.stdout.close()
        waiting.stderr.close()
        assert "Traceback" not in "".join(lines)
        hub.released.set()
        out, err = holder.communicate(timeout=60)
        assert holder.returncode == 0, out + err
    finally:
        for child in (holder, waiting):
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    of_the_waiting = [r.path for r in hub.requests if r.host == "hub" and r.headers["host"].startswith("localhost:")]
    assert [path for path in of_the_waiting if "org/last" in path] == []


@pytest.mark.parametrize("mode", ["sequential", "truss-cache"])
def test_without_a_stderr_a_signal_writes_into_no_file(stalling: Truss, hub: Hub, mode: str) -> None:
    """What is opened first gets the number of a closed stream."""
    command = [str(BIN / "truss-cache")] if mode == "truss-cache" else DOIT
    line = ["bash", "-c", 'exec "$@" <&- 2>&-', "bash", *command]
    stalling.dodo(
        "import os\nout = os.open('precious', os.O_CREAT | os.O_RDWR)\n" * 3 + DODO.format(method=None, handlers=False)
    )
    code, text = interrupt(stalling, hub, line, signal.SIGTERM, whom="parent")
    assert code == 143, text
    texts = [path for path in stalling.root.rglob("*") if path.is_file() and b"stopped: what" in path.read_bytes()]
    assert texts == []
