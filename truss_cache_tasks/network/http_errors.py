"""Translates what urllib3 and http.client raise to TransientError, or PermanentError where trying again cannot help."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3

from truss_cache_tasks.errors import RESUME, PermanentError, TransientError
from truss_cache_tasks.network.exchange import AnswerTooLong
from truss_cache_tasks.network.proxies import proxy_refuses, proxy_status


@contextmanager
def network_errors(subject: str, host: str) -> Iterator[None]:
    """Translate errors of the network that the block raises.

    Messages name the host and never the URL, whose query may hold a signature.
    """
    try:
        yield
    # an empty or too long label, or a blank, which some versions of urllib3 leave to http.client
    except (UnicodeError, urllib3.exceptions.LocationValueError, http.client.InvalidURL):
        said = f"{subject}: {host[:60]}: no host can have this name"
        raise PermanentError(said, hint="Check the endpoint.") from None  # its text may have the whole URL
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as exc:
        causes = tuple(_causes(exc))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise PermanentError(
                    f"{subject}: {host}: its certificate is not trusted: {cause.verify_message}",
                    hint="Set SSL_CERT_FILE to the CA bundle of your network.",
                ) from exc
            if (status := proxy_status(cause)) is not None:
                raise proxy_refuses(f"{subject}: {host}", status) from exc
        through = "the proxy to " if any(isinstance(c, urllib3.exceptions.ProxyError) for c in causes) else ""
        raise TransientError(
            f"{subject}: {through}{host}: {_words(causes)}",
            hint=f"Check the network. {RESUME}",
        ) from exc


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield `exc` and what it wraps, outermost first; urllib3 keeps causes in `args` and `original_error` too."""
    seen: set[int] = set()
    ahead = [exc]
    while ahead:
        found = ahead.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        ahead += [arg for arg in found.args if isinstance(arg, BaseException)]
        ahead += [found.__cause__, found.__context__]


def _words(causes: tuple[BaseException, ...]) -> str:
    """Return what happened in a few words: those of the innermost cause that has some, in `_WORDS` or in `strerror`."""
    for cause in reversed(causes):
        for kind, words in _WORDS.items():
            if isinstance(cause, kind):
                return words
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
    return "the connection broke"


_WORDS: dict[type[BaseException], str] = {
    socket.gaierror: "the name cannot be resolved",
    http.client.RemoteDisconnected: "the connection was closed without an answer",
    http.client.IncompleteRead: "the connection was closed early",
    TimeoutError: "timed out",
    urllib3.exceptions.TimeoutError: "timed out",
    ssl.SSLError: "TLS failed",
    AnswerTooLong: "headers, chunks or trailers without an end",
    http.client.LineTooLong: "headers, chunks or trailers without an end",
    http.client.HTTPException: "an answer that is not HTTP",  # after all others of http.client
}
