"""Sends the requests of a listing that no vendor's library sends: bounded, and with no URL in any log."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from truss_cache_tasks.errors import PermanentError
from truss_cache_tasks.model.listing import wrong_answer
from truss_cache_tasks.network.bounded import BoundedPool, WholeAnswer, bounded_pools
from truss_cache_tasks.network.exchange import UnreadableAnswer
from truss_cache_tasks.network.http_errors import network_errors
from truss_cache_tasks.network.pools import load_trust, make_pools
from truss_cache_tasks.network.redirects import REDIRECTS, is_same_origin, redirect_target
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.version import USER_AGENT

_REPEATED = REDIRECTS - {303}  # the request is repeated as it was; 303 would make a GET of it


class HttpClient:
    """Sends requests to one host, through the proxy and with the certificates of a Network. Close it by `with`."""

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
        return self._send("GET", url, headers, None, subject)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], subject: str, body: bytes | None = None
    ) -> WholeAnswer:
        """Send a request that only reads, such as a PROPFIND; follow its redirects within the origin of `url`.

        A redirect to another origin is returned as it is: that would get `headers`, which may hold a password.

        Args:
            subject: what is asked for, for messages.

        Raises:
            TransientError: the server cannot be reached, or is too slow. `Network.with_retries` repeats the call.
            PermanentError: its certificate is not trusted, a proxy refuses, or it redirects without an end, or to http.
            WrongAnswer: the answer is too large, or in an encoding that was not asked for.
            Stopped: the work is cancelled.
        """
        for _ in range(self._limits.redirects + 1):
            try:
                answer = self._send(method, url, {"Accept-Encoding": "gzip", **headers}, body, subject)
            except UnreadableAnswer as exc:
                raise wrong_answer(subject, exc.found, exc.expected) from exc
            target = answer.headers.get("Location") if answer.status in _REPEATED else None
            if target is None or not is_same_origin(url, followed := redirect_target(subject, url, target)):
                return answer
            url = followed
        host = urlsplit(url).hostname
        raise PermanentError(
            f"{subject}: {host} redirects more than {self._limits.redirects} times", hint="Check the URL of the server."
        )

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, subject: str) -> WholeAnswer:
        with network_errors(subject, urlsplit(url).hostname or "?"):
            return self._pool(url).send(method, url, {"User-Agent": USER_AGENT, **headers}, body, self._limits)

    def get_head(self, url: str, headers: Mapping[str, str], subject: str) -> WholeAnswer:
        """Do as `get`, and read no body: it may be a large file."""
        with network_errors(subject, urlsplit(url).hostname or "?"):
            return self._pool(url).get_head(url, {"User-Agent": USER_AGENT, **headers}, self._limits)

    def _pool(self, url: str) -> BoundedPool:
        # Of the origin alone: the text of an error about a URL that cannot be parsed has the whole URL.
        pool: BoundedPool = self._pools.connection_from_url(url.partition("?")[0])  # type: ignore[assignment]  # by its classes
        return pool

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._pools.clear()
