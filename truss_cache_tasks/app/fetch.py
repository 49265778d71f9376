"""Fetch one entry with its display, or several side by side."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.display.display import is_child, shared_display
from truss_cache_tasks.events import Event, Reporter
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.fetch.fetch import fetch
from truss_cache_tasks.operations.fetch.online_fetch import Outcome
from truss_cache_tasks.operations.run import RunContext

_SIDE_BY_SIDE = 4  # entries at once; they share the connections of the process
_GRACE_S = 1.0  # for the threads to release their partials and locks after an interrupt


def fetch_with_display(
    context: EntryContext,
    run_id: str,
    label: str,
    *,
    force: bool,
    quiet: bool = False,
    verbose: bool = False,
    group: str = "",
) -> Outcome:
    """Make one entry fresh, and show its progress on stderr. SIGINT and SIGTERM end it.

    Args:
        run_id: `RunContext.id`.
        label: the entry's name in the lines.
        force: re-hash and resolve everything.
        quiet: show nothing; the caller shows a failure.
        verbose: show a line for each file.
        group: the title of this run in the log of a CI service; "" for the entry's name.

    Raises:
        CacheTaskError: see `operations.fetch.fetch.fetch`.
    """
    signals.install()
    group = "" if is_child() else group or f"weights {label}"
    with shared_display(quiet=quiet, verbose=verbose).showing(label, context.entry.where, group) as shown:
        reporter = with_event_log(shown, context, run_id, _event_log_ended)
        return fetch(context, RunContext(id=run_id, reporter=reporter, cancel=signals.CANCEL), force=force)


def with_event_log(
    reporter: Reporter, context: EntryContext, run_id: str, on_error: Callable[[OSError], object]
) -> Reporter:
    """Return a Reporter that appends the events of an entry to its log too, where the settings name one.

    Args:
        on_error: see `EventLog.reporter`.

    Raises:
        ConfigError: the log cannot be opened.
    """
    if context.settings.events is None:
        return reporter
    from truss_cache_tasks.app.event_log import open_event_log  # not needed without a log

    logged = open_event_log(context.settings.events).reporter(context, run_id, on_error)

    def report(event: Event, /) -> None:
        logged(event)
        reporter(event)

    return report


def _event_log_ended(error: OSError) -> None:
    output.notify(f"warning: the events are not logged any more: {error.strerror}")


def fetch_side_by_side(
    contexts: Iterable[tuple[str, EntryContext]],
    fetch_one: Callable[[str, EntryContext], Outcome],
    on_interrupt: Callable[[], object] = lambda: None,
) -> dict[str, Outcome | BaseException]:
    """Call `fetch_one` for each entry, some at a time, each in a thread of its own.

    Args:
        contexts: (label, entry); the labels differ.
        fetch_one: called with both of these.
        on_interrupt: called when the wait for the threads is interrupted (Ctrl-C); has to make `fetch_one` end soon.

    Returns:
        What `fetch_one` returned or raised, by the label.
    """
    work = deque(contexts)
    ended: dict[str, Outcome | BaseException] = {}
    idle: SimpleQueue[threading.Thread] = SimpleQueue()  # threads that have ended their work

    def fetch_all() -> None:
        while True:
            try:
                label, context = work.popleft()
            except IndexError:
                return idle.put(threading.current_thread())
            try:
                ended[label] = fetch_one(label, context)
            except BaseException as exc:  # the caller decides what to do with it
                ended[label] = exc

    threads = [threading.Thread(target=fetch_all, daemon=True) for _ in range(min(_SIDE_BY_SIDE, len(work)))]
    running = 0
    try:
        for thread in threads:
            thread.start()
            running += 1
        while running:  # `join` only these: in Python 3.11 an interrupted `join` marks a running thread as ended
            idle.get().join()
            running -= 1
    except BaseException:
        work.clear()
        on_interrupt()
        until = time.monotonic() + _GRACE_S
        with contextlib.suppress(Empty):
            for _ in range(running):
                idle.get(timeout=max(0.0, until - time.monotonic())).join()
        raise
    return ended
