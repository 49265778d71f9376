"""The header of a safetensors file: what the format allows, and what a hostile or damaged file holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from truss_cache_tasks.model.safetensors import find_header_fault


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a file with this header: JSON, or the bytes of it. `length` is what the file says of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(start: Any, end: Any, shape: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def fault_of(file: bytes) -> str:
    return find_header_fault(len(file), lambda at, size: file[at : at + size])


@pytest.mark.parametrize(
    "file",
    [
        safetensors({"b": tensor(8, 12, []), "a": tensor(0, 8, [2]), "__metadata__": {"format": "pt"}}, b"x" * 12),
        safetensors({"none": tensor(0, 0, [0]), "a": tensor(0, 8, [2]), "end": tensor(8, 8, [0, 9])}, b"x" * 8),
        safetensors({"new": tensor(0, 1, [2], "F4")}, b"x"),
        safetensors({}),
        safetensors(b"{}      "),
        safetensors(b"{" + b" " * (9 << 20) + b"}"),
    ],
    ids=["tensors", "empty tensors", "a type of tomorrow", "nothing", "padding", "longer than is parsed"],
)
def test_a_header_that_the_format_allows_is_good(file: bytes) -> None:
    assert fault_of(file) == ""


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "found a header of 0 bytes"),
        (b"abc", "expected at most 0"),
        (safetensors({}, length=2**64 - 1), "found a header of 18,446,744,073,709,551,615 bytes, expected at most 2"),
        (safetensors(b"x" * (9 << 20)), "no JSON object"),
        (safetensors(b"null"), "no JSON object"),
        (safetensors(b"[" * 500_000), "recursion"),
        (safetensors(b'{"a": ' + b"9" * 9_999 + b"}"), "digits"),
        (safetensors(b'{"\xff": 1}'), "utf-8"),
        (safetensors(b'{"a": 1, "a": 2}'), "a key is there twice"),
        (safetensors({"a": [1]}), "'a' has wrong fields"),
        (safetensors({"a": tensor(-8, 0, [2])}), "'a' has wrong fields"),
        (safetensors({"a": tensor(False, True, [2])}), "'a' has wrong fields"),
        (safetensors({"a": tensor(0, 8, [float("nan")])}, b"x" * 8), "'a' has wrong fields"),
        (safetensors({"a": tensor(8, 0, [0], "?")}, b"x" * 8), "ends before it begins"),
        (safetensors({"a": tensor(0, 8, [3])}, b"x" * 8), "'a' has 8 bytes, expected 12"),
        (safetensors({"a": tensor(0, 8, [2**62] * 20_000)}, b"x" * 8), "'a' has 8 bytes"),
        (
            safetensors({"a": tensor(0, 8, [2]), "b": tensor(9, 13, [1])}, b"x" * 13),
            "ends at 8 and the next begins at 9",
        ),
        (
            safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, b"x" * 12),
            "ends at 8 and the next begins at 4",
        ),
        (safetensors({"a": tensor(0, 8, [2])}, b"x" * 4), "ends at 8 and the next begins at 4"),
        (safetensors({"a": tensor(0, 8, [2])}, b"x" * 9), "ends at 8 and the next begins at 9"),
    ],
    ids=range(20),
)
def test_a_header_that_the_format_does_not_allow_is_named(file: bytes, words: str) -> None:
    assert words in fault_of(file)


def test_a_length_above_100_mb_is_refused_although_the_file_is_as_long() -> None:
    asked: list[int] = []

    def read(at: int, size: int) -> bytes:
        asked.append(size)
        return (100_000_001).to_bytes(8, "little")[at : at + size]

    assert "expected at most 100,000,000" in find_header_fault(1 << 40, read)
    assert asked == [8]
