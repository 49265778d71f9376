"""What one pull may use, and how long it may wait: all numbers that a test may want to set."""

from __future__ import annotations

from dataclasses import dataclass

from truss_cache_tasks.network.retry import RetryLimits


@dataclass(frozen=True)
class Limits(RetryLimits):
    """How much is done at once, and for how long; RetryLimits says how often. Times in seconds, sizes in bytes.

    Args:
        files: jobs of one pull that are taken and not yet yielded.
        connections: requests at once, over all pulls of the process.
        window_s: after how long the number of a host's connections is decided again.
        part_min, part_max: the shortest and the longest part; a file of up to `part_min` is not cut into parts.
        ahead: how far a part may begin beyond the bytes that are hashed in order, so that its bytes are still in the
            page cache when their turn comes.
        max_rate: bytes a second of the whole process, or None for no limit.
        buffer: memory that a worker reads into.
        connect_s: to connect, TLS and a proxy's CONNECT included.
        answer_s: from the request to the end of the answer's headers.
        overhead: that an answer's headers may have; also what each read of a body may bring beside the body itself:
            chunk sizes, trailers.
        stall_s: for which no byte of the body may come; for an error response, from the first byte of its body to the
            last.
        refusal: that are read of the body of an error response.
        skip_s: to read the body of a redirect; after that, a new connection takes less time than the rest of the body.
        floor, floor_s: a connection that brings less than `floor` bytes a second for `floor_s` is replaced.
        redirects: followed for one request.
        stop_s: how long the end of a pull waits for its threads.
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
