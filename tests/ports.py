"""Free ports for tests; no test uses a fixed port."""

from __future__ import annotations

import random
import socket
import sys
from collections import deque

_bound_sockets: deque[socket.socket] = deque()
_MAX_BOUND = 100
_LINUX = sys.platform == "linux"
_RANGE = range(20_000, 32_000)
"""Below the ports that systems assign to outgoing connections, one of which could take a port before its server listens on it."""


def free_port() -> int:
    """Return a TCP port on loopback that nothing listens on and that no other test process returns for now.

    On Linux, it stays bound for the next 100 calls, so that no other process chooses it. Servers can still listen on it, since they set
    SO_REUSEADDR. On other systems they could not, so it is released at once.
    """
    bound = _bound_to_a_free_port()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bound_sockets.append(bound)
    port = int(bound.getsockname()[1])
    while len(_bound_sockets) > (_MAX_BOUND if _LINUX else 0):
        _bound_sockets.popleft().close()
    return port


def _bound_to_a_free_port() -> socket.socket:
    for port in random.sample(_RANGE, 1000):
        bound = socket.socket()
        try:
            bound.bind(("127.0.0.1", port))
        except OSError:
            bound.close()
        else:
            return bound
    raise AssertionError(f"No port between {_RANGE.start} and {_RANGE.stop} is free.")
