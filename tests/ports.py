"""Ports for tests: chosen free, never fixed."""

from __future__ import annotations

import socket
import sys
from collections import deque

_held: deque[socket.socket] = deque()
_MOST = 100
_LINUX = sys.platform == "linux"


def free_port() -> int:
    """A TCP port on loopback that nothing listens on, and that nobody else is given meanwhile.

    On Linux it stays bound for the next hundred calls. Whoever sets SO_REUSEADDR, as servers do, can listen on it all the same; the system
    gives it to nobody who asks for any port. Elsewhere it could not be listened on, so it is let go.
    """
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    port = int(held.getsockname()[1])
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _held.append(held)
    while len(_held) > (_MOST if _LINUX else 0):
        _held.popleft().close()
    return port
