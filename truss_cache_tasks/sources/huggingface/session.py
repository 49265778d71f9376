"""Open huggingface_hub's own session, and send a GET by it; the GET and its redirects are bounded as one Exchange."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.network.exchange import Exchange, ReadTimeout, UnreadableAnswer, decode_body
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.redirects import refuse_downgrade
from truss_cache_tasks.network.settings import Network

_MAKING = threading.Lock()  # held while SSL_CERT_FILE is set for huggingface_hub's session
_opened: Any = None  # the session that open_session returned last


@dataclass(frozen=True)
class Answer:
    """An answer with its whole body.

    Attributes:
        status: the HTTP status.
        headers: with names in any case.
        body: without its Content-Encoding.
        following: the URL of the next page, as the header Link names it; None without one.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    following: str | None


def open_session(network: Network) -> Any:
    """Return huggingface_hub's session. The first call makes it, and only then are proxies and certificates read.

    The session reads its certificates from SSL_CERT_FILE alone, so this is set to the bundle of `network` meanwhile.

    Raises:
        ConfigError: the certificates or the proxy cannot be used.
    """
    global _opened
    with IMPORTS:
        from huggingface_hub import get_session

    bundle = network.trusted_bundle()
    try:
        with _MAKING:
            if _opened is not None and not _opened.is_closed:  # the environment stays as it is: other threads read it
                return get_session()
            with _certificates(bundle if bundle and os.path.isfile(bundle) else None):
                _opened = get_session()
            return _opened
    except Exception as exc:  # no library for a SOCKS proxy; a proxy that is no URL
        if not isinstance(exc, ImportError | ValueError) and type(exc).__name__ != "InvalidURL":  # httpx's or httpx2's
            raise
        raise ConfigError(
            f"the proxy variables name a proxy that cannot be used ({type(exc).__name__})",
            hint="Set HTTPS_PROXY to http://host:port or https://host:port.",
        ) from None  # the text of `exc` holds the variable, which may hold a password


@contextlib.contextmanager
def _certificates(bundle: str | None) -> Iterator[None]:
    """Let SSL_CERT_FILE name `bundle` in the block; None leaves it as it is.

    Nothing else in this package writes to the process's environment. There is no other way to set what the default
    session of huggingface_hub trusts, and that session is shared with all its users in this process.
    """
    before = os.environ.get("SSL_CERT_FILE")
    if bundle in (None, before):
        yield
        return
    os.environ["SSL_CERT_FILE"] = str(bundle)
    try:
        yield
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before


def get(session: Any, url: str, query: Mapping[str, str], headers: Mapping[str, str], exchange: Exchange) -> Answer:
    """GET `url`. The session's client (httpx or httpx2) makes the requests, also those that redirects lead to.

    Raises:
        UnreadableAnswer: an answer is too large, in an unknown encoding, or the last of too many redirects.
        TooSlow: a time limit of `exchange` is over.
        Exception: what the client raises.
    """
    limits = exchange.limits
    waits = {"connect": limits.connect_s, "read": ReadTimeout(exchange), "write": limits.head_s, "pool": limits.head_s}
    sent = {"Accept-Encoding": "gzip", **headers}  # a client may ask for encodings that decode_body refuses
    request = session.build_request("GET", url, params=dict(query), headers=sent, extensions={"timeout": waits})
    # Redirects are followed below: the client would read their bodies without a limit.
    options: dict[str, Any] = {"stream": True, "follow_redirects": False}
    for _ in range(limits.redirects + 1):
        exchange.begin_head()
        response = session.send(request, **options)
        try:
            answer = _read(response, exchange)
        finally:
            response.close()
        if response.next_request is None:
            return answer
        refuse_downgrade("hf://", str(request.url), str(response.next_request.url))
        # The client removed Authorization if the host is another one; with `auth` None it adds no other.
        request, options["auth"] = response.next_request, None
    raise UnreadableAnswer(f"more than {limits.redirects} redirects", "the answer itself")


def _read(response: Any, exchange: Exchange) -> Answer:
    status = response.status_code
    exchange.begin_body(status)

    def chunks() -> Any:
        for chunk in response.iter_raw():
            exchange.received(len(chunk))
            yield chunk

    encoding = response.headers.get("Content-Encoding", "")
    body = decode_body(chunks(), encoding, exchange.limits.body(status))
    return Answer(status, response.headers, body, response.links.get("next", {}).get("url"))
