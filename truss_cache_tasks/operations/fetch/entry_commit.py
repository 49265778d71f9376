"""The commit of an entry: of bytes that were fetched, and of those that were on this disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from truss_cache_tasks.events import Moved
from truss_cache_tasks.model.keys import ContentId, request_key
from truss_cache_tasks.model.plan import Plan
from truss_cache_tasks.model.records import Manifest, Pin
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.entries.commit import Claimant, commit
from truss_cache_tasks.store.layouts.blob import LocalBlob
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims

if TYPE_CHECKING:
    pass


def commit_entry(
    context: EntryContext,
    root: CacheRoot,
    run: RunContext,
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    *,
    pinned: Pin | None,
    resolved: bool,
) -> Manifest:
    """Put the blobs where paths of `root` can show them, and commit. Raises Vanished and PinMoved."""
    warn_of_other_claims(context, root, run)
    adopted = {planned.content_id: blobs[planned.content_id] for planned in plan.files}
    for planned in plan.files:
        on_wait = run.waits_for_file(root, planned, request_key(plan.request))
        blob = root.layout.adopt_blob(planned, adopted[planned.content_id], run.cancel, on_wait)
        adopted[planned.content_id] = blob
    claimant = claimant_of(context, root, run, resolved=resolved)
    return commit(root, plan, adopted, claimant, pinned=pinned, cancel=run.cancel, on_wait=run.waits_for_root)


def warn_of_other_claims(context: EntryContext, root: CacheRoot, run: RunContext) -> None:
    """Warn of claims under this project's id that another host or config made: this run may take them over."""
    others = claims.claims_of_others(claims.read_claims(root, context.project.id), context.project)
    if not others:
        return
    name, other = min(others.items(), key=lambda item: (item[0] != context.claim_in(root), item[0]))
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    run.warn(
        f"{root.path}: found the claim {name!r}{more} of {other.config} on {other.host!r} under this project's id "
        f"{context.project.id}, expected none but of {context.project.config} on {context.project.host!r}: set another "
        "TRUSS_CACHE_PROJECT for each project, or the same one for both if they are one"
    )


def claimant_of(context: EntryContext, root: CacheRoot, run: RunContext, *, resolved: bool) -> Claimant:
    """Return who commits: this project, its claim of the entry, and the run."""
    return Claimant(
        project=context.project,
        claim=context.claim_in(root),
        entry=context.name,
        fingerprint=context.fingerprint,
        run=run.id,
        resolved=resolved,
        replace=context.settings.replace,
    )


def report_moved(context: EntryContext, run: RunContext, before: str, after: str) -> None:
    """Report that the pin of the entry's revision was moved by its run, if it was."""
    if before and before != after:
        run.report(Moved(revision=context.entry.request.revision, before=before, after=after))
