"""select(): the one meaning of a wildcard, in its two dialects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from functools import lru_cache

from truss_cache_tasks.planning.request import Dialect


def select(
    paths: Iterable[str],
    allow: Sequence[str] | None,
    ignore: Sequence[str] = (),
    *,
    prefix: str = "",
    dialect: Dialect = Dialect.FNMATCH,
) -> tuple[str, ...]:
    """Return the paths that `allow` keeps and `ignore` does not drop.

    Args:
        paths: N relative POSIX paths, in any order.
        allow: patterns, any of which keeps a path; None keeps all N, [] keeps 0.
        ignore: patterns, any of which drops a path that `allow` kept.
        prefix: of a bucket entry; a pattern that literally begins with it and `/` is read on the full key.
        dialect: what `*` crosses; in both, a trailing `/` means the whole folder.

    Returns:
        0..N paths, sorted by code point, so that equal sets give equal plans.

    >>> select(["a.bin", "fp16/a.bin", "README.md"], ["*.bin"], ["fp16/"])
    ('a.bin',)
    >>> select(["a.bin", "fp16/a.bin"], ["*.bin"], dialect=Dialect.GLOBSTAR)
    ('a.bin',)
    """
    keeps = None if allow is None else [_matcher(p, prefix, dialect) for p in allow]
    drops = [_matcher(p, prefix, dialect) for p in ignore]
    return tuple(
        sorted(
            path
            for path in paths
            if (keeps is None or any(keep(path) for keep in keeps)) and not any(drop(path) for drop in drops)
        )
    )


def _matcher(pattern: str, prefix: str, dialect: Dialect) -> Callable[[str], object]:
    match = _compiled(pattern, dialect).match
    if prefix and pattern.startswith(f"{prefix}/"):
        return lambda path: match(f"{prefix}/{path}")
    return match


@lru_cache(maxsize=1024)
def _compiled(pattern: str, dialect: Dialect) -> re.Pattern[str]:
    if dialect is Dialect.FNMATCH:
        return re.compile(translate(pattern + "*" if pattern.endswith("/") else pattern))
    return re.compile(_globstar(pattern + "**" if pattern.endswith("/") else pattern))


def _globstar(pattern: str) -> str:
    """Translate a `weights` pattern: `**/` is zero or more folders, `**` anything, `*` and `?` stay within one."""
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "[" and (end := _class_end(pattern, at)):
            inside = translate(pattern[at:end]).removeprefix("(?s:").removesuffix(r")\Z")
            out, at = out + f"(?!/){inside}", end
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    return f"(?s:{out})\\Z"


def _class_end(pattern: str, start: int) -> int:
    """Return the index behind the `]` that closes the class at `start`, or 0: an unclosed `[` is itself."""
    at = start + 1
    at += pattern[at : at + 1] == "!"
    at += pattern[at : at + 1] == "]"
    return pattern.find("]", at) + 1
