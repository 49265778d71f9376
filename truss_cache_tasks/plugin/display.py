"""What people see while we work: lines on the process's own stderr, which no task runner captures."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from truss_cache_tasks.config.settings import read_settings
from truss_cache_tasks.errors import CacheTaskError, ConfigError
from truss_cache_tasks.fetch import Outcome
from truss_cache_tasks.planning.listing import RemoteFile

_EVERY_S = 10.0
_lock = threading.Lock()
_warned: set[str] = set()
_lost: list[OSError] = []  # of writes to stdout


def say(line: str) -> None:
    """Write one line to the process's stderr; one that is closed, full or read by nobody is nobody's concern."""
    stream = sys.__stderr__
    if stream is None:
        return
    with _lock:
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            _give_up(stream)


def open_closed() -> None:
    """Lead those of the three standard streams that are closed to /dev/null, before a file of ours gets their number.

    For a program of our own: in doit's process they are doit's.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def write(text: str) -> None:
    """Write to stdout; `flush_output` tells whether that could be done. Work goes on without a reader."""
    try:
        sys.stdout.write(text)
    except OSError as exc:
        _lost.append(exc)
        _give_up(sys.stdout)


def flush_output() -> OSError | None:
    """Flush stdout and stderr for the last time; return why stdout could not be written, if so.

    What failed leads to /dev/null from now on: the interpreter flushes once more, and would make 120 of the status.
    """
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as exc:
            _give_up(stream)
            if stream is sys.stdout:
                _lost.append(exc)
    return _lost[0] if _lost else None


def _give_up(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def warn_once(warnings: Iterable[str]) -> None:
    """Say each warning once a process."""
    for warning in warnings:
        if warning not in _warned:
            _warned.add(warning)
            say(f"warning: {warning}")


def worded(error: CacheTaskError) -> str:
    """Return the line of cause and the line of remedy."""
    return f"{error}\nhint: {error.hint}" if error.hint else str(error)


def internal(exc: Exception) -> str:
    """Return one line about a mistake of ours; with TRUSS_CACHE_DEBUG=1 its traceback goes to stderr too."""
    try:
        debug = read_settings(os.environ, Path.cwd()).debug
    except ConfigError:
        debug = False
    if debug:
        import traceback

        say("".join(traceback.format_exception(exc)).rstrip())
    return f"internal error: {type(exc).__name__}" + ("" if debug else " (TRUSS_CACHE_DEBUG=1 shows where)")


def removed(files: int, size: int, kept: Iterable[str], *, dry: bool) -> list[str]:
    """Return the lines about what a clean removed, or would remove, and what it kept and why."""
    verb = "would remove" if dry else "removed"
    first = f"{verb} {files:,} path{'' if files == 1 else 's'}, {size:,} bytes" if files else "nothing to remove"
    return [first, *(f"kept {line}" for line in kept)]


def left_over(left: Sequence[str]) -> str:
    """Return the lines about what a clean could not remove, and the remedy."""
    what = "\n".join(f"  {line}" for line in left)
    return f"the clean is incomplete, could not remove:\n{what}\nhint: Remove the cause, then clean again."


def in_bytes(size: float) -> str:
    """Return a size in units of 1000, as disks and networks are sold.

    >>> in_bytes(1239748)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def in_files(count: int) -> str:
    """Return `1 file`, `2 files`."""
    return f"{count:,} file{'' if count == 1 else 's'}"


class EntryDisplay:
    """The lines of one entry: at its start, every 10 s, and at its end."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._moved = 0
        self._began = time.monotonic()
        self._over = threading.Event()
        self._count = threading.Lock()

    def start(self, what: str, why: str) -> None:
        """Say what is done to the entry, and why; then a line every 10 s."""
        self.say(f"{what} ({why})")
        threading.Thread(target=self._tick, name="truss-cache-display", daemon=True).start()

    def say(self, line: str) -> None:
        """Say one line about this entry."""
        say(f"{self.label}: {line}")

    def report(self, _file: RemoteFile, size: int) -> None:
        """Count bytes that arrived, from any thread."""
        with self._count:
            self._moved += size

    def end(self, outcome: Outcome | None) -> None:
        """Say what came of it; None: it failed, and the error says the rest."""
        self._over.set()
        if outcome is None:
            return
        seconds = max(time.monotonic() - self._began, 1e-3)
        unverified = sum(not file.digest for file in outcome.manifest.files)
        rate = f", {in_bytes(outcome.size / seconds)}/s" if outcome.size else ""
        total = f"{in_files(len(outcome.manifest.files))}, {in_bytes(outcome.manifest.size)}"
        trust = f"{unverified} unverified: the store has no digest" if unverified else "all verified"
        self.say(
            f"{total} ({trust}); fetched {in_files(outcome.files)}, {in_bytes(outcome.size)} in {seconds:.1f} s{rate}"
        )

    def _tick(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.say(f"{in_bytes(self._moved)} after {time.monotonic() - self._began:.0f} s")
