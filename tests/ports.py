"""Free ports for tests; no test uses a fixed port."""

from __future__ import annotations

import socket
import sys
from collections import deque

_bound_sockets: deque[socket.socket] = deque()
_MAX_BOUND = 100
_LINUX = sys.platform == "linux"


def free_port() -> int:
    """Return a TCP port on loopback that nothing listens on and that the system does not assign to anyone else for now.

    On Linux, it stays bound for the next 100 calls, so that the system does not assign it. Servers can still listen on it, since they set
    SO_REUSEADDR. On other systems they could not, so it is released at once.
    """
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = int(bound.getsockname()[1])
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bound_sockets.append(bound)
    while len(_bound_sockets) > (_MAX_BOUND if _LINUX else 0):
        _bound_sockets.popleft().close()
    return port
