"""The proof that one file can be read now, at the price of one answer's headers."""

from __future__ import annotations

from collections.abc import Callable

from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Location, RemoteFile
from truss_cache_tasks.transfer.answers import Wrong
from truss_cache_tasks.transfer.job import Explain
from truss_cache_tasks.transfer.limits import Limits, Network
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.persisting import persist
from truss_cache_tasks.transfer.process import this_process
from truss_cache_tasks.transfer.whereabouts import Whereabouts
from truss_cache_tasks.transfer.working import host_of, is_local


def prove_access(
    file: RemoteFile, locate: Callable[[], Location], explain: Explain | None, limits: Limits, network: Network
) -> None:
    """See `transfer.probe`."""
    process = this_process()
    lifeline = process.lifeline()
    try:
        means = Means(limits, network, process, lifeline)
        persist(_Probing(file, means), file, Whereabouts(locate), explain, means)
    finally:
        process.lifelines.discard(lifeline)


class _Probing:
    have = 0
    piece = Piece(0, 1)
    _was_wrong = False

    def __init__(self, file: RemoteFile, means: Means) -> None:
        self._file = file
        self._means = means

    def attempt(self, location: Location, /) -> None:
        if is_local(location):
            from truss_cache_tasks.transfer.local import LocalBody

            LocalBody(self._file, location).close()
            return
        from truss_cache_tasks.transfer.http import prove

        with self._means.process.slot(host_of(location), self._means.limits, self._means.lifeline):
            prove(self._file, location, self._means)

    def start_over(self, wrong: Wrong, /) -> None:
        if self._was_wrong:
            raise wrong.error from wrong
        self._was_wrong = True
