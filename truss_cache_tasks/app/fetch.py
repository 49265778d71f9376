"""Fetch entries: one with its display, and several side by side."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from truss_cache_tasks.app import signals
from truss_cache_tasks.app.display import EntryDisplay
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.fetch import Outcome, fetch
from truss_cache_tasks.operations.run import RunContext

_SIDE_BY_SIDE = 4  # entries at once; they share the engine's connections
_GRACE_S = 1.0  # for the threads to release their partials and locks after an interrupt


def fetch_with_display(context: EntryContext, run_id: str, label: str, *, force: bool) -> Outcome:
    """Make one entry fresh, showing on stderr what happens, until it is done or a signal comes.

    Args:
        label: the name that is shown.

    Raises:
        CacheTaskError: see `operations.fetch.fetch`.
    """
    signals.install()
    display = EntryDisplay(label)
    try:
        return fetch(context, RunContext(id=run_id, reporter=display, cancel=signals.CANCEL), force=force)
    finally:
        display.close()


def fetch_side_by_side(
    contexts: Iterable[EntryContext],
    fetch_one: Callable[[EntryContext], Outcome],
    cancel: Callable[[], object] = lambda: None,
) -> dict[str, Outcome | BaseException]:
    """Call `fetch_one` for each entry, some at a time, each in a thread of its own.

    Args:
        cancel: called when the wait for the threads is interrupted (Ctrl-C); is to make `fetch_one` end soon.

    Returns:
        What `fetch_one` returned or raised, by the entry's name.
    """
    work = deque(contexts)
    ended: dict[str, Outcome | BaseException] = {}
    idle: SimpleQueue[threading.Thread] = SimpleQueue()  # of threads that have nothing left to do

    def fetch_all() -> None:
        while True:
            try:
                context = work.popleft()
            except IndexError:
                return idle.put(threading.current_thread())
            try:
                ended[context.name] = fetch_one(context)
            except BaseException as exc:  # for the caller to raise or to name, whatever it is
                ended[context.name] = exc

    threads = [threading.Thread(target=fetch_all, daemon=True) for _ in range(min(_SIDE_BY_SIDE, len(work)))]
    running = 0
    try:
        for thread in threads:
            thread.start()
            running += 1
        while running:  # not `join`: Python 3.11 takes a thread for ended whose `join` was interrupted
            idle.get().join()
            running -= 1
    except BaseException:
        work.clear()
        cancel()
        until = time.monotonic() + _GRACE_S
        with contextlib.suppress(Empty):
            for _ in range(running):
                idle.get(timeout=max(0.0, until - time.monotonic())).join()
        raise
    return ended
