"""Ask a web server for the status and the headers of an answer; follow its redirects, and read no body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from truss_cache_tasks.errors import PermanentError
from truss_cache_tasks.network.cancel import PolledToken
from truss_cache_tasks.network.connections import ConnectionPool
from truss_cache_tasks.network.hosts import is_loopback
from truss_cache_tasks.network.http_errors import network_errors
from truss_cache_tasks.network.pools import load_trust, make_pools
from truss_cache_tasks.network.redirects import REDIRECTS, headers_after, redirect_target
from truss_cache_tasks.network.settings import Network


@dataclass(frozen=True)
class Head:
    """The head of an answer.

    Attributes:
        headers: with names in any case.
        host: of the server that gave it, after redirects.
    """

    status: int
    headers: Mapping[str, str]
    host: str


def ask(url: str, headers: Mapping[str, str], network: Network, subject: str) -> Head:
    """Send a GET, and close the connection once the headers are there.

    urllib3's `urlopen` is not used: it logs the query, which may hold a signature.

    Args:
        subject: what is asked for, for errors.

    Raises:
        TransientError, PermanentError, ConfigError, Stopped: as `network_errors` and `make_pools`.
    """
    limits, sent = network.limits, dict(headers)
    for _ in range(limits.redirects + 1):
        head, target = _ask_once(url, sent, network, subject)
        if target is None:
            return head
        followed = redirect_target(subject, url, target)
        if followed.startswith("http:") and not is_loopback(urlsplit(followed).hostname or ""):
            raise PermanentError(
                f"{subject}: {head.host} redirects to http, expected https",
                hint="Name the address that it redirects to, with https://.",
            )
        url, sent = followed, headers_after(sent, url, followed)
    raise PermanentError(f"{subject}: {head.host} redirects more than {limits.redirects} times")


def _ask_once(url: str, headers: Mapping[str, str], network: Network, subject: str) -> tuple[Head, str | None]:
    """Return the head of one answer, and where it redirects to, or None."""
    limits, host, proxy = network.limits, urlsplit(url).hostname or "?", network.proxy_for(url)
    trust = load_trust(network.ca_bundle) if "https:" in (url[:6], (proxy or "")[:6]) else None
    with make_pools(proxy, trust, 1) as pools, network_errors(subject, host):
        pool: ConnectionPool = pools.connection_from_url(url.partition("?")[0])  # type: ignore[assignment]  # ours, by make_pools
        answer = pool.ask(
            url,
            headers,
            PolledToken(network.cancel),
            connect_s=limits.connect_s,
            answer_s=limits.head_s,
            overhead=limits.head,
        )
        answer.close()
    target = answer.headers.get("Location") if answer.status in REDIRECTS else None
    return Head(answer.status, answer.headers, host), target
