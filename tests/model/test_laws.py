"""Laws of planning, held against an oracle where there is one: select, keys, manifests, and that no path escapes."""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from typing import Any

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.model.keys import canonical, request_key, snapshot_key
from truss_cache_tasks.model.listing import Digest, Listing, RemoteFile
from truss_cache_tasks.model.patterns import select
from truss_cache_tasks.model.plan import make_plan
from truss_cache_tasks.model.records import FileRecord, Manifest
from truss_cache_tasks.model.request import Dialect, Layout, Request, SourceRef
from truss_cache_tasks.store.files.record_file import Unreadable
from truss_cache_tasks.store.records.manifest import from_json, to_json

settings.register_profile("laws", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("laws")

NAME = st.text(alphabet="ab.-_1", min_size=1, max_size=4)
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)
PATTERN = st.text(alphabet="ab.1*?[]!-/_", min_size=1, max_size=8)
# what the two dialects read in their own ways: separators, classes and their ranges, more than ASCII, line breaks
ODD = "ab\\/[]!^-*?.A\né…𝄞"
ODD_PATHS = st.lists(st.text(alphabet=ODD, min_size=1, max_size=10), max_size=8, unique=True)
ODD_PATTERN = st.text(alphabet=ODD, max_size=10) | st.lists(
    st.sampled_from(
        ["*", "?", "**", "**/", "/", "\\", "a", "b", "é", "[a-b]", "[!a]", "[^a]", "[]a]", "[b-a]", "[!b-a]", "["]
    ),
    max_size=8,
).map("".join)
PATTERNS = st.none() | st.lists(PATTERN, max_size=3)


@given(st.lists(PATH, max_size=8, unique=True), PATTERNS, PATTERNS)
@example(["a/b.bin", "a.bin"], ["a/"], None)
@example(["a.bin"], [], None)
def test_select_keeps_what_huggingface_hubs_own_filter_keeps(paths: Any, allow: Any, ignore: Any) -> None:
    want = sorted(filter_repo_objects(paths, allow_patterns=allow, ignore_patterns=ignore))
    assert list(select(paths, allow, ignore or ())) == want


@settings(max_examples=1500)
@given(ODD_PATHS, st.none() | st.lists(ODD_PATTERN, max_size=3), st.none() | st.lists(ODD_PATTERN, max_size=2))
@example(["a/b.bin", "a\\c.bin", "d.bin"], ["a\\*"], None)
@example(["a/b.bin", "c.bin"], None, ["a\\"])
@example(["a", "A"], ["a"], [""])
def test_select_keeps_what_huggingface_hubs_own_filter_keeps_of_odd_names_by_odd_patterns(
    paths: Any, allow: Any, ignore: Any
) -> None:
    want = sorted(filter_repo_objects(paths, allow_patterns=allow, ignore_patterns=ignore))
    assert list(select(paths, allow, ignore or ())) == want


def globs(pattern: str, path: str) -> bool:
    """Return whether a `weights` pattern matches the whole path: the rule of each token, tried in every way."""
    if not pattern:
        return not path
    if pattern.startswith("**/"):
        ends = [0, *(at + 1 for at, char in enumerate(path) if char == "/")]
        return any(globs(pattern[3:], path[end:]) for end in ends)
    if pattern.startswith("**"):
        return any(globs(pattern[2:], path[end:]) for end in range(len(path) + 1))
    if pattern[0] == "*":
        return any(globs(pattern[1:], path[end:]) for end in range(len(path.partition("/")[0]) + 1))
    closed = re.match(r"\[!?+\]?+[^\]]*\]", pattern)
    token = closed[0] if closed else pattern[0]
    if not path or (path[0] == "/" and (closed or token == "?")):
        return False
    good = fnmatchcase(path[0], token) if closed or token == "?" else path[0] == token
    return good and globs(pattern[len(token) :], path[1:])


@settings(max_examples=1500)
@given(ODD_PATHS, ODD_PATTERN)
@example(["a/b", "b", "xb", "x/a/b"], "**/b")
@example(["a/b", "axb", "ab"], "a**/b")
@example(["a/b/c", "a/c"], "a/")
def test_a_pattern_of_the_weights_form_keeps_what_its_tokens_say_one_by_one(paths: Any, pattern: Any) -> None:
    whole = pattern + "**" if pattern.endswith("/") else pattern
    want = sorted(path for path in paths if globs(whole, path))
    assert list(select(paths, [pattern], dialect=Dialect.GLOBSTAR)) == want


@given(PATH, st.lists(PATTERN, max_size=3))
def test_in_the_weights_form_a_star_never_crosses_a_folder(path: Any, patterns: Any) -> None:
    for pattern in patterns:
        assume("**" not in pattern and not pattern.endswith("/"))
        if select([path], [pattern], dialect=Dialect.GLOBSTAR):
            assert path.count("/") == pattern.count("/")


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**/" * 10 + "b", "a/" * 24 + "a"),
        ("**/*" * 100 + "b", "a/" * 500),
        ("*a" * 2000 + "b", "a" * 1000),
        ("**a*a" * 500 + "[!a]", "a" * 1000),
        ("*[a-b]?" * 500, "ab/" * 300 + "c"),
        ("[" * 4096, "[" * 1000),
        ("*" * 4096 + "b", "a" * 1000),
    ],
)
@pytest.mark.slow
def test_no_pattern_takes_more_than_seconds(dialect: Any, pattern: str, path: str) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))  # of the processor's own time: the next second ends the process
from truss_cache_tasks.model.patterns import Dialect, select
assert select([{path!r}], [{pattern!r}], dialect=Dialect.{dialect.name}) == ()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SOURCES = st.one_of(
    st.builds(SourceRef, st.just("hf"), st.just("org/name")),
    st.builds(SourceRef, st.sampled_from(["gs", "s3"]), NAME, st.just("") | PATH),
    st.builds(SourceRef, st.just("file"), PATH),
)
REQUESTS = st.builds(
    Request,
    source=SOURCES,
    revision=st.sampled_from(["main", "v1", ""]),
    allow=st.none() | st.lists(PATTERN, max_size=3).map(tuple),
    ignore=st.lists(PATTERN, max_size=3).map(tuple),
    layout=st.sampled_from(Layout),
    folder=st.just("") | PATH,
)


@given(REQUESTS, st.randoms(use_true_random=False))
def test_order_and_duplicates_of_patterns_do_not_change_a_key(request: Any, random: Any) -> None:
    def shuffled(patterns: Any) -> Any:
        if patterns is None:
            return None
        doubled = [*patterns, *patterns[:1]]
        random.shuffle(doubled)
        return tuple(doubled)

    other = request._replace(allow=shuffled(request.allow), ignore=shuffled(request.ignore))
    assert request_key(other) == request_key(request)


@given(REQUESTS, REQUESTS)
def test_two_requests_have_one_key_exactly_if_they_ask_the_same(one: Any, other: Any) -> None:
    def meaning(request: Any) -> Any:
        allow = None if request.allow is None else frozenset(request.allow)
        return (str(request.source), request.revision, allow, frozenset(request.ignore), request.layout, request.folder)

    assert (request_key(one) == request_key(other)) == (meaning(one) == meaning(other))


@given(REQUESTS, st.data())
def test_any_change_of_an_input_changes_the_key(request: Any, data: st.DataObject) -> None:
    changes = {
        "source": request.source._replace(root=request.source.root + "x"),
        "revision": request.revision + "x",
        "allow": (*(request.allow or ()), "other*") if request.allow is not None else (),
        "ignore": (*request.ignore, "other*"),
        "layout": data.draw(st.sampled_from([form for form in Layout if form is not request.layout])),
        "folder": request.folder + "x",
    }
    for name, value in changes.items():
        changed = request._replace(**{name: value})
        assert request_key(changed) != request_key(request), name
        assert canonical(changed) != canonical(request)


def test_no_patterns_and_an_empty_list_of_them_are_two_requests() -> None:
    request = Request(SourceRef("hf", "org/name"), "main", None, (), Layout.HUB)
    assert request_key(request) != request_key(request._replace(allow=()))


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
RECORDS = st.builds(
    FileRecord,
    path=PATH,
    size=st.integers(0, 1 << 62),
    mtime_ns=st.integers(0, 1 << 62),
    content_id=TEXT,
    origin=TEXT,
    digest=st.sampled_from(["", "crc32c:0a", "git-sha1:0a", "sha256-composite:0a", "crc32c-gzip:0a"]),
    xxh3=TEXT,
    blob=st.just("") | PATH,
    made_link=st.booleans(),
    made_blob=st.booleans(),
    stored_size=st.none() | st.integers(0, 1 << 62),
)


def safe(manifest: Manifest) -> bool:
    """Whether every name in it is one that a disk and the hub cache can have."""
    names = {piece for r in manifest.files for piece in (*r.path.split("/"), *r.blob.split("/"))}
    in_hub = manifest.request["form"] == Layout.HUB
    digests = all(re.fullmatch("[a-z0-9-]+:[0-9a-f]+", r.content_id) for r in manifest.files)
    return not {".", ".."} & names and (digests or not in_hub)


@given(
    REQUESTS,
    st.lists(RECORDS, min_size=1, max_size=4),
    st.just("") | st.text("0123456789abcdef", min_size=40, max_size=40),
)
def test_a_manifest_survives_json(request: Any, records: Any, revision: Any) -> None:
    manifest = Manifest(request_key(request), canonical(request), revision, "folder", tuple(records))
    assume(safe(manifest))
    assert from_json(json.loads(json.dumps(to_json(manifest)))) == manifest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"format": st.just(1), "files": JSON, "key": JSON, "request": JSON}))
def test_any_other_json_is_unreadable_and_never_a_crash(value: Any) -> None:
    with pytest.raises(Unreadable):
        from_json(value)


@given(st.lists(st.tuples(PATH, st.integers(0, 9), TEXT), max_size=4), st.randoms(use_true_random=False))
def test_a_snapshot_key_does_not_depend_on_the_order_of_files(files: Any, random: Any) -> None:
    shuffled = list(files)
    random.shuffle(shuffled)
    assert snapshot_key("c", files) == snapshot_key("c", shuffled)


# `/`, `..`, `.`, NUL, our own folder, and names that differ in case only
PIECE = st.sampled_from(["a", "b", "A", "..", ".", "", ".truss_cache", ".Truss_Cache", "x\0y", "\ud800", "a b", "…"])
HOSTILE = st.lists(PIECE, min_size=1, max_size=5).map("/".join)


@given(st.lists(HOSTILE, min_size=1, max_size=4, unique=True), REQUESTS, st.booleans())
def test_no_path_of_a_plan_escapes_and_no_two_are_one(names: Any, request: Any, single: bool) -> None:
    request = request._replace(
        allow=None, ignore=(), folder="" if request.layout in (Layout.HUB, Layout.MOUNT) else "v"
    )
    files = tuple(RemoteFile(name, 1, "v", name, Digest("sha256", "0" * 64)) for name in names if name)
    listing = Listing("0" * 40, files[:1] if single else files, single=single and not request.source.store.is_hub)
    assume(listing.files)
    try:
        plan = make_plan(request, listing)
    except CacheTaskError:
        return
    paths = [planned.path for planned in plan.files]
    assert len(set(paths)) == len(paths)
    for path in paths:
        path.encode()
        parts = path.split("/")
        assert posixpath.normpath(path) == path
        assert not path.startswith("/")
        assert "\0" not in path
        assert ".." not in parts
        assert ".truss_cache" not in [part.casefold() for part in parts]
        assert not any(f"{path}/" == other[: len(path) + 1] for other in paths)
