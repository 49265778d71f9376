"""The pools of connections that a process keeps for reuse, by proxy and set of certificates."""

from __future__ import annotations

from truss_cache_tasks.network.connections import ConnectionPool
from truss_cache_tasks.network.pools import load_trust, make_pools
from truss_cache_tasks.transfer.context import TransferContext


def pool_for(url: str, context: TransferContext) -> ConnectionPool:
    """Return the process's pool of connections to the host of `url`.

    Raises:
        ConfigError: the proxy's URL or the CA bundle cannot be used.
    """
    network, process = context.network, context.process
    proxy = network.proxy_for(url)
    tls = url.startswith("https:") or (proxy or "").startswith("https:")
    with process.lock:
        key = (proxy, network.ca_bundle, tls)
        if key not in process.pools:
            trust = load_trust(network.ca_bundle) if tls else None  # takes 20 ms; plain http needs none
            process.pools[key] = make_pools(proxy, trust, context.limits.connections)
        pool: ConnectionPool = process.pools[key].connection_from_url(url)
        return pool
