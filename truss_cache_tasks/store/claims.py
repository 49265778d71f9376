"""Claims and pins <-> JSON: who uses which manifest of a root, and which commit a moving revision stands for."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from truss_cache_tasks.planning.keys import RequestKey
from truss_cache_tasks.planning.records import FORMAT, Claim, Claims, Pin, Project
from truss_cache_tasks.store.disk import write_json
from truss_cache_tasks.store.layout import Place


def read_claims(place: Place, project: str) -> Claims:
    """Return this project's claims in this root; none where the file is missing or of no use."""
    return _claims(_read(_path(place, project)))


def read_all_claims(place: Place) -> dict[str, Claims]:
    """Return the claims of every project in this root, by project id."""
    return {path.stem: _claims(_read(path)) for path in sorted((place.records / "claims").glob("*.json"))}


def write_claims(place: Place, project: str, claims: Claims) -> None:
    """Replace this project's claims; no file for no claims."""
    path = _path(place, project)
    if not claims.entries and not claims.former:
        path.unlink(missing_ok=True)
        return
    entries = {name: asdict(claim) for name, claim in claims.entries.items()}
    write_json(path, {"format": FORMAT, "entries": entries, "former": claims.former, "roots": claims.roots})


def aligned(claims: Claims, project: Project) -> Claims:
    """Return `claims` as the config stands now: each under the entry that asks its request, gone entries dropped.

    A claim belongs to its request: entries that were swapped or renamed keep theirs. What a gone entry or an earlier
    request of an entry held goes into `former`. Claims that another config made under this project's id stay.
    """
    entries, asked = claims.entries, project.entries
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


def live_keys(place: Place, project: Project, but: Collection[str] = ()) -> set[str]:
    """Return the request keys that somebody's claims in this root hold.

    Args:
        but: claims of `project` that do not count, by name.
    """
    return {
        claim.request
        for owner, theirs in read_all_claims(place).items()
        for name, claim in (aligned(theirs, project) if owner == project.id else theirs).entries.items()
        if not claim.cleaned and not (owner == project.id and name in but)
    }


def read_pins(place: Place) -> dict[str, Pin]:
    """Return the pins of this root, by layout.pin_name."""
    value = _read(place.records / "pins.json")
    try:
        return {name: Pin(**pin) for name, pin in value["pins"].items()}
    except (KeyError, TypeError, AttributeError):
        return {}


def write_pin(place: Place, name: str, pin: Pin | None) -> None:
    """Set or drop one pin."""
    pins = read_pins(place)
    if pins.get(name) == pin:
        return
    if pin is None:
        del pins[name]
    else:
        pins[name] = pin
    write_json(place.records / "pins.json", {"format": FORMAT, "pins": {n: asdict(p) for n, p in pins.items()}})


def _path(place: Place, project: str) -> Path:
    return place.records / "claims" / f"{project}.json"


def _read(path: Path) -> Any:
    try:
        value = json.loads(path.read_bytes())
        return value if value["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _claims(value: Any) -> Claims:
    try:
        entries = {
            name: Claim(**{**claim, "request": RequestKey(claim["request"]), "former": tuple(claim["former"])})
            for name, claim in value["entries"].items()
        }
        return Claims(entries, tuple(value["former"]), tuple(value["roots"]))
    except (KeyError, TypeError, AttributeError):
        return Claims({})
