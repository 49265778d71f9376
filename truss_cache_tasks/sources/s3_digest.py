"""The digest that a HEAD of an S3 object tells: a full or composite checksum, else the MD5 ETag where it is one."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truss_cache_tasks.planning.listing import Digest

# In the order of preference, with the bytes of each. CRCs are an order of magnitude cheaper to check than SHA.
WIDTHS = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha256": 32, "sha1": 20}

_HEADERS = {
    "ETag": "etag",
    "ChecksumType": "x-amz-checksum-type",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
    **{f"Checksum{algorithm.upper()}": f"x-amz-checksum-{algorithm}" for algorithm in WIDTHS},
}


def digest_of_head(
    head: Mapping[str, Any], bucket: str, look_at_parts: Callable[[int], Sequence[Mapping[str, Any]]]
) -> Digest | None:
    """Return the digest of an object, or None where S3 offers nothing that can be checked.

    Args:
        head: what HeadObject with ChecksumMode=ENABLED answered.
        bucket: its name: directory buckets (`--x-s3`) have ETags that are no digest at all.
        look_at_parts: asked for the Size, and the checksums by the names of a HEAD, of each of N parts, where only a
            composite checksum is there; () if nobody knows.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    etag = str(head.get("ETag", "")).strip('"').lower()
    composites: list[tuple[str, str, int]] = []
    for algorithm, width in WIDTHS.items():
        text, _, suffix = str(head.get(f"Checksum{algorithm.upper()}") or "").partition("-")
        value = _hex(text, width)
        if value is None:
            continue
        count = _parts(algorithm, str(head.get("ChecksumType", "")), suffix, etag)
        if count == 0:
            return Digest(algorithm, value)
        if count is not None:
            composites.append((algorithm, value, count))
    for algorithm, value, count in composites:
        parts = [{"Size": head["ContentLength"]}] if count == 1 else look_at_parts(count)
        sizes = tuple(int(part["Size"]) for part in parts)
        if len(sizes) == count and sum(sizes) == head["ContentLength"]:
            return Digest(algorithm, value, sizes, _part_values(algorithm, parts))
    if _is_md5(etag, head, bucket):
        return Digest("md5", etag)
    return None


def _part_values(algorithm: str, parts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    values = [_hex(str(part.get(f"Checksum{algorithm.upper()}", "")), WIDTHS[algorithm]) for part in parts]
    told = tuple(value for value in values if value is not None)
    return told if len(told) == len(parts) else ()


def head_of_answer(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a GET, of any case, by the names that botocore gives them in the answer to a HEAD."""
    sent = {name.lower(): value for name, value in headers.items()}
    return {name: sent[header] for name, header in _HEADERS.items() if header in sent}


def _parts(algorithm: str, kind: str, suffix: str, etag: str) -> int | None:
    """Return of how many parts' digests a checksum is made: 0 if it is of the whole object, None if nobody says."""
    multipart = re.fullmatch(r"[0-9a-f]{32}-(\d+)", etag)
    if suffix.isdecimal():
        return int(suffix)
    if kind == "FULL_OBJECT" or algorithm == "crc64nvme" or (not kind and not multipart):
        return 0
    return int(multipart[1]) if kind == "COMPOSITE" and multipart else None


def _is_md5(etag: str, head: Mapping[str, Any], bucket: str) -> bool:
    encrypted = str(head.get("ServerSideEncryption", "")).startswith("aws:") or "SSECustomerAlgorithm" in head
    return bool(re.fullmatch(r"[0-9a-f]{32}", etag)) and not encrypted and not bucket.endswith("--x-s3")


def _hex(text: str, width: int) -> str | None:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    return raw.hex() if len(raw) == width else None
