"""What the access log has of answers that are not the application's: their status, and the bytes of their bodies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tcp import client, receive_all
from treadle import Pool
from treadle.server import WSGI, Limits, Server
from treadle.server._protocols.wsgi.access_log import AccessLog

PATIENCE = 60.0
gate = threading.Event()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/slow":
        assert gate.wait(PATIENCE)
    if environ["PATH_INFO"] == "/fails":
        raise ValueError
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


REQUESTS = ["GET /", "HEAD /", "GET /fails", "HEAD /fails", "GET /slow", "GET /x y", f"POST /?{'x' * 9000}"]


def test_the_bytes_of_a_line_are_those_of_the_body_whoever_has_answered(tmp_path: Path) -> None:
    gate.clear()
    answers: list[tuple[int, int]] = []
    log = AccessLog(tmp_path / "log", form="json")
    server = Server(WSGI(app, access_log=log), "127.0.0.1:0", pool=Pool(4), limits=Limits(handler_timeout=0.05))
    with server:
        for request in REQUESTS:
            with client(server) as sock:
                sock.sendall(f"{request} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n".encode())
                head, _, body = receive_all(sock).partition(b"\r\n\r\n")
            answers.append((int(head.split()[1]), len(body)))
        gate.set()
    server._pool.shutdown(timeout=PATIENCE)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted((line["status"], line["bytes"]) for line in lines) == sorted(answers)
    assert [status for status, _ in answers] == [200, 200, 500, 500, 503, 400, 414]
    assert [bool(size) for _, size in answers] == [True, False, True, False, True, True, True]
