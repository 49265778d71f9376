"""Sign a shared access signature (SAS) for one container with the key of its account.

It signs no header, so one signature serves the listing and every range of every blob. A signature of the other kind,
SharedKey, covers Range and If-Match, which the transfer adds later.
https://learn.microsoft.com/rest/api/storageservices/create-service-sas
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from urllib.parse import urlencode

VERSION = "2021-12-02"  # of the service: of the signature, and x-ms-version of each request


def container_sas(account: str, container: str, key: bytes, *, expires: float, is_https: bool) -> str:
    """Return the query that lets its holder list and read one container.

    Args:
        key: of the account, decoded.
        expires: seconds since the epoch. There is no start: this machine's clock may be ahead of the server's.
        is_https: whether the server accepts the signature over https alone.

    >>> container_sas("acc", "box", b"key", expires=0, is_https=True).partition("&sig=")[0]
    'sv=2021-12-02&sr=c&sp=rl&se=1970-01-01T00%3A00%3A00Z&spr=https'
    """
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))
    protocols = "https" if is_https else "https,http"
    # permissions, start, end, resource, identifier, addresses, protocols, version, kind of resource, snapshot,
    # encryption scope, five headers of answers
    lines = ["rl", "", until, f"/blob/{account}/{container}", "", "", protocols, VERSION, "c", *[""] * 7]
    signature = base64.b64encode(hmac.digest(key, "\n".join(lines).encode(), hashlib.sha256)).decode()
    return urlencode({"sv": VERSION, "sr": "c", "sp": "rl", "se": until, "spr": protocols, "sig": signature})
