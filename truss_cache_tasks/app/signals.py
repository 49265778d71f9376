"""Handle SIGINT and SIGTERM: stop all transfers, keep published files, exit with 130 or 143 without a traceback.

SIGTSTP (Ctrl-Z) stops the process as by default, after the terminal was given back as it was.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from truss_cache_tasks.app import output
from truss_cache_tasks.network.cancel import StopPoll

_state = {"stopped": False}
_HANDLED = (signal.SIGINT, signal.SIGTERM)
_MESSAGE = "stopped: what is complete is kept, run the command again for the rest\n"

_GRACE_S = 0.5  # for children to release temporaries and locks; the whole exit is to take less than a second
_MOST_TERMINATES = 30


class Interrupted(SystemExit):
    """Ends the process with 128 + the signal's number.

    If a child of `-P process` raises it, doit makes it again in the parent, from its text.
    """

    def __init__(self, code: int | str) -> None:
        super().__init__(int(code))
        if isinstance(code, str):  # a child got the signal, and this process did not
            atexit.register(_end_children)


CANCEL = StopPoll(lambda: _state["stopped"])  # cancelled by the first signal


def install() -> None:
    """Install our handlers, chained to those that are there; once, and only in the main thread.

    Called when the first status is read and not at import, because a dodo.py that sets handlers after its imports would
    replace ours. A signal that is ignored (nohup, a shell's background job) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _HANDLED:
        before = signal.getsignal(number)
        if before is signal.SIG_IGN or before is None or isinstance(getattr(before, "__self__", None), _Handler):
            continue
        signal.signal(number, _Handler(before).handle)
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, _suspend)


_before_suspend: list[Callable[[], object]] = []


def before_suspend(release: Callable[[], object]) -> None:
    """Have `release` called before Ctrl-Z stops the process. It takes no lock: any thread may hold it just then."""
    _before_suspend.append(release)


def _suspend(number: int, frame: FrameType | None) -> None:
    """Call what `before_suspend` was given, then stop; the call returns when the process is continued."""
    for release in _before_suspend:
        release()
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, _suspend)


class _Handler:
    """The handler of one signal, chained to the one that was there before."""

    def __init__(self, before: Any) -> None:
        self._before = before if callable(before) and before is not signal.default_int_handler else None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Cancel all work, write the message, call the previous handler, and raise Interrupted."""
        first, _state["stopped"] = not _state["stopped"], True
        child = _is_child()
        if child and not first:
            # Ctrl-C reaches a child twice, from the terminal and as doit's SIGTERM. A second exception, while
            # multiprocessing ended the child, left a thread that never ended (in 2 of 100 runs).
            os._exit(128 + number)
        _stop_transfers()
        try:
            if first and not child:
                output.emit_now(_MESSAGE)  # the signal may have interrupted a print
                atexit.register(_end_children)  # runs before multiprocessing's own, which waits for children forever
            if self._before is not None:
                self._before(number, frame)
        finally:
            raise Interrupted(128 + number)


def _stop_transfers() -> None:
    """Stop all transfers, if there can be any: a signal handler must not import a module.

    While another thread imports it, there is none yet, and CANCEL keeps it from beginning one.
    """
    stop = getattr(sys.modules.get("truss_cache_tasks.transfer"), "stop", None)
    if stop is not None:
        stop()


def _is_child() -> bool:
    """Return whether this is a child of `-P process`: the parent writes the message."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def _end_children() -> None:
    """End the children of `-P process`: wait for them, then send SIGTERM several times, then SIGKILL.

    One SIGTERM, as doit sends it, is not enough. A child that doit was just starting does not get it. One that was
    about to block in a read waits until the next signal, because Python runs handlers between two steps of the
    interpreter. So does one whose first signal came while multiprocessing was ending it (see `_Handler`).
    """
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return
    until = time.monotonic() + _GRACE_S
    for child in module.active_children():
        child.join(max(0.0, until - time.monotonic()))
    for _ in range(_MOST_TERMINATES):
        for child in module.active_children():
            child.terminate()
            child.join(_GRACE_S / 10)
    for child in module.active_children():
        child.kill()
