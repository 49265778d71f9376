"""select(): the one meaning of a wildcard, in its two dialects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from typing import NamedTuple

from truss_cache_tasks.model.request import Dialect

Matcher = Callable[[str], object]


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
    matcher = _fnmatch if dialect is Dialect.FNMATCH else _globstar
    keeps = None if allow is None else [matcher(p, prefix) for p in dict.fromkeys(allow)]
    drops = [matcher(p, prefix) for p in dict.fromkeys(ignore)]
    return tuple(
        sorted(
            path
            for path in paths
            if (keeps is None or any(keep(path) for keep in keeps)) and not any(drop(path) for drop in drops)
        )
    )


def _fnmatch(pattern: str, prefix: str) -> Matcher:
    r"""Read a pattern as huggingface_hub.utils.filter_repo_objects does: `\` is `/`, in patterns and paths alike."""
    pattern = pattern.replace("\\", "/")
    match = re.compile(translate(pattern + "*" if pattern.endswith("/") else pattern)).match
    above = _above(pattern, prefix.replace("\\", "/"))
    return lambda path: match(above + path.replace("\\", "/"))


def _globstar(pattern: str, prefix: str) -> Matcher:
    glob = _Glob(pattern + "**" if pattern.endswith("/") else pattern)
    above = _above(pattern, prefix)
    return lambda path: glob.matches(above + path)


def _above(pattern: str, prefix: str) -> str:
    """Return what is put before each path: the prefix where the pattern begins with it, else nothing."""
    return f"{prefix}/" if prefix and pattern.startswith(f"{prefix}/") else ""


class _Token(NamedTuple):
    """One token of a `weights` pattern.

    Attributes:
        takes: whether a character is this token's last, so that the next token's turn has come.
        stays: whether a character belongs to this token and more of them may follow.
        skips: how many tokens further one may go without any character.
    """

    takes: Callable[[str], bool]
    stays: Callable[[str], bool]
    skips: tuple[int, ...] = ()


class _Glob:
    """A `weights` pattern: `**/` is zero or more folders, `**` anything, `*` and `?` stay within one.

    A path is read once, character by character, with the set of all tokens whose turn it may be. So a match takes at
    most characters times tokens steps, whatever the pattern is; a regular expression would try again and again.
    """

    def __init__(self, pattern: str) -> None:
        self._tokens = [*_tokens(pattern), _Token(_never, _never)]  # the last one's turn is the end
        self._start = self._spread({0})
        self._next = lru_cache(maxsize=512)(self._after)  # most names of a listing are much alike

    def matches(self, path: str) -> bool:
        """Return whether the whole of `path` matches."""
        turn = self._start
        for char in path:
            turn = self._next(turn, char)
            if not turn:
                return False
        return len(self._tokens) - 1 in turn

    def _after(self, turn: frozenset[int], char: str) -> frozenset[int]:
        """Return whose turn it may be after one more character."""
        stay = {at for at in turn if self._tokens[at].stays(char)}
        return self._spread(stay | {at + 1 for at in turn if self._tokens[at].takes(char)})

    def _spread(self, turn: set[int]) -> frozenset[int]:
        """Add the tokens that can be reached without a character."""
        todo = list(turn)
        while todo:
            at = todo.pop()
            further = {at + skip for skip in self._tokens[at].skips} - turn
            turn |= further
            todo.extend(further)
        return frozenset(turn)


def _tokens(pattern: str) -> Iterator[_Token]:
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            yield _Token(_never, _never, (1, 2))
            yield _Token("/".__eq__, _always)
            at += 3
        elif pattern.startswith("**", at):
            yield _Token(_never, _always, (1,))
            at += 2
        elif pattern[at] == "*":
            yield _Token(_never, "/".__ne__, (1,))
            at += 1
        elif pattern[at] == "?":
            yield _Token("/".__ne__, _never)
            at += 1
        elif pattern[at] == "[" and (end := _class_end(pattern, at)):
            yield _Token(_in_class(pattern[at:end]), _never)
            at = end
        else:
            yield _Token(pattern[at].__eq__, _never)
            at += 1


def _in_class(text: str) -> Callable[[str], bool]:
    """Return whether a character is in `[...]`, which reads as in fnmatch and never holds `/`."""
    return lambda char: char != "/" and fnmatchcase(char, text)


def _class_end(pattern: str, start: int) -> int:
    """Return the index behind the `]` that closes the class at `start`, or 0: an unclosed `[` is itself."""
    at = start + 1
    at += pattern[at : at + 1] == "!"
    at += pattern[at : at + 1] == "]"
    return pattern.find("]", at) + 1


def _never(_char: str) -> bool:
    return False


def _always(_char: str) -> bool:
    return True
