"""How sources and transfers reach what they read: one frozen value, read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.events import Reporter, ignore_events
from truss_cache_tasks.model.stores import stores
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import run_with_retries

BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")  # the first that is set is used

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, repr=False)
class Network:
    """How this machine reaches servers and folders, and on which terms. Holds secrets: never printed.

    Attributes:
        proxies: (scheme, proxy URL) pairs; the scheme `all` stands for both.
        no_proxy: hosts that are asked directly, as NO_PROXY spells them.
        ca_bundle: a file or folder of certificates instead of the system's, or None.
        ca_variable: the variable that names it, for messages.
        variables: those that the rows of the stores name: endpoints, regions, where an SDK looks for credentials.
        hub_mirrors: URLs of other Hubs with the same repos, asked in turn while HF_ENDPOINT is unavailable.
        limits: of each request of a listing, and how often it is repeated. A transfer has `transfer.Limits`.
        cancel: ends the waits of a listing.
        reporter: told of the waits before a request is repeated.
        base: the folder that a relative path of a `file://` source is relative to.
        follow_links: whether links that lead out of a `file://` source are followed.
    """

    proxies: tuple[tuple[str, str], ...] = ()
    no_proxy: str = ""
    ca_bundle: str | None = None
    ca_variable: str = BUNDLES[0]
    variables: Mapping[str, str] = field(default_factory=dict)
    hub_mirrors: tuple[str, ...] = ()
    limits: ExchangeLimits = field(default_factory=ExchangeLimits)
    cancel: CancelToken = NEVER
    reporter: Reporter = ignore_events
    base: Path = Path()
    follow_links: bool = False

    @classmethod
    def from_env(
        cls, env: Mapping[str, str], *, follow_links: bool = False, hub_mirrors: tuple[str, ...] = ()
    ) -> Network:
        """Read the variables that curl, requests and boto3 read, and those of the stores' rows.

        The lower-case spelling of a proxy's variable wins.

        >>> Network.from_env({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "localhost"}).no_proxy
        'localhost'
        """
        proxies = {scheme: _either_case(env, f"{scheme}_proxy") for scheme in ("http", "https", "all")}
        bundle = next((name for name in BUNDLES if env.get(name)), None)
        read = tuple(name for store in stores() for name in store.variables)
        prefixes = tuple(name for name in read if name.endswith("_"))
        return cls(
            proxies=tuple((scheme, proxy) for scheme, proxy in proxies.items() if proxy),
            no_proxy=_either_case(env, "no_proxy"),
            ca_bundle=env[bundle] if bundle else None,
            ca_variable=bundle or BUNDLES[0],
            variables={name: text for name, text in env.items() if name in read or name.startswith(prefixes)},
            hub_mirrors=hub_mirrors,
            follow_links=follow_links,
        )

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy that a request for `url` goes through, or None."""
        parts = urlsplit(url)
        proxies = dict(self.proxies)
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        if proxy is None or self._is_direct(parts.netloc.rpartition("@")[2]):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def variable(self, name: str) -> str:
        """Return a variable that a row names; "" where it is not set."""
        return self.variables.get(name, "")

    def trusted_bundle(self) -> str | None:
        """Return the file or folder of certificates that is to be trusted, or None for the system's.

        Raises:
            ConfigError: it cannot be read; else every library would fail at it in its own way.
        """
        if self.ca_bundle is None:
            return None
        import ssl

        try:
            if not os.path.isdir(self.ca_bundle):
                ssl.create_default_context(cafile=self.ca_bundle)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigError(
                f"{self.ca_variable}: the CA bundle {self.ca_bundle} cannot be used: {exc.strerror or exc}",
                hint=f"Set {self.ca_variable} to a PEM file of certificates, or unset it.",
            ) from exc
        return self.ca_bundle

    def with_retries(self, attempt: Callable[[], _Result], elsewhere: Callable[[], bool] | None = None) -> _Result:
        """Call `attempt`, one request of a listing, as often as the limits allow. See run_with_retries."""
        limits = self.limits.retry
        return run_with_retries(attempt, limits, self.cancel, reporter=self.reporter, elsewhere=elsewhere)

    def _is_direct(self, host: str) -> bool:
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined,unused-ignore]  # typeshed has it on some systems

        return bool(proxy_bypass_environment(host, {"no": self.no_proxy}))


def _either_case(env: Mapping[str, str], name: str) -> str:
    return env.get(name) or env.get(name.upper()) or ""
