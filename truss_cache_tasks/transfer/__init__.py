"""Plan -> bytes: the only mover of bytes. It opens no path but a `file://` source and renames nothing.

`pull` moves files, `probe` proves that one may be read, `stop` ends all of it. Importing this loads no library: the
engine comes with the first pull, urllib3 with the first http(s) location.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from truss_cache_tasks.planning.listing import Location, RemoteFile
from truss_cache_tasks.transfer.job import Done, Explain, Failed, Job, Partial, Report, silent
from truss_cache_tasks.transfer.limits import Limits, Network
from truss_cache_tasks.transfer.process import reset, stop

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


def pull(
    jobs: Iterable[Job],
    report: Report = silent,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen, so one instance serves every call
    network: Network = Network(),  # noqa: B008
) -> Iterator[Done | Failed]:
    """Move the bytes of `jobs` into their partials; yield each job's end, in the order in which they finish.

    Args:
        jobs: taken one by one, in the caller's thread and inside `next()` of the result, and only when fewer than
            `limits.files` were taken and not yet yielded: taking one may open a temporary or wait for a lock.
        report: told of bytes as they come, from worker threads; with a negative size when a file starts over.
        limits: how much at once, and for how long.
        network: proxies and certificates.

    Yields:
        One Done or Failed for each job that was taken. After Done the partial is exactly `file.size` bytes long and has
        the store's digest; it is not synced. A partial is never written to after its job was yielded, nor after the
        iterator ended or was closed; no thread is left then, save one that hangs inside `Job.locate`.

    Raises:
        Stopped: `stop()` was called and jobs may be left that were not taken; those that ran came as Failed(Stopped).
        Exception: whatever `jobs`, `report` or a callable of a job raises that is no CacheTaskError.

    May be called from many threads at once; closing the iterator cancels its jobs.
    """
    from truss_cache_tasks.transfer.engine import run

    return run(jobs, report, limits, network)


def probe(
    file: RemoteFile,
    locate: Callable[[], Location],
    explain: Explain | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008
    network: Network = Network(),  # noqa: B008
) -> None:
    """Prove that `file` can be read now, by asking for its first byte and reading none.

    Raises:
        CacheTaskError: as the file's job would fail, retried as often.
    """
    from truss_cache_tasks.transfer.probing import prove_access

    prove_access(file, locate, explain, limits, network)
