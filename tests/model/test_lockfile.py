"""The text of `model_cache.lock`: what is written is read, and what is not as it must be is refused with its line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from entries import entry
from hypothesis import given
from hypothesis import strategies as st

from truss_cache_tasks.errors import CacheTaskError, ConfigError
from truss_cache_tasks.model.keys import RequestKey, request_key
from truss_cache_tasks.model.lockfile import LockedEntry, LockedFile, LockFile
from truss_cache_tasks.model.lockfile_text import NewerLock, parse, to_text
from truss_cache_tasks.model.plan import is_safe

COMMIT = "1" * 40
KEYS = [RequestKey(digit * 64) for digit in "abc"]
SHA = "sha256:" + "2" * 64

HUB = LockedEntry(
    source="hf://org/name",
    revision="main",
    single=False,
    files=(
        LockedFile(path="a.bin", size=3, digest=SHA, version="2" * 64),
        LockedFile(path="sub/é b.json", size=0, digest="git-sha1:" + "3" * 40, version="3" * 40),
    ),
)
GCS = LockedEntry(
    source="gs://bucket/m",
    revision="",
    single=False,
    files=(
        LockedFile(path="w.bin", size=5, digest="crc32c:01234567", version="1700000000000001"),
        LockedFile(path="z.json", size=9, digest="crc32c-gzip:01234567", version="17", encoding="gzip"),
    ),
)
S3 = LockedEntry(
    source="s3://bucket/m/w.bin",
    revision="",
    single=True,
    files=(LockedFile(path="w.bin", size=5, digest="sha256-composite:" + "4" * 64, version="e-2", version_id="v.1_~"),),
)
LOCK = LockFile(pins={("hf://org/name", "main"): COMMIT}, entries=dict(zip(KEYS, (HUB, GCS, S3), strict=True)))
TEXT = to_text(LOCK)


def refused(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), "model_cache.lock")
    assert caught.value.hint
    return str(caught.value)


def line_of(part: str) -> int:
    return next(at for at, line in enumerate(TEXT.splitlines(), 1) if part in line)


def test_what_is_written_is_read() -> None:
    assert parse(TEXT.encode(), "x") == LOCK
    assert parse(to_text(LockFile()).encode(), "x") == LockFile()


def test_the_text_is_json_with_a_line_for_each_file_whatever_the_order() -> None:
    mixed = LockFile(
        pins=LOCK.pins,
        entries={
            key: LockedEntry(source=e.source, revision=e.revision, single=e.single, files=e.files[::-1])
            for key, e in reversed(list(LOCK.entries.items()))
        },
    )
    assert to_text(mixed) == TEXT
    assert json.loads(TEXT)["format"] == 1
    assert TEXT.endswith("}\n")
    for file in (file for each in LOCK.entries.values() for file in each.files):
        assert sum(json.dumps(file.path, ensure_ascii=False) in line for line in TEXT.splitlines()) >= 1
    assert len(TEXT.splitlines()) == 1 + 1 + 3 + 1 + 3 * 2 + 5 + 1 + 1


def test_a_text_in_another_layout_is_read_too() -> None:
    value = json.loads(TEXT)
    for text in (json.dumps(value), json.dumps(value, indent=4), TEXT.replace("\n", "\r\n")):
        assert parse(text.encode(), "x") == LOCK


PATHS = ["../x", "/x", "a/../../x", ".truss_cache/x", "a/.TRUSS_CACHE/x", "", ".", "a\\u0000b", "\\ud800", ".."]


@pytest.mark.parametrize("path", PATHS)
def test_an_unsafe_path_is_refused_with_its_line(path: str) -> None:
    text = TEXT.replace('"path": "a.bin"', f'"path": "{path}"')
    assert refused(text).startswith(f"model_cache.lock:{line_of('a.bin')}: path ")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"size": 3', '"size": -1', "size -1"),
        ('"size": 3', '"size": 1e400', "a number"),
        ('"size": 3', '"size": 3.0', "a number"),
        ('"size": 3', '"size": true', "a number"),
        ('"size": 3', '"size": NaN', "size NaN"),
        ('"size": 3', f'"size": {1 << 63}', "a number of bytes"),
        ('"size": 3', f'"size": {"9" * 5000}', "a number"),
        ('"size": 3', '"size": null', "a number"),
        ('"size": 3', '"size": 3, "size": 4', "'size' twice"),
        ('"size": 3', '"size": 3, "more": 4', "unknown field 'more'"),
        ('"size": 3, ', "", "no size"),
        (SHA, "sha256:" + "2" * 63, "64 lower-case hex digits"),
        (SHA, "sha256:" + "Z" * 64, "64 lower-case hex digits"),
        (SHA, "sha256:../../" + "2" * 58, "64 lower-case hex digits"),
        (SHA, "sha512:" + "2" * 64, "sha256, git-sha1"),
        (SHA, "", "sha256, git-sha1"),
        (SHA, "crc32c:01234567", "sha256, git-sha1"),
        (SHA, "xxh3-128:" + "2" * 32, "sha256, git-sha1"),
        (SHA, "sha256-composite:" + "2" * 64, "of the Hub"),
        ("crc32c:01234567", "crc32c:012345678", "8 lower-case hex digits"),
        ("crc32c:01234567", "crc32c-gzip:01234567", "-gzip exactly"),
        ("crc32c:01234567", "xxh3-128:012", "32 lower-case hex digits"),
        ("1700000000000001", "17&alt=json", "[0-9]{1,19}"),
        ("1700000000000001", "1\\r\\nX: y", "printable"),
        ('"encoding": "gzip"', '"encoding": "br"', "gzip"),
        ('"v.1_~"', '"v\\n"', "printable ASCII"),
        (COMMIT, "1" * 39, "40 lower-case hex digits"),
        (COMMIT, "../" + "1" * 37, "40 lower-case hex digits"),
        ('"revision": "main", "commit"', f'"revision": "{"9" * 40}", "commit"', "the same commit"),
        (
            '"source": "hf://org/name", "revision": "main", "commit"',
            '"source": "gs://b", "revision": "", "commit"',
            "a repo",
        ),
        (KEYS[0], "../" + KEYS[0][3:], "64 lower-case hex digits"),
        ('"single": true', '"single": 1', "true or false"),
        ('"path": "w.bin", "size": 5, "digest": "crc', '"path": "z.json", "size": 5, "digest": "crc', "a second time"),
        (KEYS[1], KEYS[0], "a second entry"),
        ('"revision": "main", "request"', '"revision": "dev", "request"', "no pin of hf://org/name@dev"),
        ('"format": 1', '"format": 0', "format 0"),
        ('"format": 1', '"format": true', "format True"),
        ('"format": 1,\n', "", "format None"),
        ('"pins": [', '"pins": {}, "x": [', "one of format"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_with_its_line(before: str, after: str, words: str) -> None:
    assert before in TEXT
    message = refused(TEXT.replace(before, after, 1))
    assert words in message
    line = 1 + TEXT[: TEXT.index(before)].count("\n") if before != '"format": 1,\n' else 1
    second_file = "a second time" in words  # the second of the two is named
    assert message.startswith(f"model_cache.lock:{line + second_file}: ") or words == "a second entry", message


def test_every_cut_of_the_file_is_refused_with_a_line() -> None:
    data = TEXT.rstrip().encode()
    for end in range(len(data)):
        message = refused(data[:end])
        line = int(message.split(":")[1])
        assert 1 <= line <= data[:end].count(b"\n") + 1


@pytest.mark.parametrize("marker", ["<<<<<<< HEAD", "=======", ">>>>>>> other", "||||||| base"])
def test_a_conflict_marker_of_git_is_named_with_its_line(marker: str) -> None:
    lines = TEXT.splitlines()
    lines.insert(8, marker)
    assert refused("\n".join(lines)) == "model_cache.lock:9: found a conflict marker of git, expected JSON"
    assert refused("\r\n".join(lines)) == "model_cache.lock:9: found a conflict marker of git, expected JSON"


def test_a_newer_format_is_told_apart_whatever_else_it_holds() -> None:
    with pytest.raises(NewerLock, match=r"^model_cache\.lock:3: found format 2, of a newer version"):
        parse(b'{\n"else": 1,\n"format": 2}', "model_cache.lock")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "the end of the file"),
        ("null", 1, "an object"),
        ("[]", 1, "an object"),
        ("{" + '"a":{' * 100_000, 1, "nested too deeply"),
        ("[\n" * 100_000, 6, "nested too deeply"),
        (b"{\n\xff}", 2, "not UTF-8"),
        (b"\x00" * 100, 1, "expected JSON"),
        ('{"format": 1, "pins": [], "entries": [[]]}', 1, "an object"),
        ('{"format": 1, "pins": [' + "[" * 500 + "]" * 500 + '], "entries": []}', 1, "an object"),
    ],
)
def test_what_is_no_lock_file_at_all_is_refused(text: str | bytes, line: int, words: str) -> None:
    message = refused(text)
    assert message.startswith(f"model_cache.lock:{line}: ")
    assert words in message
    assert len(message) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def put_at(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for at in path[:-1]:
        value = value[at]
    value[path[-1]] = new


def paths_of(value: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, item in pairs:
        found += [(at,), *((at, *rest) for rest in paths_of(item))]
    return found


@given(st.sampled_from(paths_of(json.loads(TEXT))), json_values)
def test_any_value_at_any_place_is_read_as_a_safe_lock_or_refused_with_a_line(path: tuple[Any, ...], new: Any) -> None:
    value = json.loads(TEXT)
    put_at(value, path, new)
    try:
        lock = parse(json.dumps(value, indent=1).encode(), "x")
    except ConfigError as error:
        line = str(error).split(":")[1]
    else:
        line = "0"
        assert all(is_safe(f.path) and 0 <= f.size < 1 << 63 for e in lock.entries.values() for f in e.files)
    assert line.isdigit()


def test_the_pin_is_found_by_source_and_revision_and_the_files_by_request() -> None:
    request = entry("org/name").request
    lock = LockFile(pins=LOCK.pins, entries={entry("org/name").key: HUB})
    found = lock.find(request)
    assert found is not None
    assert (found.commit, found.is_complete, len(found.files)) == (COMMIT, True, 2)
    other = lock.find(entry("org/name", allow_patterns=["*.bin"]).request)
    assert other is not None
    assert (other.commit, other.is_complete, [file.path for file in other.files]) == (COMMIT, False, ["a.bin"])
    assert lock.find(entry("org/name", revision="dev").request) is None
    assert lock.find(entry("org/else").request) is None


def changed(edit: Callable[[LockFile], LockFile]) -> list[str]:
    mine, other = entry("org/name"), entry("gs://bucket/m")
    lock = LockFile(pins=LOCK.pins, entries={mine.key: HUB, other.key: GCS})
    return edit(lock).find_outdated({"org/name": mine.request, "m": other.request})


def test_a_file_is_outdated_unless_it_has_exactly_the_requests_of_the_config() -> None:
    assert changed(lambda lock: lock) == []
    assert changed(lambda lock: LockFile()) == ["org/name is not in it", "m is not in it"]
    more = changed(lambda lock: LockFile(pins=lock.pins, entries={**lock.entries, KEYS[2]: S3}))
    assert more == ["s3://bucket/m/w.bin is not in the config any more"]
    twice = changed(lambda lock: LockFile(pins=lock.pins, entries={**lock.entries, KEYS[2]: HUB}))
    assert twice == ["it has files of patterns that are not in the config any more"]


def test_a_pin_is_never_moved_from_under_an_entry_that_stays() -> None:
    mine, json = entry("org/name"), entry("org/name", allow_patterns=["*.json"])
    lock = LockFile(pins=LOCK.pins, entries={mine.key: HUB})
    requests = [mine.request, json.request]
    added = lock.changed(requests, {json.key: (COMMIT, HUB)})
    assert (set(added.entries), added.pins) == ({mine.key, json.key}, LOCK.pins)
    with pytest.raises(CacheTaskError, match="another command moved its pin meanwhile"):
        lock.changed(requests, {json.key: ("2" * 40, HUB)})
    moved = lock.changed(requests, {mine.key: ("2" * 40, HUB), json.key: ("2" * 40, HUB)})
    assert list(moved.pins.values()) == ["2" * 40]
    assert lock.changed([], {}) == LockFile()


@pytest.mark.parametrize(("source", "revision"), [("gs://bucket/m", ""), ("hf://org/name", "v2"), ("foo://x", "")])
def test_files_of_another_source_under_the_key_of_a_request_are_refused(source: str, revision: str) -> None:
    request = entry("org/name").request
    other = dataclasses.replace(GCS if source.startswith("gs") else HUB, source=source, revision=revision)
    pins = {("hf://org/name", revision): COMMIT} if source.startswith("hf") else {}
    text = to_text(LockFile(pins=pins, entries={request_key(request): other})).encode()
    assert parse(text, "x") is not None, "nothing tells it without the config"
    with pytest.raises(ConfigError, match=r"^x:\d+: found the request of 'hf://org/name@main' at ") as caught:
        parse(text, "x", [request])
    assert caught.value.hint
