"""gevent and eventlet, which put greenlets in the place of threads: before treadle is imported, or it says so."""

from __future__ import annotations

import sysconfig
from importlib.util import find_spec

import pytest

from behaviour.scripts import script

pytestmark = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="greenlets are not for free-threaded builds yet"
)

PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


@pytest.fixture(params=sorted(PATCH))
def patch(request: pytest.FixtureRequest) -> str:
    """The line that patches everything, with each of them."""
    library: str = request.param
    if find_spec(library) is None:
        pytest.skip(f"{library} has no release for this Python, or is not installed")
    return PATCH[library]


def run(source: str) -> list[str]:
    """Return what the program has written; it must end well."""
    done = script(source)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_program_that_patches_first_runs_its_tasks_in_greenlets(patch: str) -> None:
    written = run(f"""
        {patch}
        import time, treadle
        from treadle import Pool, Rate, TaskGroup
        from treadle.errors import DeadlineExceeded
        LONG = 30
        with Pool(2, queue_size=3) as pool:
            assert pool.submit(abs, -1).result(LONG) == 1
            assert list(pool.map(abs, range(50), timeout=LONG)) == list(range(50))
            assert sorted(pool.map(abs, range(50), ordered=False)) == list(range(50))
            assert pool.submit(lambda: pool.submit(abs, -3).result(LONG)).result(LONG) == 3
            quick = pool.options(rate=Rate(500.0))
            assert [task.result(LONG) for task in [quick.submit(abs, n) for n in range(5)]] == list(range(5))
            gate = threading.Event()
            held = pool.submit(gate.wait, LONG)
            try:
                held.result(0.01)
            except TimeoutError:
                print("timeout")
            with treadle.deadline(0.02):
                late = pool.submit(gate.wait, LONG)
            try:
                late.result(LONG)
            except DeadlineExceeded:
                print("deadline")
            if "gevent" in sys.modules:  # eventlet's Thread.join raises an error of its own
                assert pool.shutdown(timeout=0.01) == (held,)
            gate.set()
        with Pool(3, idle_timeout=0.001) as pool:
            with TaskGroup(pool) as group:
                tasks = [group.submit(time.sleep, 0.001 * n) for n in range(9)]
            assert all(task.done() for task in tasks)
        last = Pool(1)
        last.submit(lambda: (time.sleep(0.01), print("at exit")))  # why: it is to be under way when Python exits
    """)
    assert written == ["timeout", "deadline", "at exit"]


def test_a_pool_that_is_made_after_threads_were_patched_says_so_at_once(patch: str) -> None:
    written = run(f"""
        from treadle import Crew, Pool
        from treadle.errors import PatchedTooLate
        from socketserver import StreamRequestHandler, TCPServer
        from treadle.server import Lines, Messages, PoolMixIn, Server
        class Standard(PoolMixIn, TCPServer):
            pass
        {patch}
        for make in (
            lambda: Pool(1),
            lambda: Crew(print, 1),
            lambda: Server(Messages(print, Lines()), "127.0.0.1:0").start(),
            lambda: Standard(("127.0.0.1", 0), StreamRequestHandler).serve_forever(),
        ):
            try:
                make()
            except PatchedTooLate as error:
                assert isinstance(error, RuntimeError)
                print(error)
    """)
    assert len(written) == 4
    assert all("before treadle is imported" in line for line in written)


def test_a_pool_from_before_the_patch_goes_on_with_the_threads_it_has() -> None:
    """Not with eventlet, which also replaces locks that are in use."""
    pytest.importorskip("gevent", reason="gevent has no release for this Python, or is not installed")
    written = run("""
        import time
        import treadle
        from treadle import Pool, Rate
        from treadle.errors import PatchedTooLate
        pool, other, began, gate = Pool(2), Pool(1), threading.Event(), threading.Lock()
        gate.acquire()
        def hold():
            began.set()
            gate.acquire()
        pool.submit(int).result(30)
        from gevent import monkey; monkey.patch_all()
        assert pool.submit(abs, -3).result(30) == 3
        assert list(pool.map(abs, range(9))) == list(range(9))
        def until_idle():  # or a submit would have another thread come, which cannot be had
            while not pool._task_dispatcher.entrance.idle:
                time.sleep(0)  # why: the thread that falls idle is to get on
        until_idle()
        held = pool.submit(hold)
        assert began.wait(30)
        def refused(what, fn, *args):
            try:
                fn(*args)
            except PatchedTooLate:
                print(what)
        def bounded():
            with treadle.deadline(30):
                pool.submit(int)
        refused("another thread", pool.submit, print, "never")
        refused("a first thread", other.submit, print, "never")
        refused("a map", pool.map, print, ["never"])
        refused("a rate", pool.options(rate=Rate(1000.0)).submit, print, "never")
        refused("a deadline", bounded)
        gate.release()
        held.result(30)
        until_idle()
        assert pool.submit(abs, -4).result(30) == 4
        assert pool.snapshot().waiting == 0
    """)
    assert written == ["another thread", "a first thread", "a map", "a rate", "a deadline"]


PARTLY = [
    "from gevent import monkey; monkey.patch_all(thread=False)",
    "from gevent import monkey; monkey.patch_select()",
    "from gevent import monkey; monkey.patch_thread(threading=False)",
    "from gevent import monkey; monkey.patch_time(); monkey.patch_socket()",
    "import eventlet; eventlet.monkey_patch(thread=False)",
]


@pytest.fixture(params=PARTLY)
def partly(request: pytest.FixtureRequest) -> str:
    """A line that patches this and that, but leaves threads threads."""
    line: str = request.param
    if find_spec(line.split()[1].rstrip(";")) is None:
        pytest.skip("it has no release for this Python, or is not installed")
    return line


def test_threads_that_were_not_patched_are_as_good_as_ever(partly: str) -> None:
    run(f"""
        import treadle
        from treadle import Pool, Rate
        {partly}
        with Pool(2) as pool:
            with treadle.deadline(30):
                pool.submit(treadle.sleep, 0.001).result(30)
            assert list(pool.map(abs, range(9))) == list(range(9))
            assert pool.options(rate=Rate(1000.0)).submit(abs, -3).result(30) == 3
    """)


@pytest.mark.parametrize("first", [True, False], ids=["before treadle is imported", "afterwards"])
def test_a_server_stops_where_threads_were_not_patched(partly: str, first: bool) -> None:
    """Its threads wake each other, which they could not in a poller of gevent's."""
    written = run(f"""
        {partly if first else ""}
        import socket, socketserver
        from treadle.server import Lines, Messages, PoolMixIn, Server
        {"" if first else partly}
        def ask(address):
            with socket.create_connection(address, 30) as client:
                client.sendall(b"line\\n")
                print(client.recv(100).decode().strip())
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline())
        class Standard(PoolMixIn, socketserver.TCPServer):
            pass
        with Server(Messages(lambda line, peer: line + b"\\n", Lines()), "127.0.0.1:0") as server:
            ask(server.address)
            print(server.stop(30))
        with Standard(("127.0.0.1", 0), Handler) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            ask(server.server_address)
            server.shutdown()
            serving.join(30)
            print(serving.is_alive())
    """)
    assert written == ["line", "0", "line", "False"]
