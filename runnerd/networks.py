"""networks: which addresses of the Internet an endpoint may have. Pure.

Names are chosen by submitters, and so are the addresses that they lead to. What is not on the
public Internet, the administrator allows by its network; link-local addresses, where clouds tell
their secrets, nobody can.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def forbidden(address: str, allowed: Iterable[str]) -> str | None:
    """Why nothing may be sent to this address, or None. `allowed`: networks of our own."""
    networks = [ipaddress.ip_network(each) for each in allowed]
    for each in _meant(ipaddress.ip_address(address.partition("%")[0])):
        if each.is_link_local:
            return f"{address} is a link-local address"
        if each.is_multicast or each.is_unspecified:
            return f"{address} is no address of an endpoint"
        if not each.is_global and not any(each in network for network in networks):
            return f"{address} is not on the public Internet, nor in one of callbacks.networks"
    return None


def _meant(address: _Address) -> list[_Address]:
    """The address, and the one of the older Internet that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    if address in _NAT64:
        return [address, ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address]
