"""`treadle wsgi MODULE:APP`, as a real process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from certificates import Authority
from programs import PATIENCE, TREADLE, Program, run
from socketservers import until
from tcp import receive_all
from treadle._cli.commands import commands
from treadle._cli.web import wsgi as module
from treadle._cli.web.wsgi import wsgi
from treadle.server import Limits

APP = """
import os, threading
from flask import Flask

def application(environ, start_response):
    if environ["PATH_INFO"] == "/environ":
        names = os.environ if environ["QUERY_STRING"] == "os" else environ
        text = "".join(f"{name}={value}\\n" for name, value in sorted(names.items()))
    elif environ["PATH_INFO"] == "/pid":
        text = str(os.getpid())
    elif environ["PATH_INFO"] == "/folder":
        text = os.getcwd()
    else:
        text = "hello"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode("latin-1")]

web = Flask("shop")

@web.route("/flask")
def page():
    return "flask"

def create_app(name, *, loud=False):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [(name.upper() if loud else name).encode()]
    return app

async def later(scope, receive, send):
    pass

number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with shop.py, which is the current one."""
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    for name in ("PORT", "WEB_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def serving(*options: str, env: dict[str, str] | None = None) -> Program:
    return Program([*TREADLE, "wsgi", "--bind", "127.0.0.1:0", *options], env=env)


def get(server: Program, path: str = "/") -> str:
    """Return the body of the answer to a request."""
    with socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE) as client:
        return got(client, path)


def got(client: socket.socket, path: str = "/") -> str:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n".encode())
    head, _, body = receive_all(client).decode("latin-1").partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 "), head
    return body


def end(server: Program) -> None:
    server.send(signal.SIGTERM)
    assert server.wait() == 0, server.output


@pytest.mark.parametrize(
    ("app", "path", "answer"),
    [
        ("shop:application", "/", "hello"),
        ("shop", "/", "hello"),
        ("shop:web", "/flask", "flask"),
        ("shop:create_app('x y', loud=True)", "/", "X Y"),
    ],
)
@pytest.mark.usefixtures("here")
def test_an_app_is_served(app: str, path: str, answer: str) -> None:
    with serving(app) as server:
        body = get(server, path)
        assert answer in (body, *body.split("\r\n"))  # the latter: in chunks
        end(server)


@pytest.mark.usefixtures("here")
def test_at_the_start_it_says_what_is_to_be_known() -> None:
    with serving("shop", "--threads", "3", "--max-body", "10m", "--request-timeout", "30") as server:
        port = server.wait_for_port()
        end(server)
    assert f"treadle wsgi serves shop at http://127.0.0.1:{port}\n" in server.output
    assert "  threads:  3 threads, 1 process\n" in server.output
    assert "  limits:   10000 connections, bodies of 10m, 10 s for a thread, 30 s for an answer\n" in server.output
    assert "  health:   no paths; see --health and --ready\n" in server.output
    assert "  stop it:  Ctrl-C\n" in server.output


@pytest.mark.usefixtures("here")
def test_the_environment_is_as_platforms_set_it() -> None:
    with Program([*TREADLE, "wsgi", "shop"], env={"PORT": "0", "WEB_CONCURRENCY": "2"}) as server:
        found = server.wait_for(r"serves shop at http://0\.0\.0\.0:(\d+)\s")
        server.wait_for("8 threads in each of 2 processes")
        with socket.create_connection(("127.0.0.1", int(found[1])), PATIENCE) as client:
            assert got(client) == "hello"
        end(server)


SOURCES = {
    "flag": (["--bind", "127.0.0.1:1", "--processes", "3"], {}, ""),
    "variable": ([], {"TREADLE_WSGI_BIND": "127.0.0.1:1", "TREADLE_WSGI_PROCESSES": "3"}, ""),
    "file": ([], {}, "bind = '127.0.0.1:1'\nprocesses = 3\n"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_what_platforms_set_is_a_default(source: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, variables, table = SOURCES[source]
    (here / "my.toml").write_text(f"[wsgi]\n{table}")
    for name, value in {"PORT": "9", "WEB_CONCURRENCY": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    arguments = ["shop", *flags, "--config", "my.toml"]
    context = wsgi.make_context("wsgi", arguments, auto_envvar_prefix="TREADLE_WSGI")
    assert ([bind.text for bind in context.params["bind"]], context.params["processes"]) == (["127.0.0.1:1"], 3)


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PORT", "http", "'http' is no port; allowed: 0 (any free one) to 65535 (from the environment variable PORT)"),
        ("WEB_CONCURRENCY", "0", "'0' is out of range; allowed: more than 0 (from the environment variable WEB_CONC"),
        ("WEB_CONCURRENCY", "auto", "'auto' is not a whole number"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_platforms_set_wrongly_is_said_of_their_variable(variable: str, value: str, complaint: str) -> None:
    status, out, error = run(*TREADLE, "wsgi", "shop", "--check", env={variable: value})
    assert (status, out) == (2, "")
    assert complaint in " ".join(error.split())


@pytest.mark.usefixtures("here")
def test_what_platforms_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "WEB_CONCURRENCY"):
        monkeypatch.setenv(name, "")
    context = wsgi.make_context("wsgi", ["shop"])
    assert ([bind.text for bind in context.params["bind"]], context.params["processes"]) == (["127.0.0.1:8000"], 1)


def test_a_printed_file_says_what_comes_from_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PORT", "9"), ("WEB_CONCURRENCY", "2")):
        monkeypatch.setenv(name, value)
    out = CliRunner().invoke(commands, ["wsgi", "--print-config"]).stdout
    assert re.search(r'(?m)^bind = \["0\.0\.0\.0:9"\] +# PORT$', out)
    assert re.search(r"(?m)^processes = 2 +# WEB_CONCURRENCY$", out)


def test_a_printed_file_leaves_to_the_platform_what_nobody_has_said(here: Path) -> None:
    """Or a file that was printed at home would hold against PORT in the container."""
    (here / "printed.toml").write_text(CliRunner().invoke(commands, ["wsgi", "--print-config"]).stdout)
    again = ["wsgi", "--config", "printed.toml", "--print-config"]
    out = CliRunner().invoke(commands, again, env={"PORT": "9", "WEB_CONCURRENCY": "2"}).stdout
    assert re.search(r'(?m)^bind = \["0\.0\.0\.0:9"\] +# PORT$', out)
    assert re.search(r"(?m)^processes = 2 +# WEB_CONCURRENCY$", out)


def test_variables_come_from_a_file_before_the_app_is_imported(here: Path) -> None:
    (here / ".env").write_text("SHOP_NAME='from the file'\nSHOP_REAL=file\nTREADLE_WSGI_THREADS=5\nPORT=1\n")
    env = {"SHOP_REAL": "real", "TREADLE_WSGI_ENV_FILE": ".env"}
    with serving("shop", env=env) as server:
        text = get(server, "/environ?os")
        end(server)
    assert "SHOP_NAME=from the file\n" in text
    assert "SHOP_REAL=real\n" in text
    assert "5 threads" in server.output


def test_the_file_of_options_may_name_that_of_variables(here: Path) -> None:
    (here / ".env").write_text("TREADLE_WSGI_THREADS=5\nWEB_CONCURRENCY=2\n")
    (here / "my.toml").write_text("[wsgi]\nenv-file = '.env'\napp = 'shop'\n")
    for options, env in ((["--config", "my.toml"], {}), ([], {"TREADLE_WSGI_CONFIG": "my.toml"})):
        status, out, error = run(*TREADLE, "wsgi", "--check", *options, env=env)
        assert (status, error) == (0, "")
        assert "5 threads in each of 2 processes" in out


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(None, "Invalid value for '--env-file': .env: No such file"), ("A\n", ".env, line 1: 'A' is not KEY=VALUE")],
)
def test_a_file_of_variables_that_is_none_is_status_2(here: Path, text: str | None, complaint: str) -> None:
    if text is not None:
        (here / ".env").write_text(text)
    status, out, error = run(*TREADLE, "wsgi", "shop", "--env-file", ".env")
    assert (status, out) == (2, "")
    assert complaint in " ".join(error.split())


def test_the_folder_of_the_app_is_its_current_one_and_other_paths_are_seen_from_here(here: Path) -> None:
    folder = here / "below"
    folder.mkdir()
    (folder / "below_shop.py").write_text(APP)
    (here / ".env").write_text("A=1\n")
    path = here / "s"
    options = ("--chdir", "below", "--env-file", ".env", "--bind", "unix:s", "--spool-dir", ".")
    with Program([*TREADLE, "wsgi", "below_shop", *options]) as server:
        server.wait_for(f"at unix:{re.escape(str(path))}\n")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            assert got(client, "/folder") == str(folder)
        end(server)
    assert not path.exists()


def test_an_app_that_goes_elsewhere_as_it_is_imported_takes_no_path_with_it(here: Path) -> None:
    for folder in ("spool", "elsewhere"):
        (here / folder).mkdir()
    (here / "wanderer.py").write_text(f"{APP}\nos.chdir('elsewhere')\n")
    options = ("--bind", "unix:s", "--spool-dir", "spool", "--access-log", "log")
    with Program([*TREADLE, "wsgi", "wanderer", *options]) as server:
        server.wait_for("stop it:")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(here / "s"))
            assert got(client, "/folder") == str(here / "elsewhere")
        end(server)
    assert "GET /folder" in (here / "log").read_text()


def test_an_app_that_goes_elsewhere_leaves_the_certificates_where_they_are(here: Path) -> None:
    files = Authority(here).issue("127.0.0.1")
    (here / "elsewhere").mkdir()
    (here / "wanderer.py").write_text(f"{APP}\nos.chdir('elsewhere')\n")
    options = ("--certfile", os.path.relpath(files.certfile, here), "--keyfile", os.path.relpath(files.keyfile, here))
    with Program([*TREADLE, "wsgi", "wanderer", "--bind", "127.0.0.1:0", *options]) as server:
        server.wait_for("stop it:")
        server.send(signal.SIGHUP)
        server.wait_for("the certificates are reloaded")
        end(server)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_errors_of_an_app_are_logged_though_it_has_configured_logging(here: Path, processes: str) -> None:
    """By default that disables all loggers that there are."""
    (here / "scribe.py").write_text(
        "import logging.config\nlogging.config.dictConfig({'version': 1})\ndef app(environ, start_response): 1 / 0\n"
    )
    with serving("scribe", "--processes", processes) as server:
        with pytest.raises(AssertionError, match="500 Internal Server Error"):
            get(server)
        server.wait_for(r"GET / failed[\s\S]*ZeroDivisionError")
        end(server)


@pytest.mark.usefixtures("here")
def test_processes_share_the_clients() -> None:
    with serving("shop", "--processes", "2") as server:
        found = server.wait_for(r"process (\d+) serves[\s\S]*process (\d+) serves")
        server.wait_for("8 threads in each of 2 processes")
        assert get(server, "/pid") in (found[1], found[2])
        end(server)
    assert server.output.count("treadle wsgi serves") == 1


def test_it_serves_tls(here: Path) -> None:
    authority = Authority(here)
    files = authority.issue("127.0.0.1")
    with serving("shop", "--certfile", str(files.certfile), "--keyfile", str(files.keyfile)) as server:
        server.wait_for(r"at https://127\.0\.0\.1:\d+\n")
        context = authority.client_context()
        plain = socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            assert "wsgi.url_scheme=https\n" in got(client, "/environ")
        end(server)


@pytest.mark.usefixtures("here")
def test_an_app_may_be_mounted_below_a_path() -> None:
    with serving("shop", "--script-name", "/shop", "--server-header", "none") as server:
        server.wait_for(r"at http://127\.0\.0\.1:\d+/shop\n")
        with socket.create_connection(("127.0.0.1", int(server.wait_for(r":(\d+)/shop")[1])), PATIENCE) as client:
            client.sendall(b"GET /shop/environ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = receive_all(client).decode("latin-1")
        end(server)
    assert "SCRIPT_NAME=/shop\n" in answer
    assert "PATH_INFO=/environ\n" in answer
    assert "\r\nServer:" not in answer


@pytest.mark.parametrize(("flag", "name"), [("--request-timeout", "handler_timeout"), ("--spool-dir", "spool_folder")])
def test_what_is_called_otherwise_here_is_one_of_the_limits(
    here: Path, flag: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(command: str, make: object, options: dict[str, object], **rest: object) -> None:
        seen.append(options)

    monkeypatch.setattr(module, "serve", note)
    value = "5" if name == "handler_timeout" else str(here)
    wsgi.main(["shop", flag, value], standalone_mode=False, prog_name="wsgi")
    (options, *_) = seen
    assert Limits(**{name: options[name]}) == Limits(**{name: 5.0 if value == "5" else value})  # type: ignore[arg-type]


CHECKED = [
    (("shop",), "shop is a WSGI app (function), and would be served at http://127.0.0.1:8000\n"),
    (("shop:web",), "shop:web is a WSGI app (Flask of flask.app), and would be served at http://127.0.0.1:8000\n"),
    (("shop", "--script-name", "/a", "--bind", "[::1]:1"), "would be served at http://[::1]:1/a\n"),
    (("shop", "--bind", "unix:/run/s", "--bind", "127.0.0.1:80"), "served at unix:/run/s, http://127.0.0.1:80\n"),
    (("shop", "--processes", "2"), "  threads:  8 threads in each of 2 processes\n"),
    (("shop", "--max-body", "1500", "--queue-timeout", "none"), "bodies of 1500 bytes, any time for a thread"),
]


@pytest.mark.parametrize(("options", "said"), CHECKED)
@pytest.mark.usefixtures("here")
def test_a_check_says_what_would_be_served_and_listens_nowhere(options: tuple[str, ...], said: str) -> None:
    status, out, error = run(*TREADLE, "wsgi", *options, "--check")
    assert (status, error) == (0, "")
    assert said in out


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("path", ["none/log", "."])
def test_a_check_looks_whether_the_access_log_can_be_written_and_does_not_begin_one(path: str) -> None:
    status, _, error = run(*TREADLE, "wsgi", "shop", "--check", "--access-log", "begun")
    assert (status, error, Path("begun").exists()) == (0, "", False)
    status, _, error = run(*TREADLE, "wsgi", "shop", "--check", "--access-log", path)
    assert (status, error) == (73, f"Error: --access-log: {path} cannot be written\n")


@pytest.mark.parametrize("more", [(), ("--check",), ("--processes", "4")], ids=["served", "checked", "processes"])
@pytest.mark.parametrize(
    ("options", "status", "complaint"),
    [
        (("nothing",), 78, "there is no module 'nothing'; is nothing.py in "),
        (("shop:later",), 78, "Error: shop:later is async (ASGI), which an ASGI server runs, as uvicorn"),
        (("shop:number",), 78, "Error: shop:number is int, and cannot be called; WSGI calls an app with (environ"),
        (("shop:aplication",), 78, "no 'aplication' in it; it has application, web; write shop:application"),
        (("shop:",), 78, "'shop:' is not MODULE:APP, as in shop.wsgi:application, or MODULE:make_app()"),
        (("broken",), 78, "cannot import broken: ModuleNotFoundError: No module named 'no_such_thing'"),
        (("shop:create_app()",), 78, "cannot make an app with shop:create_app: TypeError: create_app() missing 1"),
        (("shop", "--certfile", "none.pem"), 66, "Error: --certfile: none.pem: No such file"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_cannot_be_served_is_said_once(
    options: tuple[str, ...], status: int, complaint: str, more: tuple[str, ...]
) -> None:
    ended, out, error = run(*TREADLE, "wsgi", *options, *more, "--bind", "127.0.0.1:0")
    assert (ended, " ".join(error.split()).count(complaint)) == (status, 1), error
    assert "serves shop" not in out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "Missing argument 'MODULE:APP'"),
        (("shop", "--reload", "--processes", "2"), "--reload has one process, and no use for --processes; drop one"),
        (("shop", "--max-body", "1q"), "'1q' is not a number of bytes; allowed: 0 or more, as 65536, 64k, 1m or 1g"),
        (("shop", "--health", "healthz"), "'healthz' is no path; it begins with a slash, as in /healthz"),
        (("shop", "--ready", "/a b"), "'/a b' holds ' ', which a path has not"),
        (("shop", "--health", "/h", "--ready", "/h"), "--health and --ready are both '/h'; give one another path"),
        (("shop", "--script-name", "/shop/"), "'/shop/' ends with a slash; it is written without, as in /shop"),
        (("shop", "--script-name", "/"), "'/' ends with a slash; it is written without; leave it out for"),
        (
            ("shop", "--reserve", "8"),
            "--reserve: 8 of 8 threads leaves none for slow routes; allowed: less than --threads",
        ),
        (("shop", "--chdir", "nowhere"), "Directory 'nowhere' does not exist"),
        (("shop", "--spool-dir", "shop.py"), "Directory 'shop.py' is a file"),
        (("shop", "--reload", "--reload-extra", "."), "Invalid value for '--reload-extra': File '.' is a directory"),
        (("shop", "--order", "fair"), "No such option"),
        (("shop", "--log-format", "xml"), "'xml' is not one of 'combined', 'json'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_wrong_usage_is_status_2(options: tuple[str, ...], complaint: str) -> None:
    ended, out, error = run(*TREADLE, "wsgi", *options)
    assert (ended, out) == (2, "")
    assert complaint in " ".join(error.split())


@pytest.mark.usefixtures("here")
def test_a_spool_folder_that_nobody_may_write_to_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))  # as for no superuser
    result = CliRunner().invoke(commands, ["wsgi", "shop", "--spool-dir", ".", "--check"])
    assert result.exit_code == 2
    assert "Invalid value for '--spool-dir': Directory '.' is not writable" in result.output


@pytest.mark.usefixtures("here")
def test_a_platform_that_asks_for_processes_is_told_that_reload_has_one() -> None:
    ended, _, error = run(*TREADLE, "wsgi", "shop", "--reload", env={"WEB_CONCURRENCY": "4"})
    assert ended == 2
    assert "--reload has one process, and no use for WEB_CONCURRENCY; drop one" in error


def test_every_argument_of_wsgi_is_an_option_with_the_same_default() -> None:
    options = {option.name: option for option in wsgi.params}
    for name, default in module._defaults.items():
        if name not in ("app", "access_log", "multiprocess"):
            assert options[name].default == default or (default is None and options[name].default == "none")


@pytest.mark.usefixtures("here")
def test_standard_output_is_the_access_logs_alone() -> None:
    command = 'exec "$@" 2>said'
    options = ("--bind", "127.0.0.1:0", "--access-log", "-", "--log-format", "json", "--log-redact", "token")
    with Program(["sh", "-c", command, "sh", *TREADLE, "wsgi", "shop", *options]) as server:
        until(lambda: Path("said").exists() and "Ctrl-C" in Path("said").read_text())
        port = re.findall(r"at http://127\.0\.0\.1:(\d+)", Path("said").read_text())[0]
        with socket.create_connection(("127.0.0.1", int(port)), PATIENCE) as client:
            assert got(client, "/a?token=secret&b=1") == "hello"
        end(server)
    (line,) = server.output.splitlines()
    assert json.loads(line)["status"] == 200
    assert "secret" not in line
    assert "stopped: 1 request, " in Path("said").read_text()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_access_log_is_written_to_its_end(here: Path, processes: str) -> None:
    with serving("shop", "--access-log", "log", "--processes", processes, "--log-redact", "query") as server:
        for number in range(5):
            assert get(server, f"/{number}?a=secret") == "hello"
        end(server)
    lines = (here / "log").read_text().splitlines()
    assert sorted(re.findall(r'"GET (/\d)', "\n".join(lines))) == [f"/{number}" for number in range(5)]
    assert "secret" not in "".join(lines)


@pytest.mark.usefixtures("here")
def test_an_access_log_that_cannot_be_opened_is_status_73() -> None:
    for processes in ("1", "2"):
        options = ("--bind", "127.0.0.1:0", "--processes", processes)
        ended, _, error = run(*TREADLE, "wsgi", "shop", "--access-log", "none/log", *options)
        assert (ended, error.count("Error: --access-log: none/log: No such file")) == (73, 1)


@pytest.mark.usefixtures("here")
def test_health_is_answered_at_the_paths_that_are_asked_for() -> None:
    with serving("shop", "--health", "/healthz", "--ready", "/readyz") as server:
        server.wait_for(re.escape("health:   /healthz (whether it lives), /readyz (whether it is ready)"))
        for path in ("/healthz", "/readyz"):
            assert get(server, path) != "hello"
        end(server)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sighup_has_the_access_log_go_on_in_a_new_file(here: Path, processes: str) -> None:
    with serving("shop", "--access-log", "log", "--processes", processes) as server:
        assert get(server, "/old") == "hello"
        until(lambda: "/old" in (here / "log").read_text())
        (here / "log").rename(here / "log.1")
        server.send(signal.SIGHUP)
        until(lambda: (here / "log").exists())
        until(lambda: get(server, "/new") == "hello" and "/new" in (here / "log").read_text())
        end(server)
    assert "/old" in (here / "log.1").read_text()


@pytest.mark.usefixtures("here")
def test_a_delay_in_processes_is_not_ended_by_the_signal_that_their_parent_sends_them() -> None:
    """A service manager signals the whole group, and so a child has two of one order; only the parent cuts."""
    with serving("shop", "--processes", "2", "--ready", "/readyz", "--drain-delay", "60") as server:
        get(server)
        server.wait_for("(?s)serving shop:application on.*serving shop:application on")
        begun = server.wait_for(r"(?s)process (\d+) serves.*process (\d+) serves")
        for process in map(int, begun.groups()):
            os.kill(process, signal.SIGTERM)
        server.wait_for(r"(?s)SIGTERM: stopping in 60 s \(drain_delay\).*SIGTERM: stopping in 60 s \(drain_delay\)")
        server.send(signal.SIGTERM)
        server.wait_for("SIGTERM: stopping; a second signal cuts at once")
        assert get(server) == "hello"
        end(server)
    assert server.output.count("SIGTERM: stopping; a second signal cuts at once") == 1  # the parent's


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("processes", "told"), [("1", "False"), ("2", "True")])
def test_an_app_is_told_whether_other_processes_serve_it_too(processes: str, told: str) -> None:
    with serving("shop", "--processes", processes) as server:
        assert f"\nwsgi.multiprocess={told}\n" in get(server, "/environ")
        end(server)


@pytest.mark.usefixtures("here")
def test_readiness_says_no_while_clients_still_come_in() -> None:
    with serving("shop", "--ready", "/readyz", "--drain-delay", "60") as server:
        get(server, "/readyz")
        server.send(signal.SIGTERM)
        server.wait_for(r"SIGTERM: stopping in 60 s \(drain_delay\)")
        with socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert receive_all(client).startswith(b"HTTP/1.1 503 ")
        assert get(server) == "hello"
        end(server)
