"""The hint is a line that a shell takes as it is, whatever the server's address holds, and that gets an answer."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from certificates import Authority
from programs import PATIENCE, TREADLE, Program
from treadle._cli.hint import hello_to
from treadle.server._accept.listen import Listener, open_listeners


def pasted(line: str) -> str:
    """Return what a shell prints for the line, whose `python3` is the one that runs this."""
    line = line.replace("python3", shlex.quote(sys.executable), 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stdout + done.stderr


def answer_to_hello(line: str) -> bytes:
    """Return what a client that speaks for whoever types shows for hello."""
    with subprocess.Popen(line.split(), stdin=PIPE, stdout=PIPE, stderr=PIPE) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        answer = client.stdout.readline()
        client.kill()
    return answer


def listener_at(bind: str) -> Listener:
    (listener,) = open_listeners([bind])
    listener.close()
    return listener


NAMES = ["plain", "a b", "it's", 'a "quoted" one', "$HOME", "back\\slash", "what!", "`date`", "织机"]


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0", "localhost:0"])
def test_the_line_gets_an_answer_over_tcp(bind: str) -> None:
    with Program([*TREADLE, "echo", "--bind", bind]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        assert pasted(line) == "b'hello\\n'\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_line_gets_an_answer_over_a_unix_socket(name: str, tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / name)  # that of tmp_path may be too long
    with Program([*TREADLE, "echo", "--bind", f"unix:{path}"]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        assert pasted(line) == "b'hello\\n'\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_the_line_gets_an_answer_from_an_abstract_name() -> None:
    with Program([*TREADLE, "echo", "--bind", f"unix:@treadle-{os.getpid()}"]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        assert pasted(line) == "b'hello\\n'\n"


def test_the_line_gets_an_answer_where_a_header_comes_first() -> None:
    with Program([*TREADLE, "echo", "--bind", "127.0.0.1:0", "--proxy-trust", "127.0.0.1"]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        assert "PROXY UNKNOWN" in line
        assert pasted(line) == "b'hello\\n'\n"


APP = """
from treadle.server import LengthPrefix, Messages
def same(message, peer): return message + b"|"
made = Messages(same, LengthPrefix(2, "little"))
"""


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("framing", ["raw", "lines", "delimiter=\\0", 'delimiter="$', "length-prefix=4,little"])
def test_the_line_says_a_message_of_the_servers_framing(
    framing: str, processes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    options = ("--framing", framing, "--processes", processes, "--bind", "127.0.0.1:0")
    with Program([*TREADLE, "tcp", "app:same", *options]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        assert pasted(line) == ("b'hello\\n|'\n" if framing == "raw" else "b'hello|'\n")


def test_the_line_says_a_message_of_the_framing_that_a_module_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    with Program([*TREADLE, "tcp", "app:made", "--bind", "127.0.0.1:0"]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        assert pasted(line) == "b'hello|'\n"


def test_the_line_shows_a_certificate_where_clients_must(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files, client = authority.issue("127.0.0.1"), authority.issue("client")
    options = ["--certfile", str(files.certfile), "--keyfile", str(files.keyfile), "--client-ca", str(authority.ca)]
    with Program([*TREADLE, "echo", "--bind", "127.0.0.1:0", *options]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        line = line.replace("CERTFILE", str(client.certfile)).replace("KEYFILE", str(client.keyfile))
        assert answer_to_hello(line) == b"hello\n"


def test_over_tls_it_is_a_client_for_tls(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("127.0.0.1")
    options = ("--certfile", str(files.certfile), "--keyfile", str(files.keyfile))
    with Program([*TREADLE, "echo", "--bind", "127.0.0.1:0", *options]) as server:
        line = server.wait_for(r"talk to it:  (.*)\n")[1].strip()
        assert line.startswith("openssl s_client ")
        assert answer_to_hello(line) == b"hello\n"


def test_the_line_is_in_double_quotes_where_every_shell_takes_it() -> None:
    assert hello_to(listener_at("127.0.0.1:0")).count('"') == 2
