"""A canary for the uvicorn internals that `inspector/protocol.py` and `shared/http1_protocol.py` build on.

These internals are not public, so any minor version of uvicorn may change them. pyproject.toml therefore allows no minor version after the
one that these tests have checked. To allow a newer one, raise the cap, run `make lock` and `make install`, and fix both modules until these
tests and `tests/inspector/test_ingest.py` pass.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

UVICORN = f"uvicorn {version('uvicorn')}"
MODULE = "uvicorn.protocols.http.httptools_impl"
ADVICE = "Fix userhooks/inspector/protocol.py or userhooks/shared/http1_protocol.py, or lower the cap on uvicorn in pyproject.toml."
OVERRIDDEN = {
    "connection_made": 1,
    "connection_lost": 1,
    "data_received": 1,
    "on_message_begin": 0,
    "on_header": 2,
    "on_headers_complete": 0,
    "on_message_complete": 0,
}
"""Methods that the project's protocols override, with the number of their arguments."""

CALLED = {"_unset_keepalive_if_required": 0, "send_400_response": 1}
"""Methods that only the project's protocols call, with the number of their arguments."""

REPLACED = {
    "_unset_keepalive_if_required",
    "parser",
    "feed_data",
    "httptools",
    "HttpParserError",
    "HttpParserUpgrade",
    "logger",
    "warning",
    "send_400_response",
    "_should_upgrade",
    "handle_websocket_upgrade",
    "_unsupported_upgrade_warning",
}
"""Names that uvicorn's `data_received` uses. `Http1Protocol` replaces that method, and so must do all it does."""

PIPELINED = (
    b"POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Trailer: t\r\n\r\n"
    b"GET /second HTTP/1.1\r\nHost: b\r\n\r\n"
)


class Connection(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def internal(name: str) -> Any:
    """Return a name from uvicorn's httptools protocol, or fail with a sentence that says it is missing."""
    try:
        return getattr(import_module(MODULE), name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{UVICORN} has no {MODULE}.{name} ({error}). {ADVICE}")


def connect(protocol_class: type, application: Callable[..., Any]) -> tuple[Any, Connection, ServerState]:
    """Return a protocol as uvicorn's server makes it, with its connection and the state that holds its tasks."""
    config = uvicorn.Config(application, http=protocol_class, lifespan="off", log_config=None, ws="none")
    config.load()
    assert config.http_protocol_class is protocol_class, f"{UVICORN} ignores a class given to uvicorn.Config(http=…). {ADVICE}"
    state, connection = ServerState(), Connection()
    protocol = protocol_class(config=config, server_state=state, app_state={})
    protocol.connection_made(connection)
    return protocol, connection, state


async def answer(_scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def finish(state: ServerState) -> None:
    """Wait until the application has answered every request."""
    async with asyncio.timeout(10):
        while state.tasks:
            await asyncio.gather(*state.tasks)
            await asyncio.sleep(0)  # uvicorn removes finished tasks in a callback


@pytest.mark.parametrize(("status", "line"), [(408, b"HTTP/1.1 408 Request Timeout\r\n"), (431, b"HTTP/1.1 431 ")])
def test_status_line_holds_the_first_line_of_a_response(status: int, line: bytes) -> None:
    lines = internal("STATUS_LINE")
    found = lines.get(status)
    message = f"{UVICORN}: STATUS_LINE[{status}] is {found!r}, not the first line of a response. {ADVICE}"
    assert isinstance(found, bytes), message
    assert found.startswith(line), message
    assert found.endswith(b"\r\n"), message


@pytest.mark.parametrize(("name", "arguments"), [*OVERRIDDEN.items(), *CALLED.items()])
def test_the_protocol_has_the_method(name: str, arguments: int) -> None:
    method = getattr(internal("HttpToolsProtocol"), name, None)
    assert callable(method), f"{UVICORN}: HttpToolsProtocol has no method {name}. {ADVICE}"
    parameters = list(inspect.signature(method).parameters)
    assert len(parameters) == 1 + arguments, f"{UVICORN}: HttpToolsProtocol.{name} takes {parameters}. {ADVICE}"
    assert not inspect.iscoroutinefunction(method), f"{UVICORN}: HttpToolsProtocol.{name} is a coroutine function. {ADVICE}"


def test_data_received_does_nothing_that_its_replacement_does_not_know() -> None:
    names = set(internal("HttpToolsProtocol").data_received.__code__.co_names)
    difference = sorted(names ^ REPLACED)
    assert not difference, f"{UVICORN} has changed HttpToolsProtocol.data_received, which Http1Protocol replaces: {difference}. {ADVICE}"


def test_a_connection_has_the_attributes() -> None:
    async def run() -> None:
        protocol, connection, _ = connect(internal("HttpToolsProtocol"), answer)
        for name in ("loop", "logger", "parser", "transport"):
            assert hasattr(protocol, name), f"{UVICORN}: HttpToolsProtocol has no attribute {name}. {ADVICE}"
        assert protocol.loop is asyncio.get_running_loop(), f"{UVICORN}: HttpToolsProtocol.loop is not the running event loop. {ADVICE}"
        assert protocol.transport is connection, f"{UVICORN}: HttpToolsProtocol.transport is not the connection's transport. {ADVICE}"
        for name in ("feed_data", "should_upgrade", "get_method", "get_http_version", "set_dangerous_leniencies"):
            assert hasattr(protocol.parser, name), f"{UVICORN}: the parser of HttpToolsProtocol has no method {name}. {ADVICE}"

    asyncio.run(run())


def test_the_parser_calls_the_overridden_methods_in_order_also_for_trailers() -> None:
    """A trailer is reported like a header, after the headers are complete; `BoundedProtocol` leaves it out."""
    calls: list[str] = []

    def recording(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def record(self: Any, *arguments: Any) -> Any:
            calls.append(name)
            return method(self, *arguments)

        return record

    async def run() -> None:
        base = internal("HttpToolsProtocol")
        methods = {name: recording(name, getattr(base, name)) for name in OVERRIDDEN if name.startswith("on_")}
        protocol, _, state = connect(type("Recording", (base,), methods), answer)
        protocol.data_received(PIPELINED)
        await finish(state)

    asyncio.run(run())
    first = ["on_message_begin", "on_header", "on_header", "on_headers_complete", "on_header", "on_message_complete"]
    second = ["on_message_begin", "on_header", "on_headers_complete", "on_message_complete"]
    assert calls == first + second, f"{UVICORN}: HttpToolsProtocol's methods are called in another order than before. {ADVICE}"


def test_each_request_gets_a_new_scope_which_keeps_what_a_subclass_adds() -> None:
    """`on_message_begin` creates `scope` and `headers`; the application receives these very objects."""
    numbers = itertools.count(1)
    received: list[tuple[Any, Any]] = []

    async def run() -> None:
        class Marking(internal("HttpToolsProtocol")):  # type: ignore[misc]
            def on_message_begin(self) -> None:
                super().on_message_begin()
                self.scope["extensions"] = {"number": next(numbers)}

            def on_headers_complete(self) -> None:
                self.headers[:] = [(b"rewritten", b"1")]
                super().on_headers_complete()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            received.append((scope.get("extensions"), list(scope["headers"])[:1]))
            await answer(scope, receive, send)

        protocol, connection, state = connect(Marking, application)
        protocol.data_received(PIPELINED)
        await finish(state)
        assert connection.sent.count(b"HTTP/1.1 200 OK\r\n") == 2, f"{UVICORN} does not answer pipelined requests. {ADVICE}"

    asyncio.run(run())
    extensions, headers = [scope[0] for scope in received], [scope[1] for scope in received]
    lost = f'{UVICORN} does not give the application the scope["extensions"] that a subclass sets in on_message_begin. {ADVICE}'
    assert extensions == [{"number": 1}, {"number": 2}], lost
    rewritten = f"{UVICORN} does not give the application the list HttpToolsProtocol.headers that a subclass changes. {ADVICE}"
    assert headers == [[(b"rewritten", b"1")]] * 2, rewritten


def test_a_protocol_may_answer_and_close_in_the_middle_of_a_head() -> None:
    """`BoundedProtocol` refuses a head that is too large or too slow; uvicorn must neither answer as well nor fail."""

    async def run() -> bytes:
        protocol, connection, state = connect(internal("HttpToolsProtocol"), answer)
        protocol.data_received(b"POST / HTTP/1.1\r\nx: ")
        protocol.transport.write(b"refused")
        protocol.transport.close()
        protocol.connection_lost(None)
        await finish(state)
        return connection.sent

    assert asyncio.run(run()) == b"refused", f"{UVICORN} answers a request whose head is incomplete when the connection ends. {ADVICE}"
