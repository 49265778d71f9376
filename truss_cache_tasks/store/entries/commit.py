"""commit(): from local blobs to a visible, recorded and claimed entry, in an order that is safe to stop at any line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.keys import ContentId, canonical, request_key
from truss_cache_tasks.model.plan import Plan
from truss_cache_tasks.model.records import Claim, ClaimId, FileRecord, Manifest, Pin, Project
from truss_cache_tasks.model.status import Need, Status, same_mtime
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.store.entries.conflicts import OtherEntries, find_conflicts, find_shown_files
from truss_cache_tasks.store.entries.visible_paths import (
    check_paths,
    hide_paths,
    in_the_way,
    record_paths,
    remove_paths,
    show_paths,
    staged_paths,
)
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.locks import OnWait, ignore_wait, locked
from truss_cache_tasks.store.files.names import pin_name
from truss_cache_tasks.store.layouts.blob import LocalBlob
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims
from truss_cache_tasks.store.records.fetch_notes import forget_paths, note_fetch, read_notes, reassign_note
from truss_cache_tasks.store.records.manifest import write_manifest
from truss_cache_tasks.store.records.root_state import NestedStates, RootState, locked_states
from truss_cache_tasks.store.removal.clean import sweep


class PinMoved(Exception):
    """Another run moved the common pin while this entry fetched: list again at `commit`."""

    def __init__(self, commit: str) -> None:
        super().__init__(commit)
        self.commit = commit


@dataclass(frozen=True)
class Claimant:
    """The entry for which a commit is made, and what its run decided.

    Args:
        claim: the name of the claim.
        entry: the entry's own name, for people.
        fingerprint: of the credential file that was used, or None.
        run: id of this run.
        resolved: this run asked the store what the revision stands for.
        replace: files at our paths that are not ours may be replaced.
    """

    project: Project
    claim: str
    entry: str
    fingerprint: str | None
    run: str
    resolved: bool = False
    replace: bool = False

    @property
    def claim_id(self) -> ClaimId:
        """Project and claim, as a note of an unfinished fetch has them."""
        return self.project.id, self.claim


def commit(
    root: CacheRoot,
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    claimant: Claimant,
    *,
    pinned: Pin | None,
    cancel: CancelToken,
    on_wait: OnWait = ignore_wait,
) -> Manifest:
    """Make the plan visible, record it, pin it and claim it: under the locks of all roots that its paths lie in.

    1. Decide again what was decided before the locks: the pin, the blobs, collisions with other entries.
    2. Look at every path, and refuse what is not ours.
    3. Give every file that is to be shown a name in our folder.
    4. Note which paths are about to be shown; hide what is in their way; show each in one step, and look at it.
    5. Hide what this entry showed before.
    6. Write the manifest, the pin and the claim; forget the note; sweep what nothing owns any more.

    Args:
        blobs: of every file of the plan, by content id.
        pinned: the pin as it was when the revision was listed.

    Raises:
        PinMoved: another run pinned another commit meanwhile.
        Vanished: a blob is gone (another project's `clean`), or the disk changed since it was looked at.
        Collision: another entry of this config put other bytes at one of these paths meanwhile.
        ForeignFile: a file that is not ours lies at one of these paths.
    """
    planned = {file.path for file in plan.files}

    def paths(state: RootState) -> set[str]:
        return planned.union(*(manifest.paths for manifest in state.manifests.readable))

    with locked_states(root, paths, cancel, on_wait) as states:
        pin = states.own.pin_of(plan.request)
        if pin is not None and pin != pinned and pin.commit != plan.revision:
            raise PinMoved(pin.commit)
        blobs = _mark_ours(blobs, states.own)
        _refuse_changed(plan, blobs, claimant, states)
        files = _show(plan, blobs, claimant, states, cancel)
        manifest = Manifest(request_key(plan.request), canonical(plan.request), plan.revision, plan.folder, files)
        write_manifest(root, manifest)
        _write_pin(plan, pin, claimant, root)
        _write_claim(root, manifest, claimant)
        root.layout.release_blobs(blobs.values())
        _forget_notes(root, manifest.key, claimant)
        sweep(root)
        return manifest


def _mark_ours(blobs: Mapping[ContentId, LocalBlob], state: RootState) -> Mapping[ContentId, LocalBlob]:
    """Return the blobs; those that a manifest says we made are ours.

    A blob of another entry that was committed while this one looked for it was found without a record and without a
    mark: as if another tool had made it.
    """
    made = {file.blob for manifest in state.manifests.readable for file in manifest.files if file.made_blob}
    tree = state.root.tree
    return {
        content_id: blob._replace(ours=True) if blob.tree is tree and blob.path in made else blob
        for content_id, blob in blobs.items()
    }


def _refuse_changed(plan: Plan, blobs: Mapping[ContentId, LocalBlob], claimant: Claimant, states: NestedStates) -> None:
    """Raise Vanished if a blob is not as it was found, Collision if another entry shows other bytes now."""
    root = states.own.root
    for blob in blobs.values():
        blob.stat()
    # again: entries that run side by side could not see each other's files before this lock
    others = OtherEntries(find_shown_files(root, claimant.project, states.around), (claimant.claim,))
    find_conflicts(root, plan, others).resolve(blobs)


def _show(
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    claimant: Claimant,
    states: NestedStates,
    cancel: CancelToken,
) -> tuple[FileRecord, ...]:
    """Do steps 2 to 5 of `commit`; return the records of what is visible then."""
    root, key = states.own.root, request_key(plan.request)
    owned = states.own_paths()
    former = _former_files(plan, claimant, states)
    blocking = in_the_way(former, plan)
    unlisted = _unlisted_paths(plan, claimant, states)
    leaving = unlisted.union(record.path for record in blocking if record.made_link)
    checked = check_paths(root, plan, blobs, owned, leaving=leaving, replace=claimant.replace, cancel=cancel)
    noted = {path for note in states.own.notes if note.key == key for path in note.paths}
    unshown = {path for path, stat in checked.to_show.items() if stat is None}
    # A foreign file that `replace` gives up stays the user's until it is replaced, also if this ends before that.
    ours = {path for path in checked.to_show if path in unshown or path in owned}
    with disk_errors(f"cannot write below {root.path}"):
        with staged_paths(root, plan, blobs, checked, cancel) as staged:
            try:
                # says whose the manifest is, if this ends before it is claimed
                uses = {root.layout.blob_id(blob_of) for blob_of in blobs}
                note_fetch(root, key, claimant.claim_id, claimant.project.maker(time.time()), paths=ours, uses=uses)
                _note_replaced(plan, blobs, states)
                remove_paths(root, unlisted)
                gone = hide_paths(root, blocking)
                shown = show_paths(root, plan, blobs, checked, staged, unshown=unshown, cancel=cancel)
            except BaseException:
                with contextlib.suppress(OSError, DiskError):  # what others put there from now on is not ours
                    forget_paths(root, key, unshown - noted)
                raise
        root.layout.refs.point(plan.request.revision, plan.revision)
    files = record_paths(root, plan, blobs, shown, owned.union(checked.to_show))
    # before the new manifest is written: until then, the records say that these paths are ours
    gone |= hide_paths(root, [record for record in former if record not in blocking])
    states.note_hidden(dict.fromkeys(gone - {planned.path for planned in plan.files}, ""))
    return files


def _former_files(plan: Plan, claimant: Claimant, states: NestedStates) -> list[FileRecord]:
    """Return the files that this entry showed and no claim shows now: its patterns, folder or revision changed.

    A hub snapshot of the same request stays when its revision moved: a reader may have it open (`clean` takes it).
    """
    project, state = claimant.project, states.own
    old = state.claims_of(project).entries.get(claimant.claim)
    if old is None:
        return []
    if state.root.layout.paths_name_bytes and old.request == request_key(plan.request):
        return []
    before = [manifest for manifest in state.manifests.readable if manifest.key == old.request]
    kept = {planned.path for planned in plan.files}
    if any(manifest.paths - kept for manifest in before):
        kept |= states.paths_in_use(project, but={(state.root.path, claimant.claim_id)})
    return [record for manifest in before for record in manifest.shown if record.path not in kept]


def _unlisted_paths(plan: Plan, claimant: Claimant, states: NestedStates) -> set[str]:
    """Return the paths that an unfinished commit of this request, or claim, showed and that no manifest lists."""
    key = request_key(plan.request)
    notes = [note for note in states.own.notes if note.key == key or note.claims == {claimant.claim_id}]
    paths = {path for note in notes for path in note.paths} - {planned.path for planned in plan.files}
    return paths - states.shown_paths() if paths else paths


def _note_replaced(plan: Plan, blobs: Mapping[ContentId, LocalBlob], states: NestedStates) -> None:
    """Keep the bytes of other requests that this plan replaces, and note in all manifests which files it hides.

    Files that are missing, or that the user replaced, are noted too: a record is trusted by size and mtime, and the new
    file may have both.
    """
    state = states.own
    if state.root.layout.paths_name_bytes:
        return
    key = request_key(plan.request)
    coming = {planned.path: blobs[planned.content_id].xxh3 for planned in plan.files}
    for record in (r for m in state.manifests.readable if m.key != key for r in m.shown):
        if coming.get(record.path, record.xxh3) != record.xxh3 and _is_as_recorded(state.root, record):
            state.root.layout.keep_bytes(record)
    states.note_hidden(coming)


def _is_as_recorded(root: CacheRoot, record: FileRecord) -> bool:
    """Whether the file that shows `record` has the stat that it was recorded with."""
    found = root.layout.find_bytes(record.path)
    if found is None or found.stat.st_size != record.size:
        return False
    return same_mtime(found.stat.st_mtime_ns, record.mtime_ns)


def _write_pin(plan: Plan, pin: Pin | None, claimant: Claimant, root: CacheRoot) -> None:
    name = pin_name(plan.request)
    if name is None:
        return
    if pin is None or pin.commit != plan.revision or (claimant.resolved and pin.run != claimant.run):
        claims.write_pin(root, name, Pin(plan.revision, claimant.entry, claimant.run))


def _write_claim(root: CacheRoot, manifest: Manifest, claimant: Claimant) -> None:
    project, fingerprint = claimant.project, claimant.fingerprint
    stored = claims.read_claims(root, project.id)  # anew: where locks do not work, another process may have written it
    old = claims.current_claims(stored, project).entries.get(claimant.claim)
    if fingerprint is None and old is not None and old.request == manifest.key:
        fingerprint = old.fingerprint  # the credential file is absent now, which is not a change
    maker = project.maker(time.time())
    claim = Claim(manifest.key, manifest.request, fingerprint, maker.when, maker.config, maker.host)
    claim = claim._replace(snapshot=manifest.snapshot)
    claims.write_claims(root, project.id, claims.add_claim(stored, claimant.claim, claim, project))


def _forget_notes(root: CacheRoot, key: str, claimant: Claimant) -> None:
    """Forget the notes of this request, and those that this claim made for earlier requests.

    What they list is in the manifest now, or is not needed any more.
    """
    for note in read_notes(root):  # anew: this commit has noted its paths
        if note.key == key or not note.key:
            reassign_note(root, note, ())
        elif claimant.claim_id in note.claims:
            reassign_note(root, note, note.claims - {claimant.claim_id})


def claim_if_whole(
    root: CacheRoot,
    claimant: Claimant,
    read_status: Callable[[], Status],
    *,
    cancel: CancelToken,
    on_wait: OnWait = ignore_wait,
) -> Status:
    """Claim the manifest of an entry that is whole, if it still is under the root's lock.

    Returns:
        The status under the lock: its need is CLAIM or NOTHING if the manifest is claimed now.
    """
    with locked(root.lock("root"), cancel, on_wait):
        status = read_status()
        if status.manifest is not None and status.verdict.need <= Need.CLAIM:
            _write_claim(root, status.manifest, claimant)
            sweep(root, status.manifest.key)  # the run that wrote the manifest may have been killed before its end
        return status
