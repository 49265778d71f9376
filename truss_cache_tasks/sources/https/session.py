"""Ask a web server for the status and the headers of an answer; follow its redirects, and read no body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from truss_cache_tasks.errors import PermanentError
from truss_cache_tasks.network.client import HttpClient
from truss_cache_tasks.network.hosts import is_loopback
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

    Args:
        subject: what is asked for, for errors.

    Raises:
        TransientError, PermanentError, ConfigError, Stopped: as `HttpClient`.
    """
    limits, sent = network.limits, dict(headers)
    for _ in range(limits.redirects + 1):
        host = urlsplit(url).hostname or "?"
        with HttpClient(url, network) as client:
            answer = client.get_head(url, sent, subject)
        target = answer.headers.get("Location") if answer.status in REDIRECTS else None
        if target is None:
            return Head(answer.status, answer.headers, host)
        followed = redirect_target(subject, url, target)
        if followed.startswith("http:") and not is_loopback(urlsplit(followed).hostname or ""):
            raise PermanentError(
                f"{subject}: {host} redirects to http, expected https",
                hint="Name the address that it redirects to, with https://.",
            )
        url, sent = followed, headers_after(sent, url, followed)
    raise PermanentError(f"{subject}: {host} redirects more than {limits.redirects} times")
