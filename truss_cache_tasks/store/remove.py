"""clean: drop claims, and what no other claim or snapshot refers to. The only remover of whole entries.

A link or blob goes when we made it and no live claim of anybody lists it; a blob of the hub cache also stays while any
link in `snapshots/` leads to it, whoever made that. What huggingface_hub downloaded is named and stays.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISLNK
from typing import Any

from truss_cache_tasks.planning.plan import RECORDS
from truss_cache_tasks.planning.records import Claims, FileRecord, Manifest, Project
from truss_cache_tasks.planning.request import Form
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.blobs import staged
from truss_cache_tasks.store.disk import is_writable, remove_empty_parents, remove_hollow, remove_if_empty
from truss_cache_tasks.store.layout import Place, blob_id
from truss_cache_tasks.store.links import drop_refs, files_below, top
from truss_cache_tasks.store.locks import locked, try_lock
from truss_cache_tasks.store.manifest import read_all, remove_manifests
from truss_cache_tasks.store.partials import sweep_partials


@dataclass
class Cleaned:
    """What a clean removed (or would remove), over one invocation.

    Args:
        size: bytes that the disk gets back; what several entries share is counted once.
        files: how many files and links.
        kept: what stays, a line each, and why.
        left: what could not be removed, a line each.
    """

    size: int = 0
    files: int = 0
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set, repr=False)
    gone: set[tuple[Path, str]] = field(default_factory=set, repr=False)  # (root, claim) that a dry run passed
    links: Counter[tuple[int, int]] = field(default_factory=Counter, repr=False)  # (device, inode) -> names removed


def clean(place: Place, project: Project, names: Collection[str] | None, done: Cleaned, *, dry: bool) -> None:
    """Invalidate these claims of `project` in this root; None: all of its config, and what gone entries left behind.

    Removes what it can, and adds what it did to `done`. The claims stay, marked cleaned, unless nothing else does.
    """
    if not dry:
        _sweep_removed(place)
    if not os.path.isdir(place.records):
        return
    if not dry and not is_writable(place.records):
        if claims.read_claims(place, project.id).entries:
            done.left.append(f"{place.root}: not writable")
        return
    with locked(place.lock("root")) if not dry else contextlib.nullcontext():
        mine = claims.aligned(claims.read_claims(place, project.id), project)
        wanted = project.entries if names is None else names
        chosen = {name for name in mine.entries if name in wanted}
        done.gone.update((place.root, name) for name in chosen)
        doomed_keys = {key for name in chosen for key in (mine.entries[name].request, *mine.entries[name].former)}
        doomed_keys |= set(mine.former) if names is None else set()
        live = claims.live_keys(place, project, but={name for root, name in done.gone if root == place.root})
        everything = read_all(place)
        doomed = [m for m in everything if m.key in doomed_keys and m.key not in live]
        kept = [m for m in everything if m.key in live]
        _Remover(place, done, dry=dry).remove(doomed, kept)
        if dry:
            return
        sweep_partials(place)
        failed = bool(done.left)
        _drop_pins(place, [mine.entries[name].form for name in chosen] + [manifest.request for manifest in doomed])
        for key in doomed_keys - live if not failed else ():
            remove_manifests(place, key)
        marked = {n: replace(c, cleaned=True) if n in chosen else c for n, c in mine.entries.items()}
        if not failed:
            marked = {n: replace(c, former=()) if n in chosen else c for n, c in marked.items()}
        former = mine.former if names is not None or failed else ()
        claims.write_claims(place, project.id, Claims(marked, former, mine.roots))
        if place.form is Form.HUB:
            _remove_empty_repo(place)


def roots_of(place: Place, project: str) -> set[str]:
    """Return the roots that this project's claims here know of."""
    return set(claims.read_claims(place, project).roots)


def _drop_pins(place: Place, forms: Iterable[Mapping[str, Any]]) -> None:
    """Drop the pins that these canonical forms of requests resolve by."""
    for form in forms:
        source = str(form.get("source", ""))
        name = f"{source.removeprefix('hf://')}@{form.get('revision', '')}"
        if source.startswith("hf://") and name in claims.read_pins(place):
            claims.write_pin(place, name, None)


class _Remover:
    def __init__(self, place: Place, done: Cleaned, *, dry: bool) -> None:
        self.place = place
        self.done = done
        self.dry = dry

    def remove(self, doomed: list[Manifest], kept: list[Manifest]) -> None:
        shown = {record.path for manifest in kept for record in manifest.files}
        records = list({r.path: r for manifest in doomed for r in manifest.files if r.path not in shown}.values())
        if self.place.form is Form.HUB and not self.dry:
            drop_refs(self.place, {self.place.root / record.path for record in records if record.made_link})
        for record in records:
            if record.made_link:
                self._unlink(self.place.root / record.path)
            else:
                self.done.kept.append(f"{record.path}: downloaded by huggingface_hub, not by us")
        self._remove_blobs([record for manifest in doomed for record in manifest.files], kept)

    def _remove_blobs(self, records: list[FileRecord], kept: list[Manifest]) -> None:
        if self.place.form is Form.HUB:
            used = {record.blob for manifest in kept for record in manifest.files} | self._linked()
            for record in {r.blob: r for r in records}.values():
                path = self.place.root / record.blob
                if record.made_blob and record.blob not in used and path.is_symlink():
                    self.done.kept.append(f"{record.blob}: shared by huggingface_hub's own store")
                elif record.made_blob and record.blob not in used:
                    self._unlink(path)
            return
        used = {blob_id(record.identity, self.place.form) for manifest in kept for record in manifest.files}
        for record in records:
            name = blob_id(record.identity, self.place.form)
            if name not in used:
                for path in staged(self.place, name):
                    self._unlink(path)

    def _linked(self) -> set[str]:
        """Return the blobs that links of the snapshots lead to, save links that this clean takes away."""
        return {
            f"blobs/{os.path.basename(os.readlink(path))}"
            for path in files_below(self.place.root / "snapshots")
            if path.is_symlink() and path not in self.done.seen
        }

    def _unlink(self, path: Path) -> None:
        if path in self.done.seen or not os.path.lexists(path):
            if not self.dry:  # somebody else removed it, and may have left its folder
                remove_empty_parents(path, top(self.place))
            return
        stat = path.lstat()
        try:
            if not self.dry:
                path.unlink()
                remove_empty_parents(path, top(self.place))
        except OSError as exc:
            self.done.left.append(f"{path}: {exc.strerror}")
            return
        self.done.seen.add(path)
        self.done.files += 1
        inode = (stat.st_dev, stat.st_ino)
        self.done.links[inode] += self.dry
        if not S_ISLNK(stat.st_mode) and stat.st_nlink - self.done.links[inode] == (0 if self.dry else 1):
            self.done.size += stat.st_size


def forget_hollow(place: Place) -> None:
    """Remove the folders of a root in which nothing came to be (no such repo, no access); what holds anything stays."""
    records = [place.records / name for name in ("locks", "partials", "published", "manifests", "claims")]
    remove_hollow(place.records / "blobs")
    remove_if_empty(*records, place.records)
    if place.form is Form.HUB:
        remove_if_empty(place.root / "blobs", place.root / "refs")
        with contextlib.suppress(OSError):
            if os.listdir(place.root) == ["snapshots"]:  # beside anything else scan_cache_dir() misses it
                remove_if_empty(place.root / "snapshots", place.root)


def _remove_empty_repo(place: Place) -> None:
    """Remove the repo's folder when nothing but our records is left in it, and nobody is at work there."""
    rest = [path for name in ("snapshots", "blobs", "refs") for path in files_below(place.root / name)]
    live = any(not c.cleaned for theirs in claims.read_all_claims(place).values() for c in theirs.entries.values())
    ours = {"snapshots", "blobs", "refs", "trees", ".no_exist", RECORDS}
    foreign = {path.name for path in place.root.iterdir()} - ours
    at_work = any(map(_is_held, files_below(place.records / "locks"))) or files_below(place.records / "partials")
    if not rest and not live and not foreign and not at_work:
        _removed(place).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # in one step, to where nobody scans
            os.rename(place.root, _removed(place))
        _sweep_removed(place)


def _is_held(lock: Path) -> bool:
    """Whether somebody else holds it; the root's own is ours, and a killed run leaves the file alone."""
    if lock.name == "root.lock":
        return False
    if release := try_lock(lock):
        release()
    return release is None


def _removed(place: Place) -> Path:
    return place.blob_lock("removed").with_suffix("")


def _sweep_removed(place: Place) -> None:
    if place.form is Form.HUB and _removed(place).exists():
        import shutil

        shutil.rmtree(_removed(place), ignore_errors=True)
