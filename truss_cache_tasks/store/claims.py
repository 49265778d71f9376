"""Claims and pins as JSON: which project uses which manifest of a root, which commit a moving revision stands for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import asdict, replace

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.keys import RequestKey
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import FORMAT, Claim, Claims, Pin, Project
from truss_cache_tasks.store import reading
from truss_cache_tasks.store.disk import disk_errors, write_json
from truss_cache_tasks.store.layout import CacheRoot, is_commit
from truss_cache_tasks.store.manifest import read_manifest, request_keys
from truss_cache_tasks.store.reading import Denied, NewerFormat, Unreadable, read_once, read_record
from truss_cache_tasks.store.tree import FileTree

_FOLDER = f"{RECORDS}/claims"
_PINS = f"{RECORDS}/pins.json"

_CLAIMS = {
    "entries": reading.is_object,
    "former": reading.is_keys,
    "roots": lambda value: isinstance(value, list) and all(map(reading.is_root, value)),
}
_CLAIM = {
    "request": reading.is_key,
    "form": reading.is_form,
    "fingerprint": lambda value: value is None or reading.is_text(value),
    "when": lambda value: isinstance(value, float) or reading.is_integer(value),
    "config": reading.is_text,
    "host": reading.is_text,
    "cleaned": reading.is_bool,
    "former": reading.is_keys,
    "snapshot": reading.is_text,
}
_PIN = {
    "commit": lambda value: reading.is_text(value) and is_commit(value),
    "by": reading.is_text,
    "run": reading.is_text,
}


def read_claims(place: CacheRoot, project: str) -> Claims:
    """Return this project's claims in this root; none where the file is missing or of no use."""
    return _usable(place, _path(project))


def claims_of(place: CacheRoot, project: Project) -> Claims:
    """Return this project's claims in this root as its config stands now (`aligned`)."""
    claims = read_claims(place, project.id)
    known = _aligned.get(id(claims))
    if known is None or known[0] is not claims or known[1] is not project:
        if len(_aligned) >= _ALIGNED_SIZE:
            _aligned.clear()
        known = _aligned[id(claims)] = (claims, project, aligned(claims, project))
    return known[2]


def fingerprints(place: CacheRoot, of: str) -> frozenset[str]:
    """Return the credentials' fingerprints of all claims that are, or once were, on something in this root.

    Args:
        of: a request key, or a source.
    """
    found: set[str] = set()
    for claims in read_all_claims(place).values():
        found |= _fingerprints(claims).get(of, set())
    return frozenset(found)


def _fingerprints(claims: Claims) -> dict[str, set[str]]:
    known = _indexed.get(id(claims))
    if known is None or known[0] is not claims:
        index: dict[str, set[str]] = {}
        for claim in claims.entries.values():
            for of in (claim.request, *claim.former, str(claim.form.get("source"))) if claim.fingerprint else ():
                index.setdefault(of, set()).add(str(claim.fingerprint))
        if len(_indexed) >= _ALIGNED_SIZE:
            _indexed.clear()
        known = _indexed[id(claims)] = (claims, index)
    return known[1]


def read_all_claims(place: CacheRoot) -> dict[str, Claims]:
    """Return the claims of every project in this root, by project id; none of a file that is of no use."""
    try:
        return {_project_of(path): _usable(place, path) for path in _paths(place)}
    except Unreadable:
        return {}


def write_claims(place: CacheRoot, project: str, claims: Claims) -> None:
    """Replace this project's claims; no file for no claims. Raises DiskError where another version's file lies."""
    path = _path(project)
    _make_way(place, path)
    if not claims.entries and not claims.former:
        with disk_errors(f"cannot remove {place.root / path}"):
            place.tree.unlink(path)
        return
    entries = {name: asdict(claim) for name, claim in claims.entries.items()}
    write_json(place.tree, path, {"format": FORMAT, "entries": entries, "former": claims.former, "roots": claims.roots})


def aligned(claims: Claims, project: Project) -> Claims:
    """Return `claims` as the config stands now: each under the entry that asks its request, gone entries dropped.

    A claim belongs to its request: entries that were swapped or renamed keep theirs. What a gone entry or an earlier
    request of an entry held goes into `former`. Claims that another config made under this project's id stay.
    """
    entries, asked = claims.entries, project.entries
    if not entries:
        return claims
    free = {claim.request: name for name, claim in entries.items() if asked.get(name) != claim.request}
    moves = {
        name: free[RequestKey(key)]
        for name, key in asked.items()
        if RequestKey(key) in free and not (name in entries and entries[name].request == key)
    }
    moved = set(moves.values())
    kept: dict[str, Claim] = {}
    former = list(claims.former)
    for name, claim in entries.items():
        if name in moved:
            continue
        if name in moves or (name not in asked and claim.config == project.config):
            former += (*claim.former, claim.request)
        else:
            kept[name] = claim
    kept.update({name: entries[other] for name, other in moves.items()})
    for name in moved & asked.keys() - moves.keys():  # swapped, and edited too: it was what now is nobody's
        last = name
        while following := next((to for to, source in moves.items() if source == last), None):
            last = following
        if last in entries and last not in moved:
            kept[name] = entries[last]
    held = {claim.request for claim in kept.values()}
    return Claims(kept, tuple(dict.fromkeys(key for key in former if key not in held)), claims.roots)


def add_claim(claims: Claims, name: str, claim: Claim, project: Project) -> Claims:
    """Return `claims` with `claim` under `name`; what it asked before is remembered, gone entries are dropped."""
    now = aligned(claims, project)
    old = now.entries.get(name)
    before = () if old is None else (*old.former, old.request)
    entries = {**now.entries, name: replace(claim, former=_without(before, claim.request))}
    return Claims(entries, _without(now.former, claim.request), tuple(sorted({*claims.roots, *project.roots})))


def _without(keys: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(k for k in keys if k != key))


def live_keys(place: CacheRoot, project: Project, but: Collection[str] = ()) -> set[str]:
    """Return the request keys that the claims of any project in this root hold.

    Where that cannot be known, every key here is held: a claims file of another project that cannot be read (another
    version's, a cut one, another user's) may hold any, and a manifest that cannot be read may list any file.

    Args:
        but: claims of `project` that do not count, by name.
    """
    try:
        live: set[str] = set()
        for path in _paths(place):
            mine = _project_of(path) == project.id
            theirs = aligned(_usable(place, path), project) if mine else _read(place, path)
            live |= {c.request for name, c in theirs.entries.items() if not c.cleaned and not (mine and name in but)}
        for key in live:
            read_manifest(place, key)
    except Unreadable:
        return request_keys(place)
    return live


def read_pins(place: CacheRoot) -> dict[str, Pin]:
    """Return the pins of this root that are of use, by layout.pin_name."""
    return read_once(_read_pins, place.tree, _PINS)


def _read_pins(root: FileTree, path: str) -> dict[str, Pin]:
    pins: dict[str, Pin] = {}
    with contextlib.suppress(Unreadable):
        value = read_record(root, path)
        for name, pin in reading.check_fields(value, {"pins": reading.is_object}, "it", more=True)["pins"].items():
            with contextlib.suppress(Unreadable):
                pins[name] = Pin(**reading.check_fields(pin, _PIN, "the pin"))
    return pins


def write_pin(place: CacheRoot, name: str, pin: Pin | None) -> None:
    """Set or drop one pin; no file for no pins. Raises DiskError where another version's file lies."""
    pins = dict(read_pins(place))
    if pins.get(name) == pin:
        return
    if pin is None:
        del pins[name]
    else:
        pins[name] = pin
    _make_way(place, _PINS)
    if not pins:
        with disk_errors(f"cannot remove {place.root / _PINS}"):
            place.tree.unlink(_PINS)
        return
    write_json(place.tree, _PINS, {"format": FORMAT, "pins": {n: asdict(p) for n, p in pins.items()}})


def _path(project: str) -> str:
    return f"{_FOLDER}/{project}.json"


def _project_of(path: str) -> str:
    return os.path.basename(path).removesuffix(".json")


def _paths(place: CacheRoot) -> list[str]:
    """Return the claims files of this root. Raises Unreadable."""
    try:
        return sorted(f"{_FOLDER}/{name}" for name in place.tree.names(_FOLDER) if name.endswith(".json"))
    except OSError as exc:
        raise Denied(f"{place.root / _FOLDER} cannot be read ({exc.strerror or exc})") from exc


def _make_way(place: CacheRoot, path: str) -> None:
    """Look at what is about to be replaced: what is of no use to anybody goes, what others may need stays."""
    name = place.root / path
    try:
        read_record(place.tree, path)
    except NewerFormat as exc:
        raise DiskError(
            f"another version of truss_cache_tasks wrote {name}: {exc}", hint="Use that version, or remove the file."
        ) from exc
    except Denied as exc:
        raise DiskError(f"cannot replace {name}: {exc}", hint="Make it readable, or remove the file.") from exc
    except Unreadable:
        place.tree.remove_hollow(path)


def _usable(place: CacheRoot, path: str) -> Claims:
    try:
        return _read(place, path)
    except Unreadable:
        return Claims({})


def _read(place: CacheRoot, path: str) -> Claims:
    """Return the claims of this file, none where it is missing. Raises Unreadable."""
    return read_once(_parse, place.tree, path)


def _parse(root: FileTree, path: str) -> Claims:
    value = read_record(root, path)
    if value is None:
        return Claims({})
    found = reading.check_fields(value, _CLAIMS, "it", more=True)
    entries = {}
    for name, claim in found["entries"].items():
        fields = reading.check_fields(claim, _CLAIM, f"the claim {reading.shown(name)}", optional=("snapshot",))
        entries[name] = Claim(**{**fields, "request": RequestKey(fields["request"]), "former": tuple(fields["former"])})
    return Claims(entries, tuple(found["former"]), tuple(found["roots"]))


_aligned: dict[int, tuple[Claims, Project, Claims]] = {}  # by id of what it holds
_indexed: dict[int, tuple[Claims, dict[str, set[str]]]] = {}
_ALIGNED_SIZE = 256
