"""PROXY protocol, versions 1 and 2: who is trusted to say who the client is, and what is said.

A proxy that passes connections on begins each with a header that names its client. The rules are those of HAProxy's
specification (doc/proxy-protocol.txt); sections are given where one comes from. Nothing here reads from a socket.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from treadle._base import checks
from treadle._base.words import counted, show

__all__ = ["MOST", "Header", "Proxies", "begins_with_header"]

MOST = 4096  # bytes of a header; nginx's limit. The format allows 65,551, and nobody sends a tenth of ours.
LONGEST_LINE = 107  # bytes of version 1, with its end (2.1)
TEXT = b"PROXY "
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED = 16  # bytes of version 2 before the addresses (2.2)
SHOWN = 32  # bytes of a bad header that its error shows
LOCAL, PROXY = 0x20, 0x21  # version and command
UNSPEC, TCP4, TCP6, UNIX_STREAM = 0x00, 0x11, 0x21, 0x31  # family and transport
FAMILIES = {0: 0, 1: 12, 2: 36, 3: 216}  # bytes of both addresses, by family
TRANSPORTS = {0, 1, 2}  # unspecified, stream, datagram
CRC32C = 0x03  # PP2_TYPE_CRC32C
FORMS = 'an address or a network, as in "127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8", or "unix"'
ALLOWED = f"{FORMS}, several of them in a list, or None"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """The addresses that are trusted to say who the client is: `address in proxies`. Safe to use from any thread.

    An IPv4 address is the same one in the shape that a socket for both families gives it, ::ffff:10.0.0.1.

    Args:
        trusted: an address or a network, or several; "unix" for every client of a UNIX socket.

    Raises:
        TypeError, ValueError: `trusted` is none of this, or is empty.
    """

    def __init__(self, trusted: str | Sequence[str]) -> None:
        several: Iterable[str] = (trusted,) if isinstance(trusted, str) else checks.several("proxy", trusted, ALLOWED)
        self.names = tuple(checks.text("proxy", one) for one in several)
        if not self.names:
            raise ValueError(f"proxy={show(trusted)} trusts nobody; allowed: {ALLOWED}")
        self._unix = "unix" in self.names
        self._networks = tuple(_network(name) for name in self.names if name != "unix")

    def __contains__(self, address: Any) -> bool:
        """Whether who has `address`, as the socket module gives it, is trusted."""
        if not isinstance(address, tuple):
            return self._unix
        ip = ipaddress.ip_address(address[0].partition("%")[0])
        plain = getattr(ip, "ipv4_mapped", None) or ip
        return any(plain in network for network in self._networks)

    def __repr__(self) -> str:
        return f"Proxies({list(self.names)!r})"


def _network(name: str) -> Network:
    """Return what `name` stands for.

    Raises:
        ValueError: it stands for nothing.
    """
    try:
        network = ipaddress.ip_network(name)
    except ValueError as error:
        why = f"; {error}" if "/" in name else ""
        raise ValueError(f"proxy={show(name)} is not {FORMS}{why}") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")


def begins_with_header(data: bytes) -> bool:
    """Whether what a connection sent first is the beginning of a header."""
    return data.startswith((SIGNATURE, TEXT))


class Header:
    """One header, which may come in pieces. It takes no byte of what follows it.

    Attributes:
        seen: the bytes of it that came.
        whole: whether all of it has come.
        client: when whole: the client's address, as the socket module gives it; None: the header does not say, so that
            it is the connection's own.
    """

    __slots__ = ("client", "seen", "whole")

    def __init__(self) -> None:
        self.seen = b""
        self.whole = False
        self.client: Any = None

    def feed(self, data: bytes) -> int:
        """Take from `data` what is the header's; return how many bytes that is.

        Raises:
            ValueError: it is no valid header; the text says why, and shows how it begins.
        """
        seen = self.seen + data
        try:
            size = _size_of(seen)
            self.seen = seen if size is None else seen[:size]
            if size == len(self.seen):
                self.client = (_client_of_line if seen.startswith(TEXT) else _client_of_block)(self.seen)
                self.whole = True
        except ValueError as error:
            raise ValueError(f"{error}; it begins with {seen[:SHOWN]!r}") from None
        return len(self.seen) - (len(seen) - len(data))


def _size_of(seen: bytes) -> int | None:
    """Return the size of the header that begins with `seen`; None: that is not said yet, and all of `seen` is its own.

    Raises:
        ValueError: it is not the beginning of any, or is too long.
    """
    if TEXT.startswith(seen[: len(TEXT)]):
        end = seen.find(b"\n", 0, LONGEST_LINE)
        if end >= 0 and seen[end - 1 : end] != b"\r":
            raise ValueError("its line ends without CR")
        if end < 0 and len(seen) >= LONGEST_LINE:
            raise ValueError(f"its line does not end within {LONGEST_LINE} bytes")
        return None if end < 0 else end + 1
    if not SIGNATURE.startswith(seen[: len(SIGNATURE)]):
        raise ValueError("there is none; does the proxy send it (in HAProxy: send-proxy-v2)?")
    if len(seen) > 12 and seen[12] not in (LOCAL, PROXY):
        raise ValueError(f"its version and command are {seen[12]:#04x}; allowed: {LOCAL:#04x}, {PROXY:#04x}")
    if len(seen) < FIXED:
        return None
    size = FIXED + int.from_bytes(seen[FIXED - 2 : FIXED], "big")
    if size > MOST:
        raise ValueError(f"it is {counted(size, 'byte')} long; allowed: {MOST}")
    return size


# -- version 1 (2.1) ------------------------------------------------------------------------------------------------


def _client_of_line(line: bytes) -> Any:
    """Return the client's address, or None.

    Raises:
        ValueError: the line is not as it has to be.
    """
    words = line[: -len(b"\r\n")].split(b" ")
    if words[1] == b"UNKNOWN":  # whatever follows
        return None
    if len(words) != 6:
        raise ValueError(f"its line has {len(words)} words, by single blanks; a line with addresses has 6")
    _, family, source, target, source_port, target_port = (word.decode("ascii", "replace") for word in words)
    if family not in ("TCP4", "TCP6"):
        raise ValueError(f"its family is {family!r}; allowed: TCP4, TCP6, UNKNOWN")
    kind = ipaddress.IPv4Address if family == "TCP4" else ipaddress.IPv6Address
    _parse_ip(kind, target), _parse_port(target_port)
    return _address_of(_parse_ip(kind, source), _parse_port(source_port))


def _parse_ip(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], text: str) -> bytes:
    """Return an address's bytes; leading zeros, and an interface behind it, are not allowed."""
    try:
        if "%" not in text:
            return kind(text).packed
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no address of its family")


def _parse_port(text: str) -> int:
    """Return a port, which is written without leading zeros."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and str(int(text)) == text and int(text) < 1 << 16:
        return int(text)
    raise ValueError(f"{text!r} is no port")


def _address_of(host: bytes, port: int) -> tuple[Any, ...]:
    """Return an address as the socket module gives it."""
    if len(host) == 4:
        return socket.inet_ntop(socket.AF_INET, host), port
    return socket.inet_ntop(socket.AF_INET6, host), port, 0, 0


# -- version 2 (2.2) ------------------------------------------------------------------------------------------------


def _client_of_block(block: bytes) -> Any:
    """Return the client's address, or None.

    Raises:
        ValueError: the block is not as it has to be.
    """
    command, kind = block[12], block[13]
    said = command == PROXY and kind >> 4 != 0
    if command == PROXY and not (kind >> 4 in FAMILIES and kind & 15 in TRANSPORTS):
        raise ValueError(f"its family and transport are {kind:#04x}, which do not exist")
    end = FIXED + FAMILIES.get(kind >> 4, 0)
    if said and end > len(block):
        raise ValueError(f"it is {counted(len(block), 'byte')} long, too few for addresses of its family")
    _check_sum(block, end, strict=said)
    if not said:
        return None
    if kind in (TCP4, TCP6):
        size = 4 if kind == TCP4 else 16
        return _address_of(block[FIXED : FIXED + size], *struct.unpack_from(">H", block, FIXED + 2 * size))
    if kind == UNIX_STREAM:
        return os.fsdecode(block[FIXED : FIXED + 108].partition(b"\0")[0])
    return None  # datagrams, which cannot be meant


def _check_sum(block: bytes, start: int, *, strict: bool) -> None:
    """Check the sum that is among what begins at `start`, if one is (2.2.3).

    Raises:
        ValueError: it is wrong; or, when `strict`, what begins there does not come to its end where the header does.
    """
    while start < len(block):
        value = start + 3
        end = value + int.from_bytes(block[start + 1 : value], "big")
        if value > len(block) or end > len(block):
            if strict:
                raise ValueError(f"what it adds to the addresses runs beyond its {counted(len(block), 'byte')}")
            return
        if block[start] == CRC32C and _crc32c(block[:value] + bytes(4) + block[end:]) != block[value:end]:
            raise ValueError("its checksum (CRC32C) is wrong")
        start = end


def _rows() -> tuple[int, ...]:
    """Return what four bits at the end of the sum add to the rest of it (the polynomial of RFC 9260, appendix A)."""
    rows = []
    for row in range(16):
        for _ in range(4):
            row = row >> 1 ^ (0x82F63B78 if row & 1 else 0)
        rows.append(row)
    return tuple(rows)


ROWS = _rows()


def _crc32c(data: bytes) -> bytes:
    """Return the CRC32C of `data`, as a header has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        crc = crc >> 4 ^ ROWS[crc & 15]
        crc = crc >> 4 ^ ROWS[crc & 15]
    return struct.pack(">I", crc ^ 0xFFFFFFFF)
