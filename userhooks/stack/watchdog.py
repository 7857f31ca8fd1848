"""A tiny program that stops a Postgres server when their common parent dies. `embedded_postgres.py` starts one for each server.

Postgres itself does not notice that its parent has died. So this program reads from a pipe that the parent keeps open, and stops the server
at end of file. The stack's other programs watch their own stdin (`shared/child_process.py`).
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import psutil

GRACE = 10.0
"""Seconds that a fast shutdown may take before an immediate shutdown is requested."""


def main(pid: int) -> None:
    """Wait for end of file on stdin, then stop the process `pid`. psutil makes sure that the pid has not been reused by then."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal may reach the whole process group, but only end of file on the pipe counts
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
