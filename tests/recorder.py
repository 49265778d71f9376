"""A Reporter for tests: keeps what it is told, and waits until something was told.

recorder = Recorder()
fetch(target, RunContext(id="run", reporter=recorder))
recorder.of(Committed)                  # -> the events of that class, in order
recorder.wait_for(Waiting)              # -> the first one, once it came
"""

from __future__ import annotations

import threading
from typing import TypeVar

from truss_cache_tasks.events import Event

_Event = TypeVar("_Event", bound=Event)


class Recorder:
    """Keeps every event in the order in which it was told, from any thread."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._told = threading.Condition()

    def __call__(self, event: Event, /) -> None:
        with self._told:
            self.events.append(event)
            self._told.notify_all()

    def of(self, kind: type[_Event]) -> list[_Event]:
        with self._told:
            return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[_Event], timeout_s: float = 60.0) -> _Event:
        with self._told:
            assert self._told.wait_for(lambda: any(isinstance(event, kind) for event in self.events), timeout_s), (
                f"no {kind.__name__} came"
            )
        return self.of(kind)[0]
