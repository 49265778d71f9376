"""Certificates and proxies of the network, where the vendors' libraries have words of their own for them, or none."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from truss_cache_tasks.errors import ConfigError, PermanentError

BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


def authorities(env: Mapping[str, str], *first: str) -> str | None:
    """Return the file or folder of certificates that is to be trusted, or None for the system's.

    Args:
        first: variables that a library prefers to the order of BUNDLES.

    Raises:
        ConfigError: it cannot be read; else every library would fail at it in its own way.
    """
    name = next((name for name in (*first, *BUNDLES) if env.get(name)), None)
    if name is None:
        return None
    bundle = env[name]
    import ssl

    try:
        if not os.path.isdir(bundle):
            ssl.create_default_context(cafile=bundle)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"{name}: the CA bundle {bundle} cannot be used: {exc.strerror or exc}",
            hint=f"Set {name} to a PEM file of certificates, or unset it.",
        ) from exc
    return bundle


def is_hopeless(error: BaseException | None) -> bool:
    """Whether trying again cannot help: a certificate that is not trusted, or a proxy that refuses us."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error) or proxy_status(error) is not None


def proxy_status(error: BaseException | None) -> int | None:
    """Return the status with which a proxy refused to connect, by the text of a library's error.

    >>> proxy_status(OSError("Tunnel connection failed: 407 Proxy Authentication Required"))
    407
    """
    sign = "Tunnel connection failed: " if "Proxy" not in type(error).__name__ else "(?:^|Tunnel connection failed: )"
    found = re.search(sign + r"(4\d\d)\b", str(error))
    return int(found[1]) if found else None


def proxy_refuses(what: str, status: int) -> PermanentError:
    """Word the refusal of a proxy: 407, or 401 of some."""
    hint = "Check the proxy and its password in HTTPS_PROXY."
    return PermanentError(f"{what}: the proxy refuses ({status})", hint=hint)
