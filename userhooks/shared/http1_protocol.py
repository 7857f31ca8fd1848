"""uvicorn's HTTP protocol for ports that speak only HTTP/1.1: it ignores offers to upgrade.

`inspector/protocol.py` adds limits. The applications handle bodies and responses.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Http1Protocol(HttpToolsProtocol):
    """Protocol that reads a request offering an upgrade (`h2c`, `websocket`) as plain HTTP/1.1, as RFC 9110 section 7.8 permits.

    The parser stops after the head of a request that offers an upgrade, and leaves the body to the other protocol. A new parser therefore
    gets the same head without the offer, then the remaining bytes. The application sees the original headers.
    """

    _offered: list[tuple[bytes, bytes]] | None = None
    """Headers of a request that offers an upgrade, between the first and second parse of its head."""

    def data_received(self, data: bytes) -> None:
        """Replace uvicorn's method, which discards the bytes after the head."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._parse(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offered = self.headers
            return
        if self._offered is not None:
            self.headers[:] = self._offered
            self._offered = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._offered is None:
            super().on_message_complete()

    def _parse(self, data: bytes) -> bytes:
        """Parse up to the end of a request head that offers an upgrade, and return the bytes after it."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as stopped:
            if self._offered is not None:
                head = _without_offer(self.parser.get_method(), self.url, self.parser.get_http_version(), self._offered)
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(head)
                return data[stopped.args[0] :]
        return b""


def _without_offer(method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    lines += [b"%b: %b" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
