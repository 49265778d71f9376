"""Recognizes refusals of proxies and of certificates by the texts of the errors of several libraries."""

from __future__ import annotations

import re

from truss_cache_tasks.errors import PermanentError


def is_permanent(error: BaseException | None) -> bool:
    """Return whether trying again cannot help: a certificate that is not trusted, or a proxy that refuses."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error) or proxy_status(error) is not None


def proxy_status(error: BaseException | None) -> int | None:
    """Return the status with which a proxy refused to connect, by the text of a library's error.

    >>> proxy_status(OSError("Tunnel connection failed: 407 Proxy Authentication Required"))
    407
    """
    # The text of an error named after proxies (httpx's ProxyError) may begin with the status itself.
    before = "Tunnel connection failed: " if "Proxy" not in type(error).__name__ else "(?:^|Tunnel connection failed: )"
    found = re.search(before + r"(4\d\d)\b", str(error))
    return int(found[1]) if found else None


def proxy_refuses(what: str, status: int) -> PermanentError:
    """Return the error for the refusal of a proxy; most answer 407, some 401."""
    hint = "Check the proxy and its password in HTTPS_PROXY."
    return PermanentError(f"{what}: the proxy refuses ({status})", hint=hint)
