"""What uvicorn's HTTP protocol lacks for a port that anything may be sent to: a bound on heads, in bytes and in time, and a reset.

Bodies are bounded in ingest.py; requests to the API in app.py.
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
"""What the request line and the headers of one request may have together; beyond it 431."""

HEAD_SECONDS = 30.0
"""From the first byte of a request to the end of its headers, and from a connection to its first request; beyond it 408."""

RESET = "userhooks.reset"
"""In a request's `scope["extensions"]`: a function that closes the connection without an answer. The sender's system then says
"connection reset", since a lingering time of 0 makes closing send a RST."""


class BoundedProtocol(Http1Protocol):
    """The protocol of every port with these bounds; give it to `uvicorn.Config(http=…)`."""

    _in_head = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:  # a head that came in one piece is over by now
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, "The request line and headers are larger than 1 MB, which is the limit of the inspector.")
            elif self._deadline is None:
                self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self.scope["extensions"] = {RESET: self._reset}  # type: ignore[dict-item]  # uvicorn has no type for others' extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # later ones are trailers of a chunked body: uvicorn would add them to the headers, without end
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
