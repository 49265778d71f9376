"""Check the header of a safetensors file: 8 bytes with its length N, N bytes of JSON, then the data of the tensors.

The rules are of github.com/huggingface/safetensors (README, "Format", and `SafeTensors::read_metadata`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeGuard

_LONGEST = 100_000_000  # bytes of a header, by the format
_LONGEST_PARSED = 8 << 20  # of a longer one only the place is checked: parsed, 1 byte of JSON may take 20 of memory
_LARGEST = 1 << 63  # elements or bytes
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}  # of an element; a type that is not listed here has any size


def find_header_fault(size: int, read: Callable[[int, int], bytes]) -> str:
    """Return what is wrong with the header of a file of `size` bytes; "" if nothing is.

    Args:
        read: returns the bytes from an offset on, so many of them, fewer at the end of the file.
    """
    length, longest = int.from_bytes(read(0, 8), "little"), max(min(size - 8, _LONGEST), 0)
    if size < 8 or length > longest:
        return f"found a header of {length:,} bytes, expected at most {longest:,}"
    if length > _LONGEST_PARSED:
        return "" if read(8, 1) == b"{" else "the header is no JSON object"
    try:
        _check_spans(json.loads(read(8, length).decode(), object_pairs_hook=_without_duplicates), size - 8 - length)
    except (ValueError, RecursionError) as exc:
        return f"the header cannot be used: {exc}"
    return ""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _check_spans(header: Any, data_size: int) -> None:
    """Raise ValueError unless the tensors fill the data, without a gap or an overlap."""
    if not isinstance(header, dict):
        raise ValueError("it is no JSON object")
    spans = [_span_of(name, tensor) for name, tensor in header.items() if name != "__metadata__"]
    for (_, end), (start, _) in pairwise([(0, 0), *sorted(spans), (data_size, data_size)]):
        if start != end:
            raise ValueError(f"a tensor ends at {end:,} and the next begins at {start:,}, expected no gap or overlap")


def _span_of(name: str, tensor: Any) -> tuple[int, int]:
    """Return the offsets of the first byte of a tensor and of the byte after it. Raises ValueError."""
    fields = tensor if isinstance(tensor, dict) else {}
    dtype, shape, offsets = (fields.get(field) for field in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"the tensor {name[:60]!r} has wrong fields")
    start, end = offsets
    if dtype in _BITS:
        bits = 0 if 0 in shape else _BITS[dtype]
        for size in shape:
            bits = min(bits * size, _LARGEST)  # a number without bounds would take hours
        if bits != 8 * (end - start):
            raise ValueError(f"the tensor {name[:60]!r} has {end - start:,} bytes, expected {bits / 8:,.0f}")
    if end < start:
        raise ValueError(f"the tensor {name[:60]!r} ends before it begins")
    return start, end


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < _LARGEST for size in value)
