"""The event log: the events of a run as JSON lines (`--events`, TRUSS_CACHE_EVENTS); docs/reference/json.md.

A line is one write to a descriptor in append mode, so that threads, the children of `doit -P process` and other
processes may share the file. No lock is held, and none is inherited by a fork.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from truss_cache_tasks.app.facts import facts_of_error, to_json
from truss_cache_tasks.errors import CacheTaskError, ConfigError
from truss_cache_tasks.events import Event, Received, Reporter
from truss_cache_tasks.operations.context import EntryContext

VERSION = 1  # of the lines

_RECEIVED_EVERY_S = 1.0  # bytes of a file are one line at most so often
_READER_S = 10.0  # to wait for the process that reads a FIFO
_OWN_DESCRIPTOR = re.compile(r"/dev/std(in|out|err)|(?:/dev|/proc/self)/fd/([0-9]{1,9})")
_NUMBERS = {"in": 0, "out": 1, "err": 2}


def record_of(event: Event) -> dict[str, Any]:
    """Return an event as the members of its line: `event` names its class, the others are its fields."""
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return {"event": type(event).__name__.lower(), **{name: _plain(value) for name, value in fields.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, CacheTaskError):
        return facts_of_error(value)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class EventLog:
    """A file that events are appended to. The first error of a write ends the log, not the run."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor, which stays open as long as the process."""
        self._descriptor = descriptor
        self._broken = False

    def reporter(self, context: EntryContext, run_id: str, on_error: Callable[[OSError], object]) -> Reporter:
        """Return a Reporter that appends a line for each event of one entry.

        Args:
            run_id: `RunContext.id`.
            on_error: called once, with the error that ended the log.
        """
        head = {"run": run_id, "pid": os.getpid(), "config": str(context.entry.config)}
        return _Lines(lambda event: self._append({"schema": VERSION, "time": _now(), **head, **event}, on_error))

    def _append(self, members: dict[str, Any], on_error: Callable[[OSError], object]) -> None:
        line = f"{to_json(members)}\n".encode("ascii")
        try:
            while line and not self._broken:
                try:
                    line = line[os.write(self._descriptor, line) :]  # all at once, but where a disk or a pipe is full
                except BlockingIOError:  # another process made the pipe of stderr so, and its reader is slow
                    time.sleep(0.01)
        except OSError as exc:
            if not self._broken:
                self._broken = True
                on_error(exc)


class _Lines:
    """A Reporter that makes one line of the many `Received` of a file."""

    def __init__(self, append: Callable[[dict[str, Any]], object]) -> None:
        self._append = append
        self._pending: dict[tuple[str, bool], Received] = {}
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, event: Event, /) -> None:
        """Append the line of the event, after those of the bytes that came before it."""
        with self._lock:
            if isinstance(event, Received):
                key = (event.path, event.resumed)
                before = self._pending.get(key)
                size = event.size + (before.size if before else 0)
                self._pending[key] = dataclasses.replace(event, size=size)
                if time.monotonic() - self._since < _RECEIVED_EVERY_S:
                    return
            for pending in self._pending.values():
                if pending.size:
                    self._append(record_of(pending))
            self._pending.clear()
            self._since = time.monotonic()
            if not isinstance(event, Received):
                self._append(record_of(event))


def _now() -> float:
    return round(time.time(), 3)


_logs: dict[Path, EventLog] = {}


def open_event_log(path: Path) -> EventLog:
    """Return the log of this process that appends to `path`; it is made where it does not exist.

    Raises:
        ConfigError: it cannot be opened for appending.
    """
    if path not in _logs:
        _logs[path] = EventLog(_opened(path))
    return _logs[path]


def check_event_log(path: Path) -> None:
    """Raise ConfigError if `path` cannot be appended to. A FIFO is not opened: its reader would see it close."""
    try:
        is_fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        is_fifo = False
    if not is_fifo or _own_descriptor(path) is not None:
        open_event_log(path)
    elif not os.access(path, os.W_OK):
        raise _cannot_append(path, os.strerror(errno.EACCES))


def names_stdout(path: Path) -> bool:
    """Return whether events would go to this process's stdout."""
    return _own_descriptor(path) == 1


def _own_descriptor(path: Path) -> int | None:
    """Return the number of the descriptor that a path such as /dev/stderr names."""
    found = _OWN_DESCRIPTOR.fullmatch(str(path))
    if found is None:
        return None
    return _NUMBERS[found[1]] if found[1] else int(found[2])


def _opened(path: Path) -> int:
    number = _own_descriptor(path)
    try:
        if number is not None:  # opened anew, a file would be written at two positions
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, "opened for reading alone")
            return os.dup(number)
        return _open_for_append(path)
    except OSError as exc:
        raise _cannot_append(path, exc.strerror or str(exc)) from None


def _open_for_append(path: Path) -> int:
    """Open a file; the reader of a FIFO may be about to open it too."""
    until = time.monotonic() + _READER_S
    while True:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o666)
        except OSError as exc:
            if exc.errno != errno.ENXIO or time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            os.set_blocking(descriptor, True)  # a slow reader slows the run; no line is lost
            return descriptor


def _cannot_append(path: Path, why: str) -> ConfigError:
    hint = "Name a file in a folder that exists, or a FIFO that a process reads, by --events or TRUSS_CACHE_EVENTS."
    return ConfigError(f"{path}: cannot append events: {why}, expected a writable file", hint=hint)
