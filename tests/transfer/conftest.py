"""A fault server, a scratch partial, and limits that do not make a test wait."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from truss_cache_tasks import transfer
from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.events import Event, Received, Reporter, Warned
from truss_cache_tasks.model.listing import Digest, Location, RemoteFile

# Waits of no length to speak of; timeouts long enough that a slow machine does not meet one by chance.
FAST = transfer.Limits(backoff_s=0.001, backoff_cap_s=0.002, connect_s=10, answer_s=10, stall_s=10)


class Scratch:
    """A partial: a descriptor over a temporary that has no name."""

    journal: int | None = None

    def __init__(self, content: bytes = b"") -> None:
        self.descriptor, name = tempfile.mkstemp()
        os.unlink(name)
        os.write(self.descriptor, content)

    def __del__(self) -> None:
        os.close(self.descriptor)

    @property
    def content(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)


def content_of(job: transfer.Job) -> bytes:
    """The bytes of the job's Scratch."""
    assert isinstance(job.partial, Scratch)
    return job.partial.content


def error_of(end: transfer.Done | transfer.Failed) -> CacheTaskError:
    """Why the job failed."""
    assert isinstance(end, transfer.Failed), end
    return end.error


def sha256(body: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(body).hexdigest())


def job_for(
    url: str,
    body: bytes,
    *,
    path: str = "w.bin",
    digest: Digest | str | None = "sha256",
    validator: str | None = None,
    headers: Mapping[str, str] | None = None,
    partial: transfer.Partial | None = None,
    **named: Any,
) -> transfer.Job:
    """A Job for `body` at `url`; `digest` None wants none."""
    want = sha256(body) if isinstance(digest, str) else digest
    file = RemoteFile(path, len(body), "v1", path, want)
    location = Location(url, dict(headers or {}), validator)
    return transfer.Job(file, named.pop("locate", lambda: location), partial or Scratch(), **named)


def pull_one(
    job: transfer.Job,
    limits: transfer.Limits = FAST,
    reporter: Reporter | None = None,
    network: transfer.Network | None = None,
) -> Any:  # Done | Failed: a test knows which it is
    """The only result of one job."""
    (result,) = transfer.pull([job], reporter, limits=limits, network=network)
    return result


def on_received(take: Callable[[str, int], object]) -> Reporter:
    """A Reporter that passes on (path, size) of bytes that arrive, and of those that must come again."""

    def report(event: Event) -> None:
        if isinstance(event, Received):
            take(event.path, event.size)

    return report


def on_warned(take: Callable[[str], object]) -> Reporter:
    """A Reporter that passes on the message of each warning."""

    def report(event: Event) -> None:
        if isinstance(event, Warned):
            take(event.message)

    return report


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    transfer.reset()
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("transfer-")] == []
    transfer.reset()
