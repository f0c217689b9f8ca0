"""Where a request comes from, as far as that can be believed, and whether it may.

`X-Forwarded-For` is written by whoever sends it. Only the entries that our own proxies added are
true, and they are the last ones, one for each proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from sluice_inference.settings.guard import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# One subscriber has a whole /64, and picks a new address in it at will.
_IPV6_SUBSCRIBER_BITS = 64


def find_client(peer: str, forwarded: str, proxies: int) -> Address | None:
    """The address of the client behind `proxies` trusted proxies; None where it can't be read.

    `peer` is the other end of the connection, `forwarded` all X-Forwarded-For headers, joined by
    commas. A request that came past the proxies has fewer entries than that; there the peer counts,
    because no entry is one of theirs.
    """
    entries = [entry.strip() for entry in forwarded.split(",")] if forwarded else []
    if proxies and len(entries) >= proxies:
        return parse_address(entries[-proxies])
    return parse_address(peer)


def parse_address(text: str) -> Address | None:
    """An address with or without a port: 10.0.0.1, 10.0.0.1:80, fd00::1, [fd00::1]:80."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        # A listener for both families shows IPv4 peers this way.
        return address.ipv4_mapped or address
    return address


def is_allowed(address: Address | None, networks: Sequence[Network]) -> bool:
    """Is the address in one of the networks? Without networks everybody is; unreadable is not."""
    if not networks:
        return True
    return address is not None and any(address in network for network in networks)


def name_client(address: Address) -> str:
    """What an address counts as for a rate limit: itself, or its subscriber's IPv6 network."""
    if isinstance(address, ipaddress.IPv6Address):
        network = ipaddress.ip_network((address, _IPV6_SUBSCRIBER_BITS), strict=False)
        return str(network)
    return str(address)
