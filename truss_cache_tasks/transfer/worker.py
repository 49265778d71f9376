"""A thread's stay with one file: its part, its lifeline, and how it is sent away."""

from __future__ import annotations

from collections.abc import Sequence

from truss_cache_tasks.errors import Stopped
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.parts import Part


class Worker:
    """A thread's stay with one part of one file; `part` is None until it has one."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.part: Part | None = None
        self.superseded = False  # the file starts over without it

    def check(self) -> None:
        """Raise Stopped if it is to end. With the file's lock held: else it may be superseded right after."""
        if self.superseded:
            raise Stopped("the file starts over")
        self.means.lifeline.check()


def send_away(workers: Sequence[Worker]) -> None:
    """Cut the lifelines of `workers`, and see that none of them writes any more."""
    for worker in workers:
        worker.means.lifeline.cut()
    for worker in workers:
        worker.means.lifeline.settle()
