"""Read the digest of an S3 object from a HEAD: a full or composite checksum, else the ETag if it is an MD5."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truss_cache_tasks.model.listing import Digest

# The algorithms of checksums, the preferred first, and the length of each in bytes. A CRC takes a tenth of the time of
# a SHA.
WIDTHS = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha256": 32, "sha1": 20}

_MD5 = re.compile(r"([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?")  # of the bytes; with -N, of the MD5s of N parts
_COUNT = re.compile(r"[1-9][0-9]{0,4}")  # number of parts; S3 allows 10,000

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
    """Return the digest of an object, or None if S3 gives nothing that bytes can be compared with.

    A digest that is taken from the ETag is a guess (`is_guess`).

    Args:
        head: what HeadObject with ChecksumMode=ENABLED answered.
        bucket: its name; in a directory bucket (`--x-s3`) an ETag is no digest.
        look_at_parts: called with the number of parts, if there is only a composite checksum or an MD5 of the parts'
            MD5s. Returns Size and checksums of each part, named as in a HEAD, or () if they are not known.

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
    if algorithm not in WIDTHS:  # S3 gives the MD5 of the MD5s, not those of the parts
        return ()
    values = [_hex(str(part.get(f"Checksum{algorithm.upper()}", "")), WIDTHS[algorithm]) for part in parts]
    told = tuple(value for value in values if value is not None)
    return told if len(told) == len(parts) else ()


def head_of_answer(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a GET (names in any case) under the names that botocore gives to those of a HEAD."""
    sent = {name.lower(): value for name, value in headers.items()}
    return {name: sent[header] for name, header in _HEADERS.items() if header in sent}


def _parts(algorithm: str, kind: str, suffix: str, etag: str) -> int | None:
    """Return the number of parts of a composite checksum; 0 if it is not composite, None if the store does not say."""
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
