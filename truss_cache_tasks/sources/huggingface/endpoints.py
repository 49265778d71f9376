"""The Hubs that one source asks: HF_ENDPOINT, while it is unavailable the mirrors in turn, then HF_ENDPOINT again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from truss_cache_tasks.events import Reporter, Warned
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.network.urls import hub_endpoint


@dataclass(frozen=True)
class Endpoint:
    """One turn of a Hub.

    Attributes:
        url: without a slash at its end.
        is_mirror: it gets no token, and a refusal of it tells nothing of the token.
        elsewhere: called when it is unavailable; returns whether another one is asked from now on.
    """

    url: str
    is_mirror: bool
    elsewhere: Callable[[], bool]

    @property
    def host(self) -> str:
        """Its host and port."""
        return urlsplit(self.url).netloc


class _Turn:
    """Whose turn it is. Sources that live at one time share it, so that each server is found unavailable once."""

    def __init__(self) -> None:
        self.at = 0
        self.lock = threading.Lock()


_turns: WeakValueDictionary[tuple[str, ...], _Turn] = WeakValueDictionary()  # by the URLs


class Endpoints:
    """The Hubs of one source, for its listing and all files that it fetches.

    The order is passed through once. So a run ends, and it ends with the whole retry budget at HF_ENDPOINT.
    """

    def __init__(self, network: Network) -> None:
        """Begin with HF_ENDPOINT. Raises ConfigError if that is no URL of a Hub."""
        first = hub_endpoint(network.variable("HF_ENDPOINT"))
        mirrors = [url for url in network.hub_mirrors if url != first]
        urls = (first, *mirrors, first) if mirrors else (first,)
        self._turn = _turns.setdefault(urls, _Turn())
        leavers = [_leaver(self._turn, urls, at, network.reporter) for at in range(len(urls))]
        self._endpoints = [Endpoint(url, url != first, leave) for url, leave in zip(urls, leavers, strict=True)]

    @property
    def first(self) -> Endpoint:
        """HF_ENDPOINT."""
        return self._endpoints[0]

    @property
    def current(self) -> Endpoint:
        """The one that is asked now."""
        return self._endpoints[self._turn.at]


def _leaver(turn: _Turn, urls: Sequence[str], at: int, reporter: Reporter) -> Callable[[], bool]:
    """Return `Endpoint.elsewhere` of `urls[at]`. It refers to no source, so that a turn ends with the last of these."""

    def leave() -> bool:
        with turn.lock:
            if turn.at > at:
                return True  # another thread left it
            if at + 1 == len(urls):
                return False
            turn.at += 1
        reporter(Warned(message=f"{urls[at]} is unavailable, {urls[at + 1]} is asked instead"))
        return True

    return leave
