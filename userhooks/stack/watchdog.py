"""A tiny program that ends a Postgres server when its own parent is gone; `embedded_postgres.py` starts it beside each server it starts.

Postgres itself does not notice that its parent died, so this child holds a pipe from that parent and acts at EOF. Nothing else is watched
here: our own programs watch their stdin themselves (`shared/child_process.py`).
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import psutil

GRACE = 10.0
"""Seconds for a fast shutdown before the server is told to quit at once."""


def main(pid: int) -> None:
    """Wait for EOF on stdin, then stop the process `pid`, unless the pid has gone to another process meanwhile (psutil knows)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the pipe alone decides
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        while os.read(0, 4096):
            pass
        server.send_signal(signal.SIGINT)
        try:
            server.wait(GRACE)
        except psutil.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)


if __name__ == "__main__":
    main(int(sys.argv[1]))
