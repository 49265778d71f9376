"""The display of the process: it folds the events of all entries, and shows on stderr how far they are.

Three ways to show it, which only read `Progress`: a live block on a terminal, lines in a log, and nothing but failures.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.display.ci import Level, Service, service_of
from truss_cache_tasks.app.display.lines import line_of_progress, line_of_total, lines_of_event
from truss_cache_tasks.app.display.progress import Progress, fold, total_of
from truss_cache_tasks.errors import Stopped
from truss_cache_tasks.events import (
    Committed,
    Event,
    Failed,
    Published,
    Received,
    Refetching,
    Retrying,
    Verified,
    Waiting,
    Warned,
)

if TYPE_CHECKING:
    from truss_cache_tasks.app.display.live import LiveBlock

Mode = Literal["block", "lines", "failures"]

_REDRAW_S = 0.15
_TICK_S = 0.5  # of lines: the rate needs to look as often
_BLOCK_AFTER_S = 0.4  # what is shorter needs no block, and does not wait for the import of rich
_FIRST_LINE_S, _LARGEST_STEP_S = 10.0, 60.0  # lines about progress: at 10, 20, 40, 80 s, then every 60 s
_LEAST_ROWS, _LEAST_COLUMNS = 6, 24  # of a terminal that shows a block
_REPEATED_S = 10.0  # at least between two lines of an entry about retries, or about waits


class EntryDisplay:
    """A Reporter that shows one entry. It raises nothing: a fault of the display ends the display alone."""

    def __init__(self, display: Display, label: str, where: str, now: float) -> None:
        self.label = label
        self.where = where
        self.progress = Progress(began=now, since=now)
        self.pending = 0  # bytes received since the progress was last brought up to date
        self.next_line = now + _FIRST_LINE_S
        self.quiet_until: dict[type[Event], float] = {}  # for events that may come many times in a second
        self._display = display

    def __call__(self, event: Event, /) -> None:
        """Show `event`, from any thread."""
        try:
            self._display.handle(self, event)
        except Exception as exc:
            self._display.give_up(exc)

    def close(self) -> None:
        """End it; the last one that ends removes the block."""
        try:
            self._display.close(self)
        except Exception as exc:
            self._display.give_up(exc)


class Display:
    """Shows all entries of one process."""

    def __init__(
        self,
        mode: Mode,
        *,
        write: Callable[[str], object] = output.emit,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        service: Service | None = None,
        make_block: Callable[[], LiveBlock],
    ) -> None:
        """Show nothing yet.

        Args:
            mode: how.
            write: takes text with its line ends, from any thread.
            clock: in seconds.
            epoch: seconds since 1970, for the service.
            service: gets groups and annotations; None for none.
            make_block: called when the block is first needed.
        """
        self.mode = mode
        self.verbose = False
        self._write = write
        self._clock = clock
        self._epoch = epoch
        self._service = service
        self._make_block = make_block
        self._block: LiveBlock | None = None
        self._entries: list[EntryDisplay] = []  # of the process, in the order in which they began
        self._open: list[EntryDisplay] = []
        self._run: list[EntryDisplay] = []  # since the last time when none was open
        self._results: list[str] = []  # written when the group of the service has ended
        self._began = 0.0
        self._grouped = False  # the group of the service is open
        self._broken = False
        self._idle = threading.Event()  # ends the thread that ticks
        self._lock = threading.RLock()  # of all the above
        self._drawing = threading.Lock()  # of the block, and the order of what is written; never taken under `_lock`

    # -- for the front ends

    def open(self, label: str, where: str = "", group: str = "") -> EntryDisplay:
        """Return the Reporter of one entry; call its `close` at the end.

        Args:
            label: the name at the start of each line.
            where: ``config.yaml:14: ...``, the entry's place, for annotations.
            group: the title of the group of lines that the service begins, if no entry is open yet; "" for no group.
        """
        with self._lock:
            entry = EntryDisplay(self, label, where, self._clock())
            if not self._open:
                self._run, self._began, self._idle = [], self._clock(), threading.Event()
                self._grouped = bool(group) and self._service is not None and self.mode != "failures"
                if self._grouped and self._service is not None:
                    self._write(self._service.begin_group(group, int(self._epoch())))
            self._entries.append(entry)
            self._open.append(entry)
            self._run.append(entry)
        return entry

    @contextlib.contextmanager
    def showing(self, label: str, where: str = "", group: str = "") -> Iterator[EntryDisplay]:
        """Show one entry while the block runs; see `open`. Brings the display up to date regularly, in a thread."""
        entry = self.open(label, where, group)
        try:
            self.start_thread()
            yield entry
        finally:
            entry.close()

    def start_thread(self) -> None:
        """Bring the display up to date regularly, in a thread, until no entry is open. No effect if one runs."""
        with self._lock:
            idle = self._idle
            if self.mode == "failures" or len(self._open) != 1:  # the first one started it
                return
        threading.Thread(target=self._tick_until, args=(idle,), name="truss-cache-display", daemon=True).start()

    def suspend(self) -> None:
        """Remove the block before the process is stopped. Takes no lock, as it is called in a signal handler."""
        if self._block is not None:
            self._block.erase(output.emit_now)

    def remove_block(self) -> None:
        """Remove the block, for good, at the end of the process."""
        self._idle.set()
        with self._drawing:
            self._broken = True
            if self._block is not None:
                self._block.erase()

    # -- for EntryDisplay

    def handle(self, entry: EntryDisplay, event: Event) -> None:
        """Fold `event` into the progress of its entry, and write the lines about it."""
        if isinstance(event, Published):
            return
        if isinstance(event, Received) and not event.resumed:
            with self._lock:  # nothing more: there may be thousands of these in a second
                entry.pending += event.size
            return
        with self._lock:
            now = self._clock()
            if not isinstance(event, Verified):  # of which there are as many as files; bytes may be folded later
                self._catch_up(entry, now)
            entry.progress = fold(entry.progress, event, now)
            text = self._text_of(entry, event, now)
        if text:
            with self._drawing:
                if not self._broken:
                    self._write(text)

    def close(self, entry: EntryDisplay) -> None:
        """Take note that `entry` ended; after the last one remove the block and write the results."""
        with self._lock:
            now = self._clock()
            self._open.remove(entry)
            if self._service is not None and entry.progress.ended is not None:
                self._service.summarize(entry.label, entry.progress)
            if self._open:
                return
            self._idle.set()
            text = self._closing(now)
        with self._drawing:
            if self._block is not None:
                self._block.erase()
            if text and not self._broken:
                self._write(text)

    def give_up(self, exc: Exception) -> None:
        """Show nothing any more, after an internal error, and say so once."""
        with self._lock:
            if self._broken:
                return
            self._broken = True
        self.remove_block()
        output.notify(f"the progress is not shown any more: {output.format_internal_error(exc)}")

    # -- regularly

    def tick(self) -> None:
        """Bring the display up to date."""
        with self._lock:
            now = self._clock()
            for entry in self._open:
                self._catch_up(entry, now)
            if self.mode == "block" and now - self._began >= _BLOCK_AFTER_S:
                shown = [(entry.label, entry.progress) for entry in self._entries]
            else:
                shown = []
            lines = self._due_lines(now) if self.mode == "lines" else []
        with self._drawing:
            if self._broken or self._idle.is_set():
                return
            if lines:
                self._write(output.escaped(*lines) + "\n")
            if shown:
                self._draw(shown, now)

    def _draw(self, shown: list[tuple[str, Progress]], now: float) -> None:
        if self._block is None:
            try:
                self._block = self._make_block()
            except (ImportError, OSError):  # rich is damaged, no descriptor is free
                self.mode = "lines"
                return
        self._block.draw(shown, now)

    def _tick_until(self, idle: threading.Event) -> None:
        try:
            while not idle.wait(_REDRAW_S if self.mode == "block" else _TICK_S):
                self.tick()
        except Exception as exc:
            self.give_up(exc)

    def _due_lines(self, now: float) -> list[str]:
        lines = []
        for entry in self._open:
            if now >= entry.next_line and entry.progress.ended is None:
                entry.next_line += min(entry.next_line - entry.progress.began, _LARGEST_STEP_S)
                lines.append(f"{entry.label}: {line_of_progress(entry.progress, now)}")
        return lines

    def _catch_up(self, entry: EntryDisplay, now: float) -> None:
        """Fold the bytes that came since the last time. With the lock held."""
        size, entry.pending = entry.pending, 0
        if size:
            entry.progress = fold(entry.progress, Received(path="", size=size), now)

    # -- text, with the lock held

    def _text_of(self, entry: EntryDisplay, event: Event, now: float) -> str:
        if isinstance(event, Failed):  # the command, or doit, writes the lines about it
            return "" if isinstance(event.error, Stopped) else self._annotation("error", entry, str(event.error))
        if self.mode == "failures" or self._is_repeated(entry, event, now):
            return ""
        lines = lines_of_event(entry.progress, event, block=self.mode == "block", verbose=self.verbose)
        lines = [f"{entry.label}: {line}" for line in lines]
        if isinstance(event, Committed) and self._grouped:
            self._results += lines  # below the group, which is folded
            return ""
        text = output.escaped(*lines) + "\n" if lines else ""
        if isinstance(event, Warned):
            text += self._annotation("warning", entry, event.message)
        return text

    def _is_repeated(self, entry: EntryDisplay, event: Event, now: float) -> bool:
        """Whether a line like that of `event` was written a moment ago: one failing server causes many retries."""
        if self.verbose or not isinstance(event, Retrying | Refetching | Waiting):
            return False
        if now < entry.quiet_until.get(type(event), now):
            return True
        entry.quiet_until[type(event)] = now + _REPEATED_S
        return False

    def _annotation(self, level: Level, entry: EntryDisplay, message: str) -> str:
        return "" if self._service is None else self._service.annotate(level, entry.label, message, entry.where)

    def _closing(self, now: float) -> str:
        """Return what is written when no entry is open any more."""
        if self.mode == "failures":
            return ""
        lines, self._results = self._results, []
        run = [entry.progress for entry in self._run]
        if len(run) > 1 and any(progress.committed or progress.failed for progress in run):
            lines.append(line_of_total(run, total_of(run, now), now - self._began))
        group = self._service.end_group(int(self._epoch())) if self._service is not None and self._grouped else ""
        return group + (output.escaped(*lines) + "\n" if lines else "")


# -- the one of this process

_shared: Display | None = None
_shared_lock = threading.Lock()


def shared_display(*, quiet: bool = False, verbose: bool = False) -> Display:
    """Return the display of this process; with `quiet` one that shows nothing, as the callers show failures.

    Args:
        verbose: from now on show each file that is verified, and each retry.
    """
    global _shared
    if quiet:
        return Display("failures", service=service_of(os.environ), make_block=_make_block)
    with _shared_lock:
        if _shared is None:
            _shared = Display(mode_of(os.environ), service=service_of(os.environ), make_block=_make_block)
        _shared.verbose = _shared.verbose or verbose
        return _shared


def mode_of(env: Mapping[str, str]) -> Mode:
    """Return how to show progress on this stderr: a block on a terminal that one process draws on, else lines."""
    is_simple = env.get("TERM", "") in ("", "dumb", "unknown")
    is_ci = env.get("CI", "").lower() not in ("", "0", "false") or service_of(env) is not None  # some have terminals
    return "block" if _has_rows() and not (is_simple or is_ci or is_child()) else "lines"


def _has_rows() -> bool:
    """Whether stderr is a terminal that is large enough for a block; some that programs make have no size."""
    try:
        stream = sys.__stderr__
        if stream is None or not stream.isatty():
            return False
        size = os.get_terminal_size(stream.fileno())
        return size.lines >= _LEAST_ROWS and size.columns >= _LEAST_COLUMNS
    except (OSError, ValueError):  # closed
        return False


def is_child() -> bool:
    """Whether this is a child of `-P process`: it shares the terminal with others of its kind."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def _make_block() -> LiveBlock:
    """Return the block on stderr, and see that it is removed at the end of the process, whatever ends it."""
    import atexit

    from truss_cache_tasks.app.display.live import LiveBlock  # imported here: rich takes longer than most runs

    stream = sys.__stderr__
    assert stream is not None, "else the mode is another"
    if _shared is not None:
        atexit.register(_shared.remove_block)
        signals.before_suspend(_shared.suspend)

    def size() -> tuple[int, int] | None:
        try:
            if os.tcgetpgrp(stream.fileno()) != os.getpgrp():
                return None  # in the background, the terminal is another process's
            size = os.get_terminal_size(stream.fileno())
            return size.columns, size.lines
        except (OSError, ValueError):
            return None

    encoding = (stream.encoding or "").lower()
    return LiveBlock(output.emit, size, colors=not os.environ.get("NO_COLOR"), unicode=encoding.startswith("utf"))


def _forget() -> None:
    """Forget the display of the parent, in a child that was forked: its thread and its locks are not here."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
