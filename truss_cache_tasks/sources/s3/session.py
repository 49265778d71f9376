"""Open a botocore client that bounds each request as an Exchange. Importing this module imports botocore."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session

from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.network.bounded import bounded_pools
from truss_cache_tasks.network.exchange import UnreadableAnswer
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.s3.identity import SESSIONS, Identity
from truss_cache_tasks.sources.s3.refusals import correct_endpoint

CONNECTIONS = 32  # kept for reuse: one for each thread that may send a HEAD

_REDIRECTS = (301, 302, 307)


def open_client(identity: Identity, network: Network, source: SourceRef) -> Any:
    """Return botocore's client for `source`; its requests are bounded, and botocore does not repeat them.

    Raises:
        ConfigError: the endpoint, the region or the certificates cannot be used.
    """
    service = source.store.s3
    config = Config(
        # Version 4 is set, because botocore pre-signs with version 2 by default.
        signature_version="s3v4" if identity.credentials is not None else botocore.UNSIGNED,
        retries={"mode": "standard", "total_max_attempts": 1},
        response_checksum_validation="when_required",
        s3={"addressing_style": "virtual"} if service.in_host else None,
    )
    try:
        with SESSIONS:
            # Times stay text, as in awscli: nothing here reads them, and parsing them takes longer than S3's answer.
            parsers = identity.session.get_component("response_parser_factory")
            parsers.set_parser_defaults(timestamp_parser=lambda text: text)
            endpoint = _endpoint(source, network, identity.session)
            client = identity.session.create_client(
                "s3", region_name=identity.region, endpoint_url=endpoint, config=config
            )
            verify = network.trusted_bundle() or identity.session.get_config_variable("ca_bundle") or True
    except (ValueError, BotoCoreError) as error:
        raise ConfigError(
            f"{source}: no client for region {identity.region!r} and this endpoint ({type(error).__name__})",
            hint=correct_endpoint(source),
        ) from error
    BoundedSession(client.meta.endpoint_url, verify, network).plug_into(client)
    return client


def _endpoint(source: SourceRef, network: Network, session: Any) -> str | None:
    """Return the URL of the server of `source`; None if botocore is to choose it.

    In this order: a variable, the `endpoint_url` of the profile, the store's own. For S3, botocore reads the profile.
    """
    service = source.store.s3
    configured = ""
    if not service.reads_aws or network.variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").lower() != "true":
        configured = next(filter(None, map(network.variable, service.variables)), "")
        if not configured and service.reads_aws and service.endpoint:
            configured = session.get_scoped_config().get("endpoint_url", "")
    account, _ = service.split(source.root)
    return (configured or service.endpoint).replace("{account_id}", account) or None


class BoundedSession(URLLib3Session):  # type: ignore[misc]  # botocore has no types
    """botocore's own HTTP session, with the proxies of `network`, and with connections that bound each request."""

    def __init__(self, endpoint: str, verify: str | bool, network: Network) -> None:
        """Choose proxy, certificates and limits; connect later.

        Args:
            endpoint: URL whose proxy is used for all requests, as botocore does.
            verify: `verify` of botocore: the path of a bundle, or True for its own certificates.
        """
        proxy = network.proxy_for(endpoint)  # botocore would read the environment, and ignore ALL_PROXY
        super().__init__(
            verify=verify,
            proxies={urlsplit(endpoint).scheme: proxy} if proxy else {},
            timeout=(network.limits.connect_s, network.limits.head_s),
            max_pool_connections=CONNECTIONS,
        )
        # For all pools that this session makes, also those of proxies.
        self._pool_classes_by_scheme.update(bounded_pools(network.limits, network.cancel))

    def plug_into(self, client: Any) -> None:
        """Make `client`, which is botocore's, send its requests through this session."""
        service = client.meta.service_model.service_id.hyphenize()
        client.meta.events.register(f"before-send.{service}", self._answer)

    def _answer(self, request: Any, event_name: str, **_: Any) -> Any:
        response = self.send(request)
        is_lost = response.status_code in _REDIRECTS and "x-amz-bucket-region" not in response.headers
        # After a redirect botocore asks HeadBucket for the region. If that is redirected too, it asks again, forever.
        if is_lost and event_name.endswith(".HeadBucket"):
            raise UnreadableAnswer("a redirect that names no region", "one that does")
        return response
