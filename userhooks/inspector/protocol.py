"""uvicorn's HTTP protocol with limits on request heads, and a way to reset a connection.

The inspector's port may receive anything. This module limits the size of a request head and the time it may take. Bodies are limited in
ingest.py, and API calls in app.py. `tests/unit/test_uvicorn_canary.py` checks the uvicorn internals that this module uses.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from userhooks.shared.http1_protocol import Http1Protocol

HEAD_BYTES = 1 << 20
"""Maximum size of a request line and its headers; a larger head gets 431."""

HEAD_SECONDS = 30.0
"""Seconds a client may take to send a request head; after that, it gets 408.

The time is measured from the opening of the connection, or from the beginning of a later request. A new connection on which nothing was
sent is closed without a response.
"""

RESET = "userhooks.reset"
"""Key in a request's `scope["extensions"]`; its value is a function that resets the connection without a response.

The function sets the socket's linger time to 0, so that closing it sends a TCP RST, and the sender gets "connection reset".
"""


class BoundedProtocol(Http1Protocol):
    """An HTTP/1.1 protocol with a limit on heads; pass it to `uvicorn.Config(http=…)`."""

    _in_head = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # the same type as in uvicorn
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:  # false if the head arrived in one piece
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, "The request line and headers are larger than 1 MB, the inspector's limit.")
            elif self._deadline is None:
                self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self.scope["extensions"] = {RESET: self._reset}  # type: ignore[dict-item]  # not one of uvicorn's extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # ignore the trailers of a chunked body, which uvicorn would add to the headers without a limit
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_ended()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _head_ended(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self._in_head:
            self._refuse(408, f"The headers did not arrive within {HEAD_SECONDS:g} s.")
        else:
            self.transport.close()

    def _refuse(self, status: int, error: str) -> None:
        self._head_ended()
        self._in_head = False
        if self.transport.is_closing():
            return
        body = orjson.dumps({"error": error})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _reset(self) -> None:
        if not self.transport.is_closing():
            handle: Any = self.transport.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
