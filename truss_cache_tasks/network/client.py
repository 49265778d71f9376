"""An HTTP client for listings: proxies, certificates and cancel of a Network, and each request bounded as an Exchange.

For a source that uses no SDK. The bytes of files are read by `transfer/`, from the Location that the source gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import urllib3

from truss_cache_tasks.errors import PermanentError
from truss_cache_tasks.model.listing import wrong_answer
from truss_cache_tasks.network.connections import bounded_pools
from truss_cache_tasks.network.exchange import UnreadableAnswer, decode_body, find_cause
from truss_cache_tasks.network.http_errors import network_errors
from truss_cache_tasks.network.pools import load_trust, make_pools
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.version import USER_AGENT

_REDIRECTS = {301, 302, 307, 308}  # the request is repeated as it was; 303 would make a GET of it
_CONNECTIONS = 8  # to each host, that are kept for the next request


@dataclass(frozen=True)
class HttpAnswer:
    """An answer with its whole body.

    Attributes:
        status: the HTTP status; a redirect to another origin is returned as it is.
        headers: with names in any case.
        body: without its Content-Encoding.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Sends the requests of one source. May be used from many threads."""

    def __init__(self, subject: str, network: Network) -> None:
        """Connect later.

        Args:
            subject: what is listed, for messages: `dav://bucket/prefix`.
            network: whose proxies, certificates and limits apply.
        """
        self._subject = subject
        self._network = network
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}  # by scheme and proxy

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> HttpAnswer:
        """Send one request, and follow its redirects within the origin of `url`, which alone gets `headers`.

        Redirects are followed for methods that only read (`GET`, `HEAD`, `PROPFIND`, ...): the request is repeated.

        Raises:
            TransientError: the server cannot be reached, or is too slow. `Network.with_retries` repeats the call.
            PermanentError: its certificate is not trusted, a proxy refuses, or it redirects without an end.
            WrongAnswer: the answer is too large, or in an encoding that was not asked for.
            ConfigError: the proxy or the certificates cannot be used.
            Stopped: the run was cancelled.
        """
        host = urlsplit(url).hostname or "?"
        for _ in range(self._network.limits.redirects + 1):
            answer = self._send(method, url, headers, body, host)
            target = next((value for name, value in answer.headers.items() if name.lower() == "location"), None)
            if answer.status not in _REDIRECTS or target is None:
                return answer
            followed = _within_origin(url, target)
            if followed is None:
                return answer
            url = followed
        raise PermanentError(f"{self._subject}: {host} redirects more than {self._network.limits.redirects} times")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes, host: str) -> HttpAnswer:
        limits = self._network.limits
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip", **headers}
        timeout = urllib3.Timeout(connect=limits.connect_s, read=limits.head_s)
        try:
            with network_errors(self._subject, host):
                answer = self._pools_for(url).urlopen(
                    method,
                    url,
                    body=body or None,
                    headers=sent,
                    timeout=timeout,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                )
                try:
                    chunks = answer.stream(1 << 16, decode_content=False)
                    data = decode_body(chunks, answer.headers.get("Content-Encoding", ""), limits.body(answer.status))
                finally:
                    answer.close()
        except Exception as exc:
            if (bad := find_cause(exc, UnreadableAnswer)) is not None:
                raise wrong_answer(self._subject, bad.found, bad.expected) from exc
            self._network.cancel.check()
            raise
        return HttpAnswer(answer.status, answer.headers, data)

    def _pools_for(self, url: str) -> urllib3.PoolManager:
        network = self._network
        scheme, proxy = urlsplit(url).scheme, network.proxy_for(url)
        if (key := (scheme, proxy or "")) not in self._pools:
            tls = scheme == "https" or (proxy or "").startswith("https:")
            trust = load_trust(network.trusted_bundle()) if tls else None
            classes = bounded_pools(network.limits, network.cancel)
            self._pools[key] = make_pools(proxy, trust, connections=_CONNECTIONS, classes=classes)
        return self._pools[key]


def _within_origin(url: str, target: str) -> str | None:
    """Return the URL that a redirect leads to; None where that is of another origin, or no URL."""
    try:
        followed = urljoin(url, target)
        return followed if _origin(followed) == _origin(url) else None
    except ValueError:  # an invalid port or address
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
