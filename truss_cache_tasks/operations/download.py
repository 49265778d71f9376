"""Fetch what is missing: locks and partials in, published blobs out; `transfer` carries the bytes between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from truss_cache_tasks import transfer
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import CacheTaskError, IntegrityError, SourceChanged
from truss_cache_tasks.events import Published, Received, Verified
from truss_cache_tasks.model.listing import RemoteFile
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources import Source
from truss_cache_tasks.store import partials
from truss_cache_tasks.store.blob import LocalBlob
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.locks import try_lock
from truss_cache_tasks.store.partials import Partial


class Pull:
    """One call of `transfer`: takes locks and opens partials as it asks for jobs, publishes what is done.

    Attributes:
        fetched: what came, by identity.
        busy: what others hold the lock of.
        lost: what came, and another process took: where locks do not work.
    """

    def __init__(
        self, source: Source, settings: Settings, root: CacheRoot, run: RunContext, came: Callable[[PlannedFile], bool]
    ):
        """Begin.

        Args:
            root: whose blobs the files become.
            came: whether another process brought a file meanwhile; asked when its lock is held.
        """
        self.source = source
        self.settings = settings
        self.root = root
        self.run = run
        self.came = came
        self.fetched: dict[str, LocalBlob] = {}
        self.busy: list[PlannedFile] = []
        self.lost: list[PlannedFile] = []
        self.error: CacheTaskError | None = None
        self._open: dict[str, tuple[PlannedFile, Partial, Callable[[], None]]] = {}

    def fetch(self, missing: Sequence[PlannedFile]) -> None:
        """Fetch `missing` into `fetched`, save what is `busy` or `lost`.

        Raises:
            CacheTaskError: the first failure, after all ended; `fetched` has what came all the same.
        """
        limits = transfer.Limits(connections=self.settings.connections or 32, max_rate=self.settings.max_rate)
        network = transfer.Network.from_env(self.settings.env)
        pulled = transfer.pull(self._jobs(missing), self._received, limits=limits, network=network)
        try:
            for outcome in pulled:
                self._land(outcome)
        finally:
            with contextlib.suppress(AttributeError):
                pulled.close()  # type: ignore[attr-defined]  # a generator: cancels what still runs
            for _, temporary, release in self._open.values():
                temporary.leave()
                release()
            self._open.clear()
        partials.sync_names(self.root, self.fetched.values())
        if self.error is not None:
            raise self.error

    def _jobs(self, missing: Sequence[PlannedFile]) -> Iterator[transfer.Job]:
        layout = self.root.layout
        for planned in sorted(missing, key=lambda planned: -planned.file.size):  # a large one last would run alone
            if self.error is not None:
                return
            release = try_lock(layout.blob_lock(layout.blob_id(planned.identity)))
            if release is None:
                self.busy.append(planned)
                continue
            try:
                if self.came(planned):
                    release()
                    continue
                temporary = partials.open_partial(self.root, planned)
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
                lambda line: self.run.warn(line.removeprefix("warning: ")),
                self.settings.accept_unverified,
                planned.identity,
            )

    def _received(self, file: RemoteFile, size: int) -> None:
        self.run.report(Received(path=file.path, size=size))

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
            blob = partials.publish(
                self.root, planned, temporary, outcome.digest, xxh3=outcome.xxh3, stopped=self.run.stopped
            )
            if blob is None:
                self.lost.append(planned)
            else:
                self.fetched[planned.identity] = blob
                self.run.report(Verified(path=planned.file.path, size=planned.file.size, digest=blob.digest))
                self.run.report(Published(path=planned.file.path, size=blob.size))
        finally:
            temporary.close()
            release()


@dataclass(frozen=True)
class _Job(transfer.Job):
    identity: str = ""
