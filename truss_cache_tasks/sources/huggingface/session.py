"""One GET through huggingface_hub's own session, bounded as an Exchange, its redirects among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truss_cache_tasks.network.exchange import BadResponse, Exchange, ReadTimeout, decode_body


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        status: of HTTP.
        headers: of any case.
        body: decoded.
        following: the URL of the next page, as the header Link names it, if it does.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    following: str | None


def get(session: Any, url: str, query: Mapping[str, str], headers: Mapping[str, str], exchange: Exchange) -> Answer:
    """GET `url`. The session's client (httpx or httpx2) makes the requests, also those that redirects lead to.

    Raises:
        BadResponse: an answer is too large, in an unknown encoding, or the last of too many redirects.
        TooSlow: its time is over.
        Exception: what the client raises.
    """
    limits = exchange.limits
    waits = {"connect": limits.connect_s, "read": ReadTimeout(exchange), "write": limits.head_s, "pool": limits.head_s}
    sent = {"Accept-Encoding": "gzip", **headers}  # a client may know encodings that we do not bound
    request = session.build_request("GET", url, params=dict(query), headers=sent, extensions={"timeout": waits})
    options: dict[str, Any] = {"stream": True, "follow_redirects": False}  # following, it reads bodies without end
    for _ in range(limits.redirects + 1):
        exchange.begin_head()
        response = session.send(request, **options)
        try:
            answer = _read(response, exchange)
        finally:
            response.close()
        if response.next_request is None:
            return answer
        request, options["auth"] = response.next_request, None  # the client has dropped what another host may not see
    raise BadResponse(f"more than {limits.redirects} redirects", "the answer itself")


def _read(response: Any, exchange: Exchange) -> Answer:
    status = response.status_code
    exchange.begin_body(status)

    def chunks() -> Any:
        for chunk in response.iter_raw():
            exchange.came(len(chunk))
            yield chunk

    encoding = response.headers.get("Content-Encoding", "")
    body = decode_body(chunks(), encoding, exchange.limits.body(status))
    return Answer(status, response.headers, body, response.links.get("next", {}).get("url"))
