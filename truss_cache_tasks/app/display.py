"""What people see while we work: lines on the process's own stderr, which no task runner captures.

Every text that reaches a terminal or doit passes `escaped`, a line at a time: names and messages come from stores, and
only the line ends that we make are line ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO, assert_never

from truss_cache_tasks.config.settings import read_settings
from truss_cache_tasks.errors import CacheTaskError, ConfigError
from truss_cache_tasks.events import Committed, Event, Received, Relisting, Retrying, Started, Waiting, Warned

_EVERY_S = 10.0
_EVERY_RETRY_S = 5.0
_lock = threading.Lock()
_warned: set[str] = set()
_lost: list[OSError] = []  # of writes to stdout

# What a terminal obeys, or shows in another order than it stands: C0, DEL, C1, the separators of lines and paragraphs,
# the controls of bidirectional text. Lone surrogates cannot be written at all.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(*lines: str) -> str:
    r"""Return the lines with newlines between them alone: each control character inside a line becomes `\x1b`.

    >>> print(escaped("org/one: a\nb.bin\x1b[2J", "hint: \u202elook"))
    org/one: a\nb.bin\x1b[2J
    hint: \u202elook
    """
    return "\n".join(_OBEYED.sub(_escape, line) for line in lines)


def _escape(character: re.Match[str]) -> str:
    return repr(character[0])[1:-1]  # as messages show what they quote


def say(*lines: str) -> None:
    """Write lines to the process's stderr; one that is closed, full or read by nobody is nobody's concern."""
    stream = sys.__stderr__
    if stream is None:
        return
    with _lock:
        try:
            stream.write(escaped(*lines) + "\n")
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


def write(*lines: str) -> None:
    """Write lines to stdout; `flush_output` tells whether that could be done. Work goes on without a reader."""
    try:
        sys.stdout.write(escaped(*lines) + "\n")
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


def worded(error: CacheTaskError, label: str = "") -> list[str]:
    """Return the line of cause and the line of remedy; `label` names what failed."""
    cause = f"{label}: {error}" if label else str(error)
    return [cause, f"hint: {error.hint}"] if error.hint else [cause]


def internal(exc: Exception) -> str:
    """Return one line about a mistake of ours; with TRUSS_CACHE_DEBUG=1 its traceback goes to stderr too."""
    try:
        debug = read_settings(os.environ, Path.cwd()).debug
    except ConfigError:
        debug = False
    if debug:
        import traceback

        say(*"".join(traceback.format_exception(exc)).rstrip().split("\n"))
    return f"internal error: {type(exc).__name__}" + ("" if debug else " (TRUSS_CACHE_DEBUG=1 shows where)")


def removed(files: int, size: int, kept: Iterable[str], *, dry: bool) -> list[str]:
    """Return the lines about what a clean removed, or would remove, and what it kept and why."""
    verb = "would remove" if dry else "removed"
    first = f"{verb} {files:,} path{'' if files == 1 else 's'}, {size:,} bytes" if files else "nothing to remove"
    return [first, *(f"kept {line}" for line in kept)]


def left_over(left: Iterable[str]) -> list[str]:
    """Return the lines about what a clean could not remove, and the remedy."""
    what = (f"  {line}" for line in left)
    return ["the clean is incomplete, could not remove:", *what, "hint: Remove the cause, then clean again."]


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
    """A Reporter that shows one entry: lines at its start, every 10 s, at what people should know, and at its end."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._moved = 0
        self._began = time.monotonic()
        self._retry_shown = -_EVERY_RETRY_S
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, event: Event, /) -> None:
        """Show `event`, from any thread."""
        match event:
            case Received():
                with self._lock:
                    self._moved += event.size
            case Started():
                self._say(_started(event))
                threading.Thread(target=self._tick, name="truss-cache-display", daemon=True).start()
            case Retrying():
                if self._is_time_for_a_retry():
                    self._say(_retrying(event))
            case Waiting():
                self._say(_waiting(event))
            case Relisting():
                self._say("the source changed meanwhile: listing it again")
            case Warned():
                self._say(f"warning: {event.message}")
            case Committed():
                self._say(*_committed(event, max(time.monotonic() - self._began, 1e-3)))

    def close(self) -> None:
        """End the lines that come by themselves."""
        self._over.set()

    def _say(self, *lines: str) -> None:
        say(*(f"{self.label}: {line}" for line in lines))

    def _is_time_for_a_retry(self) -> bool:
        """Whether the last line about a retry is some seconds old: a server in trouble fails many files at once."""
        with self._lock:
            now = time.monotonic()
            is_time = now - self._retry_shown >= _EVERY_RETRY_S
            if is_time:
                self._retry_shown = now
            return is_time

    def _tick(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._say(f"{in_bytes(self._moved)} after {time.monotonic() - self._began:.0f} s")


def _started(event: Started) -> str:
    why = "forced: everything is hashed again" if event.forced else "; ".join(event.reasons) or "fresh"
    return f"{'fetching' if event.lists else 'checking'} ({why})"


def _retrying(event: Retrying) -> str:
    what = f"retrying {event.path}" if event.path else "listing again"
    return f"{what} in {event.delay_s:.1f} s: {event.cause}"


def _waiting(event: Waiting) -> str:
    match event.lock:
        case "entry":
            what = "fetches this entry"
        case "file":
            what = f"fetches {event.path}"
        case "root":
            what = f"changes {event.path}"
        case _:
            assert_never(event.lock)
    return f"waiting for another process that {what}"


def _committed(event: Committed, seconds: float) -> list[str]:
    """Return the last lines of an entry: what was done, and what came."""
    done = {
        "claimed": ["whole already: claimed, nothing fetched"],
        "repaired": ["whole already: records put right, nothing fetched"],
    }
    rate = f", {in_bytes(event.fetched_size / seconds)}/s" if event.fetched_size else ""
    trust = f"{event.unverified} unverified: the store has no digest" if event.unverified else "all verified"
    came = f"{in_files(event.fetched_files)}, {in_bytes(event.fetched_size)} in {seconds:.1f} s{rate}"
    return [*done.get(event.how, []), f"{in_files(event.files)}, {in_bytes(event.size)} ({trust}); fetched {came}"]
