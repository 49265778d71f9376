"""Sends the GETs of a listing that no vendor's library sends: bounded, and with no URL in any log."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from truss_cache_tasks.network.connections import BoundedPool, WholeAnswer, bounded_pools
from truss_cache_tasks.network.http_errors import network_errors
from truss_cache_tasks.network.pools import load_trust, make_pools
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.version import USER_AGENT


class HttpClient:
    """Sends GETs to one host, through the proxy and with the certificates of a Network. Close it by `with`."""

    def __init__(self, url: str, network: Network) -> None:
        """Choose the way to the host of `url`; connect later.

        Raises:
            ConfigError: the proxy's URL or the certificates cannot be used.
        """
        proxy = network.proxy_for(url)
        tls = url.startswith("https:") or (proxy or "").startswith("https:")
        trust = load_trust(network.trusted_bundle()) if tls else None
        self._limits = network.limits
        self._pools = make_pools(proxy, trust, 1, bounded_pools(network.limits, network.cancel))

    def get(self, url: str, headers: Mapping[str, str], subject: str) -> WholeAnswer:
        """Return the answer to a GET of `url`, which may hold a secret. Redirects are not followed.

        Args:
            subject: what is asked for, for messages.

        Raises:
            TransientError, PermanentError: there is no answer.
            UnreadableAnswer: the answer is too large, or in an unknown encoding.
            Stopped: the work is cancelled.
        """
        with network_errors(subject, urlsplit(url).hostname or "?"):
            pool: BoundedPool = self._pools.connection_from_url(url)  # type: ignore[assignment]  # by its classes
            return pool.get(url, {"User-Agent": USER_AGENT, **headers}, self._limits)

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._pools.clear()
