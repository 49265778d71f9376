"""Fetches the bytes of files into descriptors. It opens no path but that of a `file://` source, and renames nothing.

`pull` fetches files, `probe` proves that one may be read, `stop` ends both. Importing this loads no library: the
scheduler is imported by the first pull, urllib3 by the first http(s) location.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from truss_cache_tasks.transfer.context import reset, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from truss_cache_tasks.events import Reporter
    from truss_cache_tasks.model.listing import Location, RemoteFile
    from truss_cache_tasks.network.cancel import CancelToken
    from truss_cache_tasks.network.settings import Network
    from truss_cache_tasks.transfer.job import Done, Explain, Failed, Job, Partial
    from truss_cache_tasks.transfer.limits import Limits

__all__ = [
    "Done",
    "Explain",
    "Failed",
    "Job",
    "Limits",
    "Network",
    "Partial",
    "probe",
    "pull",
    "reset",
    "stop",
]


def __getattr__(name: str) -> Any:
    """Import the classes of `__all__` on first use: a run without work uses none, and defining them takes 5 ms."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from truss_cache_tasks.network import settings
    from truss_cache_tasks.transfer import job, limits

    return getattr({"Limits": limits, "Network": settings}.get(name, job), name)


def pull(
    jobs: Iterable[Job],
    reporter: Reporter | None = None,
    *,
    cancel: CancelToken | None = None,
    limits: Limits | None = None,
    network: Network | None = None,
) -> Generator[Done | Failed]:
    """Fetch the bytes of `jobs` into their partials; yield each job's result, in the order in which they finish.

    Args:
        jobs: taken one by one, in the caller's thread, inside `next()` of the result, and only while fewer than
            `limits.files` jobs are taken and not yet yielded. Taking one may open a partial or wait for a lock.
        reporter: told, from worker threads, of Received, Retrying, Verified and Warned.
        cancel: checked several times a second in the caller's thread; what `check` raises ends this pull only.
        limits: how much is done at once, and for how long; None for the defaults.
        network: proxies and certificates; None for no proxy and the system's certificates.

    Yields:
        One Done or Failed for each job that was taken. After Done the partial is exactly `file.size` bytes long and has
        the store's digest, and is synced. A partial is never written to after its job was yielded, nor after the
        iterator ended or was closed; then no thread is left, except one that hangs in `Job.locate`.

    Raises:
        Stopped: `cancel` was cancelled, or `stop()` was called before all of `jobs` was taken. After `stop()`, the jobs
            that ran are yielded first, as Failed(Stopped).
        Exception: what `jobs`, `reporter` or a callable of a job raises, if that is no CacheTaskError.

    May be called from many threads at once; closing the iterator cancels its jobs.
    """
    from truss_cache_tasks.events import ignore_events
    from truss_cache_tasks.network.cancel import NEVER
    from truss_cache_tasks.network.settings import Network
    from truss_cache_tasks.transfer.limits import Limits
    from truss_cache_tasks.transfer.scheduler import run

    return run(jobs, reporter or ignore_events, cancel or NEVER, limits or Limits(), network or Network())


def probe(
    file: RemoteFile,
    locate: Callable[[], Location],
    explain: Explain | None = None,
    *,
    reporter: Reporter | None = None,
    limits: Limits | None = None,
    network: Network | None = None,
) -> None:
    """Prove that `file` can be read now, by asking for its first byte and reading none.

    Raises:
        CacheTaskError: as the file's job would fail, retried as often.
    """
    from truss_cache_tasks.events import ignore_events
    from truss_cache_tasks.network.settings import Network
    from truss_cache_tasks.transfer.attempts import prove_access
    from truss_cache_tasks.transfer.limits import Limits

    limits, network = limits or Limits(), network or Network()
    prove_access(file, locate, explain, reporter=reporter or ignore_events, limits=limits, network=network)
