"""Sign GETs with AWS Signature Version 4, in headers.

botocore signs the listings. For objects it takes too long: 0.2 ms a signature, more than to read a small object
(docs/adr/0009). https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit

_EMPTY = hashlib.sha256(b"").hexdigest()  # of the body of a GET, which is empty
_PORTS = {"http": ":80", "https": ":443"}


class Keys(Protocol):
    """What signing reads of botocore's frozen credentials."""

    access_key: str
    secret_key: str
    token: str | None


def signed_headers(url: str, headers: Mapping[str, str], region: str, keys: Keys, now: float) -> dict[str, str]:
    """Return `headers` and those that sign a GET of `url`. The caller may add others unsigned, such as Range.

    Args:
        url: quoted as S3 wants it; its query, if it has one, is one `name=value`.
        now: seconds since the epoch.
    """
    parts = urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    sent = {**headers, "X-Amz-Content-SHA256": _EMPTY, "X-Amz-Date": stamp}
    if keys.token:
        sent["X-Amz-Security-Token"] = keys.token
    signed = {"host": parts.netloc.rpartition("@")[2].lower().removesuffix(_PORTS[parts.scheme])}
    signed |= {name.lower(): value for name, value in sent.items()}
    names = sorted(signed)
    listed = ";".join(names)
    request = "\n".join(
        ["GET", parts.path or "/", parts.query, *(f"{name}:{signed[name]}" for name in names), "", listed, _EMPTY]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = _hmac(_signing_key(keys.secret_key, stamp[:8], region), text).hex()
    credential = f"Credential={keys.access_key}/{scope}"
    sent["Authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={listed}, Signature={signature}"
    return sent


@lru_cache(8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = _hmac(key, word)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
