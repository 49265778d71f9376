"""The digest that a HEAD of an S3 object tells: a full or composite checksum, else the ETag's MD5 where it is one."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truss_cache_tasks.model.listing import Digest

# In the order of preference, with the bytes of each. CRCs are an order of magnitude cheaper to check than SHA.
WIDTHS = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha256": 32, "sha1": 20}

_MD5 = re.compile(r"([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?")  # of the bytes, or of the MD5s of as many parts
_COUNT = re.compile(r"[1-9][0-9]{0,4}")  # of parts: 10,000 at most

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
    """Return the digest of an object, or None where S3 tells nothing that bytes can be compared with.

    A digest that is read out of the ETag is a guess.

    Args:
        head: what HeadObject with ChecksumMode=ENABLED answered.
        bucket: its name: directory buckets (`--x-s3`) have ETags that are no digest at all.
        look_at_parts: called with N where there is only a composite checksum, or an MD5 of the MD5s of N parts; returns
            Size and checksums, named as in a HEAD, of each part, or () if they are not known.

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
    md5 = None if _hides_md5(head, bucket) else _MD5.fullmatch(etag)
    if md5 is not None and md5[2]:
        composites.append(("md5", md5[1], int(md5[2])))
    told: dict[int, Sequence[Mapping[str, Any]]] = {1: [{"Size": head["ContentLength"]}]}
    for algorithm, value, count in composites:
        if count not in told:
            told[count] = look_at_parts(count)
        parts = told[count]
        sizes = tuple(int(part["Size"]) for part in parts)
        if len(sizes) == count and sum(sizes) == head["ContentLength"]:
            return Digest(algorithm, value, sizes, _part_values(algorithm, parts), is_guess=algorithm == "md5")
    return Digest("md5", etag, is_guess=True) if md5 is not None and not md5[2] else None


def _part_values(algorithm: str, parts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    if algorithm not in WIDTHS:  # of MD5s only the joined one is told
        return ()
    values = [_hex(str(part.get(f"Checksum{algorithm.upper()}", "")), WIDTHS[algorithm]) for part in parts]
    told = tuple(value for value in values if value is not None)
    return told if len(told) == len(parts) else ()


def head_of_answer(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a GET, of any case, by the names that botocore gives them in the answer to a HEAD."""
    sent = {name.lower(): value for name, value in headers.items()}
    return {name: sent[header] for name, header in _HEADERS.items() if header in sent}


def _parts(algorithm: str, kind: str, suffix: str, etag: str) -> int | None:
    """Return of how many parts' digests a checksum is made: 0 for the whole object, None if the store does not say."""
    multipart = re.fullmatch(r"[0-9a-f]{32}-([0-9]+)", etag)
    if suffix:
        return int(suffix) if _COUNT.fullmatch(suffix) else None
    if kind == "FULL_OBJECT" or algorithm == "crc64nvme" or (not kind and not multipart):
        return 0
    return int(multipart[1]) if kind == "COMPOSITE" and multipart and _COUNT.fullmatch(multipart[1]) else None


def _hides_md5(head: Mapping[str, Any], bucket: str) -> bool:
    """Return whether the ETag is no MD5: the object is encrypted, or in a directory bucket."""
    encrypted = str(head.get("ServerSideEncryption", "")).startswith("aws:") or "SSECustomerAlgorithm" in head
    return encrypted or bucket.endswith("--x-s3")


def _hex(text: str, width: int) -> str | None:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    return raw.hex() if len(raw) == width else None
