"""Lines of an access log: a reader finds each field as it was, whatever clients send, and no secret."""

from __future__ import annotations

import json as standard
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from treadle.server._protocols.wsgi.access_line import (
    FORMS,
    LONGEST_FIELD,
    LONGEST_TARGET,
    Entry,
    combined,
    hider,
    json,
)

BEGAN = datetime(2000, 10, 10, 13, 55, 36, 123456, tzinfo=UTC).timestamp()
PLAIN = Entry(
    host="127.0.0.1",
    user="frank",
    began=BEGAN,
    method="GET",
    target="/apache_pb.gif?a=b",
    version="HTTP/1.0",
    status=200,
    bytes_out=2326,
    referer="http://www.example.com/start.html",
    agent="Mozilla/4.08 [en] (Win98; I ;Nav)",
    request_id="0af7651916cd43dd",
    route="GET /<name>",
    wait=0.00012,
    run=1.5,
    send=0.0000004,
    error="",
)
# What a reader of the combined format takes a line apart with, as Apache's documents describe it: one that is strict.
PARTS = re.compile(
    r'(?P<host>[!-~]+) - (?P<user>[!-~]+) \[(?P<time>[^\]]+)\] "(?P<request>[^"]*)" (?P<status>\d{3}|-) (?P<bytes>\d+) '
    r'"(?P<referer>[^"]*)" "(?P<agent>[^"]*)"\n'
)
# Quotes, ends of lines of every kind, escapes of terminals, what looks like the next field, what is not latin-1.
TEXTS = st.text(
    st.characters() | st.sampled_from('"\\ \r\n\t\0\x1b\x7f\x85\x9b\xff\u2028\u2029\ud800[]-x'), max_size=60
)


def line_of(form: str, entry: Entry) -> str:
    return FORMS[form](entry, entry.target, entry.referer)


def parts_of(line: str) -> dict[str, str]:
    found = PARTS.fullmatch(line)
    assert found, line
    return found.groupdict()


def unescaped(text: str) -> str:
    r"""Undo \xhh, the only escape there is; what is no latin-1 came as UTF-8."""
    octets = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode("ascii"))
    return octets.decode("latin-1")


def as_octets(text: str) -> str:
    return "".join(
        char if ord(char) < 0x100 else char.encode("utf-8", "surrogatepass").decode("latin-1") for char in text
    )


def test_the_combined_form_is_apaches() -> None:
    assert line_of("combined", PLAIN) == (
        '127.0.0.1 - frank [10/Oct/2000:13:55:36 +0000] "GET /apache_pb.gif?a=b HTTP/1.0" 200 2326 '
        '"http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)"\n'
    )


def test_the_json_form_has_everything() -> None:
    line = line_of("json", PLAIN)
    assert line.count("\n") == 1
    assert line.endswith("}\n")
    assert standard.loads(line) == {
        "time": "2000-10-10T13:55:36.123456Z",
        "host": "127.0.0.1",
        "user": "frank",
        "method": "GET",
        "target": "/apache_pb.gif?a=b",
        "version": "HTTP/1.0",
        "status": 200,
        "bytes": 2326,
        "referer": "http://www.example.com/start.html",
        "agent": "Mozilla/4.08 [en] (Win98; I ;Nav)",
        "request_id": "0af7651916cd43dd",
        "route": "GET /<name>",
        "wait": 0.00012,
        "run": 1.5,
        "send": 0.0,
        "error": "",
    }
    assert '"wait": 0.000120, "run": 1.500000, "send": 0.000000' in line


def test_what_there_is_not_is_told_as_a_dash() -> None:
    assert line_of("combined", Entry()) == '- - - [01/Jan/1970:00:00:00 +0000] "-" - 0 "-" "-"\n'


@pytest.mark.parametrize(
    ("method", "target", "version", "told"),
    [
        ("GET", "/", "HTTP/1.1", "GET / HTTP/1.1"),
        ("", "\x16\x03\x01 hello", "", r"\x16\x03\x01 hello"),  # TLS to a port that has none
        ("GET", "/", "", "GET /"),
        ("GET", "", "", "GET"),
    ],
)
def test_a_request_that_was_refused_is_told_as_far_as_it_was_understood(
    method: str, target: str, version: str, told: str
) -> None:
    line = line_of("combined", Entry(method=method, target=target, version=version, status=400))
    assert parts_of(line)["request"] == told


@given(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
@example("::1", 'frank" [', '/"\n127.0.0.1 - - [x] "GET / HTTP/1.1" 200 0 "-" "-"', "\u2028", "\\")
def test_no_text_looks_like_another_field_or_line_in_the_combined_form(
    host: str, user: str, target: str, referer: str, agent: str
) -> None:
    entry = Entry(
        host=host, user=user, method="GET", target=target, version="HTTP/1.1", referer=referer, agent=agent, status=200
    )
    line = line_of("combined", entry)
    assert all(" " <= char <= "~" for char in line[:-1])
    told = {name: unescaped(value) for name, value in parts_of(line).items()}
    assert told["host"] == as_octets(host or "-")
    assert told["user"] == as_octets(user or "-")
    assert told["request"] == f"GET {as_octets(target)} HTTP/1.1"
    assert told["referer"] == as_octets(referer or "-")
    assert told["agent"] == as_octets(agent or "-")


@given(st.fixed_dictionaries(dict.fromkeys(("host", "user", "method", "target", "agent", "route", "error"), TEXTS)))
def test_any_text_comes_back_from_the_json_form(texts: dict[str, str]) -> None:
    line = line_of("json", Entry(**texts))  # type: ignore[arg-type]  # which knows them by name
    assert all(" " <= char <= "~" for char in line[:-1])
    told = standard.loads(line)
    assert {name: told[name] for name in texts} == texts


def test_a_colon_or_bracket_needs_no_escape_and_a_backslash_never_ends_a_field() -> None:
    entry = Entry(host="2001:db8::1", target="/[x]", method="GET", version="HTTP/1.1", agent="\\")
    told = parts_of(line_of("combined", entry))
    assert told["host"] == "2001:db8::1"
    assert told["request"] == "GET /[x] HTTP/1.1"
    assert told["agent"] == r"\x5c"


@pytest.mark.parametrize("form", FORMS)
def test_each_field_has_a_bound_and_is_cut_with_a_mark(form: str) -> None:
    texts = dict.fromkeys(("host", "user", "method", "version", "referer", "agent", "request_id", "route", "error"))
    huge: Any = dict.fromkeys(texts, "\xff" * 100_000)
    line = line_of(form, Entry(target="\xff" * 100_000, **huge))
    assert len(line) < 6 * (LONGEST_TARGET + 9 * LONGEST_FIELD + 200)
    told = standard.loads(line) if form == "json" else {name: unescaped(it) for name, it in parts_of(line).items()}
    assert told["agent"] == told["host"] == "\xff" * LONGEST_FIELD + "..."
    if form == "json":
        assert told["target"] == "\xff" * LONGEST_TARGET + "..."
        assert told["error"] == told["route"] == told["agent"]
    else:
        assert told["request"].split(" ")[1] == "\xff" * LONGEST_TARGET + "..."


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 1, 100, LONGEST_FIELD - 1, LONGEST_FIELD, LONGEST_FIELD + 1, LONGEST_TARGET])
def test_what_is_within_its_bound_is_told_whole(form: str, size: int) -> None:
    target, agent = "/" + "x" * (size - 1), "y" * min(size, LONGEST_FIELD)
    line = line_of(form, Entry(method="GET", target=target, version="HTTP/1.1", agent=agent))
    assert f'GET {target} HTTP/1.1"' in line or f'"target": "{target}"' in line
    assert f'"{agent or ("" if form == "json" else "-")}"' in line
    assert "..." not in line


def test_months_have_their_english_names() -> None:
    """Whatever `setlocale` was called with, strftime's are not asked."""
    months = [f"{datetime(2024, number, 1, tzinfo=UTC):%m}" for number in range(1, 13)]
    lines = [line_of("combined", Entry(began=datetime(2024, int(it), 29, tzinfo=UTC).timestamp())) for it in months]
    names = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
    assert " ".join(parts_of(line)["time"][3:6] for line in lines) == names
    assert {parts_of(line)["time"][:2] for line in lines} == {"29"}


@given(st.floats(0, 4e9, exclude_min=True))
def test_both_times_are_when_the_request_began(began: float) -> None:
    second = parts_of(combined(Entry(began=began), "", ""))["time"]
    told = datetime.fromisoformat(standard.loads(json(Entry(began=began), "", ""))["time"])
    assert 0 <= began - datetime.strptime(second, "%d/%b/%Y:%H:%M:%S %z").timestamp() < 1
    assert abs(told.timestamp() - began) <= 1.5e-6


def test_a_time_just_before_the_next_second_is_not_told_as_a_million_microseconds() -> None:
    assert '"time": "1970-01-01T00:00:01.999999Z"' in json(Entry(began=1.9999999), "", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/x?token=s3cret", "/x?token=***"),
        ("/x?a=1&token=s3cret&b=2", "/x?a=1&token=***&b=2"),
        ("/x?token=s3&token=cret", "/x?token=***&token=***"),
        ("/x?TOKEN=s3cret", "/x?TOKEN=***"),
        ("/x?%74ok%65n=s3cret", "/x?%74ok%65n=***"),
        ("/x?a=1;to%6Ben=s3;cret&b=2", "/x?a=1;to%6Ben=***&b=2"),  # some take a semicolon for an end
        ("/x?token=?s3cret", "/x?token=***"),
        ("/x?api+key=s3cret", "/x?api+key=***"),
        ("/x?api%20key=s3cret", "/x?api%20key=***"),
        ("/x?cl%C3%A9=s3cret", "/x?cl%C3%A9=***"),
        ("/x?cl\xc3\xa9=s3cret", "/x?cl\xc3\xa9=***"),  # UTF-8, as latin-1
        ("/x?token=s3=cret", "/x?token=***"),
        ("/x?token=", "/x?token=***"),
        ("/x?next=/y?token=s3cret", "/x?next=/y?token=***"),
        ("http://h/x?a=1&token=s3cret#part", "http://h/x?a=1&token=***"),
        ("http://h/x?b#token=s3cret&a=1", "http://h/x?b#token=***&a=1"),
        ("/x?token", "/x?token"),
        ("/x?mytoken=1&tokens=2", "/x?mytoken=1&tokens=2"),
        ("/token=1", "/token=1"),
        ("/x?a=%zz&%=1", "/x?a=%zz&%=1"),
        ("/x?", "/x?"),
        ("", ""),
    ],
)
def test_values_of_parameters_that_are_named_are_hidden(text: str, told: str) -> None:
    hide = hider(("token", "API key", "clé"))
    assert hide is not None
    assert hide(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/x?a=1&b=2", "/x?***"),
        ("/x?s3cret", "/x?***"),
        ("http://h/x?a=1#b", "http://h/x?***"),
        ("http://h/x#b", "http://h/x#***"),
        ("/x?", "/x?***"),
        ("/x", "/x"),
        ("", ""),
    ],
)
def test_the_whole_query_is_hidden(text: str, told: str) -> None:
    hide = hider("query")
    assert hide is not None
    assert hide(text) == told


@given(TEXTS, TEXTS, st.sampled_from(["token", "%74oken", "TOKEN"]))
def test_no_text_around_it_uncovers_a_value(before: str, after: str, name: str) -> None:
    hide = hider(["token"])
    assert hide is not None
    assert "s3cret" not in hide(f"/{before}?{name}=s3cret{after}")
    assert "s3cret" not in hide(f"/{before}&x?{before}&{name}={after.replace('&', '')}s3cret")


def test_nothing_is_hidden_without_names() -> None:
    assert hider(()) is None


@pytest.mark.parametrize("wrong", ["token", 5, [b"token"], [None]])
def test_what_is_to_be_hidden_is_names(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="redact"):
        hider(wrong)
