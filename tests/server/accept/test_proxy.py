"""PROXY protocol: what is a header, whom it names, and who is trusted with one."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.server._accept.proxy import MOST, Header, Proxies, begins_with_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST_LINE = b"PROXY UNKNOWN " + b":".join([b"ffff"] * 8) + b" " + b":".join([b"ffff"] * 8) + b" 65535 65535\r\n"
FOUR = bytes([192, 0, 2, 7, 192, 0, 2, 1]) + struct.pack(">HH", 56324, 443)
SIX = bytes.fromhex("20010db800000000000000000000000720010db8000000000000000000000001") + struct.pack(">HH", 5, 443)
CLIENT4, CLIENT6 = ("192.0.2.7", 56324), ("2001:db8::7", 5, 0, 0)


def block(command: int, kind: int, rest: bytes) -> bytes:
    """Return a header of version 2."""
    return SIGNATURE + bytes([command, kind]) + struct.pack(">H", len(rest)) + rest


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def crc32c(data: bytes) -> bytes:
    """The sum, a bit at a time: another way than the module's."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if (crc ^ byte >> bit) & 1 else 0)
    return struct.pack(">I", crc ^ 0xFFFFFFFF)


def summed(command: int, kind: int, rest: bytes, after: bytes = b"") -> bytes:
    """Return a header of version 2 with its checksum."""
    empty = block(command, kind, rest + tlv(3, bytes(4)) + after)
    return empty.replace(tlv(3, bytes(4)), tlv(3, crc32c(empty)), 1)


def feed_all(header: Header, wire: bytes, size: int) -> None:
    """Feed `wire` in pieces of `size`."""
    for start in range(0, len(wire), size):
        header.feed(wire[start : start + size])


VALID: list[tuple[bytes, Any]] = [
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", CLIENT4),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),
    (b"PROXY TCP6 2001:DB8:0::7 2001:db8::1 5 443\r\n", CLIENT6),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 5 443\r\n", ("::ffff:192.0.2.7", 5, 0, 0)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN \xff whatever\r\r\n", None),
    (LONGEST_LINE, None),
    (block(0x21, 0x11, FOUR), CLIENT4),
    (block(0x21, 0x21, SIX), CLIENT6),
    (block(0x21, 0x31, b"/run/client".ljust(108, b"\0") + bytes(108)), "/run/client"),
    (block(0x21, 0x31, bytes(216)), ""),
    (block(0x21, 0x12, FOUR), None),  # UDP, which cannot be meant: as unspecified
    (block(0x21, 0x10, FOUR), None),
    (block(0x21, 0x00, b""), None),
    (block(0x21, 0x00, b"anything"), None),
    (block(0x20, 0x00, b""), None),
    (block(0x20, 0x11, FOUR), None),  # LOCAL: the rest is skipped, whatever it is
    (block(0x20, 0xFF, b"anything"), None),
    (block(0x21, 0x11, FOUR + tlv(5, b"id") + tlv(4, b"") + tlv(0xEA, b"x" * 300)), CLIENT4),
    (summed(0x21, 0x11, FOUR), CLIENT4),
    (summed(0x21, 0x21, SIX + tlv(5, b"unique"), tlv(2, b"example.com")), CLIENT6),
    (summed(0x20, 0x00, b""), None),
    (block(0x21, 0x11, FOUR + tlv(4, bytes(MOST - 16 - 12 - 3))), CLIENT4),
]


@pytest.mark.parametrize(("header", "client"), VALID)
def test_a_valid_header_names_the_client_however_it_is_split_and_takes_no_byte_of_what_follows(
    header: bytes, client: Any
) -> None:
    at_once = Header()
    assert at_once.feed(header + b"PROXY and more") == len(header)
    assert (at_once.whole, at_once.client) == (True, client)
    byte_by_byte = Header()
    for number in range(len(header)):
        assert not byte_by_byte.whole
        assert byte_by_byte.feed(header[number : number + 1]) == 1
    assert (byte_by_byte.whole, byte_by_byte.client, byte_by_byte.seen) == (True, client, header)


@given(st.sampled_from(VALID), st.binary(max_size=30), st.data())
def test_any_two_cuts_make_no_difference(example: tuple[bytes, Any], behind: bytes, data: st.DataObject) -> None:
    wire, client = example[0] + behind, example[1]
    header, taken = Header(), 0
    cuts = sorted(data.draw(st.lists(st.integers(1, len(wire)), max_size=2)))
    for end in [*cuts, len(wire)]:
        if not header.whole and end > taken:
            taken += header.feed(wire[taken:end])
    assert (header.whole, header.client, taken) == (True, client, len(example[0]))


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "there is none; does the proxy send it"),
        (b"G", "there is none"),
        (b"\x16\x03\x01", "there is none"),
        (b"proxy TCP4 ", "there is none"),
        (b"PROXY\r\n", "there is none"),
        (b"PROXY\t", "there is none"),
        (b"PROXY \r\n", "its line has 2 words"),
        (b"PROXY  TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", "its line has 7 words"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443 \r\n", "its line has 7 words"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n", "its line has 5 words"),
        (b"PROXY UNKNOWNS\r\n", "its line has 2 words"),
        (b"PROXY UDP4 192.0.2.7 192.0.2.1 56324 443\r\n", "its family is 'UDP4'; allowed: TCP4, TCP6, UNKNOWN"),
        (b"PROXY TCP4 192.0.2.07 192.0.2.1 56324 443\r\n", "'192.0.2.07' is no address of its family"),
        (b"PROXY TCP4 192.0.2.7 192.0.2 56324 443\r\n", "'192.0.2' is no address"),
        (b"PROXY TCP4 ::1 ::1 56324 443\r\n", "'::1' is no address of its family"),
        (b"PROXY TCP6 192.0.2.7 192.0.2.1 56324 443\r\n", "'192.0.2.1' is no address of its family"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n", "'fe80::1%eth0' is no address"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 443\r\n", "'65536' is no port"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 056 443\r\n", "'056' is no port"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 +56 443\r\n", "'.56' is no port"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 56 4_3\r\n", "'4_3' is no port"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 \xb2 443\r\n", "is no port"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 56 443\n", "its line ends without CR"),
        (b"PROXY UNKNOWN\n\r\n", "its line ends without CR"),
        (b"PROXY UNKNOWN ".ljust(107, b"x"), "does not end within 107 bytes"),
        (b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n", "does not end within 107 bytes"),
        (SIGNATURE[:5] + b"x", "there is none"),
        (SIGNATURE + b"\x11", "version and command are 0x11; allowed: 0x20, 0x21"),
        (SIGNATURE + b"\x22", "version and command are 0x22"),
        (block(0x21, 0x41, bytes(216)), "family and transport are 0x41"),
        (block(0x21, 0x13, FOUR), "family and transport are 0x13"),
        (block(0x21, 0x11, FOUR[:-1]), "27 bytes long, too few"),
        (block(0x21, 0x21, FOUR), "28 bytes long, too few"),
        (block(0x21, 0x31, bytes(215)), "231 bytes long, too few"),
        (SIGNATURE + b"\x21\x11" + struct.pack(">H", MOST - 15), "it is 4097 bytes long; allowed: 4096"),
        (SIGNATURE + b"\x20\x00\xff\xff", "it is 65551 bytes long"),
        (block(0x21, 0x11, FOUR + b"\x04\x00"), "runs beyond"),
        (block(0x21, 0x11, FOUR + b"\x04\x00\x02x"), "runs beyond"),
        (block(0x21, 0x11, FOUR + tlv(3, bytes(4))), "its checksum"),
        (block(0x21, 0x11, FOUR + tlv(3, b"")), "its checksum"),
        (summed(0x21, 0x11, FOUR).replace(b"\xc0\0\2\7", b"\xc0\0\2\6"), "its checksum"),
        (block(0x20, 0x00, tlv(3, bytes(4))), "its checksum"),
    ],
)
def test_what_is_wrong_is_said_with_how_it_begins_and_as_soon_as_it_is_there(wire: bytes, why: str) -> None:
    for size in (len(wire), 1):
        header = Header()
        with pytest.raises(ValueError, match=why) as caught:
            feed_all(header, wire, size)
        assert "; it begins with b" in str(caught.value)
        assert len(str(caught.value)) < 300
        assert not header.whole


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21\x11\0\x20"]),
    st.lists(st.binary(min_size=1, max_size=60), max_size=6),
)
def test_no_bytes_at_all_make_it_fail_in_another_way(begin: bytes, pieces: list[bytes]) -> None:
    header = Header()
    for piece in filter(None, [begin, *pieces]):
        before = len(header.seen)
        try:
            taken = header.feed(piece)
        except ValueError:
            return
        assert taken == len(header.seen) - before
        assert taken == len(piece) or header.whole  # what is not taken would be told of again and again
        if header.whole:
            return


def test_the_checksum_is_the_one_of_the_standards() -> None:
    """The value that is known of these nine digits."""
    assert crc32c(b"123456789") == bytes.fromhex("e3069283")


@pytest.mark.parametrize(
    ("trusted", "address", "known"),
    [
        ("127.0.0.1", ("127.0.0.1", 5), True),
        ("127.0.0.1", ("127.0.0.2", 5), False),
        ("10.0.0.0/8", ("10.255.0.1", 5), True),
        ("10.0.0.0/8", ("11.0.0.1", 5), False),
        ("10.0.0.0/8", ("::ffff:10.1.2.3", 5, 0, 0), True),  # of a socket for both families
        ("::ffff:10.0.0.1", ("10.0.0.1", 5), True),
        ("::ffff:10.0.0.0/104", ("10.9.9.9", 5), True),
        ("::1", ("::1", 5, 0, 0), True),
        ("::/0", ("10.0.0.1", 5), False),
        ("fd00::/8", ("fd12::1", 5, 0, 0), True),
        ("fe80::/10", ("fe80::1%eth0", 5, 0, 2), True),
        ("unix", "", True),
        ("unix", "/run/client", True),
        ("unix", ("127.0.0.1", 5), False),
        ("127.0.0.1", "", False),
        (["::1", "unix", "10.0.0.0/8"], ("10.0.0.1", 5), True),
        (("::1", "unix"), "", True),
    ],
)
def test_whom_a_name_trusts(trusted: Any, address: Any, known: bool) -> None:
    assert (address in Proxies(trusted)) is known


@pytest.mark.parametrize(
    ("trusted", "error", "words"),
    [
        ("localhost", ValueError, r"proxy='localhost' is not an address or a network, as in \"127"),
        ("10.0.0.1/8", ValueError, "10.0.0.1/8 has host bits set"),
        ("10.0.0.0/33", ValueError, "proxy='10.0.0.0/33' is not"),
        ("", ValueError, "proxy='' is not"),
        ("127.0.0.1:80", ValueError, "proxy='127.0.0.1:80' is not"),
        ([], ValueError, r"proxy=\[\] trusts nobody"),
        (
            7,
            TypeError,
            r"proxy=7 is int; allowed: an address .* several of them in a list, or None$",
        ),
        (["10.0.0.1", 7], TypeError, "proxy=7 is int; allowed: a string"),
        (True, TypeError, "proxy=True is bool"),
    ],
)
def test_what_names_nobody_is_said(trusted: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Proxies(trusted)


def test_what_begins_with_a_header_is_seen_by_its_whole_mark() -> None:
    for data in (b"PROXY ", b"PROXY nonsense", SIGNATURE, SIGNATURE + b"x"):
        assert begins_with_header(data)
    for data in (b"", b"PROXY", b"PROXYING", b"\r\n", b"\r\n\r\n", b" PROXY "):
        assert not begins_with_header(data)
