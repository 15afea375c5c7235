"""Mixins that are wrong on purpose, to show that the suite finds out."""

from __future__ import annotations

import socketserver
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Base = socketserver.TCPServer
else:
    Base = object

# By another name than it is looked up by, for driver_socketserver.py puts the classes below in its place.
StandardMixIn = socketserver.ThreadingMixIn


class Forgetful(Base):
    """Closes every request, and handles none."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self.shutdown_request(request)


class Stuck(StandardMixIn, Base):
    """Its handlers never begin."""

    daemon_threads = True

    def finish_request(self, request: Any, client_address: Any) -> None:
        threading.Event().wait()


class Careless(StandardMixIn, Base):
    """Tells nobody that a handler failed."""

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except BaseException:
            pass
        self.shutdown_request(request)


class Leaky(StandardMixIn, Base):
    """Leaves a thread behind."""

    def server_close(self) -> None:
        super().server_close()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
