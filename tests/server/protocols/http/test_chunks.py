"""Chunks: what a body in chunks is, by RFC 9112, section 7.1, however it comes, and what is none."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from treadle.server._protocols.http.body import Body
from treadle.server._protocols.http.chunks import FORBIDDEN, LONGEST_LINE, MOST_EXTENSIONS, Chunks
from treadle.server._protocols.http.refused import Refused

MOST = 1 << 40
TRAILERS = 1000  # bytes that are allowed
FIELDS = 100

Taken = tuple[bool, bytes, bytes]  # whether it is complete, the body, what is left


def take(*pieces: bytes, most: int = MOST, trailers: int = TRAILERS) -> Taken:
    """Have the pieces taken one by one, until the body is complete; what comes behind is left."""
    body = Body(most, None)
    chunks = Chunks(body, trailers, FIELDS)
    data = bytearray()
    over = False
    for piece in pieces:
        data += piece
        over = over or chunks.take(data)
    with body.open() as source:
        return over, source.read(), bytes(data)


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


def whole_and_bytewise(raw: bytes, trailers: int = TRAILERS) -> Taken:
    """Return what is taken, which is the same in pieces."""
    taken = take(raw, trailers=trailers)
    assert take(*bytewise(raw), trailers=trailers) == taken
    return taken


def refusal(*pieces: bytes, most: int = MOST, trailers: int = TRAILERS) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        take(*pieces, most=most, trailers=trailers)
    return caught.value.status, caught.value.why


def refused_whole_and_bytewise(raw: bytes, trailers: int = TRAILERS) -> int:
    """Return the status with which it is refused, also in pieces; which rule is seen first may differ."""
    status, _ = refusal(raw, trailers=trailers)
    assert refusal(*bytewise(raw), trailers=trailers)[0] == status
    return status


# -- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        (b"0\r\n\r\n", b""),
        (b"000\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"03\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"0000000000000010\r\n0123456789abcdef\r\n0\r\n\r\n", b"0123456789abcdef"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),  # data may look like anything
        (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
        (b"1\r\n\n\r\n1\r\n\r\r\n0\r\n\r\n", b"\n\r"),
    ],
)
def test_a_body_is_what_its_chunks_hold(raw: bytes, content: bytes) -> None:
    """RFC 9112, section 7.1; what comes behind it is somebody else's."""
    assert whole_and_bytewise(raw) == (True, content, b"")
    assert take(raw + b"GET / ") == (True, content, b"GET / ")
    for end in range(len(raw)):
        assert take(raw[:end])[0] is False


def test_what_is_there_of_a_chunk_is_taken_at_once() -> None:
    """Or a chunk would be held in memory until it is complete, and it may be as long as a body."""
    body, data = Body(MOST, None), bytearray(b"5\r\nab")
    chunks = Chunks(body, TRAILERS, FIELDS)
    assert chunks.take(data) is False
    assert (body.size, bytes(data)) == (2, b"")
    data += b"cde"
    assert chunks.take(data) is False
    assert (body.size, bytes(data)) == (5, b"")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"g",
        b" 3",
        b"3 ",
        b"3\t",
        b"+3",
        b"-3",
        b"0x3",
        b"3_0",
        b"3.0",
        b"3,",
        b"\xb23",
        b"3\xa0",
        b"3\0",
        b"00000000000000003",  # 17 digits
    ],
)
def test_a_malformed_size_is_400_by_rfc_9112_section_7_1(line: bytes) -> None:
    raw = line + b"\r\nabc\r\n0\r\n\r\n"
    assert refused_whole_and_bytewise(raw) == 400
    assert refused_whole_and_bytewise(b"1\r\nx\r\n" + raw) == 400


@pytest.mark.parametrize("behind", [b"x\r\n", b"\n", b"\rx", b"\r\r\n", b"0\r\n\r\n", b"\n\r"])
def test_a_chunk_that_is_longer_than_it_says_is_400(behind: bytes) -> None:
    raw = b"3\r\nabc" + behind
    assert refused_whole_and_bytewise(raw) == 400
    assert refusal(raw)[1] == "a chunk is longer than it says (RFC 9112, section 7.1)"
    assert refusal(b"3\r\nabc", behind)[0] == 400


@pytest.mark.parametrize(
    "raw", [b"3\nabc\r\n", b"\n", b"0\n", b"0\r\n\n", b"0\r\na: b\n", b"0\r\na: b\n\r\n", b"3;a\n"]
)
def test_a_lf_without_its_cr_is_400_by_rfc_9112_section_2_2(raw: bytes) -> None:
    assert refused_whole_and_bytewise(raw) == 400
    assert refusal(raw)[1] == "a LF stands without its CR (RFC 9112, section 2.2)"


@pytest.mark.parametrize("line", [b"3\rx", b"\r3", b"3;\ra", b"\r\r", b"0\r\na: b\rc", b"0\r\n\rx"])
def test_a_cr_without_its_lf_is_400_by_rfc_9112_section_2_2(line: bytes) -> None:
    """At once: a line that cannot become right is not waited for."""
    assert refusal(line) == refusal(*bytewise(line))
    assert refusal(line) == (400, "a CR stands without its LF (RFC 9112, section 2.2)")
    assert refused_whole_and_bytewise(line + b"\r\n\r\n") == 400


def test_a_cr_may_be_the_last_that_has_come() -> None:
    assert take(b"3\r", b"\nabc\r", b"\n0\r", b"\na: b\r", b"\n\r", b"\n") == (True, b"abc", b"")


# -- their bounds -----------------------------------------------------------------------------------------------------


def test_a_body_that_would_be_too_long_is_413_before_it_comes() -> None:
    assert take(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", most=5)[0]
    assert refusal(b"6\r\n", most=5)[0] == 413
    assert refusal(b"3\r\nabc\r\n3\r\n", most=5) == (413, "the body is longer than max_body allows, 5 bytes")
    assert refusal(b"f" * 16 + b"\r\n")[0] == 413


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_line_has_at_most_4096_bytes(pieces: int) -> None:
    """RFC 9112, section 7.1.1, asks for a limit. The line's end is none of it, wherever it is cut."""
    longest = b"1;" + b"a" * (LONGEST_LINE - 2)
    assert len(longest) == LONGEST_LINE == 4096

    def cut(line: bytes) -> list[bytes]:
        return [[line + b"\r\nx\r\n"], [line + b"\r", b"\nx\r\n"], [line, b"\r", b"\nx\r\n"]][pieces - 1]

    assert take(*cut(longest), b"0\r\n\r\n") == (True, b"x", b"")
    assert refusal(*cut(longest + b"a"))[0] == 400


def test_a_line_that_does_not_end_is_not_waited_for() -> None:
    take(b"1" * (LONGEST_LINE + 1))
    assert refusal(b"1" * (LONGEST_LINE + 2)) == (
        400,
        "a chunk's line is longer than anybody's (RFC 9112, section 7.1.1)",
    )


def test_the_extensions_of_a_body_have_a_bound_of_their_own() -> None:
    """RFC 9112, section 7.1.1: else a body of one byte might take a day."""
    extension = b";" + b"a" * 1023
    raw = (b"1" + extension + b"\r\nx\r\n") * (MOST_EXTENSIONS // 1024)
    assert take(raw, b"0\r\n\r\n") == (True, b"x" * 64, b"")
    assert MOST_EXTENSIONS == 65_536
    why = "the chunks' extensions are longer than anybody's (RFC 9112, section 7.1.1)"
    assert refusal(raw, b"0;a\r\n\r\n") == (400, why)
    assert refusal(raw[:-5], b"b\r\nx\r\n") == (400, why)


# -- extensions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extension",
    [
        b";a",
        b";a;b",
        b";a=b",
        b";a=b;c=d",
        b" ; a",
        b"\t;\ta \t=\t b",
        b";a =b ;c",
        b';a="b"',
        b';a=""',
        b';a="b c\t;=\\"\\\\\\ \\\t\\~\xe9\\\xe9"',
        b';a="0";b',
        b";!#$%&'*+-.^_`|~=!",
    ],
)
def test_extensions_are_taken_and_dropped(extension: bytes) -> None:
    """RFC 9112, section 7.1.1, with the blanks that are bad but allowed."""
    raw = b"3%s\r\nabc\r\n0%s\r\n\r\n" % (extension, extension)
    assert whole_and_bytewise(raw) == (True, b"abc", b"")


@pytest.mark.parametrize(
    "extension",
    [
        b";",
        b" ;",
        b"; ",
        b";;a",
        b";a;",
        b";a ",
        b" a",
        b"g;b",
        b";=b",
        b";a=",
        b";a=b ",
        b";a==b",
        b";a=b=c",
        b";a b",
        b";a=b c",
        b';"a"',
        b';a="b',
        b';a="b\\"',
        b';a="b"c',
        b';a="\0"',
        b';a="\x7f"',
        b';a="\\\0"',
        b';a="\\\x7f"',
        b";a='b\"'",
        b";a=\xe9",
        b";\xe9",
        b",a",
    ],
)
def test_malformed_extensions_are_400_by_rfc_9112_section_7_1_1(extension: bytes) -> None:
    raw = b"3%s\r\nabc\r\n0\r\n\r\n" % extension
    assert refused_whole_and_bytewise(raw) == 400
    assert refusal(raw)[1] == "a chunk's size, or its extension, is malformed (RFC 9112, section 7.1)"
    assert refused_whole_and_bytewise(b"0%s\r\n\r\n" % extension) == 400


def characters_taken(before: bytes, after: bytes) -> set[int]:
    """Return the bytes that may stand there in a chunk's line."""
    taken = set()
    for code in range(256):
        try:
            over, _, _ = take(b"0;" + before + bytes([code]) + after + b"\r\n\r\n")
        except Refused:
            continue
        if over:
            taken.add(code)
    return taken


def test_quoted_strings_are_of_the_characters_of_rfc_9110_section_5_6_4() -> None:
    visible, obs_text = set(range(0x21, 0x7F)), set(range(0x80, 0x100))
    assert characters_taken(b'a="', b'b"') == {9, 32} | visible - set(b'"\\') | obs_text | set(b"\\")  # "\\b" is a pair
    assert characters_taken(b'a="\\', b'"') == {9, 32} | visible | obs_text


def test_names_and_values_are_tokens() -> None:
    token = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    assert characters_taken(b"", b"") == token
    assert characters_taken(b"a=", b"") == token


# -- trailers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trailers", [b"a: b\r\n", b"a:\r\n", b"X-Sum: 1\r\nx-sum: 2\r\nServer-Timing: a\r\n"])
def test_trailers_are_judged_and_dropped(trailers: bytes) -> None:
    """RFC 9112, section 7.1.2."""
    assert whole_and_bytewise(b"1\r\nx\r\n0\r\n" + trailers + b"\r\n") == (True, b"x", b"")


@pytest.mark.parametrize(
    "trailers", [b"a\r\n", b"a : b\r\n", b" a: b\r\n", b"a: b\r\n c\r\n", b"a: b\0\r\n", b": b\r\n"]
)
def test_malformed_trailers_are_400_by_rfc_9112_section_5(trailers: bytes) -> None:
    assert refused_whole_and_bytewise(b"0\r\n" + trailers + b"\r\n") == 400


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_fields_that_are_not_for_trailers_are_400_by_rfc_9110_section_6_5_1(name: str) -> None:
    for sent in (name, name.upper(), name.title()):
        raw = f"0\r\na: b\r\n{sent}: 1\r\n\r\n".encode()
        assert refusal(raw) == (400, f"the field {name} is not for trailers (RFC 9110, section 6.5.1)")


@pytest.mark.parametrize(
    "names",
    [
        ["content-length", "transfer-encoding"],  # framing (section 6.5.1, and RFC 9112, section 7.1.2)
        ["host", "te", "connection", "upgrade", "trailer", "max-forwards", "keep-alive", "proxy-connection"],  # routing
        [
            "cache-control",
            "expect",
            "range",
            "pragma",
            "accept-encoding",
            "if-match",
            "if-modified-since",
            "if-none-match",
            "if-range",
            "if-unmodified-since",
        ],  # request modifiers
        ["authorization", "proxy-authenticate", "proxy-authorization", "www-authenticate", "cookie", "set-cookie"],
        ["content-encoding", "content-type", "content-range"],  # how the content is understood
        ["age", "date", "expires", "location", "retry-after", "vary", "warning"],  # control data of answers
    ],
)
def test_every_kind_of_field_that_rfc_9110_section_6_5_1_names_is_forbidden(names: list[str]) -> None:
    assert set(names) <= FORBIDDEN


def test_trailers_are_at_most_so_long() -> None:
    """What ends them is none of it, wherever it is cut."""
    raw = b"0\r\naa: b\r\nc: d\r\n\r\n"  # 7 and 6 bytes with their ends
    assert whole_and_bytewise(raw, trailers=13) == (True, b"", b"")
    assert refused_whole_and_bytewise(raw, trailers=12) == 431
    assert refusal(raw, trailers=12)[1] == "the trailers are longer than max_head allows (RFC 6585, section 5)"


def test_trailers_are_at_most_so_many() -> None:
    body = Body(MOST, None)
    assert Chunks(body, TRAILERS, 2).take(bytearray(b"0\r\na: 1\r\nb: 2\r\n\r\n"))
    with pytest.raises(Refused, match="there are more trailers than max_fields allows") as caught:
        Chunks(body, TRAILERS, 2).take(bytearray(b"0\r\na: 1\r\nb: 2\r\nc: 3\r\n"))
    assert caught.value.status == 431


def test_a_trailer_that_does_not_end_is_not_waited_for() -> None:
    for before in (b"0\r\n", b"0\r\nab: c\r\n"):
        left = 20 - (len(before) - 3)
        take(before + b"a: " + b"b" * (left - 2), trailers=20)
        assert refusal(before + b"a: " + b"b" * (left - 1), trailers=20) == (
            431,
            "the trailers are longer than max_head allows (RFC 6585, section 5)",
        )


def test_a_line_of_trailers_may_be_longer_than_one_of_a_chunk() -> None:
    raw = b"0\r\na: " + b"b" * (2 * LONGEST_LINE) + b"\r\n\r\n"
    assert take(raw[:-3], raw[-3:], trailers=3 * LONGEST_LINE) == (True, b"", b"")


# -- all of it --------------------------------------------------------------------------------------------------------

SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[0-9a-z]+)*\r\n")
TRAILER = re.compile(rb"(?:[0-9a-z]+:[ -~\x80-\xff]*\r\n)*\r\n")


def reference(raw: bytes) -> Taken | None:
    """Return what is right to make of it, as simple as can be; None: it is wrong, or not complete."""
    content = b""
    at = 0
    while line := SIZE.match(raw, at):
        end = line.end() + int(line[1], 16)
        if end == line.end():
            trailer = TRAILER.match(raw, end)
            return (True, content, raw[trailer.end() :]) if trailer else None
        if raw[end : end + 2] != b"\r\n":
            return None
        content += raw[line.end() : end]
        at = end + 2
    return None


CHUNK = st.builds(
    lambda data, zeros, extension, upper: (
        b"0" * zeros + (b"%X" if upper else b"%x") % len(data) + extension + b"\r\n" + data + b"\r\n"
    ),
    st.binary(min_size=1, max_size=20),
    st.integers(0, 3),
    st.sampled_from([b"", b";a", b";b;c"]),
    st.booleans(),
)
BODIES = st.builds(
    lambda chunks, trailers, behind: b"".join([*chunks, b"0\r\n", *trailers, b"\r\n", behind]),
    st.lists(CHUNK, max_size=4),
    st.lists(st.sampled_from([b"a: b\r\n", b"ab: c\r\n"]), max_size=2),
    st.binary(max_size=3),
)
CUTS = st.lists(st.integers(0, 200), max_size=8)


def pieces_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges)]


@given(BODIES, CUTS)
@example(b"0\r\n\r\n", [3])
def test_right_bodies_are_what_a_simple_reader_makes_of_them(raw: bytes, cuts: list[int]) -> None:
    expected = reference(raw)
    assert expected is not None
    assert expected[0]
    assert take(raw) == expected
    assert take(*pieces_of(raw, cuts)) == expected


@given(BODIES, st.integers(0, 200), st.sampled_from(b"\r\n\0;:0123af\xff"), st.sampled_from("+-=."), CUTS)
def test_wrong_bodies_are_what_a_simple_reader_makes_of_them(
    raw: bytes, at: int, code: int, how: str, cuts: list[int]
) -> None:
    """One byte is put in, left out, or another one, or it ends there."""
    at %= len(raw)
    changed = {"+": bytes([code]) + raw[at:], "-": raw[at + 1 :], "=": bytes([code]) + raw[at + 1 :], ".": b""}[how]
    raw = raw[:at] + changed
    expected = reference(raw)
    for pieces in ([raw], pieces_of(raw, cuts), bytewise(raw)):
        try:
            taken: Taken | None = take(*pieces)
        except Refused:
            taken = None
        assert (taken if taken and taken[0] else None) == expected
