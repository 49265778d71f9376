"""RootState: what the records of a cache root say; and the roots that nest with it.

Roots nest (a mount below the model cache, a mount below a mount), so a path may lie in several, and each may have
records that list it. All of them are found by walking from the path up to the disk's root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import ClaimId, Claims, Manifest, Pin, Project
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store.files.disk import is_writable
from truss_cache_tasks.store.files.locks import OnWait, ignore_wait, locked
from truss_cache_tasks.store.files.names import pin_name
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims
from truss_cache_tasks.store.records.claims import AllClaims
from truss_cache_tasks.store.records.fetch_notes import FetchNote, read_notes
from truss_cache_tasks.store.records.manifest import Manifests, note_hidden, read_manifests


class RootState:
    """The records of one cache root at one moment. Each kind is read once, when it is first asked for.

    A decision under the root's lock uses a state that was made under that lock, before anything was written.
    """

    def __init__(self, root: CacheRoot) -> None:
        self.root = root
        self._claims: dict[str, Claims] = {}  # by project id

    @cached_property
    def manifests(self) -> Manifests:
        """All manifests, superseded ones too."""
        return read_manifests(self.root)

    @cached_property
    def all_claims(self) -> AllClaims:
        """The claims of all projects."""
        return claims.read_all_claims(self.root)

    @cached_property
    def pins(self) -> Mapping[str, Pin]:
        """The pins, by names.pin_name."""
        return claims.read_pins(self.root)

    @cached_property
    def notes(self) -> list[FetchNote]:
        """The notes of unfinished fetches."""
        return read_notes(self.root)

    def stored_claims(self, project: str) -> Claims:
        """Return the claims of the project of this id, as they were written."""
        if project not in self._claims:
            self._claims[project] = claims.read_claims(self.root, project)
        return self._claims[project]

    def claims_of(self, project: Project) -> Claims:
        """Return this project's claims as its config stands now."""
        return claims.current_claims(self.stored_claims(project.id), project)

    def pin_of(self, request: Request) -> Pin | None:
        """Return the pin of a request whose revision can move; None without one."""
        name = pin_name(request)
        return self.pins.get(name) if name else None

    def live_keys(self, project: Project, but: Collection[ClaimId] = ()) -> Collection[str]:
        """Return the request keys that the claims of any project hold.

        Where that cannot be known, every key here is held: a claims file of another project that cannot be read
        (another version's, a cut one, another user's) may hold any, and a manifest that cannot be read may list any
        file.

        Args:
            but: claims that do not count.
        """
        if not self.all_claims.are_known(besides=project.id or None):
            return self.manifests.keys
        live: set[str] = set()
        for owner, stored in self.all_claims.by_project.items():
            theirs = self.claims_of(project) if owner == project.id else stored
            claims = theirs.entries.items()
            live |= {claim.request for name, claim in claims if not claim.cleaned and (owner, name) not in but}
        return live if live.isdisjoint(self.manifests.unreadable) else self.manifests.keys

    def own_paths(self) -> set[str]:
        """Return the paths that are ours: shown by a manifest as made by us, or noted by a fetch."""
        paths = {file.path for manifest in self.manifests.readable for file in manifest.shown if file.made_link}
        return paths.union(*(note.paths for note in self.notes))

    def shown_paths(self) -> set[str]:
        """Return the paths that a manifest shows."""
        return {file.path for manifest in self.manifests.readable for file in manifest.shown}

    def paths_in_use(self, project: Project, but: Collection[ClaimId]) -> set[str]:
        """Return the paths that the manifests of living claims show.

        Args:
            but: claims that do not count.
        """
        live = self.live_keys(project, but)
        return {file.path for manifest in self.manifests.readable if manifest.key in live for file in manifest.shown}

    def blob_ids(self, manifests: Iterable[Manifest]) -> set[str]:
        """Return the ids of the blobs that these manifests list."""
        return {self.root.layout.blob_id(file.content_id) for manifest in manifests for file in manifest.files}

    def made_blob_ids(self) -> set[str]:
        """Return the ids of the blobs that a manifest lists as made by us."""
        files = [file for manifest in self.manifests.readable for file in manifest.files if file.made_blob]
        return {self.root.layout.blob_id(file.content_id) for file in files}

    def owned_blob_ids(self) -> set[str]:
        """Return the ids of the blobs that a manifest lists or a fetch noted."""
        return self.blob_ids(self.manifests.readable).union(*(note.blobs for note in self.notes))


@dataclass(frozen=True)
class NestedStates:
    """The states of a root and of the roots that it nests with.

    Args:
        own: of the root itself. All paths are relative to it.
        around: of all roots, `own` among them, the outermost first.
    """

    own: RootState
    around: tuple[RootState, ...]

    def own_paths(self) -> set[str]:
        """Return the paths below the root that are ours, by any record."""
        return self._collect(RootState.own_paths)

    def shown_paths(self) -> set[str]:
        """Return the paths below the root that any manifest shows."""
        return self._collect(RootState.shown_paths)

    def paths_in_use(
        self, project: Project, but: Collection[tuple[Path, ClaimId]], own: Collection[str] | None = None
    ) -> set[str]:
        """Return the paths below the root that a living claim of any project lists.

        Args:
            but: (root, claim) of claims that do not count.
            own: the paths in use by the records of the root itself; None: those that a living claim lists.
        """
        roots = {path for path, _ in but}

        def in_use(state: RootState) -> set[str]:
            if state is self.own and own is not None:
                return set(own)
            same = {path for path in roots if _is_same_folder(path, state.root.path)}
            paths = state.paths_in_use(project, {claim for path, claim in but if path in same})
            # a manifest that cannot be read may list any file
            if state is not self.own and not state.manifests.are_all_readable:
                paths |= set(state.root.tree.files_below(""))
            return paths

        return self._collect(in_use)

    def note_hidden(self, paths: Mapping[str, str]) -> None:
        """Note in all roots which files are not visible any more; see `manifest.note_hidden`."""
        for state in self.around if paths else ():
            there = _translator(state.root, self.own.root)
            note_hidden(state.root, {seen: xxh3 for path, xxh3 in paths.items() if (seen := there(path)) is not None})

    def _collect(self, paths_of: Callable[[RootState], set[str]]) -> set[str]:
        """Return `paths_of` every state, relative to the root itself; paths that are not below it are left out."""
        found: set[str] = set()
        for state in self.around:
            here = _translator(self.own.root, state.root)
            found.update(seen for path in paths_of(state) if (seen := here(path)) is not None)
        return found


def read_states(root: CacheRoot, paths: Iterable[str]) -> NestedStates:
    """Return the states of the roots in which any of `paths` lies, as they are without a lock.

    Args:
        paths: relative to `root`.
    """
    own = RootState(root)
    return _states(own, _roots_around(root, paths))


@contextmanager
def locked_states(
    root: CacheRoot,
    paths: Callable[[RootState], Collection[str]],
    cancel: CancelToken = NEVER,
    on_wait: OnWait = ignore_wait,
) -> Iterator[NestedStates]:
    """Hold the locks of the roots in which any of these paths lies; return their states, as they are under the locks.

    The locks are taken outermost first, so that no two processes wait for each other. If a root was made, or records
    list further paths, during a wait for a lock, all locks are released and taken again. A root other than
    `root` whose lock cannot be taken is not locked.

    Args:
        paths: relative to `root`; asked again under the locks.
    """
    root.tree.look_anew()
    around = _roots_around(root, paths(RootState(root)))
    while True:
        with ExitStack() as locks:
            for one in around:
                if one is root:
                    locks.enter_context(locked(one.lock("root"), cancel, on_wait))
                elif is_writable(one.records):
                    with suppress(DiskError):  # what refuses this lock refuses it to other processes too
                        locks.enter_context(locked(one.lock("root"), cancel, on_wait))
            root.tree.look_anew()
            state = RootState(root)
            now = _roots_around(root, paths(state))
            if [one.path for one in now] == [one.path for one in around]:
                yield _states(state, now)
                return
        around = now


def _states(own: RootState, around: Iterable[CacheRoot]) -> NestedStates:
    return NestedStates(own, tuple(own if root is own.root else RootState(root) for root in around))


def _roots_around(root: CacheRoot, paths: Iterable[str]) -> list[CacheRoot]:
    """Return the roots with records of ours in which any of `paths` lies, `root` among them, outermost first."""
    above, below = root.layout.nested_roots(paths)
    return [*map(flat_root, above), root, *map(flat_root, below)]


def _is_same_folder(one: Path, other: Path) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _translator(here: CacheRoot, there: CacheRoot) -> Callable[[str], str | None]:
    """Return a function that makes a path relative to `there` one relative to `here`, None for one not below it."""
    if here is there:
        return lambda path: path
    top, other = (os.path.realpath(root.path).rstrip("/") for root in (here, there))
    if top == other:
        return lambda path: path
    if top.startswith(f"{other}/"):
        inside = top[len(other) + 1 :] + "/"
        return lambda path: path[len(inside) :] if path.startswith(inside) else None
    outside = other[len(top) + 1 :]
    return lambda path: f"{outside}/{path}"
