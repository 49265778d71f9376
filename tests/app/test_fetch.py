"""Entries side by side: what comes out when the wait for them is interrupted."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from entries import entry

from truss_cache_tasks.app.fetch import fetch_side_by_side


def test_an_interrupt_while_a_thread_is_being_started_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has its ident a moment before it counts as started, and can be joined only from then on."""
    start = threading.Thread.start

    def start_or_be_interrupted(thread: threading.Thread) -> None:
        if started:
            thread._set_ident()  # type: ignore[attr-defined]  # the first thing that the new thread does
            raise KeyboardInterrupt
        started.append(thread)
        start(thread)

    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", start_or_be_interrupted)
    cancelled = threading.Event()

    def fetch_one(label: str, context: object) -> Any:
        cancelled.wait(60)
        raise NotImplementedError

    entries: Any = [(name, entry(name)) for name in ("org/one", "org/two")]  # any value is an entry here
    with pytest.raises(KeyboardInterrupt):
        fetch_side_by_side(entries, fetch_one, cancelled.set)
