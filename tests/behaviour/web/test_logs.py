"""Logs: a line for each request, whatever its bytes are and becomes of it; and what is wrong, with the request's id."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from behaviour.web.scene import Environ, Scene, calling, request, until
from treadle.server import Limits
from treadle.server._protocols.wsgi.access_log import AccessLog
from treadle.server._protocols.wsgi.faults import BURST

COMBINED = re.compile(
    r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "
    r'"[ !#-~]*" (\d{3}|-) \d+ "[ !#-~]*" "[ !#-~]*"'
)
ODD = 'a"b\\c\td\x80\xff\' "GET / HTTP/1.1" 200 5 [x]'  # what a field may be, by RFC 9110, section 5.5


def pieces(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one "
    yield b"two"


def fails(environ: Environ, start_response: Any) -> Any:
    raise LookupError("no such thing")


@pytest.mark.parametrize("form", ["combined", "json"])
def test_each_request_has_a_line_and_no_bytes_of_it_make_another(form: Any, tmp_path: Path) -> None:
    scene = Scene(pieces=pieces, fails=fails)
    with AccessLog(tmp_path / "log", form=form, redact=("token",)) as log:
        with scene.served(access_log=log) as server, calling(server, 3) as (caller, refused, odd):
            caller.get("/whole?token=secret&b=1", "Referer: http://a/?token=secret", "User-Agent: loom/1")
            caller.get("/pieces", "X-Request-ID: loom-7")
            caller.get("/fails")
            caller.send(request("/head", method="HEAD")).answer("HEAD")
            for _ in range(2):
                odd.get("/odd", f"User-Agent: {ODD}", f"Referer: {ODD}", f"X-Request-ID: {ODD}")
            refused.send(b'GET /bad\x80"path HTTP/1.1\r\nHost: a\r\n\r\n').answer()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 7
    assert "secret" not in "".join(lines)
    if form == "combined":
        assert all(COMBINED.fullmatch(line) for line in lines), lines
        assert sorted(line.split('" ')[1].split()[0] for line in lines) == ["200"] * 5 + ["400", "500"]
        return
    entries = [json.loads(line) for line in lines]
    assert all(min(entry["wait"], entry["run"], entry["send"]) >= 0 for entry in entries)
    by = {entry["target"]: entry for entry in entries}
    assert by["/pieces"]["request_id"] == "loom-7"
    assert by["/pieces"]["route"] == "GET /pieces"
    assert by["/odd"]["agent"] == ODD
    assert by["/odd"]["request_id"] != ODD
    assert "token=***" in "".join(by)
    assert by["/fails"]["status"] == 500
    whole = next(entry for target, entry in by.items() if target.startswith("/whole"))
    assert whole["bytes"] == len("/whole")


def test_who_waits_for_too_long_or_leaves_has_a_line_too(tmp_path: Path) -> None:
    scene = Scene()
    with AccessLog(tmp_path / "log", form="json") as log:
        options: dict[str, Any] = {"threads": 1, "queue_timeout": 0.2, "access_log": log}
        with scene.served(**options) as server, calling(server, 2) as (held, late):
            held.send(request("/hold"))
            scene.until_inside()
            assert late.get("/late").status == 503
            held.sock.close()
            scene.gate.set()
            until(lambda: server.snapshot().connections == 1)
    entries = {entry["target"]: entry for entry in map(json.loads, (tmp_path / "log").read_text().splitlines())}
    assert entries["/late"]["status"] == 503
    assert set(entries) == {"/late", "/hold"}


def test_who_has_its_answer_has_a_line_of_that_though_the_app_runs_for_too_long_behind_it(tmp_path: Path) -> None:
    scene = Scene()

    def pieces(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"whole"
        scene.hold()

    scene.others["pieces"] = pieces
    with AccessLog(tmp_path / "log", form="json") as log:
        limits = Limits(handler_timeout=0.2)
        with scene.served(access_log=log, limits=limits) as server, calling(server) as (caller,):
            assert caller.get("/pieces").body == b"whole"
            assert caller.ends()
    (entry,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (entry["status"], entry["bytes"]) == (200, 5)
    assert "handler_timeout" in entry["error"]


def test_an_error_has_the_id_that_the_client_was_told(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(fails=fails)
    with scene.served() as server, calling(server) as (caller,):
        number = caller.get("/fails?password=x").fields[b"x-request-id"].decode()
    (record,) = [record for record in caplog.records if record.name == "treadle.wsgi"]
    assert f"(request {number})" in record.getMessage()
    assert record.exc_info is not None


def test_a_request_has_the_id_that_it_came_with_or_one_of_its_own() -> None:
    ids: list[str] = []

    def note(environ: Environ, start_response: Any) -> Any:
        ids.append(environ["treadle.request_id"])
        start_response("200 OK", [("Content-Length", "0")])
        return []

    scene = Scene(note=note)
    with scene.served() as server, calling(server, 2) as callers:
        for caller in callers:
            for _ in range(5):
                caller.get("/note")
        callers[0].get("/note", "X-Request-ID: loom-7")
        callers[0].get("/note", 'X-Request-ID: a"b')
    assert len(set(ids)) == 12
    assert ids[10] == "loom-7"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", ids[11])


def test_a_flood_of_what_is_refused_has_a_few_lines_of_each_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(fails=fails)
    with caplog.at_level(logging.WARNING), scene.served() as server, calling(server, 60) as callers:
        for number, caller in enumerate(callers):
            if number % 3 == 0:
                assert caller.get("/fails").status == 500
            elif number % 3 == 1:
                assert caller.send(b"GET / HTTP/1.1\r\n\r\n").answer().status == 400
            else:
                assert caller.send(b"GET / HTTP/3.1\r\n\r\n").answer().status == 505
    told = [record.getMessage() for record in caplog.records if record.name == "treadle.wsgi"]
    assert [sum(word in line for line in told) for word in ("failed", "400", "505")] == [BURST, 1, 1]


def test_no_bytes_of_a_request_make_a_line_of_the_error_log(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(fails=fails)
    with scene.served() as server, calling(server, 2) as (caller, other):
        caller.get("/fails%0a%1b?x=%0d")
        other.send(b"GET /\x1b[31m\x0b HTTP/1.1\r\nHost: a\r\n\r\n").answer()
    said = [record.getMessage() for record in caplog.records if record.name == "treadle.wsgi"]
    assert len(said) == 2
    assert all(text.isprintable() for text in said), said
