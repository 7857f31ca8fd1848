"""Common code of the programs that the supervisor starts: reading the configuration, listening on the port, and shutting down.

A program reads one line of JSON from stdin. Stdin then stays open as long as the supervisor is alive. At end of file, the supervisor
has exited, for whatever reason, and the program exits too. `stack/supervisor.py` lists the programs and starts them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from userhooks.shared.http1_protocol import Http1Protocol

PORT_IN_USE = 2
"""Exit code of a program whose port is in use."""


def read_config() -> dict[str, Any]:
    """Read one line of JSON from stdin, byte by byte, so that anything after it stays in the pipe."""
    line = bytearray()
    while byte := os.read(0, 1):
        if byte == b"\n":
            break
        line += byte
    config: dict[str, Any] = json.loads(line)
    return config


def stop_with_parent(stop: Callable[[], object]) -> None:
    """Call `stop` from the running loop when stdin is closed, or on SIGTERM or SIGINT. `stop` may be called several times."""
    loop = asyncio.get_running_loop()

    def on_stdin() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop()

    loop.add_reader(0, on_stdin)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def listen(host: str, port: int, variable: str) -> socket.socket:
    """Bind a socket and listen. If that fails, print the reason and the port's environment `variable` to stderr, and exit with code 2."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        print(
            f"Cannot listen on {host} port {port} ({error.strerror}). Set {variable} to another port, or to 0 for a free one.",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(PORT_IN_USE) from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def own_address(bind: str) -> str:
    """Return the address at which this machine reaches a server bound to `bind`, with an IPv6 address in its shortest form."""
    try:
        address = ip_address(bind)
    except ValueError:
        return "127.0.0.1" if bind == "localhost" else bind
    return "127.0.0.1" if address.is_unspecified else address.compressed


def own_url(bind: str, port: int) -> str:
    """Return the URL at which this machine reaches a server bound to `bind`, with the host as browsers send it: `http://[fd00::1]:3334`."""
    address = own_address(bind)
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a program's coroutine on uvloop. Log lines (time, logger, message) go to stderr, which is redirected to a log file."""
    import uvloop

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it logs seven uninformative lines per start and stop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def serve_until_stopped(served: Sequence[tuple[Any, socket.socket]], http: type[Http1Protocol] | None = None) -> None:
    """Serve ASGI apps with uvicorn, each on its socket, until the supervisor stops them or exits.

    Returns after the apps have shut down. `http` is the protocol class, by default Http1Protocol. Requests are not logged. Requests that
    are still open one second after the stop, such as event streams, are aborted.
    """
    import uvicorn

    from userhooks.shared.http1_protocol import Http1Protocol

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # stop_with_parent handles signals; uvicorn's handlers would kill the process before it has cleaned up

    servers = [
        Server(
            uvicorn.Config(
                app,
                http=http or Http1Protocol,
                ws="none",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=75,
                server_header=False,
            )
        )
        for app, _ in served
    ]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    stop_with_parent(stop)
    await asyncio.gather(*(server.serve(sockets=[listener]) for server, (_, listener) in zip(servers, served, strict=True)))
    if not all(server.started for server in servers):
        raise SystemExit(1)


def serve(app: Any, host: str, port: int, *, variable: str, http: type[Http1Protocol] | None = None) -> None:
    """Run a program that consists of one ASGI app: listen, and serve until stopped."""
    listener = listen(host, port, variable)
    run(serve_until_stopped([(app, listener)], http))


def fail(message: str) -> NoReturn:
    """Print one line to stderr and exit with code 1."""
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(1)
