"""The lock file as text: JSON with one file a line (docs/on-disk-format.md).

The file is committed, merged and edited by people, so each error names its line. What it holds is checked like the
answer of a server: its names and numbers become paths, headers and offsets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.keys import RequestKey, request_key
from truss_cache_tasks.model.listing import (
    fault_of_digest,
    fault_of_file,
    quoted,
)
from truss_cache_tasks.model.lockfile import OURS, LockedEntry, LockedFile, LockFile, PinKey, format_pin
from truss_cache_tasks.model.plan import is_safe
from truss_cache_tasks.model.records import DIGITS
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.stores import find_store

FORMAT = 1
_DIGESTS = (*DIGITS, OURS)
_HUB_DIGESTS = ("sha256", "git-sha1")  # a blob of the hub cache is named by one
_COMMIT = re.compile("[0-9a-f]{40}")
_KEY = re.compile("[0-9a-f]{64}")
_DIGEST = re.compile("([a-z0-9-]+?)(-composite|-gzip)?:([^:]*)")
_PRINTABLE = re.compile("[!-~]+")
_CONFLICT = re.compile(r"^(?:<<<<<<<|=======|>>>>>>>|\|\|\|\|\|\|\|)(?: |\r?$)", re.MULTILINE)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_DEEPEST = 5  # containers within each other, in a lock file
_LONGEST_NUMBER = 19  # digits
MAKE_ANEW = "Restore it from version control, or make it anew: truss-cache lock --upgrade."
_RESOLVE = "Resolve the conflict, or take what the stores have now: truss-cache lock --upgrade."
_UPGRADE_US = "Upgrade truss-cache-tasks."
JsonPath = tuple[str | int, ...]  # of a value in the JSON document


class NewerLock(ConfigError):
    """A newer version of this package wrote the lock file: it must not be overwritten."""


def to_text(lock: LockFile) -> str:
    """Return the text of a lock file: sorted, a line for each pin and each file, the last one ended too."""
    pins = [
        _line({"source": source, "revision": revision, "commit": commit})
        for (source, revision), commit in sorted(lock.pins.items())
    ]
    by_source = sorted(lock.entries.items(), key=lambda item: (item[1].source, item[1].revision, item[0]))
    entries = [_entry_text(key, entry) for key, entry in by_source]
    return f'{{\n"format": {FORMAT},\n"pins": {_list(pins)},\n"entries": {_list(entries)}\n}}\n'


def _entry_text(key: RequestKey, entry: LockedEntry) -> str:
    head: dict[str, Any] = {"source": entry.source, "revision": entry.revision, "request": key}
    if entry.single:
        head["single"] = True
    lines = [_line(_fields(file)) for file in sorted(entry.files, key=lambda file: file.path)]
    return f'{_line(head)[:-1]}, "files": {_list(lines)}}}'


def _fields(file: LockedFile) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": file.path, "size": file.size, "digest": file.digest}
    more = {"version": file.version, "version_id": file.version_id, "encoding": file.encoding}
    return fields | {name: value for name, value in more.items() if value}


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(lines: list[str]) -> str:
    return "[\n" + ",\n".join(lines) + "\n]" if lines else "[]"


def parse(data: bytes, name: str, requests: Iterable[Request] = ()) -> LockFile:
    """Return the lock file of these bytes.

    Args:
        name: of the file, for the errors.
        requests: of the config: what the file has by the key of one must be of its source and revision.

    Raises:
        NewerLock: its format number is a later one.
        ConfigError: anything in it is not as it must be; `{name}:{line}: ...` and a hint.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{name}:{line}: found a byte that is not UTF-8, expected JSON", hint=MAKE_ANEW) from None
    if (marker := _CONFLICT.search(text)) is not None:
        line = text.count("\n", 0, marker.start()) + 1
        raise ConfigError(f"{name}:{line}: found a conflict marker of git, expected JSON", hint=_RESOLVE)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_Unusable)
    except json.JSONDecodeError as exc:
        what = "the end of the file" if exc.pos >= len(text.rstrip()) else quoted(text[exc.pos : exc.pos + 20])
        raise ConfigError(f"{name}:{exc.lineno}: found {what}, expected JSON ({exc.msg})", hint=MAKE_ANEW) from None
    except RecursionError:
        line = _line_of_depth(text)
        raise ConfigError(
            f"{name}:{line}: found brackets nested too deeply, expected at most {_DEEPEST}", hint=MAKE_ANEW
        ) from None
    about = {request_key(request): (str(request.source), request.revision) for request in requests}
    return _Reader(text, name, about).lock_file(value)


class _Unusable:
    """Stands for a value that no field may have: NaN, a number of too many digits, an object with a key twice."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return self.what[:40]


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        return _Unusable(f"an object with {quoted(twice)} twice")
    return found


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else _Unusable(digits)


class _Reader:
    """Checks a JSON document, and makes values of it. Errors carry the line, which is looked for only then."""

    def __init__(self, text: str, name: str, about: Mapping[RequestKey, tuple[str, str]]) -> None:
        self._text = text
        self._name = name
        self._about = about

    def fail(self, path: JsonPath, found: str, expected: str, hint: str = MAKE_ANEW) -> NoReturn:
        line = _line_of(self._text, path)
        raise ConfigError(f"{self._name}:{line}: {found}, expected {expected}", hint=hint)

    def lock_file(self, value: Any) -> LockFile:
        if not isinstance(value, dict):
            self.fail((), f"found {quoted(value)}", "an object")
        number = value.get("format")
        if type(number) is not int or number < 1:
            self.fail(("format",), f"format {quoted(number)}", f"{FORMAT}")
        if number > FORMAT:
            line = _line_of(self._text, ("format",))
            raise NewerLock(
                f"{self._name}:{line}: found format {number}, of a newer version, expected {FORMAT}", hint=_UPGRADE_US
            )
        found = self.fields(value, (), {"format": int, "pins": list, "entries": list})
        pins: dict[PinKey, str] = {}
        for at, item in enumerate(found["pins"]):
            pin, commit = self.pin(item, ("pins", at))
            if pin in pins:
                self.fail(("pins", at), f"found a second pin of {format_pin(pin)}", "one")
            pins[pin] = commit
        entries: dict[RequestKey, LockedEntry] = {}
        for at, item in enumerate(found["entries"]):
            key, entry = self.entry(item, ("entries", at))
            if key in entries:
                self.fail(("entries", at, "request"), f"found a second entry of the request {key[:12]}", "one")
            if entry.source.startswith("hf://") and entry.pin not in pins:
                self.fail(("entries", at), f"found no pin of {format_pin(entry.pin)}", "its commit in `pins`")
            entries[key] = entry
        return LockFile(pins=pins, entries=entries)

    def pin(self, value: Any, path: JsonPath) -> tuple[PinKey, str]:
        found = self.fields(value, path, {"source": str, "revision": str, "commit": str})
        commit, revision = found["commit"], found["revision"]
        if not found["source"].startswith("hf://"):
            self.fail((*path, "source"), f"source {quoted(found['source'])}", "a repo of the Hub (hf://...)")
        if not _COMMIT.fullmatch(commit):
            self.fail((*path, "commit"), f"commit {quoted(commit)}", "40 lower-case hex digits")
        if _COMMIT.fullmatch(revision) and revision != commit:
            self.fail((*path, "commit"), f"commit {commit[:12]} of the revision {revision[:12]}", "the same commit")
        return (found["source"], revision), commit

    def entry(self, value: Any, path: JsonPath) -> tuple[RequestKey, LockedEntry]:
        required = {"source": str, "revision": str, "request": str, "files": list}
        found = self.fields(value, path, required, {"single": bool})
        if not _KEY.fullmatch(found["request"]):
            self.fail((*path, "request"), f"request {quoted(found['request'])}", "64 lower-case hex digits")
        source: str = found["source"]
        about = self._about.get(RequestKey(found["request"]), (source, found["revision"]))
        if about != (source, found["revision"]):
            was = quoted("@".join(filter(None, (source, found["revision"]))))
            self.fail(path, f"found the request of {quoted('@'.join(filter(None, about)))} at {was}", "its own source")
        files: dict[str, LockedFile] = {}
        for at, item in enumerate(found["files"]):
            file = self.file(item, (*path, "files", at), source)
            if file.path in files:
                self.fail((*path, "files", at, "path"), f"found {quoted(file.path)} a second time", "each path once")
            files[file.path] = file
        single = found.get("single", False)
        if not files or (single and len(files) > 1):
            self.fail((*path, "files"), f"found {len(files)} files", "one file" if single else "at least one file")
        entry = LockedEntry(source=source, revision=found["revision"], single=single, files=tuple(files.values()))
        return RequestKey(found["request"]), entry

    def file(self, value: Any, path: JsonPath, source: str) -> LockedFile:
        required = {"path": str, "size": int, "digest": str}
        found = self.fields(value, path, required, {"version": str, "version_id": str, "encoding": str})
        name, version = found["path"], found.get("version", "")
        if fault := fault_of_file(path=name, size=found["size"], version=version or "-", key=name):
            self.fail(path, *fault)
        if not is_safe(name):
            self.fail((*path, "path"), f"path {quoted(name)}", "a name that stays in the entry's folder")
        store = find_store(source.partition("://")[0])
        if version and store is not None and not re.fullmatch(store.versions, version):
            self.fail((*path, "version"), f"version {quoted(version)}", f"one of {store.scheme}:// ({store.versions})")
        version_id = found.get("version_id", "")
        if version_id and not _PRINTABLE.fullmatch(version_id):
            self.fail((*path, "version_id"), f"version_id {quoted(version_id)}", "printable ASCII")
        if found.get("encoding", "") not in ("", "gzip"):
            self.fail((*path, "encoding"), f"encoding {quoted(found['encoding'])}", "gzip")
        self.check_digest(found["digest"], path, is_hub=source.startswith("hf://"), encoding=found.get("encoding", ""))
        return LockedFile(**found)

    def check_digest(self, text: str, path: JsonPath, *, is_hub: bool, encoding: str) -> None:
        match = _DIGEST.fullmatch(text)
        algorithm, suffix, value = match.groups() if match else (None, None, None)
        known = _HUB_DIGESTS if is_hub else _DIGESTS
        if (text or is_hub) and algorithm not in known:
            self.fail((*path, "digest"), f"digest {quoted(text)}", f"one of {', '.join(known)}, a colon and its value")
        if not text:
            return
        assert algorithm is not None
        if is_hub and suffix:
            self.fail((*path, "digest"), f"digest {quoted(text)}", "sha256 or git-sha1 of a file of the Hub")
        if (suffix == "-gzip") != bool(encoding):
            self.fail((*path, "digest"), f"digest {quoted(text)}", "-gzip exactly where the encoding is gzip")
        if algorithm == OURS:
            if suffix or not re.fullmatch("[0-9a-f]{32}", value or ""):
                self.fail((*path, "digest"), f"{OURS} {quoted(value)}", "32 lower-case hex digits")
        elif fault := fault_of_digest(algorithm, value):
            self.fail((*path, "digest"), *fault)

    def fields(
        self, value: Any, path: JsonPath, required: Mapping[str, type], optional: Mapping[str, type] | None = None
    ) -> dict[str, Any]:
        """Return `value`, an object with the fields `required` and any of `optional`, each of its type."""
        if not isinstance(value, dict):
            self.fail(path, f"found {quoted(value)}", "an object")
        kinds = {**required, **(optional or {})}
        if unknown := next((name for name in value if name not in kinds), None):
            self.fail((*path, unknown), f"found the unknown field {quoted(unknown)}", f"one of {', '.join(kinds)}")
        for name, kind in kinds.items():
            if name not in value and name in required:
                self.fail(path, f"found no {name}", f"one of each of {', '.join(required)}")
            if name in value and type(value[name]) is not kind:
                words = {str: "text", int: "a number", list: "a list", bool: "true or false"}
                self.fail((*path, name), f"{name} {quoted(value[name])}", words[kind])
        return value


def _line_of(text: str, path: JsonPath) -> int:
    """Return the line on which the value at `path` begins in a JSON text; where it has none, the nearest around it."""
    around: list[list[Any]] = []  # of the value that comes next: [is it an object, key or index]
    found, wants_key = 0, False
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in ("}", "]"):
            around.pop()
            wants_key = False
        elif mark == ",":
            wants_key = around[-1][0]
            if not wants_key:
                around[-1][1] += 1
        elif wants_key:
            around[-1][1], wants_key = json.loads(mark), False
        elif mark != ":":
            here = tuple(at for _, at in around)
            if here == path[: len(here)]:
                found = token.start()
            if mark in ("{", "["):
                wants_key = mark == "{"
                around.append([wants_key, None if wants_key else 0])
    return text.count("\n", 0, found) + 1


def _line_of_depth(text: str) -> int:
    """Return the line where more than `_DEEPEST` brackets are open."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > _DEEPEST:
            return text.count("\n", 0, token.start()) + 1
    return 1
