"""Claims and pins <-> JSON: who uses which manifest of a root, and which commit a moving revision stands for."""

from __future__ import annotations

import json
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


def find_claim(claims: Claims, name: str, key: str) -> tuple[str, Claim] | None:
    """Return the claim of this entry and the name that it stands under: by name, but if another name holds this very
    request (entries were swapped), that one."""
    claim = claims.entries.get(name)
    if claim is None or claim.request != key:
        for other, candidate in claims.entries.items():
            if candidate.request == key and not candidate.cleaned:
                return other, candidate
    return None if claim is None else (name, claim)


def add_claim(claims: Claims, name: str, claim: Claim, project: Project) -> Claims:
    """Return `claims` with `claim` under `name`; what it asked before is remembered, gone entries are dropped."""
    old = claims.entries.get(name)
    before = () if old is None else (*old.former, old.request)
    kept = {n: c for n, c in claims.entries.items() if n in project.entries or c.config != project.config}
    gone = [c for n, c in claims.entries.items() if n not in kept]
    kept[name] = replace(claim, former=_without(before, claim.request))
    former = _without([*claims.former, *(key for c in gone for key in (*c.former, c.request))], claim.request)
    return Claims(kept, former, tuple(sorted({*claims.roots, *project.roots})))


def _without(keys: tuple[str, ...] | list[str], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(k for k in keys if k != key))


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
