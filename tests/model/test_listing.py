"""What a store says becomes a value only where it is what a store can say; listings end."""

from __future__ import annotations

from typing import Any

import pytest

from truss_cache_tasks.errors import CacheTaskError, WrongAnswer
from truss_cache_tasks.model.listing import PaginationGuard, RemoteFile, listed_digest, listed_file
from truss_cache_tasks.model.records import DIGITS

SOUND: dict[str, Any] = {"path": "a/w.bin", "size": 5, "version": "1700000000000000", "key": "p/a/w.bin"}
TRAPS = [
    "",
    "a" * 63,
    "a" * 65,
    "a" * 64 + "\n",
    "\n" + "a" * 64,
    "A" * 64,
    "g" * 64,
    "a" * 63 + "\0",
    "١" * 64,
    "../../../outside/evil",
    "/" + "a" * 63,
    "sha256:" + "a" * 64,
    None,
    5,
    True,
    b"a" * 64,
    ["a" * 64],
    {"oid": "a" * 64},
]


def test_what_a_store_can_say_becomes_a_file_as_it_is() -> None:
    digest = listed_digest("s", "w.bin", "sha256", "a" * 64)
    assert listed_file("s", **SOUND, digest=digest) == RemoteFile("a/w.bin", 5, SOUND["version"], "p/a/w.bin", digest)
    for size in (0, 2**63 - 1):
        assert listed_file("s", **{**SOUND, "size": size}).size == size


@pytest.mark.parametrize("size", ["5", 5.0, -1, 2**63, True, False, None, float("nan"), float("inf"), [5], {}, b"5"])
def test_a_size_that_is_no_number_of_bytes_is_a_wrong_answer(size: Any) -> None:
    with pytest.raises(WrongAnswer, match=r"s3://b/p: the store's answer is wrong: path 'a/w.bin': size") as caught:
        listed_file("s3://b/p", **{**SOUND, "size": size})
    assert caught.value.hint


@pytest.mark.parametrize("field", ["path", "key"])
@pytest.mark.parametrize("name", ["", None, 5, b"w.bin", ["w.bin"], True])
def test_a_name_that_is_no_text_is_a_wrong_answer(field: str, name: Any) -> None:
    with pytest.raises(WrongAnswer, match="expected text"):
        listed_file("s", **{**SOUND, field: name})


@pytest.mark.parametrize("version", ["", None, 5, "a\nX: y", "a\r", "a\0", "a b", "\x7f", "é", "☃", "\ud800"])
def test_a_version_that_would_break_a_header_or_name_no_bytes_is_a_wrong_answer(version: int | str | None) -> None:
    with pytest.raises(WrongAnswer, match="expected printable ASCII"):
        listed_file("s", **{**SOUND, "version": version})


@pytest.mark.parametrize("value", TRAPS, ids=ascii)
def test_a_digest_that_is_not_exactly_its_hex_digits_is_a_wrong_answer(value: Any) -> None:
    with pytest.raises(WrongAnswer, match="expected 64 lower-case hex digits"):
        listed_digest("s", "w.bin", "sha256", value)


@pytest.mark.parametrize("algorithm", DIGITS)
def test_each_algorithm_has_its_own_width(algorithm: Any) -> None:
    assert listed_digest("s", "w", algorithm, "0" * DIGITS[algorithm]).value == "0" * DIGITS[algorithm]
    for digits in set(DIGITS.values()) - {DIGITS[algorithm]}:
        with pytest.raises(WrongAnswer):
            listed_digest("s", "w", algorithm, "0" * digits)


@pytest.mark.parametrize("size", ["5", 5.0, -1, 2**63, True, None])
def test_a_part_without_a_size_is_a_wrong_answer(size: Any) -> None:
    assert listed_digest("s", "w", "crc32", "0" * 8, [5, 0]).parts == (5, 0)
    with pytest.raises(WrongAnswer):
        listed_digest("s", "w", "crc32", "0" * 8, [5, size])


def test_what_a_message_repeats_is_short_and_holds_no_control_characters() -> None:
    with pytest.raises(WrongAnswer) as caught:
        listed_digest("s", "\x1b[31m\u202e" + "x" * 10_000, "sha256", "\x1b]0;evil\x07" * 10_000)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_a_listing_of_many_pages_ends_where_the_last_page_says_so() -> None:
    pages = PaginationGuard("s")
    for number in range(5_000):
        pages.check([f"{number}.bin"], number + 1)
    pages.check([], None)


@pytest.mark.parametrize("cursors", [["a"], ["b", "b"], ["b", "c", "b"], ["b", "c", "d", "a"]], ids=str)
def test_a_cursor_that_any_earlier_page_had_is_a_wrong_answer(cursors: list[str]) -> None:
    pages = PaginationGuard("s", first="a")
    for number, cursor in enumerate(cursors[:-1]):
        pages.check([str(number)], cursor)
    with pytest.raises(WrongAnswer, match="a page names an earlier one as the next"):
        pages.check(["new"], cursors[-1])


@pytest.mark.parametrize("names", [[], ["same.bin"]], ids=["empty", "repeated"])
def test_a_thousand_pages_in_turn_without_a_new_name_are_a_wrong_answer(names: list[Any]) -> None:
    pages = PaginationGuard("s")
    pages.check(["same.bin"], "first")
    for number in range(999):
        pages.check(names, number)
    pages.check(["another.bin"], "break")
    for number in range(999):
        pages.check(names, f"again {number}")
    with pytest.raises(CacheTaskError, match="1000 pages in turn without a new name"):
        pages.check(names, "one too many")
