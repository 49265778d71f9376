"""EntryContext: one entry with its cache roots on this machine; its status and manifests, read offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

from truss_cache_tasks.config.credentials import fingerprint
from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.records import Manifest, Project
from truss_cache_tasks.model.request import Layout, Request
from truss_cache_tasks.model.status import Evidence, Need, Status, Verdict, verdict_of
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.record_file import Unreadable
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.evidence import gather_evidence
from truss_cache_tasks.store.records.manifest import read_manifest

if TYPE_CHECKING:
    from truss_cache_tasks.model.lockfile import Locked
    from truss_cache_tasks.model.plan import Plan
    from truss_cache_tasks.store.entries.conflicts import OtherEntries, ShownFiles

HUB_SUFFIX = "+hub"  # an entry with plain files of a Hub repo has a second claim, in the hub cache: its name and this


class EntryContext(NamedTuple):
    """One entry with its project, the settings and its cache roots.

    Attributes:
        root: where its files go.
        hub_root: the folder of its repo in the hub cache, when `root` has plain files of a Hub repo; else None.
        locked: what the lock file beside the config says of it; None if there is no lock file, or it says nothing.
    """

    entry: Entry
    project: Project
    settings: Settings
    root: CacheRoot
    hub_root: CacheRoot | None
    locked: Locked | None = None

    @property
    def name(self) -> str:
        """The entry's name, which is also that of its claim in `root`."""
        return self.entry.name

    @property
    def claims(self) -> tuple[str, str]:
        """The names of the claims that this entry may have, in `root` and in `hub_root`."""
        return self.name, self.name + HUB_SUFFIX

    @property
    def roots(self) -> list[CacheRoot]:
        """The roots where bytes of this entry may be."""
        return [self.root] if self.hub_root is None else [self.root, self.hub_root]

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the credential file that is there now; None if there is none."""
        return fingerprint(self.entry, self.settings)

    def request_in(self, root: CacheRoot) -> Request:
        """Return the request that is fetched into `root`, one of `roots`."""
        request = self.entry.request
        return request if root == self.root else hub_request(request) or request

    def claim_in(self, root: CacheRoot) -> str:
        """Return the name of this entry's claim in `root`, one of `roots`."""
        return self.name if root == self.root else self.name + HUB_SUFFIX

    def other_entries(self, root: CacheRoot, shown: ShownFiles | None = None) -> OtherEntries:
        """Return what the config's other entries show in `root`, and in the roots above and below it.

        Args:
            shown: find_shown_files(root, self.project), where it was read before.
        """
        from truss_cache_tasks.store.entries.conflicts import OtherEntries, find_shown_files  # not needed if fresh

        return OtherEntries(shown or find_shown_files(root, self.project), self.claims)

    def is_replaced(self, plan: Plan, manifest: Manifest, others: OtherEntries) -> bool:
        """Return whether another entry, of any config, shows another version of an object of this one's manifest.

        Args:
            plan: the one whose commit wrote the manifest.
            others: `other_entries` of `root`.
        """
        from truss_cache_tasks.store.entries.conflicts import is_another_version_shown, is_replaced_by_another_version
        from truss_cache_tasks.store.records.root_state import RootState

        return is_another_version_shown(self.root, plan, others) or is_replaced_by_another_version(
            RootState(self.root), manifest, self.project, self.claims
        )


def make_context(entry: Entry, project: Project, settings: Settings, model_cache: Path) -> EntryContext:
    """Return the context of `entry`: resolve its cache roots by its layout and the settings."""
    request = entry.request
    match request.layout:
        case Layout.HUB:
            root = _hub_root(entry, settings)
        case Layout.MOUNT:
            mount, prefix = Path(request.folder), settings.mount_root
            root = flat_root(prefix / mount.relative_to("/") if prefix else mount)
        case Layout.VOLUME | Layout.BUCKET:
            root = flat_root(model_cache)
        case _:
            assert_never(request.layout)
    in_hub = _hub_root(entry, settings) if hub_request(request) else None
    return EntryContext(entry, project, settings, root, in_hub)


def _hub_root(entry: Entry, settings: Settings) -> CacheRoot:
    """Return the root of the entry's repo in the hub cache."""
    from truss_cache_tasks.store.layouts.hub_layout import hub_root  # not needed by buckets and folders

    repo = entry.request.source.root
    return hub_root(settings.hub_cache(entry.hub_env) / f"models--{repo.replace('/', '--')}")


def hub_request(request: Request) -> Request | None:
    """Return the request for the hub cache that belongs to plain files of a Hub repo; None for any other request."""
    if not request.source.store.is_hub or request.layout is Layout.HUB:
        return None
    return request._replace(layout=Layout.HUB, folder="")


def read_status(context: EntryContext) -> Status:
    """Read the status of one entry offline, by stat alone.

    Where that raises a DiskError, the entry is stale: its run raises the error again.
    """
    root, request = context.root, context.entry.request
    try:
        with disk_errors(f"cannot look at {root.path}"), root.tree.kept_open():
            evidence = gather_evidence(root, request, context.project, context.name, context.fingerprint)
    except DiskError as error:
        return Status(Evidence(), Verdict(Need.FETCH, (str(error),)))
    return Status(evidence, verdict_of(request, evidence, context.locked))


def read_entry_manifest(context: EntryContext) -> Manifest | None:
    """Return the manifest of this entry's request, None without a readable one."""
    return _read_manifest(context, context.root)


def read_hub_manifest(context: EntryContext, manifest: Manifest) -> Manifest | None:
    """Return the entry's manifest in its hub root, without the files that are hard links of its plain files.

    A file that is missing there is left out too: the entry does not need it (docs/adr/0003). None if no file is left.

    Args:
        manifest: of the plain files.
    """
    if context.hub_root is None or (found := _read_manifest(context, context.hub_root)) is None:
        return None
    linked = {_inode(context.root, record.path) for record in manifest.files}
    others = tuple(record for record in found.files if _inode(context.hub_root, record.path) not in {None, *linked})
    return found._replace(files=others) if others else None


def _read_manifest(context: EntryContext, root: CacheRoot) -> Manifest | None:
    try:
        with disk_errors(f"cannot read {root.records}"):
            return read_manifest(root, request_key(context.request_in(root)))
    except Unreadable:
        return None


def _inode(root: CacheRoot, path: str) -> tuple[int, int] | None:
    try:
        found = root.layout.find_bytes(path)
    except OSError:
        return None
    return (found.stat.st_dev, found.stat.st_ino) if found is not None else None


def project_entries(entries: Sequence[Entry]) -> dict[str, str]:
    """Return claim name -> request key for a whole config, the claims in hub roots included."""
    keys: dict[str, str] = {}
    for entry in entries:
        keys[entry.name] = entry.key
        if (in_hub := hub_request(entry.request)) is not None:
            keys[entry.name + HUB_SUFFIX] = request_key(in_hub)
    return keys
