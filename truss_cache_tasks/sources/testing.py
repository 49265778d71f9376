"""Tests of what every source promises: subclass `SourceContract` in your tests, and supply its `store` fixture.

    pytest.register_assert_rewrite("truss_cache_tasks.sources.testing")      # in conftest.py: failures show values

    class TestMyStore(SourceContract):
        single = False                      # a promise that this store cannot make is switched off by name

        @pytest.fixture
        def store(self, tmp_path) -> Place: ...    # an empty place of its own for each test

The row of a store of your own is registered by `truss_cache_tasks.model.stores.register_store`, or for one test by
`registered`. This module imports pytest, which an installation of this package does not bring.
"""

from __future__ import annotations

import hashlib
import os
import traceback
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import pytest
import urllib3

from truss_cache_tasks.errors import AccessDenied, CacheTaskError, NotFound, NothingSelected
from truss_cache_tasks.model.listing import Digest, FilePin, Listing, Location, Pins, RemoteFile
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.base import Source

DATA = bytes(range(256)) * 300  # 76,800 bytes, each unlike the 255 before it: a range that is off by a few shows

PLAIN_NAMES = ("model.safetensors", "fp16/model.bin", "a/b/c/d.json", ".gitattributes")
ODD_NAMES = (
    "a b.bin", "a+b.bin", "a#b.bin", "100%.bin", "%41.bin", "%2F.bin", "q?x=1.bin", "a&b=c.bin", "~t.bin",
    "(x) [y] {z}.bin", "it's.bin", "a,b;c:d@e!$.bin", "ü/ñandú 日本語.bin", "🤗.bin", "x=y/z w/#1.bin",
)  # fmt: skip


class Place(Protocol):
    """One empty place (a repo, a prefix of a bucket, a folder) with the server behind it, as the tests use it."""

    secrets: tuple[str, ...]  # values (tokens, keys) that may show up in no text; () where there are none

    def put(self, path: str, data: bytes) -> None:
        """Store `data` at `path` below the place. A file that is there is replaced, and gets another version."""

    def delete(self, path: str) -> None:
        """Remove `path`."""

    def source(self, **fields: Any) -> Source:
        """Return a source of this place with a good credential; `fields` are `allow` and `ignore` of its Request."""
        ...

    # A word before the colon is a flag of SourceContract: the method is called only if it is on.

    def put_beside(self, suffix: str, data: bytes) -> None:
        """`prefixes`: store an object whose full key is the place's prefix (no slash at its end) + `suffix`."""

    def whole(self) -> Source:
        """`prefixes`: return a source of the whole bucket, without a prefix."""
        ...

    def source_of(self, path: str) -> Source:
        """`single`: return a source whose URI names the object at `path` exactly."""
        ...

    def missing(self) -> Source:
        """Return a source with a good credential, of a repo, bucket or folder that does not exist. Always needed."""
        ...

    def refused(self) -> Source:
        """`credentials`: return a source of this place with a credential that the server does not know."""
        ...

    def public(self) -> Place:
        """`credentials`: return another empty place, readable by anyone, whose sources have no credential."""
        ...


@dataclass(frozen=True)
class Answer:
    """The answer to a GET of a located file."""

    status: int
    data: bytes
    headers: Mapping[str, str]


def read(location: Location, byte_range: str | None = None) -> Answer:
    """Read `location` by one GET with its headers (redirects drop Authorization), or as a file.

    The proxies and the CA bundle that the environment names are used, as in a run.
    """
    if location.url.startswith("file://"):
        path = urllib.parse.unquote(urllib.parse.urlsplit(location.url).path)
        with open(path, "rb") as file:
            data = file.read()
        if byte_range is None:
            return Answer(200, data, {})
        first, last = (int(bound) for bound in byte_range.removeprefix("bytes=").split("-"))
        return Answer(206, data[first : last + 1], {})
    headers = {"Accept-Encoding": "identity", **location.headers}
    if byte_range is not None:
        headers["Range"] = byte_range
    network = Network.from_env(os.environ)
    proxy, bundle = network.proxy_for(location.url), network.trusted_bundle()
    pools = partial(urllib3.ProxyManager, proxy) if proxy else urllib3.PoolManager
    with pools(ca_certs=bundle, retries=urllib3.Retry(connect=0, read=0, redirect=5)) as http:
        response = http.request("GET", location.secret_url, headers=headers, decode_content=False, timeout=20)
        return Answer(response.status, response.data, response.headers)


def read_digest(location: Location, answer: Answer) -> Digest | None:
    """Return the digest in the headers of an answer with the whole file."""
    return location.digest_from_headers(answer.headers) if location.digest_from_headers is not None else None


def digest_of(data: bytes, like: Digest) -> Digest:
    """Return the digest of `data`, computed as `like` says (algorithm and parts)."""
    raw = _raw(like.algorithm)
    if not like.parts:
        return Digest(like.algorithm, raw(data).hex())
    assert sum(like.parts) == len(data), "the parts of a composite digest must cover the file"
    joined, offset = b"", 0
    for size in like.parts:
        joined += raw(data[offset : offset + size])
        offset += size
    return Digest(like.algorithm, raw(joined).hex(), like.parts)


def _raw(algorithm: str) -> Callable[[bytes], bytes]:
    match algorithm:
        case "sha256" | "sha1" | "md5":
            return lambda data: hashlib.new(algorithm, data, usedforsecurity=False).digest()
        case "git-sha1":
            return lambda data: hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest()
        case "crc32":
            return lambda data: zlib.crc32(data).to_bytes(4, "big")
        case "crc32c" | "crc64nvme":
            from awscrt import checksums

            return lambda data: getattr(checksums, algorithm)(data).to_bytes(4 if algorithm == "crc32c" else 8, "big")
    raise AssertionError(f"no such algorithm: {algorithm}")


Test = TypeVar("Test", bound=Callable[..., None])


def needs(*flags: str) -> Callable[[Test], Test]:
    """Mark a test of the contract that only a store with all `flags` on can pass."""

    def mark(test: Test) -> Test:
        test.needs = flags  # type: ignore[attr-defined]  # a mark of ours on a function
        return test

    return mark


def by_path(listing: Listing) -> dict[str, RemoteFile]:
    """Return the files of `listing` by path; a path must not be listed twice."""
    files = {file.path: file for file in listing.files}
    assert len(files) == len(listing.files)
    return files


def pins_of(listing: Listing) -> Pins:
    """Return the pins that name everything in `listing`, as a lock file has them."""
    files = tuple(FilePin(file.key, file.version, file.version_id, file.digest) for file in listing.files)
    return Pins(listing.revision, files)


def text_of(error: BaseException) -> str:
    """Return all text of `error` that a user could see, with that of its causes and their tracebacks."""
    return "\n".join([*traceback.format_exception(error), repr(error), str(getattr(error, "hint", ""))])


class SourceContract:
    """The tests. The class attributes say what the store can do; a subclass sets those that do not fit its store."""

    folder = True  # a URI can name a place with many files
    prefixes = True  # a bucket: keys beside the prefix, folder markers
    single = True  # a URI can name one object
    digests = True  # the store tells a digest of every file, in the listing or by locate
    credentials = True  # the server checks credentials, and knows public places
    versions = False  # an earlier version of a file can be read by its pin
    many = 2500  # files of the paging test: more than two pages of the store
    names: tuple[str, ...] = PLAIN_NAMES + ODD_NAMES

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(SourceContract):
            flags = getattr(getattr(SourceContract, name), "needs", ())
            if not all(getattr(cls, flag) for flag in flags):
                setattr(cls, name, None)  # pytest collects callables only

    # What is listed

    @needs("folder")
    def test_a_listing_names_every_file_with_its_size(self, store: Place) -> None:
        for count, name in enumerate(PLAIN_NAMES):
            store.put(name, DATA[:count])
        files = by_path(store.source().listing())
        assert {path: file.size for path, file in files.items()} == {
            name: count for count, name in enumerate(PLAIN_NAMES)
        }
        assert all(file.version for file in files.values())
        assert all(file.key.endswith(file.path) for file in files.values())

    @needs("folder")
    def test_a_zero_byte_file_is_a_file(self, store: Place) -> None:
        store.put("empty.bin", b"")
        store.put("sub/empty.bin", b"")
        source = store.source()
        files = by_path(source.listing())
        assert {path: file.size for path, file in files.items()} == {"empty.bin": 0, "sub/empty.bin": 0}
        assert read(source.locate(files["sub/empty.bin"])).data == b""

    @needs("folder")
    def test_listing_twice_gives_equal_answers(self, store: Place) -> None:
        store.put("a.bin", b"a")
        store.put("b/c.bin", b"c")
        source = store.source()
        first = source.listing()
        assert by_path(source.listing()) == by_path(first)
        assert by_path(store.source().listing()) == by_path(first)
        assert source.listing().revision == first.revision

    @needs("folder")
    def test_a_changed_file_has_another_version_and_the_others_keep_theirs(self, store: Place) -> None:
        store.put("a.bin", b"before")
        store.put("b.bin", b"stays")
        before = by_path(store.source().listing())
        store.put("a.bin", b"after!")
        after = by_path(store.source().listing())
        assert after["a.bin"].version != before["a.bin"].version
        assert after["b.bin"] == before["b.bin"]

    @needs("folder")
    def test_a_deleted_file_is_listed_no_more(self, store: Place) -> None:
        store.put("a.bin", b"a")
        store.put("b.bin", b"b")
        store.delete("a.bin")
        assert set(by_path(store.source().listing())) == {"b.bin"}

    @needs("folder")
    def test_a_listing_longer_than_a_page_is_whole(self, store: Place) -> None:
        names = {f"shard-{number:05}.bin" for number in range(self.many)}
        for name in sorted(names):
            store.put(name, name.encode())
        assert set(by_path(store.source().listing())) == names

    @needs("folder")
    def test_patterns_of_the_entry_do_not_filter_the_listing(self, store: Place) -> None:
        store.put("a.bin", b"a")
        store.put("b.json", b"b")
        files = by_path(store.source(allow=("*.json",), ignore=("b*",)).listing())
        assert set(files) == {"a.bin", "b.json"}

    # What is located

    @needs("folder")
    def test_odd_names_come_through_with_their_bytes(self, store: Place) -> None:
        want = {name: f"the bytes of {name}".encode() for name in self.names}
        for name, data in want.items():
            store.put(name, data)
        source = store.source()
        files = by_path(source.listing())
        assert set(files) == set(want)
        got = {name: read(source.locate(file)) for name, file in files.items()}
        assert {name: answer.data for name, answer in got.items()} == want
        assert {answer.status for answer in got.values()} == {200}

    @pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1000), (70_000, 76_799), (0, 76_799)])
    def test_a_range_is_answered_with_exactly_those_bytes(self, store: Place, first: int, last: int) -> None:
        store.put("w.bin", DATA)
        source = store.source()
        (file,) = source.listing().files
        answer = read(source.locate(file), f"bytes={first}-{last}")
        assert answer.status == 206
        assert answer.data == DATA[first : last + 1]

    def test_the_validator_is_in_every_answer(self, store: Place) -> None:
        store.put("w.bin", DATA)
        source = store.source()
        (file,) = source.listing().files
        location = source.locate(file)
        if location.validator is not None and not location.url.startswith("file://"):
            for asked in (None, "bytes=0-9", "bytes=500-999"):
                assert read(location, asked).headers.get(location.validator_header) == location.validator

    @needs("folder", "digests")
    def test_the_stores_digest_is_the_digest_of_the_bytes(self, store: Place) -> None:
        for name, data in {"w.bin": DATA, "small.json": b"{}", "empty.bin": b""}.items():
            store.put(name, data)
        source = store.source()
        for file in source.listing().files:
            location = source.locate(file)
            answer = read(location)
            known = file.digest or location.digest
            ways = (
                {known} if known else {location.fetch_digest and location.fetch_digest(), read_digest(location, answer)}
            )
            for digest in ways:
                assert digest is not None, file.path
                assert digest_of(answer.data, digest) == digest, file.path

    @needs("folder")
    def test_files_can_be_located_from_many_threads(self, store: Place) -> None:
        want = {f"{number}.bin": b"%d" % number for number in range(16)}
        for name, data in want.items():
            store.put(name, data)
        source = store.source()
        files = source.listing().files
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda file: read(source.locate(file)).data, files))
        assert got == [want[file.path] for file in files]

    # What is pinned

    @needs("folder")
    def test_what_is_pinned_as_it_is_there_is_listed_as_without_pins(self, store: Place) -> None:
        store.put("a.bin", b"a")
        store.put("b/c.bin", b"c")
        listing = store.source().listing()
        again = store.source().listing(pins_of(listing))
        assert by_path(again) == by_path(listing)
        assert again.revision == listing.revision

    @needs("folder")
    def test_a_pinned_file_is_never_read_as_another_one(self, store: Place) -> None:
        store.put("a.bin", b"before")
        store.put("b.bin", b"stays")
        listing = store.source().listing()
        store.put("a.bin", b"after, and longer")
        store.put("new.bin", b"new")
        source = store.source()
        if not self.versions:
            with pytest.raises(NotFound, match=r"a\.bin is pinned at "):
                source.listing(pins_of(listing))
            return
        files = by_path(source.listing(pins_of(listing)))
        assert files == by_path(listing)
        got = {path: read(source.locate(file)).data for path, file in files.items()}
        assert got == {"a.bin": b"before", "b.bin": b"stays"}

    @needs("folder")
    def test_a_pinned_file_that_is_gone_is_not_found(self, store: Place) -> None:
        if self.versions:
            return
        store.put("a.bin", b"a")
        store.put("b.bin", b"b")
        listing = store.source().listing()
        store.delete("a.bin")
        with pytest.raises(NotFound, match=r"a\.bin is pinned at .*it is gone") as caught:
            store.source().listing(pins_of(listing))
        self.assert_clear_error(caught.value, store)

    # What is refused

    def test_what_does_not_exist_is_not_found(self, store: Place) -> None:
        with pytest.raises(NotFound) as caught:
            store.missing().listing()
        self.assert_clear_error(caught.value, store)

    @needs("credentials")
    def test_a_credential_that_the_server_does_not_know_is_denied(self, store: Place) -> None:
        store.put("a.bin", b"a")
        with pytest.raises(AccessDenied) as caught:
            store.refused().listing()
        self.assert_clear_error(caught.value, store)

    @needs("credentials")
    def test_a_public_place_is_read_without_a_credential(self, store: Place) -> None:
        public = store.public()
        public.put("a.bin", b"public")
        source = public.source()
        (file,) = source.listing().files
        location = source.locate(file)
        assert "authorization" not in {name.lower() for name in location.headers}
        assert read(location).data == b"public"

    @needs("credentials")
    def test_a_location_prints_no_secret(self, store: Place) -> None:
        store.put("a.bin", b"a")
        source = store.source()
        (file,) = source.listing().files
        location = source.locate(file)
        for text in (repr(location), str(location), location.url, repr(source), str(source), repr(file)):
            assert not [secret for secret in store.secrets if secret in text]

    @staticmethod
    def assert_clear_error(error: CacheTaskError, store: Place) -> None:
        """Assert that `error` has one line of cause and one of remedy, and no secret in either or in its causes."""
        assert str(error).strip()
        assert "\n" not in str(error)
        assert error.hint
        assert "\n" not in error.hint
        assert not [secret for secret in store.secrets if secret in text_of(error)]

    # Prefixes

    @needs("prefixes")
    def test_paths_are_relative_to_the_prefix(self, store: Place) -> None:
        store.put("sub/a.bin", b"a")
        (file,) = store.source().listing().files
        assert file.path == "sub/a.bin"
        assert file.key != file.path

    @needs("prefixes")
    def test_the_whole_bucket_has_full_keys_for_paths(self, store: Place) -> None:
        store.put("sub/a.bin", b"a")
        (file,) = store.source().listing().files
        source = store.whole()
        full = by_path(source.listing())[file.key]
        assert full.key == file.key
        assert read(source.locate(full)).data == b"a"

    @needs("prefixes")
    def test_a_sibling_prefix_never_matches(self, store: Place) -> None:
        store.put("a.bin", b"a")
        for suffix in ("-hf/other.bin", "2/a.bin", ".bin"):
            store.put_beside(suffix, b"other")
        assert set(by_path(store.source().listing())) == {"a.bin"}

    @needs("prefixes")
    def test_folder_markers_are_no_files(self, store: Place) -> None:
        for marker in ("/", "/sub/", "/sub/deep/"):
            store.put_beside(marker, b"")
        store.put("sub/a.bin", b"a")
        assert set(by_path(store.source().listing())) == {"sub/a.bin"}

    @needs("prefixes")
    @pytest.mark.parametrize("beside", [(), ("/", "/sub/"), ("-hf/other.bin",)])
    def test_a_prefix_with_nothing_below_it_is_refused(self, store: Place, beside: tuple[str, ...]) -> None:
        for suffix in beside:
            store.put_beside(suffix, b"" if suffix.endswith("/") else b"other")
        with pytest.raises(NothingSelected):
            store.source().listing()

    @needs("prefixes")
    def test_an_object_beside_the_prefix_of_its_name_loses_with_a_warning(self, store: Place) -> None:
        store.put_beside("", b"the object")
        store.put("a.bin", b"a")
        listing = store.source().listing()
        assert set(by_path(listing)) == {"a.bin"}
        assert not listing.single
        assert len(listing.warnings) == 1

    @needs("folder")
    def test_an_ordinary_listing_has_no_warning(self, store: Place) -> None:
        store.put("a.bin", b"a")
        listing = store.source().listing()
        assert listing.warnings == ()
        assert not listing.single

    # One object

    @needs("single")
    def test_a_uri_of_exactly_one_object_is_that_file(self, store: Place) -> None:
        store.put("sub/w+1 #.bin", DATA)
        store.put("sub/w+1 #.bin.json", b"another, whose name begins alike")
        source = store.source_of("sub/w+1 #.bin")
        listing = source.listing()
        (file,) = listing.files
        assert listing.single
        assert file.path == "w+1 #.bin"
        assert file.size == len(DATA)
        assert read(source.locate(file)).data == DATA

    @needs("single")
    def test_one_object_of_an_odd_name_comes_through_with_its_bytes(self, store: Place) -> None:
        for name in self.names:
            data = f"the bytes of {name}".encode()
            store.put(name, data)
            source = store.source_of(name)
            (file,) = source.listing().files
            assert file.path == name.rpartition("/")[2]
            assert (file.size, read(source.locate(file)).data) == (len(data), data)

    @needs("single")
    def test_one_empty_object_is_a_file(self, store: Place) -> None:
        store.put("empty.bin", b"")
        source = store.source_of("empty.bin")
        (file,) = source.listing().files
        assert file.size == 0
        assert read(source.locate(file)).data == b""

    @needs("single")
    def test_one_object_has_another_version_after_a_change_alone(self, store: Place) -> None:
        store.put("w.bin", b"before")
        before = store.source_of("w.bin").listing().files
        assert store.source_of("w.bin").listing().files == before
        store.put("w.bin", b"after!")
        assert store.source_of("w.bin").listing().files[0].version != before[0].version

    @needs("single")
    def test_one_pinned_object_is_never_read_as_another_one(self, store: Place) -> None:
        store.put("w.bin", b"before")
        listing = store.source_of("w.bin").listing()
        assert store.source_of("w.bin").listing(pins_of(listing)) == listing
        store.put("w.bin", b"after, and longer")
        source = store.source_of("w.bin")
        if self.versions:
            assert read(source.locate(source.listing(pins_of(listing)).files[0])).data == b"before"
            return
        with pytest.raises(NotFound, match=r"w\.bin is pinned at "):
            source.listing(pins_of(listing))
        store.delete("w.bin")
        with pytest.raises(NotFound) as caught:
            store.source_of("w.bin").listing(pins_of(listing))
        self.assert_clear_error(caught.value, store)
