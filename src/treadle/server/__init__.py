"""TCP and UNIX socket servers whose handlers may block, on a bounded number of threads.

A protocol turns bytes into calls: `Messages` calls a function for each message, `Session` one for each connection.
`Server` runs them on a pool, within `Limits`: one thread serves all connections until a handler blocks, then the next.
"""

from treadle._base.public import publish as _publish
from treadle.server._accept.tls import Certificates
from treadle.server._protocols.framing import Delimiter, Framing, LengthPrefix, Lines, Raw
from treadle.server._protocols.messages import Messages
from treadle.server._protocols.protocol import Protocol
from treadle.server._protocols.session import Connection, Session
from treadle.server._protocols.takeover import TakeOver
from treadle.server._protocols.wsgi.access_log import AccessLog
from treadle.server._protocols.wsgi.wsgi import WSGI
from treadle.server._server import Server
from treadle.server._snapshot import ServerSnapshot
from treadle.server._socketserver.mixin import PoolMixIn
from treadle.server._transport.decoder import CloseConnection, Decoder, Reply
from treadle.server._transport.limits import Limits, Phase
from treadle.server._transport.observing.observer import ConnectionEvent, MessageEvent, Observer
from treadle.server._transport.peer import Peer
from treadle.server._transport.sending.file_range import FileRange

__all__ = [
    "WSGI",
    "AccessLog",
    "Certificates",
    "CloseConnection",
    "Connection",
    "ConnectionEvent",
    "Decoder",
    "Delimiter",
    "FileRange",
    "Framing",
    "LengthPrefix",
    "Limits",
    "Lines",
    "MessageEvent",
    "Messages",
    "Observer",
    "Peer",
    "Phase",
    "PoolMixIn",
    "Protocol",
    "Raw",
    "Reply",
    "Server",
    "ServerSnapshot",
    "Session",
    "TakeOver",
]

_publish(__name__, globals())
