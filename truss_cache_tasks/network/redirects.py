"""Redirects: where one leads, and which headers of a request the next server gets."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from truss_cache_tasks.errors import PermanentError

REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What another origin may see: no Authorization, Cookie or x-amz-*, which are secrets or signed for one host.
_PUBLIC_HEADERS = frozenset({"accept", "accept-encoding", "if-match", "range", "user-agent"})


def redirect_target(subject: str, url: str, location: str) -> str:
    """Return the URL that a redirect of `url` leads to.

    Args:
        subject: what is asked for, for the error.
        location: of the answer, relative or absolute.

    Raises:
        PermanentError: it is no http(s) URL, or it leads from https to http.

    >>> redirect_target("w.bin", "https://h/a/b", "../c?x=1")
    'https://h/c?x=1'
    """
    try:
        followed = urljoin(url, location)
        scheme, _ = urlsplit(followed).scheme, urlsplit(followed).port
    except ValueError:  # an invalid port or address
        scheme = ""
    if scheme not in ("http", "https"):
        raise PermanentError(f"{subject}: {_host(url)} redirects to something that is no http(s) URL")
    refuse_downgrade(subject, url, followed)
    return followed


def refuse_downgrade(subject: str, url: str, followed: str) -> None:
    """Raise PermanentError if a redirect leads from https to http, where anyone on the way could change the answer."""
    if url.lower().startswith("https:") and not followed.lower().startswith("https:"):
        raise PermanentError(
            f"{subject}: {_host(url)} redirects from https to http, expected https",
            hint="Name the address that it redirects to, with https://, or ask the owner of the server.",
        )


def headers_after(headers: Mapping[str, str], url: str, followed: str) -> dict[str, str]:
    """Return those of `headers` that may be sent where a redirect of `url` leads: to another origin no credentials."""
    if is_same_origin(url, followed):
        return dict(headers)
    return {name: value for name, value in headers.items() if name.lower() in _PUBLIC_HEADERS}


def is_same_origin(url: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    return _origin(url) == _origin(other)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "?"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
