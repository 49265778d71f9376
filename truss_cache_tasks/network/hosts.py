"""Names of hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that `host` is, with brackets or without; None for a name."""
    from ipaddress import ip_address  # a config whose hosts are names does not need it

    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine by its very name: `localhost`, or a loopback address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.9"), is_loopback("[::1]"), is_loopback("localhost.example.com")
    (True, True, True, False)
    """
    address = address_of(host)
    return host == "localhost" or (address is not None and address.is_loopback)
