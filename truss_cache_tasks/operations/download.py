"""Fetch what is missing: `transfer` writes partials under the locks of their blobs, and each is published as a blob."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from truss_cache_tasks import transfer
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import RUN_AGAIN, CacheTaskError, DiskError, IntegrityError, SourceChanged
from truss_cache_tasks.events import Published
from truss_cache_tasks.model.keys import ContentId, request_key
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.store import disk, partials
from truss_cache_tasks.store.blob import LocalBlob
from truss_cache_tasks.store.fetch_notes import note_fetch
from truss_cache_tasks.store.known_roots import remember_roots
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.local_blobs import find_local_blobs
from truss_cache_tasks.store.locks import locked, try_lock
from truss_cache_tasks.store.manifest import last_commit
from truss_cache_tasks.store.partials import Partial

ATTEMPTS = 100  # to keep what was found or fetched, while other processes remove it; then it is an error


class BlobFetcher:
    """Fetches the missing files of one entry, into any of its roots.

    Attributes:
        files, size: how many files and bytes were fetched.
    """

    def __init__(self, context: EntryContext, source: Source, run: RunContext) -> None:
        self.context = context
        self.source = source
        self.run = run
        self.files = 0
        self.size = 0

    def fetch_missing(
        self, root: CacheRoot, files: Sequence[PlannedFile], blobs: dict[ContentId, LocalBlob], *, rehash: bool
    ) -> None:
        """Fetch those of `files` that are not in `blobs`, each under its blob's lock, and add them.

        Args:
            root: whose blobs the files become.
            rehash: hash what another process brought meanwhile, also where its stat is as recorded.
        """
        missing = list({file.content_id: file for file in files if file.content_id not in blobs}.values())
        check_space(root, missing, blobs.values())
        with self.room_for(root, files, blobs):
            if missing:
                self._note_fetch(root, missing, blobs)
        has_arrived = functools.partial(self._has_arrived, root, blobs, last_commit(root.tree), rehash)
        for _ in range(ATTEMPTS):
            if not missing:
                return
            pull = _Pull(self.source, self.context.settings, root, self.run, has_arrived)
            try:
                pull.fetch(missing)
            finally:
                blobs.update(pull.fetched)
                self.files += len(pull.fetched)
                self.size += sum(blob.size for blob in pull.fetched.values())
            if pull.busy:
                self._wait_for_other_process(root, pull.busy[0])
            missing = [planned for planned in pull.busy + pull.lost if not has_arrived(planned)]
        raise keeps_changing(root)

    def room_for(
        self, root: CacheRoot, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]
    ) -> contextlib.AbstractContextManager[None]:
        """Make room for `files` in the budget of `root`, where there is one; see `budget.room_for`."""
        limit = self.context.settings.max_bytes
        if limit is None:
            return contextlib.nullcontext()
        from truss_cache_tasks.operations.budget import room_for  # few machines have a budget

        return room_for(self.context, self.run, root, files, blobs, limit=limit)

    def _note_fetch(self, root: CacheRoot, missing: Sequence[PlannedFile], uses: Iterable[ContentId]) -> None:
        """Note that this entry owns the blobs and partials that are about to come, and which others it needs.

        See docs/adr/0016.
        """
        context = self.context
        remember_roots(context.settings, context.project, self.run.warn)
        ids = {root.layout.blob_id(planned.content_id) for planned in missing}
        size = sum(planned.file.size for planned in missing)
        with locked(root.lock("root"), self.run.cancel, self.run.waits_for_root):
            owner, maker = (context.project.id, context.claim_in(root)), context.project.maker(time.time())
            key, used = request_key(context.request_in(root)), set(map(root.layout.blob_id, uses))
            note_fetch(root, key, owner, maker, blobs=ids, uses=used, size=size)

    def _has_arrived(
        self, root: CacheRoot, blobs: dict[ContentId, LocalBlob], since_ns: int, rehash: bool, planned: PlannedFile
    ) -> bool:
        """Whether another process brought these bytes meanwhile; if so, add them to `blobs`."""
        if not root.layout.may_have_arrived(root.layout.blob_id(planned.content_id), since_ns):
            return False
        blobs.update(find_local_blobs([root], [planned], rehash=rehash, cancel=self.run.cancel))
        return planned.content_id in blobs

    def _wait_for_other_process(self, root: CacheRoot, planned: PlannedFile) -> None:
        """Wait, holding nothing, for another process that fetches these bytes."""
        lock = root.layout.blob_lock(root.layout.blob_id(planned.content_id))
        with locked(lock, self.run.cancel, self.run.waits_for("file", planned.file.path)):
            pass


class _Pull:
    """One call of `transfer.pull`: takes a lock and opens a partial for each job, publishes what is done.

    Attributes:
        fetched: the published blobs, by content id.
        busy: files whose lock another process holds.
        lost: files that were fetched, but whose partial another process took; only where locks do not work.
        error: the first failure; no further job is begun after it.
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        root: CacheRoot,
        run: RunContext,
        has_arrived: Callable[[PlannedFile], bool],
    ):
        """Make a pull that has fetched nothing yet.

        Args:
            root: whose blobs the files become.
            has_arrived: whether another process brought a file meanwhile; asked when its lock is held.
        """
        self.source = source
        self.settings = settings
        self.root = root
        self.run = run
        self.has_arrived = has_arrived
        self.fetched: dict[ContentId, LocalBlob] = {}
        self.busy: list[PlannedFile] = []
        self.lost: list[PlannedFile] = []
        self.error: CacheTaskError | None = None
        self._open: dict[ContentId, tuple[PlannedFile, Partial, Callable[[], None]]] = {}

    def fetch(self, missing: Sequence[PlannedFile]) -> None:
        """Fetch `missing` into `fetched`, save what is `busy` or `lost`.

        Raises:
            CacheTaskError: the first failure, after all jobs have ended; `fetched` has the files that were published.
        """
        limits = transfer.Limits(connections=self.settings.connections or 32, max_rate=self.settings.max_rate)
        network = self.settings.network
        pulled = transfer.pull(
            self._jobs(missing), self.run.reporter, cancel=self.run.cancel, limits=limits, network=network
        )
        try:
            with contextlib.closing(pulled):  # cancels what still runs
                for outcome in pulled:
                    self._finish(outcome)
        finally:
            with contextlib.ExitStack() as ends:  # each lock is released, also where a partial cannot be closed
                while self._open:
                    _, (_, partial, release) = self._open.popitem()
                    ends.callback(release)
                    ends.callback(partial.leave)
        partials.sync_names(self.root, self.fetched.values())
        if self.error is not None:
            raise self.error

    def _jobs(self, missing: Sequence[PlannedFile]) -> Iterator[transfer.Job]:
        layout = self.root.layout
        largest_first = sorted(missing, key=lambda planned: -planned.file.size)  # a large one last would run alone
        for planned in largest_first:
            if self.error is not None:
                return
            release = try_lock(layout.blob_lock(layout.blob_id(planned.content_id)))
            if release is None:
                self.busy.append(planned)
                continue
            try:
                if self.has_arrived(planned):
                    release()
                    continue
                partial = partials.open_partial(self.root, planned)
            except BaseException:
                release()
                raise
            self._open[planned.content_id] = (planned, partial, release)
            locate = functools.partial(self.source.locate, planned.file)
            yield _Job(
                planned.file,
                locate,
                partial,
                self.source.explain,
                self.settings.accept_unverified,
                content_id=planned.content_id,
            )

    def _finish(self, outcome: transfer.Done | transfer.Failed) -> None:
        """Publish the partial of a complete file; leave or discard that of a file that failed."""
        assert isinstance(outcome.job, _Job)
        planned, partial, release = self._open.pop(outcome.job.content_id)
        with contextlib.ExitStack() as ends:
            ends.callback(release)
            ends.callback(partial.close)
            if isinstance(outcome, transfer.Failed):
                if isinstance(outcome.error, IntegrityError | SourceChanged):
                    partial.discard()
                else:
                    partial.leave()
                self.error = self.error or outcome.error
                return
            blob = partials.publish(
                self.root, planned, partial, outcome.digest, xxh3=outcome.xxh3, cancel=self.run.cancel
            )
            if blob is None:
                self.lost.append(planned)
            else:
                self.fetched[planned.content_id] = blob
                self.run.report(Published(path=planned.file.path, size=blob.size))


@dataclass(frozen=True)
class _Job(transfer.Job):
    content_id: ContentId = field(kw_only=True)


def check_space(root: CacheRoot, missing: Sequence[PlannedFile], blobs: Iterable[LocalBlob]) -> None:
    """Raise DiskError if what is to be fetched, and copied from other disks, does not fit on the disk."""
    coming = sum(planned.file.size for planned in missing) - partials.left_bytes(root, missing)
    here = disk.device_of(root.path)
    needed = coming + sum(blob.size for blob in blobs if blob.device != here)
    free = disk.free_bytes(root.path)
    if needed > free:
        raise DiskError(
            f"not enough space for {root.path}: {needed:,} bytes are to come, {free:,} are free",
            hint="Free some space, or put the cache on another disk (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
        )


def keeps_changing(root: CacheRoot) -> DiskError:
    """Return the error for a root where what is found or fetched is removed again, `ATTEMPTS` times."""
    return DiskError(
        f"{root.path}: other processes keep removing what was found or fetched",
        hint=f"Find what cleans this cache. {RUN_AGAIN}",
    )
