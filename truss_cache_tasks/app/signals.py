"""SIGINT and SIGTERM: stop moving bytes, leave what was published, exit 130 or 143 without a traceback."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from truss_cache_tasks import transfer
from truss_cache_tasks.network.cancel import StopPoll

_state = {"stopped": False}
_HANDLED = (signal.SIGINT, signal.SIGTERM)
_MESSAGE = b"stopped: what is complete is kept, run the command again for the rest\n"

_GRACE_S = 0.5  # for children to let go of temporaries and locks; the whole end is to take less than a second
_REPEATS = 30


class Interrupted(SystemExit):
    """Ends the process with 128 + the signal's number. doit rebuilds a child's in the parent, from its text."""

    def __init__(self, code: int | str) -> None:
        super().__init__(int(code))
        if isinstance(code, str):  # a child got the signal, and this process did not
            atexit.register(_end_children)


def stopped() -> bool:
    """Return whether a signal told this process to stop."""
    return _state["stopped"]


CANCEL = StopPoll(stopped)  # a signal cancels it


def install() -> None:
    """Install our handlers, chained to those that are there; once, and only in the main thread.

    Called at the first look at an entry, not at import: a dodo.py that sets its own later would replace ours. A signal
    that is ignored (nohup, a shell's background job) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _HANDLED:
        before = signal.getsignal(number)
        if before is signal.SIG_IGN or before is None or isinstance(getattr(before, "__self__", None), _Handler):
            continue
        signal.signal(number, _Handler(before).handle)


class _Handler:
    def __init__(self, before: Any) -> None:
        self._before = before if callable(before) and before is not signal.default_int_handler else None

    def handle(self, number: int, frame: FrameType | None) -> None:
        first, _state["stopped"] = not _state["stopped"], True
        child = _is_child()
        if child and not first:
            # Ctrl-C reaches a child twice, from the terminal and as doit's SIGTERM. Raised again while multiprocessing
            # ends the child, it left a thread that waits for ever (seen in 2 of 100 runs).
            os._exit(128 + number)
        transfer.stop()
        try:
            if first and not child:
                _notify()
                atexit.register(_end_children)  # runs before multiprocessing's own, which waits without end
            if self._before is not None:
                self._before(number, frame)
        finally:
            raise Interrupted(128 + number)


def _notify() -> None:
    """Write past Python's buffers, as the signal may have come in a print. Without a stderr, 2 may be any file."""
    with contextlib.suppress(OSError, ValueError):
        if sys.__stderr__ is not None:
            os.write(sys.__stderr__.fileno(), _MESSAGE)


def _is_child() -> bool:
    """Return whether this is a child of `-P process`: the parent writes the message."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def _end_children() -> None:
    """End the children of `-P process`, whatever state they are in.

    doit sends each one SIGTERM, but not to those that it was just starting. One that was about to block in a read
    keeps waiting (Python's handlers run between two steps of the interpreter) until a further signal comes. So does one
    whose first signal came while multiprocessing was ending it (see `_Handler`).
    """
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return
    until = time.monotonic() + _GRACE_S
    for child in module.active_children():
        child.join(max(0.0, until - time.monotonic()))
    for _ in range(_REPEATS):
        for child in module.active_children():
            child.terminate()
            child.join(_GRACE_S / 10)
    for child in module.active_children():
        child.kill()
