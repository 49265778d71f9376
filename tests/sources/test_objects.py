from dataclasses import replace
from typing import Any

import pytest

from truss_cache_tasks.errors import NotFound, NothingSelected
from truss_cache_tasks.model.listing import Digest, FilePin, Listing, RemoteFile
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.sources.objects import check_pins, under_prefix


def listed(prefix: str, *keys: str) -> Listing:
    return under_prefix([RemoteFile("", 0, "v", key) for key in keys], SourceRef("s3", "b", prefix))


def paths(listing: Listing) -> list[str]:
    return [file.path for file in listing.files]


def test_a_sibling_that_begins_with_the_same_letters_is_not_under_the_prefix() -> None:
    assert paths(listed("m", "m-hf/x", "m/a", "m.bin", "mm/a")) == ["a"]


def test_a_whole_bucket_keeps_full_keys() -> None:
    found = listed("", "a", "b/", "b/c")
    assert (paths(found), found.single) == (["a", "b/c"], False)


def test_a_uri_of_one_object_is_that_one_file_by_its_last_name() -> None:
    found = listed("m/a.bin", "m/a.bin", "m/a.bin.old", "m/a.bin/")
    assert (paths(found), found.single, found.files[0].key) == (["a.bin"], True, "m/a.bin")


def test_an_object_and_a_prefix_of_one_name_is_the_prefix_with_a_warning() -> None:
    found = listed("m", "m", "m/a")
    assert (paths(found), found.single) == (["a"], False)
    assert "s3://b/m is an object and a prefix" in found.warnings[0]


def test_strange_keys_are_listed_as_they_are() -> None:
    assert paths(listed("p", "p/../x", "p//y", "p/ü #%+")) == ["../x", "/y", "ü #%+"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [(["m/", "m/sub/"], "only folder markers"), ([], "has nothing"), (["m-hf/x"], "has nothing")],
)
def test_a_prefix_without_files_says_whether_it_is_empty_or_has_only_markers(keys: list[Any], words: str) -> None:
    with pytest.raises(NothingSelected, match=words):
        listed("m", *keys)


def pinned(file: RemoteFile, pin: FilePin) -> RemoteFile:
    (kept,) = check_pins([file], [pin], SourceRef("s3", "b"))
    return kept


def test_a_file_gets_the_digest_of_its_pin_and_else_keeps_its_own() -> None:
    file, digest = RemoteFile("a", 1, "v", "a"), Digest("sha256", "0" * 64)
    assert pinned(file, FilePin("a", digest=digest)) == replace(file, digest=digest)
    assert pinned(replace(file, digest=digest), FilePin("a", "v")).digest == digest


def test_a_pinned_file_with_another_digest_is_refused_with_both() -> None:
    there, wanted = Digest("crc32c", "0" * 8), Digest("crc32c", "1" * 8)
    with pytest.raises(NotFound) as caught:
        pinned(RemoteFile("a", 1, "v", "a", there), FilePin("a", "v", digest=wanted))
    assert str(caught.value) == f"s3://b: a is pinned at v {wanted}, and the store has v {there}"


def test_a_digest_of_another_algorithm_than_the_stores_is_left_to_the_bytes() -> None:
    pin = FilePin("a", "v", digest=Digest("sha256", "1" * 64))
    assert pinned(RemoteFile("a", 1, "v", "a", Digest("crc32c", "0" * 8)), pin).digest == pin.digest


def test_pins_leave_out_what_they_do_not_name() -> None:
    files = [RemoteFile(key, 1, "v", key) for key in "abc"]
    assert [file.key for file in check_pins(files, [FilePin("b")], SourceRef("s3", "b"))] == ["b"]
