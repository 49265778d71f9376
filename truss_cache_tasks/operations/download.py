"""Moving what is missing: locks and partials in, published blobs out; `transfer` carries the bytes between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from truss_cache_tasks import transfer
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import CacheTaskError, IntegrityError, SourceChanged
from truss_cache_tasks.events import Published
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources import Source
from truss_cache_tasks.store import blobs, partials
from truss_cache_tasks.store.held import LocalBlob
from truss_cache_tasks.store.layout import CacheRoot, blob_id
from truss_cache_tasks.store.locks import try_lock
from truss_cache_tasks.store.partials import Partial


class Mover:
    """One pull: takes locks and opens partials as `transfer` asks for jobs, publishes what is done."""

    def __init__(
        self, source: Source, settings: Settings, place: CacheRoot, run: RunContext, came: Callable[[PlannedFile], bool]
    ):
        """Begin.

        Args:
            place: whose blobs the files become.
            came: whether somebody else brought a file meanwhile; asked when its lock is held.
        """
        self.source = source
        self.settings = settings
        self.place = place
        self.run = run
        self.came = came
        self.fetched: dict[str, LocalBlob] = {}
        self.busy: list[PlannedFile] = []
        self.lost: list[PlannedFile] = []  # came, and another process took them: where locks do not work
        self.error: CacheTaskError | None = None
        self._open: dict[str, tuple[PlannedFile, Partial, Callable[[], None]]] = {}

    def pull(self, missing: Sequence[PlannedFile]) -> None:
        """Bring `missing` into `fetched`, save what others hold the lock of (`busy`).

        Raises:
            CacheTaskError: the first failure, after all ended; `fetched` has what came all the same.
        """
        limits = transfer.Limits(connections=self.settings.connections or 32, max_rate=self.settings.max_rate)
        network = transfer.Network.from_env(self.settings.env)
        pulled = transfer.pull(self._jobs(missing), self.run.report, limits=limits, network=network)
        try:
            for outcome in pulled:
                self._land(outcome)
        finally:
            with contextlib.suppress(AttributeError):
                pulled.close()  # cancels what still runs
            for _, temporary, release in self._open.values():
                temporary.leave()
                release()
            self._open.clear()
        blobs.sync_names(self.place, self.fetched.values())
        if self.error is not None:
            raise self.error

    def _jobs(self, missing: Sequence[PlannedFile]) -> Iterator[transfer.Job]:
        for planned in sorted(missing, key=lambda planned: -planned.file.size):  # a large one last would run alone
            if self.error is not None:
                return
            release = try_lock(self.place.blob_lock(blob_id(planned.identity, self.place.layout)))
            if release is None:
                self.busy.append(planned)
                continue
            try:
                if self.came(planned):
                    release()
                    continue
                temporary = partials.open_partial(self.place, planned)
            except BaseException:
                release()
                raise
            self._open[planned.identity] = (planned, temporary, release)
            locate = partial(self.source.locate, planned.file)
            yield _Job(
                planned.file,
                locate,
                temporary,
                self.source.explain,
                self.settings.accept_unverified,
                planned.identity,
            )

    def _land(self, outcome: transfer.Done | transfer.Failed) -> None:
        assert isinstance(outcome.job, _Job)
        planned, temporary, release = self._open.pop(outcome.job.identity)
        try:
            if isinstance(outcome, transfer.Failed):
                if isinstance(outcome.error, IntegrityError | SourceChanged):
                    temporary.discard()
                else:
                    temporary.leave()
                self.error = self.error or outcome.error
                return
            held = blobs.publish(
                self.place, planned, temporary, outcome.digest, xxh3=outcome.xxh3, stopped=self.run.stopped
            )
            if held is None:
                self.lost.append(planned)
            else:
                self.fetched[planned.identity] = held
                self.run.report(Published(path=planned.file.path, size=held.size))
        finally:
            temporary.close()
            release()


@dataclass(frozen=True)
class _Job(transfer.Job):
    identity: str = ""
