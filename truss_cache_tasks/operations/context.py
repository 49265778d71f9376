"""A EntryContext: one entry and where it lives on this machine; what its records say, offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truss_cache_tasks.config.credentials import fingerprint
from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.records import Manifest, Project
from truss_cache_tasks.model.request import Layout, Request
from truss_cache_tasks.model.status import Need, Verdict, judge
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.evidence import gather
from truss_cache_tasks.store.layout import CacheRoot, bytes_of, hub_place, place_of
from truss_cache_tasks.store.manifest import Unreadable, read_manifest
from truss_cache_tasks.store.neighbours import Neighbours, Shown, is_replaced_by_another, shown_by_config

BEHIND = "+hub"  # suffix of the claim that an entry with plain files has on the hub cache behind them


@dataclass(frozen=True)
class EntryContext:
    """One entry, and everything on this machine that it means.

    Args:
        place: where its files go.
        behind: the hub cache's folder for its repo, when `place` holds plain files of a Hub repo; else None.
    """

    entry: Entry
    project: Project
    settings: Settings
    place: CacheRoot
    behind: CacheRoot | None

    @property
    def name(self) -> str:
        """The entry's name, which its claim has too."""
        return self.entry.name

    @property
    def behind_claim(self) -> str:
        """The name of this entry's claim on `behind`."""
        return self.name + BEHIND

    @property
    def hub_request(self) -> Request:
        """What `behind` is asked for."""
        return replace(self.entry.request, layout=Layout.HUB, folder="")

    @property
    def places(self) -> list[CacheRoot]:
        """The roots where bytes of this entry may lie."""
        return [self.place] if self.behind is None else [self.place, self.behind]

    @property
    def fingerprint(self) -> str | None:
        """Of the credential file that is there now."""
        return fingerprint(self.entry, self.settings)

    def is_replaced(self, manifest: Manifest) -> bool:
        """Whether another entry, of any config, shows another version of an object of this one's manifest."""
        return is_replaced_by_another(self.place, manifest, self.project, (self.name, self.behind_claim))

    def neighbours(self, shown: Shown | None = None) -> Neighbours:
        """Return what the config's other entries show; nothing collides in the hub cache, where a path says its bytes.

        Args:
            shown: shown_by_config(self.place, self.project), where it is known.
        """
        if self.place.layout is Layout.HUB:
            shown = Shown()
        return Neighbours(shown or shown_by_config(self.place, self.project), (self.name, self.behind_claim))


def make_target(entry: Entry, project: Project, settings: Settings, model_cache: Path) -> EntryContext:
    """Resolve where `entry` lives on this machine."""
    request = entry.request
    hub = settings.hub_cache(entry.hub_env)
    place = place_of(request, hub, model_cache, settings.mount_root)
    plain = request.source.store.is_hub and place.layout is not Layout.HUB
    return EntryContext(entry, project, settings, place, hub_place(request, hub) if plain else None)


def judge_target(target: EntryContext) -> Verdict:
    """Judge one entry, offline and by stat alone. What cannot be looked at makes it stale; its run meets the error."""
    try:
        with disk_errors(f"cannot look at {target.place.root}"), target.place.tree.kept_open():
            seen = gather(target.place, target.entry.request, target.project, target.name, target.fingerprint)
    except DiskError as error:
        return Verdict(Need.FETCH, (str(error),))
    return judge(target.entry.request, seen)


def current_manifest(target: EntryContext) -> Manifest | None:
    """Return the manifest of what this entry asks, None without a usable one."""
    try:
        with disk_errors(f"cannot read {target.place.records}"):
            return read_manifest(target.place, target.entry.key)
    except Unreadable:
        return None


def hub_manifest(target: EntryContext) -> Manifest | None:
    """Return what lies in the hub cache behind plain files of a Hub repo and is not the same file; None for nothing.

    What is missing there is no fault: the plain files stand for themselves (docs/adr/0003).
    """
    if target.behind is None:
        return None
    with disk_errors(f"cannot read {target.behind.records}"):
        return _apart(target, target.behind)


def _apart(target: EntryContext, behind: CacheRoot) -> Manifest | None:
    try:
        manifest = read_manifest(behind, request_key(target.hub_request))
    except Unreadable:
        return None
    shown = current_manifest(target)
    linked = {_inode(target.place, record.path) for record in (shown.files if shown else ())}
    files = manifest.files if manifest else ()
    apart = tuple(r for r in files if _inode(behind, r.path) not in {None, *linked})
    return replace(manifest, files=apart) if manifest and apart else None


def _inode(place: CacheRoot, path: str) -> tuple[int, int] | None:
    try:
        found = bytes_of(place, path)
    except OSError:
        return None
    return (found.stat.st_dev, found.stat.st_ino) if found is not None else None


def project_entries(entries: Sequence[Entry]) -> dict[str, str]:
    """Return claim name -> request key for a whole config, the claims behind plain files included."""
    keys: dict[str, str] = {}
    for entry in entries:
        keys[entry.name] = entry.key
        if entry.request.source.store.is_hub and entry.request.layout is not Layout.HUB:
            keys[entry.name + BEHIND] = request_key(replace(entry.request, layout=Layout.HUB, folder=""))
    return keys
