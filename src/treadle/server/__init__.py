"""TCP and UNIX socket servers whose handlers may block, on a bounded number of threads.

A protocol turns bytes into calls: `Messages` calls a function for each message, `Session` one for each connection.
`Server` runs them on a pool, within `Limits`: one thread serves all connections until a handler blocks, then the next.
"""

from treadle.server.connection import Peer
from treadle.server.framing import Delimiter, LengthPrefix, Lines, Raw
from treadle.server.limits import Limits
from treadle.server.messages import CloseConnection, Messages
from treadle.server.server import Server
from treadle.server.session import Conversation, Session
from treadle.server.snapshot import ServerSnapshot
from treadle.server.socketserver import PoolMixIn
from treadle.server.tls import Certificates

__all__ = [
    "Certificates",
    "CloseConnection",
    "Conversation",
    "Delimiter",
    "LengthPrefix",
    "Limits",
    "Lines",
    "Messages",
    "Peer",
    "PoolMixIn",
    "Raw",
    "Server",
    "ServerSnapshot",
    "Session",
]
