"""What one job works with."""

from __future__ import annotations

from dataclasses import dataclass

from truss_cache_tasks.transfer.lifeline import Lifeline
from truss_cache_tasks.transfer.limits import Limits, Network
from truss_cache_tasks.transfer.process import Process


@dataclass(frozen=True, repr=False)
class Means:
    """The caller's limits and network, what the process shares, and the lifeline of this one job."""

    limits: Limits
    network: Network
    process: Process
    lifeline: Lifeline
