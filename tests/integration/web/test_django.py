"""A Django project on treadle, with its database, sessions, uploads, streams, and static files by WhiteNoise.

Which Django is installed depends on the Python: 5.2 is the last that runs on 3.11.
"""

from __future__ import annotations

import gc
import http.client
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.web.served import (
    DESCRIPTORS,
    DRESSES,
    WAYS,
    Client,
    Watched,
    content_of,
    count_open,
    crowd,
    cut,
    digest,
    form,
    serve,
    until,
)
from integration.web.shop.watch import LOG
from treadle.server import Limits

ROUNDS = 4
IN_MEMORY, IN_A_FILE = 2 << 20, 3 << 20  # bytes: Django takes 2.5 MiB in memory
SIZE = 1_000_000  # of the project's files


@DRESSES
def test_each_of_many_clients_gets_its_own_pages(dressed: Callable[[Any], Any], shop: Any) -> None:
    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            sent = json.dumps([number, turn]).encode()
            answer = client.post(f"/echo/{number}?q={number}.{turn}", sent, "application/json")
            assert (answer.status, answer.kept) == (200, True)
            assert json.loads(answer.body) == {"page": number, "sent": [number, turn], "asked": f"{number}.{turn}"}

    watched = Watched(dressed(shop))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    LOG.check(clients * ROUNDS)
    watched.check()


@DRESSES
def test_database_is_used_by_each_thread_on_its_own(dressed: Callable[[Any], Any], shop: Any) -> None:
    """Rows are read while they are sent, and Django's connections raise in any thread but theirs."""

    def visit(client: Client, number: int) -> None:
        owner = f"{dressed.__name__}-{number}"
        for turn in range(ROUNDS):
            numbers = json.dumps([turn * 10 + digit for digit in range(10)]).encode()
            put = client.post(f"/things/{owner}?{turn}", numbers, "application/json")
            assert json.loads(put.body) == {"owner": owner, "count": (turn + 1) * 10}
        listed = client.get(f"/things/{owner}")
        assert listed.text == "".join(f"{owner} {thing}\n" for thing in range(ROUNDS * 10))
        assert listed.kept

    watched = Watched(dressed(shop))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    LOG.check(clients * (ROUNDS + 1))
    watched.check()


def test_views_that_are_coroutines_use_the_database_in_the_thread_of_their_request(shop: Any) -> None:
    def visit(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            answer = client.get(f"/later/later-{number}?{turn}")
            assert json.loads(answer.body) == {"owner": f"later-{number}", "count": turn + 1}

    with serve(shop) as address:
        clients = len(crowd(address, visit))
    LOG.check(clients * ROUNDS)


def test_sessions_stay_with_their_clients(shop: Any) -> None:
    """They are rows of the database, of which the client has the key in a cookie."""

    def visit(client: Client, number: int) -> list[Any]:
        return [json.loads(client.get(f"/count?name={number}&{turn}").body) for turn in range(ROUNDS)]

    with serve(shop) as address:
        counts = crowd(address, visit)
    assert counts == [[[str(number), turn + 1] for turn in range(ROUNDS)] for number in range(len(counts))]
    LOG.check(len(counts) * ROUNDS)


def send_files(app: Any, size: int, pieces: int | None, kind: str) -> None:
    """Have a crowd send a form with a file each, of which Django makes such an object."""

    def visit(client: Client, number: int) -> None:
        content = content_of(number, size)
        body, of_form = form({"name": f"client {number}"}, {"file": content})
        answer = client.post(f"/upload?{number}", cut(body, pieces), of_form)
        assert json.loads(answer.body) == [f"client {number}", "file.bin", size, digest(content), kind]
        assert answer.kept

    with serve(app) as address:
        clients = len(crowd(address, visit))
    LOG.check(clients)


@WAYS
def test_files_of_forms_arrive_whole(dressed: Callable[[Any], Any], pieces: int | None, shop: Any) -> None:
    """Django reads no more than CONTENT_LENGTH says: a body that came in chunks has one, too."""
    send_files(dressed(shop), IN_MEMORY, pieces, "InMemoryUploadedFile")


def test_files_that_django_keeps_in_files_arrive_whole(shop: Any) -> None:
    send_files(shop, IN_A_FILE, None, "TemporaryUploadedFile")


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="this system does not tell which files are open")
def test_file_of_a_body_is_closed_with_its_request(shop: Any, tmp_path: Path) -> None:
    """Whatever refers to the request: Django's is part of a cycle, which may be kept until nobody knows when."""
    body, kind = form({"name": "it"}, {"file": content_of(0, IN_MEMORY)})
    gc.disable()
    try:
        with serve(shop, limits=Limits(spool_folder=tmp_path)) as address, Client(address) as client:
            for turn in range(3):
                assert client.post(f"/upload?{turn}", body, kind).status == 200
            until(lambda: LOG.finished == 3)
        assert count_open(tmp_path) == 0
    finally:
        gc.enable()


@DRESSES
def test_files_arrive_whole_and_without_their_bodies(dressed: Callable[[Any], Any], shop: Any) -> None:
    """Django closes its answer by way of the file that it gives to `wsgi.file_wrapper`."""
    content = content_of(0, SIZE)
    expected = {"whole": content, "rest": content[1000:], "memory": content, "attachment": content}

    def visit(client: Client, number: int) -> None:
        for kind, body in expected.items():
            answer = client.get(f"/send/{kind}?{number}")
            assert (answer.status, answer.kept) == (200, True)
            assert answer.headers["Content-Length"] == str(len(body))
            assert answer.body == body
            bare = client.request("HEAD", f"/send/{kind}?{number}.head")
            assert (bare.status, bare.body, bare.kept) == (200, b"", True)
            assert bare.headers["Content-Length"] == str(len(body))

    with serve(dressed(shop)) as address:
        clients = len(crowd(address, visit))
    LOG.check(clients * 2 * len(expected))


@DRESSES
def test_static_files_come_from_whitenoise(dressed: Callable[[Any], Any], shop: Any) -> None:
    content = content_of(1, SIZE)

    def visit(client: Client, number: int) -> None:
        whole = client.get("/static/loom.bin")
        assert (whole.status, whole.body, whole.kept) == (200, content, True)
        part = client.get("/static/loom.bin", {"Range": f"bytes={number}-{number + 1000}"})
        assert (part.status, part.body) == (206, content[number : number + 1001])
        same = client.get("/static/loom.bin", {"If-Modified-Since": whole.headers["Last-Modified"]})
        assert (same.status, same.body, same.kept) == (304, b"", True)
        plain, packed = (client.get("/static/style.css", {"Accept-Encoding": kind}) for kind in ("identity", "gzip"))
        assert (plain.text, packed.text) == ("body {}", "packed")
        assert client.get("/static/nothing.css").status == 404

    watched = Watched(dressed(shop))
    with serve(watched) as address:
        clients = len(crowd(address, visit))
    assert LOG.started == LOG.finished == clients * 6
    watched.check()


@DRESSES
def test_errors_and_redirects_reach_whose_they_are(
    dressed: Callable[[Any], Any], shop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def visit(client: Client, number: int) -> None:
        lost = client.get(f"/fails?how={number}")
        assert (lost.status, lost.kept) == (500, True)
        assert client.get(f"/nowhere?{number}").status == 404
        led = client.get(f"/leads?q={number}")
        assert (led.status, led.headers["Location"]) == (302, f"/echo/{number}")
        known = client.post(f"/echo/{number}?q=0", b"0")
        assert known.status == 200

    with serve(dressed(shop)) as address:
        clients = len(crowd(address, visit))
        with Client(address) as client:
            assert client.get("/things/nobody").text == ""  # what failed was rolled back
    LOG.check(clients * 4 + 1)


def test_answers_without_a_body_leave_the_connection(shop: Any) -> None:
    """Without the judge: Django gives them a Content-Type."""
    with serve(shop) as address, Client(address) as client:
        for turn in range(3):
            gone = client.get(f"/gone?{turn}")
            assert (gone.status, gone.body, gone.kept) == (204, b"", True)
            assert "Transfer-Encoding" not in gone.headers
    LOG.check(3)


def test_head_of_a_stream_is_that_of_the_stream(shop: Any) -> None:
    """Which says nothing of a length, for nobody knows it (RFC 9110, section 8.6)."""
    with serve(shop) as address, Client(address) as client:
        client.post("/things/streamer", b"[1, 2]")
        head = client.request("HEAD", "/things/streamer?head")
        assert (head.status, head.body, head.kept) == (200, b"", True)
        assert head.headers.get("Content-Length") is None
        assert client.get("/things/streamer?get").text == "streamer 1\nstreamer 2\n"
    LOG.check(3)


def test_page_that_the_client_has_is_not_sent(shop: Any) -> None:
    with serve(shop) as address, Client(address) as client:
        client.post("/things/knower", b"[1]")
        mark = client.get("/things/knower?0").headers.get("ETag")
        assert mark is None  # for a stream Django does not know it
        first = client.request("GET", "/echo/1?q=0", b"1")
        again = client.request("GET", "/echo/1?q=0&again", b"1", {"If-None-Match": first.headers["ETag"]})
        assert (again.status, again.body, again.kept) == (304, b"", True)
        assert client.request("GET", "/echo/1?q=0&last", b"1").body == first.body


def test_stream_that_fails_midway_is_cut_and_closed(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    def visit(client: Client, number: int) -> None:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            client.get(f"/fails?how=stream&{number}")

    with serve(shop) as address:
        clients = len(crowd(address, visit))
    LOG.check(clients)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_stream_whose_client_has_left_is_closed_with_its_connection(shop: Any) -> None:
    with serve(shop) as address:
        with Client(address) as client:
            client.connection.request("GET", "/endless")
            response = client.connection.getresponse()
            assert response.read(6) == b"begun\n"
            response.close()
        until(lambda: LOG.finished == 1)
        with Client(address) as client:
            assert client.get("/things/nobody").status == 200
    LOG.check(2)
