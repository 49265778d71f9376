"""Fetch what is missing: `transfer` writes partials under the locks of their blobs, and each is published as a blob."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from truss_cache_tasks import transfer
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import RUN_AGAIN, CacheTaskError, DiskError, IntegrityError, SourceChanged
from truss_cache_tasks.events import Published
from truss_cache_tasks.model.keys import ContentId, request_key
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.roots import budget_roots, roots_of_other_fetches, with_roots_of_gone_projects
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.store.blobs import partials
from truss_cache_tasks.store.blobs.demand import demand_of
from truss_cache_tasks.store.blobs.local_blobs import find_local_blobs
from truss_cache_tasks.store.blobs.partials import Partial
from truss_cache_tasks.store.blobs.space import Demand, NotEnoughSpace, is_living, reserved
from truss_cache_tasks.store.files.disk import device_of, disk_errors
from truss_cache_tasks.store.files.locks import locked, try_lock, wait_until
from truss_cache_tasks.store.files.record_file import last_commit
from truss_cache_tasks.store.layouts.blob import LocalBlob
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.fetch_notes import note_fetch
from truss_cache_tasks.store.removal.clean import sweep

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
        self,
        root: CacheRoot,
        files: Sequence[PlannedFile],
        blobs: dict[ContentId, LocalBlob],
        *,
        elsewhere: Mapping[str, Collection[str]],
        since_ns: int,
        rehash: bool,
    ) -> None:
        """Fetch those of `files` that are not in `blobs`, each under its blob's lock, and add them.

        Args:
            root: whose blobs the files become. What they take on its disk is reserved (`reserved_space`).
            elsewhere: the blobs for which another fetch has reserved the space (`Demand`): they are waited for, and
                fetched here only if that fetch ends without them.
            since_ns: `last_commit` of the root before `blobs` were looked for.
            rehash: hash what another process brought meanwhile, also where its stat is as recorded.
        """
        missing = list({file.content_id: file for file in files if file.content_id not in blobs}.values())
        arrivals = _Arrivals(root, missing, blobs, since_ns, rehash, self.run.cancel)
        here = [planned for planned in missing if root.layout.blob_id(planned.content_id) not in elsewhere]
        self._pull_all(root, here, blobs, arrivals)
        left = [planned for planned in missing if planned.content_id not in blobs]
        for planned in left:
            reserves = elsewhere.get(root.layout.blob_id(planned.content_id), ())
            self._wait_for_other_fetch(root, planned, reserves, arrivals)
        self._pull_all(root, [planned for planned in left if planned.content_id not in blobs], blobs, arrivals)

    def _pull_all(
        self,
        root: CacheRoot,
        missing: Sequence[PlannedFile],
        blobs: dict[ContentId, LocalBlob],
        arrivals: _Arrivals,
    ) -> None:
        """Fetch `missing`, or wait for those that another process fetches, until all are in `blobs`."""
        for _ in range(ATTEMPTS):
            if not missing:
                return
            pull = _Pull(self.source, self.context.settings, root, self.run, arrivals.has)
            try:
                pull.fetch(missing)
            finally:
                blobs.update(pull.fetched)
                self.files += len(pull.fetched)
                self.size += sum(blob.size for blob in pull.fetched.values())
            if pull.busy:
                self._wait_for_other_process(root, pull.busy[0])
            missing = [planned for planned in pull.busy + pull.lost if not arrivals.has(planned)]
        raise keeps_changing(root)

    def prepare_fetch(
        self, root: CacheRoot, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]
    ) -> None:
        """Make room for `files` in the budget of `root`, where there is one, and note what is about to come.

        The note says that this entry owns the blobs and partials of what is not in `blobs`, and which of `blobs` it
        needs (docs/adr/0016). `fetch_missing` is called after it.

        Raises:
            DiskError: the files do not fit into the budget.
        """
        missing = {file.content_id: file for file in files if file.content_id not in blobs}
        with self.room_for(root, files, blobs):
            if missing:
                self._write_note(root, list(missing.values()), blobs)

    def room_for(
        self, root: CacheRoot, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]
    ) -> contextlib.AbstractContextManager[None]:
        """Make room for `files` in the budget of `root`, where there is one; see `budget.room_for`."""
        limit = self.context.settings.max_bytes
        if limit is None:
            return contextlib.nullcontext()
        from truss_cache_tasks.operations.fetch.budget import room_for  # few machines have a budget

        return room_for(self.context, self.run, root, files, blobs, limit=limit)

    def _write_note(self, root: CacheRoot, missing: Sequence[PlannedFile], uses: Iterable[ContentId]) -> None:
        cancel, on_wait = self.run.cancel, self.run.waits_for_root
        context = self.context
        ids = {root.layout.blob_id(planned.content_id) for planned in missing}
        size = sum(planned.file.size for planned in missing)
        with locked(root.lock("root"), cancel, on_wait):
            owner, maker = (context.project.id, context.claim_in(root)), context.project.maker(time.time())
            key, used = request_key(context.request_in(root)), set(map(root.layout.blob_id, uses))
            note_fetch(root, key, owner, maker, blobs=ids, uses=used, size=size)

    def _wait_for_other_fetch(
        self, root: CacheRoot, planned: PlannedFile, reserves: Collection[str], arrivals: _Arrivals
    ) -> None:
        """Wait until a file has arrived, or the fetches that have reserved the space for it have ended."""
        blob_id, key = root.layout.blob_id(planned.content_id), request_key(self.context.request_in(root))
        on_wait, lock = self.run.waits_for_file(root, planned, key), root.layout.blob_lock(blob_id)

        def is_over() -> bool:
            return arrivals.has(planned) or not any(is_living(root, reserve) for reserve in reserves)

        wait_until(is_over, self.run.cancel, lambda again: on_wait(lock, again))
        arrivals.has(planned)  # it may have come just before that fetch ended

    def _wait_for_other_process(self, root: CacheRoot, planned: PlannedFile) -> None:
        """Wait, holding nothing, for another process that fetches these bytes."""
        lock = root.layout.blob_lock(root.layout.blob_id(planned.content_id))
        key = request_key(self.context.request_in(root))
        with locked(lock, self.run.cancel, self.run.waits_for_file(root, planned, key)):
            pass


@dataclass
class _Arrivals:
    """Finds what other processes bring into a root while its entry is fetched.

    Args:
        wanted: the files that are to be fetched.
        blobs: gets what is found, by content id.
        since_ns: `last_commit` of the root, before it was searched the last time.
        rehash: hash also what has the stat of its record.
    """

    root: CacheRoot
    wanted: Sequence[PlannedFile]
    blobs: dict[ContentId, LocalBlob]
    since_ns: int
    rehash: bool
    cancel: CancelToken

    def has(self, planned: PlannedFile) -> bool:
        """Whether another process brought these bytes meanwhile. After a commit, all that is wanted is looked for.

        If another commit comes during the search, it is repeated: a blob that gets its visible name is found under
        neither name by a search that has read the records already.
        """
        root, blob_id = self.root, self.root.layout.blob_id(planned.content_id)
        while planned.content_id not in self.blobs and root.layout.may_have_arrived(blob_id, self.since_ns):
            latest = last_commit(root.tree)
            wanted = [planned]
            if latest != self.since_ns:
                wanted = [one for one in self.wanted if one.content_id not in self.blobs]
                self.since_ns = latest
            self.blobs.update(find_local_blobs([root], wanted, rehash=self.rehash, cancel=self.cancel))
            if last_commit(root.tree) == latest:
                break
        return planned.content_id in self.blobs


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
                ends.callback(self._sync_names)
                while self._open:
                    _, (_, partial, release) = self._open.popitem()
                    ends.callback(release)
                    ends.callback(partial.leave)
        if self.error is not None:
            raise self.error

    def _sync_names(self) -> None:
        """Sync the names of what was published, also if the pull failed: the next run finds and lists these blobs."""
        try:
            partials.sync_names(self.root, self.fetched.values())
        except DiskError as error:
            self.error = self.error or error

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


@contextlib.contextmanager
def reserved_space(
    context: EntryContext,
    run: RunContext,
    root: CacheRoot,
    files: Sequence[PlannedFile],
    blobs: Mapping[ContentId, LocalBlob],
) -> Iterator[Demand]:
    """Reserve, for the block, what the files of a plan take on the disk of `root` beyond `blobs`; yield what that is.

    If that is not free, remove what nothing owns there, as every commit does, and try once more.

    Raises:
        NotEnoughSpace: it is not free, counting what other fetches have reserved. Nothing was fetched.
    """
    key = request_key(context.request_in(root))
    demand = functools.partial(demand_of, root, key, files, blobs)
    roots = functools.partial(roots_of_other_fetches, context)
    with contextlib.ExitStack() as held:
        try:
            demanded = held.enter_context(reserved(root, key, demand, roots))
        except NotEnoughSpace:
            with (
                contextlib.suppress(DiskError),  # the figures count
                disk_errors(f"cannot clean {root.path}"),
                locked(root.lock("root"), run.cancel, run.waits_for_root),
            ):
                sweep(root)
            try:
                demanded = held.enter_context(reserved(root, key, demand, roots))
            except NotEnoughSpace as error:
                if freed := prunable_bytes(context, root):
                    error.hint = f"Run `truss-cache prune --yes`, which frees {freed:,} bytes. Or: {error.hint}"
                raise
        yield demanded


def prunable_bytes(context: EntryContext, root: CacheRoot) -> int:
    """Return how many bytes on the disk of `root` a prune would free, in caches of the entry and of dead configs."""
    from truss_cache_tasks.operations.usage import dead_rule, unclaimed_bytes  # only where space is short

    rule, here = dead_rule([context.project]), device_of(root.path)
    used = {one.path: one for mine in context.roots for one in budget_roots(mine)}
    caches = with_roots_of_gone_projects(used.values(), context.settings, rule)
    return unclaimed_bytes([one for one in caches if device_of(one.path) == here], rule)


def keeps_changing(root: CacheRoot) -> DiskError:
    """Return the error for a root where what is found or fetched is removed again, `ATTEMPTS` times."""
    return DiskError(
        f"{root.path}: other processes keep removing what was found or fetched",
        hint=f"Find what cleans this cache. {RUN_AGAIN}",
    )
