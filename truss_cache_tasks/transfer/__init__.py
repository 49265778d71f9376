"""Plan -> bytes: the only mover of bytes. It opens no path but a `file://` source and renames nothing.

`pull` moves files, `probe` proves that one may be read, `stop` ends all of it. Importing this loads no library: the
engine comes with the first pull, urllib3 with the first http(s) location.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from truss_cache_tasks.transfer.process import reset, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from truss_cache_tasks.model.listing import Location, RemoteFile
    from truss_cache_tasks.transfer.job import Done, Explain, Failed, Job, Partial, Report, silent
    from truss_cache_tasks.transfer.limits import Limits, Network

__all__ = [
    "Done",
    "Explain",
    "Failed",
    "Job",
    "Limits",
    "Network",
    "Partial",
    "Report",
    "probe",
    "pull",
    "reset",
    "silent",
    "stop",
]


def __getattr__(name: str) -> Any:
    """Import the words of a call when the first is used: a no-op uses none, and making the classes takes 5 ms."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from truss_cache_tasks.transfer import job, limits

    return getattr(limits if name in ("Limits", "Network") else job, name)


def pull(
    jobs: Iterable[Job],
    report: Report | None = None,
    *,
    limits: Limits | None = None,
    network: Network | None = None,
) -> Iterator[Done | Failed]:
    """Move the bytes of `jobs` into their partials; yield each job's end, in the order in which they finish.

    Args:
        jobs: taken one by one, in the caller's thread and inside `next()` of the result, and only when fewer than
            `limits.files` were taken and not yet yielded: taking one may open a temporary or wait for a lock.
        report: told of bytes as they come, from worker threads; with a negative size for what must come again.
        limits: how much at once, and for how long; None for the defaults.
        network: proxies and certificates; None for no proxy and the system's certificates.

    Yields:
        One Done or Failed for each job that was taken. After Done the partial is exactly `file.size` bytes long and has
        the store's digest, and is synced. A partial is never written to after its job was yielded, nor after the
        iterator ended or was closed; no thread is left then, save one that hangs inside `Job.locate`.

    Raises:
        Stopped: `stop()` was called and jobs may be left that were not taken; those that ran came as Failed(Stopped).
        Exception: whatever `jobs`, `report` or a callable of a job raises that is no CacheTaskError.

    May be called from many threads at once; closing the iterator cancels its jobs.
    """
    from truss_cache_tasks.transfer.engine import run
    from truss_cache_tasks.transfer.job import silent
    from truss_cache_tasks.transfer.limits import Limits, Network

    return run(jobs, report or silent, limits or Limits(), network or Network())


def probe(
    file: RemoteFile,
    locate: Callable[[], Location],
    explain: Explain | None = None,
    *,
    limits: Limits | None = None,
    network: Network | None = None,
) -> None:
    """Prove that `file` can be read now, by asking for its first byte and reading none.

    Raises:
        CacheTaskError: as the file's job would fail, retried as often.
    """
    from truss_cache_tasks.transfer.limits import Limits, Network
    from truss_cache_tasks.transfer.probing import prove_access

    prove_access(file, locate, explain, limits or Limits(), network or Network())
