"""Find the digest of a whole file in the headers of an answer that is not encoded."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from truss_cache_tasks.model.listing import Digest
from truss_cache_tasks.model.records import DIGITS

WANT = {"Want-Repr-Digest": "sha-256=10", "Want-Digest": "sha-256"}  # RFC 9530 and, before it, RFC 3230

_NAMES = {"sha-256": "sha256", "sha": "sha1", "md5": "md5"}  # of both RFCs, the strongest first
_ITEM = re.compile(r"([A-Za-z0-9-]+)\s*=\s*:?([A-Za-z0-9+/]+=*):?\s*(?:;[^,]*)?(?:,|$)")


def digest_of_file(headers: Mapping[str, str], *, is_whole: bool) -> Digest | None:
    """Return the strongest digest of the file that the headers have; None without one.

    `Repr-Digest` and `Digest` are of the file, also in an answer with a part of it. `Content-Digest` and `Content-MD5`
    are of the body of the answer, except that Apache's `Content-MD5` is of the file.

    Args:
        headers: with names in any case.
        is_whole: the answer has the whole file.

    >>> headers = {"Repr-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}
    >>> str(digest_of_file(headers, is_whole=False))[:20]
    'sha256 e3b0c44298fc1'
    >>> digest_of_file({"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, is_whole=False)
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    found: dict[str, str] = {}
    for header in ("repr-digest", "digest", *(("content-digest",) if is_whole else ())):
        for name, value in _ITEM.findall(by_name.get(header, "")):
            found.setdefault(name.lower(), value)
    if is_whole and "content-md5" in by_name:
        found.setdefault("md5", by_name["content-md5"].strip())
    digests = (_digest(algorithm, found[name]) for name, algorithm in _NAMES.items() if name in found)
    return next(filter(None, digests), None)


def knows_more(headers: Mapping[str, str]) -> bool:
    """Return whether an answer with a part of the file shows that one with the whole file would have a digest of it."""
    return not {name.lower() for name in headers}.isdisjoint(("content-digest", "content-md5"))


def _digest(algorithm: str, value: str) -> Digest | None:
    """Return the digest of a value in base64; None for another length, such as that of a digest in hex."""
    try:
        raw = base64.b64decode(value, validate=True)
    except ValueError:
        return None
    return Digest(algorithm, raw.hex()) if len(raw) * 2 == DIGITS[algorithm] else None
