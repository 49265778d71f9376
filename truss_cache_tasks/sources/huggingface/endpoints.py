"""The Hubs that one source asks: HF_ENDPOINT, while it is unavailable the mirrors in turn, then HF_ENDPOINT again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from truss_cache_tasks.events import Warned
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


class Endpoints:
    """The turns of the Hubs of one source, shared by its listing and by all files that it fetches.

    The order is passed through once. So a run ends, and it ends with the whole retry budget at HF_ENDPOINT.
    """

    def __init__(self, network: Network) -> None:
        """Begin with HF_ENDPOINT. Raises ConfigError if that is no URL of a Hub."""
        self._network = network
        self._lock = threading.Lock()
        self._at = 0
        first = hub_endpoint(network.variable("HF_ENDPOINT"))
        mirrors = [url for url in network.hub_mirrors if url != first]
        turns = [first, *mirrors, first] if mirrors else [first]
        self._turns = [Endpoint(url, url != first, self._leave(at)) for at, url in enumerate(turns)]

    @property
    def first(self) -> Endpoint:
        """HF_ENDPOINT."""
        return self._turns[0]

    @property
    def current(self) -> Endpoint:
        """The one that is asked now."""
        return self._turns[self._at]

    def _leave(self, at: int) -> Callable[[], bool]:
        def leave() -> bool:
            with self._lock:
                if self._at > at:
                    return True  # another thread left it
                if at + 1 == len(self._turns):
                    return False
                self._at += 1
                left, taken = self._turns[at].url, self._turns[at + 1].url
            self._network.reporter(Warned(message=f"{left} is unavailable, {taken} is asked instead"))
            return True

        return leave
