"""botocore's HTTP session, each of whose requests is an Exchange. Imports botocore: import it where that is wanted."""

from __future__ import annotations

from typing import Any

from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from truss_cache_tasks.network.connections import bounded_pools
from truss_cache_tasks.network.exchange import BadResponse, ExchangeLimits
from truss_cache_tasks.network.retry import CancelToken

CONNECTIONS = 32  # that are kept: as many as there are threads that look at objects

_REDIRECTS = (301, 302, 307)


class BoundedSession(URLLib3Session):  # type: ignore[misc]  # botocore has no types
    """Sends as botocore's own session does, with its proxies and certificates, over bounded connections."""

    def __init__(self, endpoint: str, verify: str | bool, limits: ExchangeLimits, cancel: CancelToken) -> None:
        """Begin.

        Args:
            endpoint: URL that decides about the proxy, as for botocore's own.
            verify: certificates, as botocore takes them.
        """
        super().__init__(
            verify=verify,
            proxies=get_environ_proxies(endpoint),
            timeout=(limits.connect_s, limits.head_s),
            max_pool_connections=CONNECTIONS,
        )
        self._pool_classes_by_scheme.update(bounded_pools(limits, cancel))  # of all its pools, also behind proxies

    def plug_into(self, client: Any) -> None:
        """Let `client` of botocore send its requests here."""
        client.meta.events.register("before-send.s3", self._answer)

    def _answer(self, request: Any, event_name: str, **_: Any) -> Any:
        response = self.send(request)
        is_lost = response.status_code in _REDIRECTS and "x-amz-bucket-region" not in response.headers
        # At any redirect botocore asks HeadBucket for the region; at one of that, the same again, without end.
        if is_lost and event_name.endswith(".HeadBucket"):
            raise BadResponse("a redirect that names no region", "one that does")
        return response
