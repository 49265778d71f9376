"""Open a session of `requests` that bounds each request as an Exchange. Importing this module imports `requests`."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter

from truss_cache_tasks.network.bounded import bounded_pools
from truss_cache_tasks.network.exchange import decode_body
from truss_cache_tasks.network.redirects import refuse_downgrade
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.version import USER_AGENT


def bounded_session(network: Network) -> requests.Session:
    """Return a session with the proxies that `requests` chooses, and the certificates that transfers use."""
    session = _Session()
    session.headers.update({"Accept-Encoding": "gzip", "User-Agent": USER_AGENT})
    session.max_redirects = network.limits.redirects
    session.auth = _keep  # `requests` would put a password of ~/.netrc in place of the token
    mount_limits(session, "https://", network)
    mount_limits(session, "http://", network)
    return session


def mount_limits(session: requests.Session, begin: str, network: Network) -> None:
    """Let the limits and the certificates of `network` hold for URLs that begin so."""
    session.mount(begin, _BoundedAdapter(network))


def _keep(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave the headers of a request as they are."""
    return request


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            refuse_downgrade("gs://", resp.url, urljoin(resp.url, target))
        return target


class _BoundedAdapter(HTTPAdapter):
    def __init__(self, network: Network) -> None:
        self._verify: str | bool = network.trusted_bundle() or True
        self._limits = network.limits
        self._pools = bounded_pools(network.limits, network.cancel)
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        """Send the request and read the whole body of its answer.

        `verify` is set here, because REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE would override that of the session.
        """
        limits = self._limits
        ours = {"stream": True, "timeout": (limits.connect_s, limits.head_s), "verify": self._verify}
        response = super().send(request, *args, **{**options, **ours})
        try:
            chunks = response.raw.stream(1 << 16, decode_content=False)
            encoding = response.headers.get("Content-Encoding", "")
            body = decode_body(chunks, encoding, limits.body(response.status_code))
        except urllib3.exceptions.HTTPError as exc:
            raise requests.ConnectionError(exc, request=request) from exc
        finally:
            response.raw.close()
        response.raw = io.BytesIO(body)
        return response
