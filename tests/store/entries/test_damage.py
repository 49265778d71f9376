"""find_damaged_files: which files differ from their records, whichever thread hashed which part of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from truss_cache_tasks.errors import Stopped
from truss_cache_tasks.model.hashing import Span
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.records import FileRecord
from truss_cache_tasks.network.cancel import NEVER, StopPoll
from truss_cache_tasks.store.entries.damage import ListedFile, find_damaged_files
from truss_cache_tasks.store.layouts.flat_layout import flat_root

LARGE = (64 << 20) * 2 + (5 << 20)  # three spans, the last of which is cut


def listed(folder: Path, path: str) -> ListedFile:
    """Return the record of a file as it is now."""
    span, stat = Span(None), (folder / path).stat()
    with open(folder / path, "rb") as file:
        while chunk := file.read(1 << 20):
            span.update(chunk)
    record = FileRecord(path, stat.st_size, stat.st_mtime_ns, ContentId(path), path, "", span.xxh3())
    return ListedFile(flat_root(folder), record)


def put(folder: Path, path: str, size: int, *marks: int) -> None:
    """Make a file of zeros, with another byte at each of `marks`."""
    with open(folder / path, "wb") as file:
        file.truncate(size)
        for mark in marks:
            os.pwrite(file.fileno(), b"x", mark)


@pytest.mark.parametrize("mark", [0, (64 << 20) - 1, 64 << 20, (128 << 20) + 9, LARGE - 1])
def test_one_other_byte_in_any_span_of_a_large_file_is_found(mark: int, tmp_path: Path) -> None:
    put(tmp_path, "large.bin", LARGE)
    put(tmp_path, "small.bin", 1000)
    put(tmp_path, "empty.bin", 0)
    files = [listed(tmp_path, name) for name in ("small.bin", "large.bin", "empty.bin")]
    assert find_damaged_files(files, NEVER, quick=False) == ["", "", ""]
    put(tmp_path, "large.bin", LARGE, mark)
    small, large, empty = find_damaged_files(files, NEVER, quick=False)
    assert (small, empty) == ("", "")
    assert large.startswith("got xxh3-128 ")


def test_a_file_with_two_names_is_bad_under_both_and_read_once(tmp_path: Path) -> None:
    put(tmp_path, "one.bin", 5000)
    os.link(tmp_path / "one.bin", tmp_path / "two.bin")
    files = [listed(tmp_path, name) for name in ("one.bin", "two.bin")]
    put(tmp_path, "one.bin", 5000, 4999)
    checks: list[None] = []

    def never_stops() -> bool:
        checks.append(None)
        return False

    one, two = find_damaged_files(files, StopPoll(never_stops), quick=False)
    assert one == two != ""
    assert len(checks) == 3  # one for each name, and one for the only chunk


def test_a_cancelled_token_ends_the_hashing(tmp_path: Path) -> None:
    put(tmp_path, "large.bin", LARGE)
    files = [listed(tmp_path, "large.bin")]
    checks: list[None] = []

    def stops_after_a_few() -> bool:
        checks.append(None)
        return len(checks) > 5

    with pytest.raises(Stopped):
        find_damaged_files(files, StopPoll(stops_after_a_few), quick=False)


def test_a_file_that_is_cut_while_it_is_hashed_is_named_with_the_size_it_has(tmp_path: Path) -> None:
    put(tmp_path, "large.bin", 8 << 20)
    files = [listed(tmp_path, "large.bin")]
    checks: list[None] = []

    def cut_once() -> bool:
        checks.append(None)
        if len(checks) == 5:
            os.truncate(tmp_path / "large.bin", 5)
        return False

    (fault,) = find_damaged_files(files, StopPoll(cut_once), quick=False)
    assert fault == f"found 5 bytes, expected {8 << 20:,}"


def test_quick_reads_no_file_that_is_no_safetensors_file(tmp_path: Path) -> None:
    put(tmp_path, "a.bin", 5000)
    files = [listed(tmp_path, "a.bin")]
    put(tmp_path, "a.bin", 5000, 3)
    assert find_damaged_files(files, NEVER, quick=True) == [""]
    put(tmp_path, "a.bin", 4999)
    assert find_damaged_files(files, NEVER, quick=True) == ["found 4,999 bytes, expected 5,000"]


def test_quick_hashes_a_file_with_an_odd_header_which_may_be_so_in_the_store(tmp_path: Path) -> None:
    put(tmp_path, "odd.safetensors", 5000)
    files = [listed(tmp_path, "odd.safetensors")]
    assert find_damaged_files(files, NEVER, quick=True) == [""]
    put(tmp_path, "odd.safetensors", 5000, 9)
    (fault,) = find_damaged_files(files, NEVER, quick=True)
    assert fault.startswith("got xxh3-128 ")
