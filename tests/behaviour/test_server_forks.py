"""Fork in a server: in the child there is none, and no client of the parent's ever notices that there is a child."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from behaviour.scripts import CHILD_PATIENCE, PRELUDE, script
from certificates import Authority

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SERVERS = f"""
import http.client, logging, multiprocessing, socket, socketserver, ssl, subprocess
from treadle import Pool
from treadle.server import *
from treadle.server._accept.listen import open_listeners
from treadle.server._processes import serve_in_processes

logging.basicConfig(format="%(message)s")
ME = os.getpid()
HOST = "127.0.0.1:0"
SOON = threading.Event()  # never set
children = []

def connect(address, context=None):
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(address)
        return sock
    sock = socket.create_connection(address, 20)
    return sock if context is None else context.wrap_socket(sock)

def ask(sock, line):
    sock.sendall(line + b"\\n")
    with sock.makefile("rb") as answers:
        return answers.readline().strip()

def who(address, context=None, count=30):
    "Ask so many new clients which process answers."
    found = set()
    for _ in range(count):
        with connect(address, context) as sock:
            found.add(int(ask(sock, b"who") or 0))
    return found

def forked():
    "Fork; return whether this is the child, which cannot outlive the test."
    pid = os.fork()
    if pid:
        children.append(pid)
    else:
        signal.alarm({CHILD_PATIENCE})
    return pid == 0

def trusting(authority):
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    return context

def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def serving(source: str, *arguments: str) -> list[str]:
    """Run a program with servers, that must end well; return the lines that it prints. What is logged is one, too."""
    lines = "\n".join(f"{name} = {value}" for name, _, value in (argument.partition("=") for argument in arguments))
    done = script(source, prelude=f"{PRELUDE}{SERVERS}{lines}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines() + done.stderr.splitlines()


WAYS = {
    "inline": ("serves(Messages(handle, Lines()))", ["fork"]),
    "by a leader that lost the lead": ("serves(Messages(handle, Lines()))", ["block and fork"]),
    "by another thread": ("serves(Messages(handle, Lines()))", ["block", "fork"]),
    "several messages at once": ("serves(Messages(handle, Lines()))", ["who\nfork\nwho"]),
    "in time": ("serves(Messages(handle, Lines()), limits=Limits(handler_timeout=20))", ["fork"]),
    "with a refusal": (
        "serves(Messages(handle, Lines()), limits=Limits(reject_messages_with=b'no'))",
        ["block", "fork"],
    ),
    "in a conversation": ("serves(Session(converse))", ["fork"]),
    "in a conversation that pauses": ("serves(Session(pausing))", ["who", "fork"]),
    "with TLS": ("serves(Messages(handle, Lines()), tls=Certificates(CERT, KEY))", ["fork"]),
    "in a conversation with TLS": ("serves(Session(converse), tls=Certificates(CERT, KEY))", ["fork"]),
}


@pytest.mark.parametrize("end", ["sys.exit(3)", "return"])
@pytest.mark.parametrize(("server", "lines"), WAYS.values(), ids=list(WAYS))
def test_the_child_of_a_handler_serves_nobody_and_ends_with_it(
    authority: Authority, server: str, lines: Sequence[str], end: str
) -> None:
    """Silently, and with status 0, as it ends with a thread of ThreadingMixIn."""
    tls = ["CERT=None", "KEY=None", "CONTEXT=None"]
    if "tls" in server:
        files, ca = authority.issue("localhost"), str(authority.ca)
        tls = [f"CERT={str(files.certfile)!r}", f"KEY={str(files.keyfile)!r}", f"CONTEXT=trusting({ca!r})"]
    said = serving(
        f"""
        def serves(protocol, **options):
            return Server(protocol, HOST, max_workers=16, **options)
        def handle(line, peer):
            if b"block" in line:
                driver = server._group.drivers[0]
                for _ in range(2000):
                    if driver.leadership.lead is None or not driver.leadership.lead.slot:
                        break
                    SOON.wait(0.01)
            if b"fork" in line and forked():
                {end}
            return b"%d\\n" % os.getpid()
        def converse(conn):
            with conn:
                for line in iter(conn.readline, b""):
                    if b"fork" in line and forked():
                        {end}
                    conn.sendall(b"%d\\n" % os.getpid())
        def pausing(conn):
            line = conn.readline()
            if b"fork" in line and forked():
                {end}
            conn.sendall(b"%d\\n" % os.getpid())
            return conn.pause() if line else None
        server = {server}
        with server:
            with connect(server.address, CONTEXT) as idle, connect(server.address, CONTEXT) as sock:
                for line in {lines!r}:
                    sock.sendall(line.encode() + b"\\n")
                    with sock.makefile("rb") as answers:
                        for _ in line.splitlines():
                            assert int(answers.readline()) == ME
                print(status_of(children[0]), len(children))
                assert who(server.address, CONTEXT) == {{ME}}
                assert int(ask(sock, b"who")) == ME, "the client of the handler that has forked"
                assert int(ask(idle, b"who")) == ME
            print(server.stop(5))  # when all have left: a stop waits a while for those who stay
        """,
        *tls,
    )
    assert said == ["0 1", "0"]


@pytest.mark.parametrize("end", ["sys.exit(3)", "return"])
def test_the_child_of_a_handler_that_is_overdue_ends_with_it_and_its_parent_serves_on(end: str) -> None:
    said = serving(f"""
        logging.getLogger("treadle.server").setLevel(logging.ERROR)
        def handle(line, peer):
            if line == b"fork":
                for _ in range(2000):
                    if server.snapshot().overdue:
                        break
                    SOON.wait(0.01)
                if forked():
                    {end}
            return b"%d\\n" % os.getpid()
        limits = Limits(handler_timeout=0.05)
        with Server(Messages(handle, Lines()), HOST, max_workers=4, limits=limits) as server:
            with connect(server.address) as sock:
                assert ask(sock, b"fork") == b""
                while not children:
                    SOON.wait(0.01)
                print(status_of(children[0]))
                while server.snapshot().overdue:
                    SOON.wait(0.01)
            assert who(server.address) == {{ME}}
            print(server.snapshot().failures)
    """)
    assert said == ["0", "0"]


def test_what_a_handler_raises_in_the_child_is_logged_there() -> None:
    """A program that cannot be executed, above all."""
    said = serving("""
        def handle(line, peer):
            if line == b"fork" and forked():
                os.execvp("/there/is/no/such/program", ["it"])
            return b"%d\\n" % os.getpid()
        with Server(Messages(handle, Lines()), HOST, max_workers=2) as server:
            with connect(server.address) as sock:
                assert int(ask(sock, b"fork")) == ME
                print(status_of(children[0]))
            assert who(server.address) == {ME}
    """)
    assert said[0] == "0"
    assert "FileNotFoundError" in said[-1]


def test_sigterm_ends_the_child_of_a_handler_and_its_parent_hears_nothing_of_it() -> None:
    said = serving("""
        def handle(line, peer):
            if line == b"fork" and forked():
                os.write(up, b"x")
                SOON.wait()
            return b"%d\\n" % os.getpid()
        ready, up = os.pipe()
        server = Server(Messages(handle, Lines()), HOST, max_workers=2).start()
        def kills():
            try:
                with connect(server.address) as sock:
                    ask(sock, b"fork")
                assert os.read(ready, 1)
                os.kill(children[0], signal.SIGTERM)
                print(status_of(children[0]) == -signal.SIGTERM)
                print(who(server.address) == {ME}, server.snapshot().state)
            finally:
                os.kill(ME, signal.SIGTERM)
        threading.Thread(target=kills).start()
        print(server.run())
    """)
    assert said == ["True", "True serving", "0"]


def test_a_process_that_a_handler_starts_by_multiprocessing_does_its_work_and_no_other() -> None:
    said = serving("""
        def handle(line, peer):
            if line == b"fork":
                process = multiprocessing.get_context("fork").Process(target=print, args=("its work",))
                process.start()
                process.join(20)
                return b"%d\\n" % process.exitcode
            return b"%d\\n" % os.getpid()
        with Server(Messages(handle, Lines()), HOST, max_workers=2) as server, connect(server.address) as sock:
            print(ask(sock, b"fork").decode())
            print(who(server.address) == {ME}, ask(sock, b"who") == b"%d" % ME)
    """)
    assert said == ["its work", "0", "True True"]


def test_programs_that_a_handler_starts_in_whatever_way_are_started() -> None:
    said = serving("""
        def handle(line, peer):
            if line == b"preexec":
                run = subprocess.run(["echo", "it"], stdout=subprocess.PIPE, preexec_fn=os.getpid, timeout=20)
                return run.stdout
            if line == b"pty":
                pid, terminal = os.forkpty()
                if pid == 0:
                    os.execvp("true", ["true"])
                status = status_of(pid)
                os.close(terminal)
                return b"%d\\n" % status
            return b"%d\\n" % os.getpid()
        with Server(Messages(handle, Lines()), HOST, max_workers=2) as server, connect(server.address) as sock:
            print(ask(sock, b"preexec").decode(), ask(sock, b"pty").decode())
            print(who(server.address) == {ME})
    """)
    assert said == ["it 0", "True"]


def test_a_child_of_another_thread_goes_on_with_its_own_program(tmp_path: Path) -> None:
    """It has no server, whatever locks were held, and may have one of its own on the same pool."""
    said = serving(f"""
        path = {str(tmp_path / "s")!r}
        pool = Pool(4)
        def handle(line, peer):
            return b"%d\\n" % os.getpid()
        def child():
            print(repr(server), server.stop(), server.snapshot().connections)
            server.__exit__(None, None, None)
            with Server(Messages(handle, Lines()), HOST, pool=pool) as own:
                assert who(own.address) == {{os.getpid()}}
            pool.shutdown()
        with Server(Messages(handle, Lines()), "unix:" + path, pool=pool) as server:
            with connect(server.address) as idle:
                assert int(ask(idle, b"who")) == ME
                group = server._group
                with group.drivers[0].loop.lock, group._lock, group.limiter._lock, server._changed:
                    status = fork(child)
                print(status, os.path.exists(path), int(ask(idle, b"who")) == ME, who(server.address) == {{ME}})
            print(server.stop())
    """)
    assert said == [
        f"<Server Messages(handle, Lines()) stopped on unix:{tmp_path / 's'}> 0 0",
        "0 True True True",
        "0",
    ], "\n".join(said)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux tells what is open")
@pytest.mark.parametrize("kind", ["Messages", "Session", "PoolMixIn"])
def test_the_child_holds_no_descriptor_of_the_server(kind: str) -> None:
    said = serving(
        f"""
        def open_here():
            kinds = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    kinds.append(os.readlink("/proc/self/fd/" + name))
                except OSError:
                    pass  # the listing's own
            return [kind for kind in kinds if "socket" in kind or "eventpoll" in kind]
        inside, go = threading.Event(), threading.Event()
        def handle(line, peer):
            inside.set()
            go.wait(20)
            return b"1\\n"
        def converse(conn):
            conn.readline()
            conn.sendall(handle(b"", None))
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.rfile.readline()
                self.wfile.write(handle(b"", None))
        class Mixed(PoolMixIn, socketserver.TCPServer):
            def stop(self):
                self.shutdown()
                self.server_close()
        def mixed():
            server = Mixed(("127.0.0.1", 0), Handler)
            threading.Thread(target=server.serve_forever).start()
            return server, server.server_address
        def of_treadle(protocol):
            server = Server(protocol, HOST, max_workers=8).start()
            return server, server.address
        make = {{"Messages": lambda: of_treadle(Messages(handle, Lines())),
                "Session": lambda: of_treadle(Session(converse)), "PoolMixIn": mixed}}
        before = len(open_here())
        server, address = make[{kind!r}]()
        clients = [connect(address) for _ in range(3)]
        clients[0].sendall(b"one\\n")
        assert inside.wait(20)
        clients[1].sendall(b"half")
        def child():
            for sock in clients:
                sock.close()
            assert len(open_here()) == before, open_here()
        print(fork(child))
        go.set()
        for sock in clients[::-1]:
            sock.sendall(b"\\n")
            assert sock.makefile("rb").readline() == b"1\\n"
            sock.close()
        server.stop()
        """
    )
    assert said == ["0"]


def test_a_child_of_one_of_several_processes_serves_nobody() -> None:
    said = serving("""
        def handle(line, peer):
            if line == b"fork":
                if forked():
                    sys.exit()
                return b"%d\\n" % status_of(children[-1])
            return b"%d\\n" % os.getpid()
        def serve(listeners, lifeline):
            return Server(Messages(handle, Lines()), listeners, max_workers=2)._run(10.0, lifeline=lifeline)
        listeners = open_listeners(HOST)
        if os.fork() == 0:
            try:
                signal.alarm(60)
                address = listeners[0].address
                for _ in range(10):
                    with connect(address) as sock:
                        assert ask(sock, b"fork") == b"0"
                print(len(who(address)) <= 2)
            finally:
                os.kill(ME, signal.SIGTERM)
                os._exit(0)
        print(serve_in_processes(2, listeners, serve, drain_timeout=5))
    """)
    assert said == ["True", "0"], "\n".join(said)


@pytest.mark.parametrize("left", ["[data]", "iter([data])", "[data] * 2"])
def test_a_framing_that_has_forked_does_not_go_on_in_the_child(left: str) -> None:
    said = serving(f"""
        class Decoder:
            held = 0
            def feed(self, data):
                if data == b"fork\\n":
                    forked()
                return {left}
            def finish(self):
                return []
        class Framing:
            def decoder(self, limit):
                return Decoder()
        def handle(line, peer):
            if os.getpid() != ME:
                print("a message is handled in the child")
            return b"%d\\n" % os.getpid()
        with Server(Messages(handle, Framing()), HOST, max_workers=2) as server, connect(server.address) as sock:
            assert int(ask(sock, b"fork")) == ME
            print(status_of(children[0]), who(server.address) == {{ME}}, int(ask(sock, b"who")) == ME)
    """)
    assert said == ["0 True True"]


@pytest.mark.parametrize("end", ["sys.exit(3)", "return Lines().decoder(limit)", "raise ValueError", "return None"])
def test_a_framing_that_forks_as_a_client_comes_leaves_it_to_the_parent(end: str) -> None:
    """It is greeted once, and not closed; nor is anything logged."""
    said = serving(f"""
        class Framing:
            def decoder(self, limit):
                if not children and forked():
                    {end}
                return Lines().decoder(limit)
        def handle(line, peer):
            return b"%d\\n" % os.getpid()
        protocol = Messages(handle, Framing(), greeting=b"220\\n")
        with Server(protocol, HOST, max_workers=2) as server, connect(server.address) as sock:
            with sock.makefile("rb") as answers:  # closed, or the server would await our end
                print(answers.readline(), status_of(children[0]))
                sock.sendall(b"who\\nwho\\n")
                print([int(answers.readline()) == ME for _ in range(2)])
    """)
    assert said == ["b'220\\n' 0", "[True, True]"]


def test_a_child_that_comes_back_to_run_ends_it() -> None:
    """As from a handler of the program's own for some signal; what the program does next, it does."""
    said = serving("""
        def handle(line, peer):
            return b"%d\\n" % os.getpid()
        def watch(now):
            os.kill(ME, signal.SIGUSR1)  # now that `run` is under way
            return 60
        def client():
            while not children:
                SOON.wait(0.01)
            try:
                print(status_of(children[0]), who(server.address) == {ME})
            finally:
                os.kill(ME, signal.SIGTERM)
        signal.signal(signal.SIGUSR1, lambda number, frame: forked())
        server = Server(Messages(handle, Lines()), HOST, max_workers=2).start()
        threading.Thread(target=client).start()
        server._watch = watch
        cut = server.run()
        if os.getpid() == ME:
            print(cut)
        else:
            os._exit(7 + cut)
    """)
    assert said == ["7 True", "0"]


def test_a_child_of_watch_ends_with_it() -> None:
    """It runs in a thread of its own, which is all that the child has."""
    said = serving("""
        def handle(line, peer):
            return b"%d\\n" % os.getpid()
        def watch(now):
            if now.state == "serving" and not children:
                forked()
            return 0.01
        def client():
            while not children:
                SOON.wait(0.01)
            try:
                print(status_of(children[0]), who(server.address) == {ME})
            finally:
                os.kill(ME, signal.SIGTERM)
        server = Server(Messages(handle, Lines()), HOST, max_workers=2).start()
        threading.Thread(target=client).start()
        server._watch = watch
        print(server.run(), os.getpid() == ME)
    """)
    assert said == ["0 True", "0 True"]


# -- PoolMixIn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["sys.exit(3)", "return"])
@pytest.mark.parametrize("kind", ["lines", "http"])
def test_the_child_of_a_request_handler_ends_with_it_and_the_conversation_goes_on(kind: str, end: str) -> None:
    said = serving(
        f"""
        import http.server
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    if line == b"fork\\n" and forked():
                        {end}
                    if children:
                        print(status_of(children.pop()))
                    self.wfile.write(b"%d\\n" % os.getpid())
        class Web(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_GET(self):
                if self.path == "/fork" and forked():
                    {end}
                if children:
                    print(status_of(children.pop()))
                body = b"%d" % os.getpid()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            def log_message(self, *args):
                pass
        class Mixed(PoolMixIn, socketserver.TCPServer):
            max_workers = 4
        def talk(address, path):
            web = http.client.HTTPConnection(*address, timeout=20)
            def asks(path):
                web.request("GET", path)
                return int(web.getresponse().read())
            return asks
        def lines(address, path):
            sock = connect(address)
            return lambda path: int(ask(sock, path[1:].encode()) or 0)
        begin, handler = {{"lines": (lines, Handler), "http": (talk, Web)}}[{kind!r}]
        with Mixed(("127.0.0.1", 0), handler) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            waiting = begin(server.server_address, "")
            forks = begin(server.server_address, "")
            for path in "/who", "/fork", "/who":
                assert forks(path) == ME
            for _ in range(20):
                assert begin(server.server_address, "")("/who") == ME
            assert waiting("/who") == ME
            server.drain_timeout = 0.0
            server.shutdown()
            serving.join()
        """
    )
    logged = (" cut off, for ", " taken by conversations")  # which is true: nobody closes those of its clients
    assert [line for line in said if not any(words in line for words in logged)] == ["0"]


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise ValueError", "return False"])
@pytest.mark.parametrize("hook", ["get_request", "verify_request", "process_request"])
def test_a_child_of_a_hook_of_the_serving_thread_leaves_the_client_to_its_parent(hook: str, end: str) -> None:
    if end == "return False" and hook != "verify_request":
        pytest.skip("nothing that it may return")
    said = serving(f"""
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    self.wfile.write(b"%d\\n" % os.getpid())
        class Mixed(PoolMixIn, socketserver.TCPServer):
            max_workers = 4
            def {hook}(self, *arguments):
                done = super().{hook}(*arguments) if {hook!r} == "get_request" else None
                if not children and forked():
                    sys.stderr = open(os.devnull, "w")  # where it may tell of its own error
                    {end}
                return done or super().{hook}(*arguments)
        with Mixed(("127.0.0.1", 0), Handler) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            with connect(server.server_address) as sock, sock.makefile("rb") as answers:
                sock.sendall(b"who\\n")
                first = int(answers.readline())
                status_of(children[0])
                sock.sendall(b"who\\n")
                print(first == ME, int(answers.readline() or 0) == ME)
            server.shutdown()
            serving.join()
    """)
    assert said == ["True True"]


def test_a_request_handler_may_have_a_child_talk_to_the_client() -> None:
    """As with ThreadingMixIn, as long as it waits for it."""
    said = serving("""
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.rfile.readline()
                if forked():
                    self.wfile.write(b"the child's\\n")
                    return
                print(status_of(children[0]))
                self.wfile.write(b"the parent's\\n")
        class Mixed(PoolMixIn, socketserver.TCPServer):
            pass
        with Mixed(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever).start()
            with connect(server.server_address) as sock:
                sock.sendall(b"x\\n")
                print(sock.makefile("rb").read().decode().split("\\n"))
            server.shutdown()
    """)
    assert said == ["0", "[\"the child's\", \"the parent's\", '']"]


def test_a_child_of_another_thread_leaves_a_socketserver_to_its_parent() -> None:
    said = serving("""
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    self.wfile.write(b"%d\\n" % os.getpid())
        class Mixed(PoolMixIn, socketserver.TCPServer):
            max_workers = 40  # more than there are clients: the log would tell of those that wait
        def child():
            server.serve_forever()
            server.shutdown()
            server.server_close()
        with Mixed(("127.0.0.1", 0), Handler) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            address = server.server_address
            with connect(address) as waiting, connect(address) as busy:
                assert int(ask(busy, b"who")) == ME
                with server._PoolMixIn__manager.lock:
                    status = fork(child)
                print(status, int(ask(busy, b"who")) == ME, int(ask(waiting, b"who")) == ME, who(address) == {ME})
            server.shutdown()
            serving.join()
    """)
    assert said == ["0 True True True"]


def test_a_child_that_is_forked_before_a_socketserver_serves_may_serve_it() -> None:
    said = serving("""
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.rfile.readline()
                self.wfile.write(b"%d\\n" % os.getpid())
                threading.Thread(target=self.server.shutdown).start()
        class Mixed(PoolMixIn, socketserver.TCPServer):
            pass
        with Mixed(("127.0.0.1", 0), Handler) as server:
            with server._PoolMixIn__manager.lock:
                pid = os.fork()
            if pid == 0:
                server.serve_forever()
                server.server_close()
                os._exit(0)
            print(who(server.server_address, count=1) == {pid}, status_of(pid))
    """)
    assert said == ["True 0"]
