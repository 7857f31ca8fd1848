"""Builds the HTTP request for a batch of messages: head, body, compression. Pure; `pending_queue.py` decides which messages to batch."""

from __future__ import annotations

import logging
import zlib
from typing import NamedTuple

from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.delivery.request_head import RequestHead, request_head
from userhooks.engine.functions import FunctionRaised
from userhooks.engine.message_format import Routed, SinkForm, render
from userhooks.engine.resources import HttpEndpoint, SinkResource

log = logging.getLogger(__name__)

_NO_BODY = (b"null", b"false")
"""Transform results that Sequin sends as an empty body, unless they are in a batch."""


class BuiltRequest(NamedTuple):
    """A request's bytes, the size of its body in bytes, and the number of messages that it contains, starting with the first."""

    data: bytes
    body_size: int
    messages: int


class CannotBuild(Exception):
    """The first message cannot be routed or rendered; the exception's text contains the failed step and its error."""


class RequestBuilder:
    """Builds the requests of one sink from its current settings."""

    __slots__ = ("_batch", "_endpoint", "_form", "_head", "_name", "_route")

    def __init__(self, sink: SinkResource, endpoint: HttpEndpoint, form: SinkForm) -> None:
        self._head = RequestHead(b"", b"", gzip=False)
        self.configure(sink, endpoint, form)

    def configure(self, sink: SinkResource, endpoint: HttpEndpoint, form: SinkForm) -> bool:
        """Apply new settings; return whether the URL or the headers of requests change."""
        self._name = sink.name
        self._batch = sink.batch
        self._endpoint = endpoint
        self._form = form
        self._route = Routed(path=sink.path or "")
        before, self._head = self._head, request_head(endpoint, self._route)
        return self._head != before

    def build(self, messages: list[PendingMessage]) -> BuiltRequest:
        """Return a request for as many of the messages as possible, starting with the first. Raises CannotBuild.

        The request ends before a message that has a different route or cannot be rendered.
        """
        form = self._form
        if form.transform is None and form.route is None:
            try:
                if len(messages) == 1:
                    body = render(messages[0].change, form)
                    return self._request(self._head, b'{"data":[%b]}' % body if self._batch else body, 1)
                body = b'{"data":[%b]}' % b",".join([render(m.change, form) for m in messages])
                return self._request(self._head, body, len(messages))
            except Exception as exc:  # a value has no JSON form; rendering one by one finds its message
                log.debug("cannot render a batch of sink %s as a whole: %s", self._name, exc)
        return self._one_by_one(messages)

    def _one_by_one(self, messages: list[PendingMessage]) -> BuiltRequest:
        form = self._form
        parts: list[bytes] = []
        route: Routed | None = None
        for message in messages:
            step = "routing"
            try:
                message_route = None if form.route is None else form.route(message.change)
                step = "transform"
                part = render(message.change, form)
            except Exception as exc:
                if parts:
                    break
                raise CannotBuild(f"[{step if isinstance(exc, FunctionRaised) else 'message'}]: {exc}") from exc
            if parts and message_route != route:
                break
            route = message_route
            parts.append(part)
        body = b'{"data":[%b]}' % b",".join(parts) if self._batch else parts[0]
        if not self._batch and body in _NO_BODY:
            return self._request(request_head(self._endpoint, route or self._route, has_body=False), b"", 1)
        return self._request(self._head if route is None else request_head(self._endpoint, route), body, len(parts))

    def _request(self, head: RequestHead, body: bytes, count: int) -> BuiltRequest:
        before, after, gzip = head
        if gzip:
            body = zlib.compress(body, 1, wbits=31)  # level 1, the fastest, since compression blocks other sinks; 31 means gzip
        size = len(body)
        return BuiltRequest(b"%b%d%b%b" % (before, size, after, body), size, count)
