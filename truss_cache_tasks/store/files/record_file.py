"""Our JSON files: read with every field checked, replaced whole. One that cannot be used raises Unreadable."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from stat import S_ISREG
from typing import Any, TypeVar

from truss_cache_tasks.model.records import FORMAT, RECORDS
from truss_cache_tasks.store.files.disk import disk_errors, token
from truss_cache_tasks.store.files.names import MANIFESTS
from truss_cache_tasks.store.files.tree import FileTree, sync

T = TypeVar("T")
Check = type | Callable[[Any], bool]  # the very type that a field of the JSON has, or a function that checks it

_KEY = re.compile("[0-9a-f]{64}")
_NO_NAMES = frozenset({"", ".", "..", RECORDS})
_ABSENT = object()
_LONGEST_NAME = 255  # no disk allows more (counted in bytes, or in UTF-16 units)


class Unreadable(Exception):
    """A record exists but cannot be used; the text says why. Readers treat it as missing."""


class NewerFormat(Unreadable):
    """A newer version of this package wrote the record, and can use it: it must not be overwritten."""


class Denied(Unreadable):
    """The record may not be read by this user: what it says is unknown."""


def read_record(tree: FileTree, path: str) -> dict[str, Any] | None:
    """Return the JSON object of the file at `path`, which has our format number; None where nothing is.

    Raises:
        Unreadable: it cannot be used, or is no regular file.
        OSError: the disk fails.
        LinkedFolder: a link lies on the way to it.
    """
    try:
        descriptor = tree.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without O_NONBLOCK a FIFO blocks
        try:
            stat = os.fstat(descriptor)
            if not S_ISREG(stat.st_mode):
                raise Unreadable("it cannot be read (it is no file)")
            text = _read_whole(descriptor, stat.st_size).decode()
        finally:
            os.close(descriptor)
        value = json.loads(text)
        if "\\u" in text:  # an escaped lone surrogate, which could not be written again
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise Unreadable("it cannot be read (it is no file)") from exc
        if exc.errno not in (errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise  # the disk fails: what the record says is not lost, so nothing may be done without it
        raise Denied(f"it cannot be read ({exc.strerror or exc})") from exc
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"it cannot be read ({exc})") from exc
    return check_format(value)


def _read_whole(descriptor: int, size: int) -> bytes:
    """Return all bytes of a file that has about `size`. Python's file objects look at a file four times more."""
    parts = []
    while part := os.read(descriptor, size + 1):
        parts.append(part)
    return b"".join(parts)


_memo: dict[tuple[Any, ...], tuple[tuple[int, ...], Any]] = {}
_MEMO_SIZE = 512


def read_once(parse: Callable[[FileTree, str], T], tree: FileTree, path: str) -> T:
    """Return `parse(tree, path)`, which is called again only if the stat of the file has changed.

    A config of thousands of entries reads the same few records for each entry. The stat is enough, because our records
    are replaced and never written in place.
    """
    stat = tree.lstat(path)
    if stat is None:
        return parse(tree, path)
    seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    key = (parse, tree.path, path)
    known = _memo.get(key)
    if known is None or known[0] != seen:
        if len(_memo) >= _MEMO_SIZE:
            _memo.clear()
        known = _memo[key] = (seen, parse(tree, path))
    found: T = known[1]
    return found


def write_json(tree: FileTree, path: str, value: Any, *, indent: int | None = 1) -> None:
    """Replace the file at `path` by this JSON: whole or not at all, also after a power cut.

    Args:
        indent: None for one line, which is encoded ten times as fast.
    """
    write_text(tree, path, json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False))


def write_text(tree: FileTree, path: str, text: str) -> None:
    """Replace the file at `path` by this text: whole or not at all, also after a power cut."""
    with disk_errors(f"cannot write {tree.path / path}"):
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/{name[:200]}.{token()}.tmp".removeprefix("/")
        try:
            descriptor = tree.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, make=True)
            with open(descriptor, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                sync(out.fileno())
            tree.rename_over(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                tree.unlink(temporary)
            raise
        tree.sync_folder(folder)


def check_format(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object of our format. Raises Unreadable."""
    if not isinstance(value, dict):
        raise Unreadable("it is no JSON object")
    number = value.get("format")
    if type(number) is not int or number != FORMAT:
        kind = NewerFormat if type(number) is int and number > FORMAT else Unreadable
        raise kind(f"its format is {shown(number)}, this version reads {FORMAT}")
    return value


def check_fields(
    value: Any, checks: Mapping[str, Check], what: str, *, optional: Collection[str] = (), more: bool = False
) -> dict[str, Any]:
    """Return the fields of `value` that `checks` names, if each is as its check wants. Raises Unreadable.

    Args:
        what: names `value` in the message.
        optional: fields that may be absent, there and in the result.
        more: ignore other fields; else they are refused.
    """
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is {shown(value)}")
    absent = 0
    for name, check in checks.items():
        field = value.get(name, _ABSENT)
        if type(field) is check:  # of most fields, and a manifest has ten for each file
            continue
        if field is _ABSENT:
            absent += 1
            if name not in optional:
                raise Unreadable(f"{what} has no {name}")
        elif isinstance(check, type) or not check(field):
            raise Unreadable(f"{name} of {what} is {shown(field)}")
    if len(checks) - absent == len(value):
        return value
    if not more:
        unknown = value.keys() - checks.keys()
        raise Unreadable(f"{what} has the unknown {', '.join(sorted(map(shown, unknown)))}")
    return {name: value[name] for name in checks if name in value}


def shown(value: Any) -> str:
    """Return the repr of a value for a message, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def is_text(value: Any) -> bool:
    """Whether it is a string."""
    return isinstance(value, str)


def is_integer(value: Any) -> bool:
    """Whether it is an integer of 64 bits, as the numbers of a disk are."""
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def is_size(value: Any) -> bool:
    """Whether it can be the size of a file in bytes."""
    return type(value) is int and 0 <= value < 1 << 63


def is_key(value: Any) -> bool:
    """Whether it is a request key: it becomes a file name."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def is_keys(value: Any) -> bool:
    """Whether it is a list of request keys."""
    return isinstance(value, list) and all(map(is_key, value))


def is_form(value: Any) -> bool:
    """Whether it can be the canonical form of a request, of any schema: scalars and lists of strings by name."""
    return isinstance(value, dict) and all(
        field is None or isinstance(field, str | int) or (isinstance(field, list) and all(map(is_text, field)))
        for field in value.values()
    )


def is_path(value: Any) -> bool:
    """Whether it is a path below a root and outside our own folder, with names that some disk can have."""
    if not isinstance(value, str) or "\0" in value:
        return False
    parts = value.casefold().split("/")
    return _NO_NAMES.isdisjoint(parts) and (len(value) <= _LONGEST_NAME or max(map(len, parts)) <= _LONGEST_NAME)


def is_path_or_none(value: Any) -> bool:
    """Whether it is a path, or "" for none (of the root itself)."""
    return value == "" or is_path(value)


def is_root(value: Any) -> bool:
    """Whether it is an absolute path, as of a cache root."""
    return isinstance(value, str) and value.startswith("/") and "\0" not in value


def last_commit(tree: FileTree) -> int:
    """Return a number that changes when a manifest of this root is written (ns)."""
    stat = tree.lstat(MANIFESTS)
    return 0 if stat is None else stat.st_mtime_ns
