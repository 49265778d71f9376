"""commit(): from held bytes to a visible, recorded and claimed entry, in an order that is safe to stop at any line."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping

from truss_cache_tasks.planning.keys import canonical, request_key
from truss_cache_tasks.planning.plan import Plan
from truss_cache_tasks.planning.records import Claim, FileRecord, Manifest, Pin, Project
from truss_cache_tasks.planning.request import Form
from truss_cache_tasks.store import claims, links
from truss_cache_tasks.store.blobs import Held
from truss_cache_tasks.store.layout import Place, pin_name
from truss_cache_tasks.store.locks import locked
from truss_cache_tasks.store.manifest import read_all, write_manifest


def commit(
    place: Place,
    plan: Plan,
    held: Mapping[str, Held],
    *,
    project: Project,
    name: str,
    fingerprint: str | None,
    run: str,
    stopped: Callable[[], bool],
) -> Manifest | None:
    """Make the plan visible, record it, pin it and claim it.

    Args:
        held: every file of the plan, by identity.
        name: of the claim.
        fingerprint: of the credential file that was used, or None.
        run: id of this run, for the pin.

    Returns:
        The manifest; None if a held file vanished meanwhile (another project's `clean`): take stock again.
    """
    with locked(place.lock("root"), stopped):
        if not all(one.path.is_file() for one in held.values()):
            return None
        known = read_all(place)
        hidden = _hidden(place, plan, project, name)
        links.hide(place, links.in_the_way(hidden, plan))
        files = links.expose(place, plan, held, (record for manifest in known for record in manifest.files))
        key = request_key(plan.request)
        manifest = Manifest(key, canonical(plan.request), plan.revision, plan.folder, files)
        if manifest not in known:
            write_manifest(place, manifest)
        if moving := pin_name(plan.request):
            _pin(place, moving, Pin(plan.revision, name, run))
        _claim(place, project, name, manifest, fingerprint)
        links.hide(place, hidden)
        for one in held.values():
            if one.path.parent == place.records / "blobs":
                one.path.unlink(missing_ok=True)
        return manifest


def claim_only(place: Place, manifest: Manifest, project: Project, name: str, fingerprint: str | None) -> None:
    """Claim a manifest that is whole as it is."""
    with locked(place.lock("root")):
        _claim(place, project, name, manifest, fingerprint)


def _claim(place: Place, project: Project, name: str, manifest: Manifest, fingerprint: str | None) -> None:
    mine = claims.read_claims(place, project.id)
    old = claims.find_claim(mine, name, manifest.key)
    if fingerprint is None and old is not None and old[1].request == manifest.key:
        fingerprint = old[1].fingerprint  # the file is absent now, which is not a change
    claim = Claim(manifest.key, manifest.request, fingerprint, time.time(), project.config, socket.gethostname())
    claims.write_claims(place, project.id, claims.add_claim(mine, name, claim, project))


def _pin(place: Place, name: str, pin: Pin) -> None:
    old = claims.read_pins(place).get(name)
    if old is None or old.commit != pin.commit or old.run != pin.run:
        claims.write_pin(place, name, pin)


def live_keys(place: Place, *, but: tuple[str, str] | None = None) -> set[str]:
    """Return the request keys that claims of this root hold.

    Args:
        but: (project id, claim name) that does not count.
    """
    return {
        claim.request
        for project, theirs in claims.read_all_claims(place).items()
        for name, claim in theirs.entries.items()
        if not claim.cleaned and (project, name) != but
    }


def _hidden(place: Place, plan: Plan, project: Project, name: str) -> list[FileRecord]:
    """What this entry showed before and nobody shows from now on: narrowed patterns, another revision or folder.

    A hub snapshot of the same request stays when its revision moved: somebody may be reading it (`clean` takes it).
    """
    old = claims.read_claims(place, project.id).entries.get(name)
    if old is None:
        return []
    key = request_key(plan.request)
    live = live_keys(place, but=(project.id, name)) | set(project.entries.values())
    before = [m for m in read_all(place) if m.key == old.request and (m.key != key or place.form is not Form.HUB)]
    kept = {record.path for m in read_all(place) if m.key in live for record in m.files}
    kept |= {planned.path for planned in plan.files}
    return [record for manifest in before for record in manifest.files if record.path not in kept]
