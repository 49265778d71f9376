"""Select paths by allow and ignore patterns, in the two dialects that wildcards have."""

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
        prefix: of a bucket entry; a pattern that literally begins with it and `/` is matched on the full key.
        dialect: what `*` crosses; in both, a trailing `/` means the whole folder.

    Returns:
        0..N paths, sorted by code point, so that equal sets give equal plans.

    >>> select(["a.bin", "fp16/a.bin", "README.md"], ["*.bin"], ["fp16/"])
    ('a.bin',)
    >>> select(["a.bin", "fp16/a.bin"], ["*.bin"], dialect=Dialect.GLOBSTAR)
    ('a.bin',)
    """
    keeps = None if allow is None else [matcher(p, prefix, dialect) for p in dict.fromkeys(allow)]
    drops = [matcher(p, prefix, dialect) for p in dict.fromkeys(ignore)]
    return tuple(
        sorted(
            path
            for path in paths
            if (keeps is None or any(keep(path) for keep in keeps)) and not any(drop(path) for drop in drops)
        )
    )


def matcher(pattern: str, prefix: str, dialect: Dialect) -> Matcher:
    """Return what tells whether a path matches one pattern; the arguments are those of `select`."""
    return _fnmatch(pattern, prefix) if dialect is Dialect.FNMATCH else _globstar(pattern, prefix)


def _fnmatch(pattern: str, prefix: str) -> Matcher:
    r"""Return a matcher that follows huggingface_hub.utils.filter_repo_objects: `\` is `/`, in patterns and paths."""
    pattern = pattern.replace("\\", "/")
    match = re.compile(translate(pattern + "*" if pattern.endswith("/") else pattern)).match
    added = _added_prefix(pattern, prefix.replace("\\", "/"))
    return lambda path: match(added + path.replace("\\", "/"))


def _globstar(pattern: str, prefix: str) -> Matcher:
    """Return a matcher for a pattern of `weights`."""
    glob = _Glob(pattern + "**" if pattern.endswith("/") else pattern)
    added = _added_prefix(pattern, prefix)
    return lambda path: glob.matches(added + path)


def _added_prefix(pattern: str, prefix: str) -> str:
    """Return what is put before each path: `PREFIX/` where the pattern begins with it, else nothing."""
    return f"{prefix}/" if prefix and pattern.startswith(f"{prefix}/") else ""


class _Token(NamedTuple):
    """One token of a `weights` pattern: the transitions out of one state of the automaton.

    Attributes:
        advances: whether a character leads to the next state.
        stays: whether a character leads back to this state.
        skips: how many states further one may go without any character.
    """

    advances: Callable[[str], bool]
    stays: Callable[[str], bool]
    skips: tuple[int, ...] = ()


class _Glob:
    """A `weights` pattern: `**/` is zero or more folders, `**` anything, `*` and `?` stay within one.

    It is a nondeterministic finite automaton, whose state N means that the tokens before N have matched. A path is read
    once, character by character, with the set of all possible states. So a match takes at most characters times tokens
    steps, whatever the pattern is; a regular expression may take exponentially many.
    """

    def __init__(self, pattern: str) -> None:
        self._tokens = [*_tokens(pattern), _Token(_never, _never)]  # the last one is the accepting state
        self._start = self._closure({0})
        self._next = lru_cache(maxsize=512)(self._step)  # most names of a listing are much alike

    def matches(self, path: str) -> bool:
        """Return whether the whole of `path` matches."""
        states = self._start
        for char in path:
            states = self._next(states, char)
            if not states:
                return False
        return len(self._tokens) - 1 in states

    def _step(self, states: frozenset[int], char: str) -> frozenset[int]:
        """Return the states that are possible after one more character."""
        same = {state for state in states if self._tokens[state].stays(char)}
        return self._closure(same | {state + 1 for state in states if self._tokens[state].advances(char)})

    def _closure(self, states: set[int]) -> frozenset[int]:
        """Return `states` and those that can be reached from them without a character."""
        todo = list(states)
        while todo:
            state = todo.pop()
            further = {state + skip for skip in self._tokens[state].skips} - states
            states |= further
            todo.extend(further)
        return frozenset(states)


def _tokens(pattern: str) -> Iterator[_Token]:
    """Yield the tokens of a `weights` pattern; `**/` becomes two."""
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
    """Return a test for the characters of the class `text` (`[...]` as in fnmatch), which never holds `/`."""
    return lambda char: char != "/" and fnmatchcase(char, text)


def _class_end(pattern: str, start: int) -> int:
    """Return the index after the `]` that closes the class at `start`; 0 for an unclosed `[`, which is literal."""
    at = start + 1
    at += pattern[at : at + 1] == "!"
    at += pattern[at : at + 1] == "]"
    return pattern.find("]", at) + 1


def _never(_char: str) -> bool:
    return False


def _always(_char: str) -> bool:
    return True
