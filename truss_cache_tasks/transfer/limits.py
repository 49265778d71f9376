"""What one pull may use, and how long it may wait: every number of the engine, so that tests set their own."""

from __future__ import annotations

from dataclasses import dataclass

from truss_cache_tasks.network.retry import RetryLimits


@dataclass(frozen=True)
class Limits(RetryLimits):
    """How much at once, and for how long; how often it is tried again is of RetryLimits. Seconds, bytes.

    Args:
        files: jobs of one pull that are taken and not yet yielded.
        connections: requests at once, over all pulls of the process.
        part_min, part_max: how long a part of a file is that is cut into parts; one of up to `part_min` is not cut.
        ahead: how far a part may lie beyond the bytes that are hashed, so that these are still in the page cache.
        window_s: how often the number of a host's connections is thought over.
        max_rate: bytes a second of the whole process, or None.
        buffer: bytes that a worker holds in memory.
        connect_s: to connect, TLS included.
        answer_s: from the request to the end of the answer's headers.
        overhead: of an answer's headers, and of what comes beside each piece of its body: chunk sizes, trailers.
        stall_s: without one byte of the body; of a refusal's body, from its first byte to its last.
        refusal: of a refusal's body that are read.
        skip_s: for the body of a redirect; a new connection takes less.
        floor, floor_s: a connection that brings less than `floor` bytes a second for `floor_s` is replaced.
        redirects: followed for one request.
        stop_s: that the end of a pull waits for a thread that does not end.
    """

    files: int = 16
    connections: int = 32
    window_s: float = 0.5
    part_min: int = 8 << 20
    part_max: int = 64 << 20
    ahead: int = 2 << 30
    max_rate: int | None = None
    buffer: int = 1 << 20
    connect_s: float = 10.0
    answer_s: float = 30.0
    overhead: int = 256 << 10
    stall_s: float = 10.0
    refusal: int = 64 << 10
    skip_s: float = 1.0
    floor: float = 1024.0
    floor_s: float = 30.0
    redirects: int = 5
    stop_s: float = 0.5
