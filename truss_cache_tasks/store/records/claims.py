"""Claims and pins as JSON: which project uses which manifest of a root, which commit a moving revision stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.keys import RequestKey
from truss_cache_tasks.model.records import FORMAT, RECORDS, Claim, Claims, Pin, Project
from truss_cache_tasks.store.files import record_file
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.names import is_commit
from truss_cache_tasks.store.files.record_file import (
    Denied,
    NewerFormat,
    Unreadable,
    read_once,
    read_record,
    write_json,
)
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.layout import CacheRoot

_FOLDER = f"{RECORDS}/claims"
PINS = f"{RECORDS}/pins.json"

_CLAIMS: dict[str, record_file.Check] = {
    "entries": dict,
    "former": record_file.is_keys,
    "roots": lambda value: isinstance(value, list) and all(map(record_file.is_root, value)),
}
_CLAIM: dict[str, record_file.Check] = {
    "request": record_file.is_key,
    "form": record_file.is_form,
    "fingerprint": lambda value: value is None or record_file.is_text(value),
    "when": lambda value: isinstance(value, float) or record_file.is_integer(value),
    "config": str,
    "host": str,
    "cleaned": bool,
    "former": record_file.is_keys,
    "snapshot": str,
}
_PINS_FILE: dict[str, record_file.Check] = {"pins": dict}
_PIN: dict[str, record_file.Check] = {
    "commit": lambda value: record_file.is_text(value) and is_commit(value),
    "by": str,
    "run": str,
}

# By id() of the Claims of one file. The value holds that object too, so that no other object can get its id
_aligned: dict[int, tuple[Claims, Project, Claims]] = {}
_indexed: dict[int, tuple[Claims, dict[str, set[str]]]] = {}
_MEMO_SIZE = 256


def read_claims(root: CacheRoot, project: str) -> Claims:
    """Return this project's claims in this root; none where the file is missing or cannot be used."""
    return _usable(root, path_of(project))


def claims_of(root: CacheRoot, project: Project) -> Claims:
    """Return this project's claims in this root as its config stands now (`aligned`)."""
    return current_claims(read_claims(root, project.id), project)


def current_claims(claims: Claims, project: Project) -> Claims:
    """Return `aligned(claims, project)`, which is computed once for the claims of one file."""
    known = _aligned.get(id(claims))
    if known is None or known[0] is not claims or known[1] is not project:
        if len(_aligned) >= _MEMO_SIZE:
            _aligned.clear()
        known = _aligned[id(claims)] = (claims, project, aligned(claims, project))
    return known[2]


def fingerprints(root: CacheRoot, of: str) -> frozenset[str]:
    """Return the credentials' fingerprints of all claims that are, or once were, on something in this root.

    Args:
        of: a request key, or a source.
    """
    found: set[str] = set()
    for claims in read_all_claims(root).by_project.values():
        found |= _fingerprints(claims).get(of, set())
    return frozenset(found)


def _fingerprints(claims: Claims) -> dict[str, set[str]]:
    known = _indexed.get(id(claims))
    if known is None or known[0] is not claims:
        index: dict[str, set[str]] = {}
        for claim in claims.entries.values():
            for of in (claim.request, *claim.former, str(claim.form.get("source"))) if claim.fingerprint else ():
                index.setdefault(of, set()).add(str(claim.fingerprint))
        if len(_indexed) >= _MEMO_SIZE:
            _indexed.clear()
        known = _indexed[id(claims)] = (claims, index)
    return known[1]


class AllClaims(NamedTuple):
    """The claims of every project in one root.

    Args:
        by_project: project id -> its claims; none where the file cannot be used.
        unreadable: ids of the projects whose file cannot be used.
        is_complete: the folder of the claims files could be listed.
    """

    by_project: Mapping[str, Claims]
    unreadable: frozenset[str] = frozenset()
    is_complete: bool = True

    def are_known(self, besides: str | None = None) -> bool:
        """Whether it is known what every project claims, save the project `besides`."""
        return self.is_complete and self.unreadable <= {besides}


def read_all_claims(root: CacheRoot) -> AllClaims:
    """Return the claims of every project in this root."""
    found: dict[str, Claims] = {}
    unreadable: set[str] = set()
    try:
        paths = _paths(root)
    except Unreadable:
        return AllClaims({}, is_complete=False)
    for path in paths:
        project = _project_of(path)
        try:
            found[project] = _read(root, path)
        except Unreadable:
            found[project] = Claims({})
            unreadable.add(project)
    return AllClaims(found, frozenset(unreadable))


def write_claims(root: CacheRoot, project: str, claims: Claims) -> None:
    """Replace this project's claims; no file for no claims. Raises DiskError where another version's file lies."""
    path = path_of(project)
    _check_replaceable(root, path)
    if not claims.entries and not claims.former:
        with disk_errors(f"cannot remove {root.path / path}"):
            root.tree.unlink(path)
        return
    entries = {name: claim._asdict() for name, claim in claims.entries.items()}
    write_json(root.tree, path, {"format": FORMAT, "entries": entries, "former": claims.former, "roots": claims.roots})


def aligned(claims: Claims, project: Project) -> Claims:
    """Return `claims` as the config stands now: each under the entry that has its request.

    A claim belongs to its request: entries that were renamed, or swapped names, keep theirs. The claims of entries that
    left the config are dropped, and their request keys go into `former`; so does the request that an entry had before
    it took over another claim. Claims that another config or host made under this project's id stay.
    """
    entries, asked = claims.entries, project.entries
    if not entries:
        return claims
    free = {
        claim.request: name
        for name, claim in entries.items()
        if asked.get(name) != claim.request and project.made(claim)
    }
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
        if name in moves or (name not in asked and project.made(claim)):
            former += (*claim.former, claim.request)
        else:
            kept[name] = claim
    kept.update({name: entries[other] for name, other in moves.items()})
    # Here another entry took the claim of `name`, and its new request has no claim (swapped, then edited). It keeps the
    # claim that no entry took: the one at the end of the chain of moves
    for name in moved & asked.keys() - moves.keys():
        last = name
        while following := next((to for to, source in moves.items() if source == last), None):
            last = following
        if last in entries and last not in moved:
            kept[name] = entries[last]
    held = {claim.request for claim in kept.values()}
    return Claims(kept, tuple(dict.fromkeys(key for key in former if key not in held)), claims.roots)


def claims_of_others(claims: Claims, project: Project) -> dict[str, Claim]:
    """Return the claims under this project's id that another host or config made, by name.

    None with TRUSS_CACHE_PROJECT, which says that all of them are of one project.
    """
    if project.is_named:
        return {}
    here = os.path.realpath(project.config)
    return {
        name: claim
        for name, claim in claims.entries.items()
        if claim.host != project.host
        or (claim.config != project.config and os.path.realpath(claim.config.replace("\0", "")) != here)
    }


def add_claim(claims: Claims, name: str, claim: Claim, project: Project) -> Claims:
    """Return `claims` with `claim` under `name`; earlier requests go into `former`, gone entries are dropped."""
    now = aligned(claims, project)
    old = now.entries.get(name)
    before = () if old is None else (*old.former, old.request)
    entries = {**now.entries, name: claim._replace(former=_without(before, claim.request))}
    return Claims(entries, _without(now.former, claim.request), tuple(sorted({*claims.roots, *project.roots})))


def _without(keys: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(k for k in keys if k != key))


def read_pins(root: CacheRoot) -> dict[str, Pin]:
    """Return the pins of this root that can be used, by names.pin_name."""
    return read_once(_read_pins, root.tree, PINS)[0]


def damage_of_pins(root: CacheRoot) -> str:
    """Return why pins of this root cannot be used; "" if all can, or their file belongs to another user."""
    damage = read_once(_read_pins, root.tree, PINS)[1]
    return "" if damage is None or isinstance(damage, Denied) else str(damage)


def parse_pins(tree: FileTree, path: str) -> dict[str, Pin]:
    """Return the pins of this file. Raises Unreadable if any cannot be used."""
    pins, damage = _read_pins(tree, path)
    if damage is not None:
        raise damage
    return pins


def _read_pins(tree: FileTree, path: str) -> tuple[dict[str, Pin], Unreadable | None]:
    """Return the pins that can be used, and why others cannot."""
    pins: dict[str, Pin] = {}
    damage: Unreadable | None = None
    try:
        value = read_record(tree, path)
        found = {} if value is None else record_file.check_fields(value, _PINS_FILE, "it", more=True)["pins"]
    except Unreadable as exc:
        return pins, exc
    for name, pin in found.items():
        try:
            pins[name] = Pin(**record_file.check_fields(pin, _PIN, f"the pin {record_file.shown(name)}"))
        except Unreadable as exc:
            damage = exc
    return pins, damage


def write_pin(root: CacheRoot, name: str, pin: Pin | None) -> None:
    """Set or drop one pin; no file for no pins. Raises DiskError where another version's file lies."""
    pins = dict(read_pins(root))
    if pins.get(name) == pin:
        return
    if pin is None:
        del pins[name]
    else:
        pins[name] = pin
    _check_replaceable(root, PINS)
    if not pins:
        with disk_errors(f"cannot remove {root.path / PINS}"):
            root.tree.unlink(PINS)
        return
    write_json(root.tree, PINS, {"format": FORMAT, "pins": {n: p._asdict() for n, p in pins.items()}})


def remove_pins(root: CacheRoot) -> None:
    """Remove the file of the pins, also one that cannot be used; not another version's or user's, and no folder."""
    try:
        read_record(root.tree, PINS)
    except (NewerFormat, Denied):
        return
    except Unreadable:
        root.tree.remove_empty_tree(PINS)
    if not root.tree.is_folder(PINS):
        with disk_errors(f"cannot remove {root.path / PINS}"):
            root.tree.unlink(PINS)


def path_of(project: str) -> str:
    """Return where the claims of this project are, relative to a root."""
    return f"{_FOLDER}/{project}.json"


def _project_of(path: str) -> str:
    return os.path.basename(path).removesuffix(".json")


def _paths(root: CacheRoot) -> list[str]:
    """Return the claims files of this root. Raises Unreadable."""
    try:
        return sorted(f"{_FOLDER}/{name}" for name in root.tree.names(_FOLDER) if name.endswith(".json"))
    except OSError as exc:
        raise Denied(f"{root.path / _FOLDER} cannot be read ({exc.strerror or exc})") from exc


def _check_replaceable(root: CacheRoot, path: str) -> None:
    """Raise DiskError if another version or user may need the file at `path`. Removes empty folders that lie there."""
    name = root.path / path
    try:
        read_record(root.tree, path)
    except NewerFormat as exc:
        raise DiskError(
            f"another version of truss_cache_tasks wrote {name}: {exc}", hint="Use that version, or remove the file."
        ) from exc
    except Denied as exc:
        raise DiskError(f"cannot replace {name}: {exc}", hint="Make it readable, or remove the file.") from exc
    except Unreadable:
        root.tree.remove_empty_tree(path)


def _usable(root: CacheRoot, path: str) -> Claims:
    try:
        return _read(root, path)
    except Unreadable:
        return Claims({})


def _read(root: CacheRoot, path: str) -> Claims:
    """Return the claims of this file, none where it is missing. Raises Unreadable."""
    return read_once(parse, root.tree, path)


def parse(tree: FileTree, path: str) -> Claims:
    """Return the claims of this file, none where it is missing. Raises Unreadable."""
    value = read_record(tree, path)
    if value is None:
        return Claims({})
    found = record_file.check_fields(value, _CLAIMS, "it", more=True)
    entries = {}
    for name, claim in found["entries"].items():
        fields = record_file.check_fields(claim, _CLAIM, f"the claim {record_file.shown(name)}", optional=("snapshot",))
        entries[name] = Claim(**{**fields, "request": RequestKey(fields["request"]), "former": tuple(fields["former"])})
    return Claims(entries, tuple(found["former"]), tuple(found["roots"]))
