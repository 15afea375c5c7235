"""Hosts: how the addresses that the socket module gives are written."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address
from typing import Any

__all__ = ["host_of", "text_of"]


def host_of(address: Any) -> str:
    """Return the IP address in `address`, (host, port) or (host, port, flow, scope), as one would write it.

    That of an IPv4 client whom an IPv6 socket has accepted, which is ::ffff:192.0.2.1 there (RFC 4291, section
    2.5.5.2), is 192.0.2.1; a link-local one, which means nothing without it, has its interface: fe80::1%eth0
    (RFC 4007, section 11). "" for a UNIX socket.
    """
    if not isinstance(address, tuple):
        return ""
    host = str(address[0])
    if host.startswith("::ffff:"):
        mapped = IPv6Address(host).ipv4_mapped
        return host if mapped is None else str(mapped)
    scope = address[3] if len(address) == 4 else 0
    return f"{host}%{_interface(scope)}" if scope and "%" not in host else host


def _interface(scope: int) -> str:
    """Return the name of an interface, or its number if it has gone."""
    try:
        return socket.if_indextoname(scope)
    except (OSError, AttributeError):  # the latter: a platform that has no names
        return str(scope)


def text_of(address: Any) -> str:
    """Return `address` as in "127.0.0.1:5000", "[::1]:5000"."""
    host = host_of(address)
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
