"""An httpx transport that takes half the processor time of httpx' own: kept connections to one server, by the standard library.

A crowd goes home with twenty thousand calls from sixteen threads, which spend most of their time in the lock of httpx' pool; here nothing
is locked. What answers mean, and which calls are tried again, is the caller's.
"""

from __future__ import annotations

import http.client
import select
import ssl
from collections import deque
from contextlib import suppress

import httpx


class LightTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=…)`; raises httpx.TransportError as httpx' own does."""

    def __init__(self) -> None:
        self._idle: deque[http.client.HTTPConnection] = deque()  # the one used last is used next
        self._ssl: ssl.SSLContext | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, and return its answer with the body read."""
        timeout = request.extensions["timeout"]
        body = request.read()
        connection = self._connected(request, timeout["connect"])
        try:
            connection.sock.settimeout(timeout["read"])
            connection.putrequest(request.method, request.url.raw_path.decode("ascii"), skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.raw:
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
        except BaseException as error:  # Stop, too: what comes later would be taken for the next answer
            connection.close()
            if isinstance(error, TimeoutError):
                raise httpx.ReadTimeout("timed out", request=request) from error
            if isinstance(error, OSError | http.client.HTTPException):
                raise httpx.RemoteProtocolError(str(error) or type(error).__name__, request=request) from error
            raise
        self._idle.append(connection)
        said = {"reason_phrase": answer.reason.encode("latin-1")}
        return httpx.Response(answer.status, headers=answer.getheaders(), content=content, extensions=said)

    def close(self) -> None:
        """Close the connections that no call is using."""
        while self._idle:
            self._idle.pop().close()

    def _connected(self, request: httpx.Request, timeout: float | None) -> http.client.HTTPConnection:
        """An idle connection that the server has not closed, or a new one."""
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.sock is not None and not _has_something_to_read(connection.sock):
                    return connection
                connection.close()
        connection = self._new(request)
        connection.timeout = timeout
        try:
            connection.connect()
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError):
                raise httpx.ConnectTimeout("timed out", request=request) from error
            if isinstance(error, OSError):
                raise httpx.ConnectError(str(error), request=request) from error
            raise
        return connection

    def _new(self, request: httpx.Request) -> http.client.HTTPConnection:
        url = request.url
        if url.scheme == "http":
            return http.client.HTTPConnection(url.host, url.port or 80)
        if url.scheme == "https":
            self._ssl = self._ssl or httpx.create_ssl_context(trust_env=False)
            return http.client.HTTPSConnection(url.host, url.port or 443, context=self._ssl)
        raise httpx.UnsupportedProtocol("Request URL has no 'http://' or 'https://' protocol.", request=request)


def _has_something_to_read(sock: object) -> bool:
    """Whether a connection on which no answer is due has been closed, or is spoilt."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)  # type: ignore[arg-type]
    return bool(poll.poll(0))
