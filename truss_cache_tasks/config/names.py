"""Name the entries: stable, readable, unique, and safe on doit's command line."""

from __future__ import annotations

import re
from collections.abc import Iterable

from truss_cache_tasks.model.request import SourceRef

# '=' and '*' are doit's (a variable, a wildcard); white space and control characters break its database listings, and
# the controls of bidirectional text show a name in another order than it is typed.
_UNSAFE = r"[=*\s\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"


def name_entries(asked: Iterable[tuple[SourceRef, str]]) -> list[str]:
    """Return one name for each (source, revision), in order.

    The first entry of an id has the bare id; a later one gets `@revision` where that is new, else `#n` (n from 2).
    The bare ids are reserved first, so that no name with a suffix equals the id of a later entry.

    >>> hub = lambda name, revision: (SourceRef("hf", name), revision)
    >>> name_entries([hub("a/b", "main"), hub("a/b", "v1"), hub("a/b", "v1"), hub("c/d", "main")])
    ['a/b', 'a/b@v1', 'a/b#3', 'c/d']
    """
    asked = list(asked)
    bare = [_safe(_id(source)) for source, _ in asked]
    taken = set(bare)
    counts: dict[str, int] = {}
    names = []
    for name, (_, revision) in zip(bare, asked, strict=True):
        counts[name] = counts.get(name, 0) + 1
        names.append(name if counts[name] == 1 else _suffixed(name, revision, counts[name], taken))
        taken.add(names[-1])
    return names


def _suffixed(name: str, revision: str, count: int, taken: set[str]) -> str:
    pinned = _safe(f"{name}@{revision}")
    if revision and pinned not in taken:
        return pinned
    while f"{name}#{count}" in taken:
        count += 1
    return f"{name}#{count}"


def _id(source: SourceRef) -> str:
    if source.store.is_local or source.store.is_web:
        return source.cache_path
    return f"{source.root}/{source.prefix}" if source.prefix else source.root


def _safe(name: str) -> str:
    if not name.isprintable() or not {"=", "*", " "}.isdisjoint(name):  # the expression takes long to compile
        name = re.sub(_UNSAFE, "-", name)
    return "_" + name[1:] if name.startswith("-") else name
