"""Builds the head of a webhook request: the request line, and the headers in order. Pure.

`message_format.py` renders the body, and `http_client.py` sends the request.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from userhooks import __version__
from userhooks.engine.message_format import Routed
from userhooks.engine.resources import HttpEndpoint

USER_AGENT = f"userhooks/{__version__}"
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~-._"


class RequestHead(NamedTuple):
    """The bytes of a request's head before and after the content length, and whether to compress the body with gzip."""

    before: bytes
    after: bytes
    gzip: bool


def request_head(endpoint: HttpEndpoint, routed: Routed, *, has_body: bool = True) -> RequestHead:
    """Return the head of requests to an endpoint.

    Headers are in the order recorded from Sequin: content-length, host, then all others sorted by name, in lower case. The route's path is
    appended to the endpoint's URL as text, even after a query string, and the route's headers override the endpoint's. A request without a
    body gets no `content-encoding`, and no default `accept` and `content-type`, which Sequin's HTTP client adds only to JSON.
    """
    target = endpoint.path or ""
    if endpoint.query:
        target += "?" + endpoint.query
    if routed.path:
        target = target.removesuffix("/") + routed.path
    if not target.startswith("/"):
        target = "/" + target
    default_port = 443 if endpoint.scheme == "https" else 80
    host = endpoint.host if endpoint.port == default_port else f"{endpoint.host}:{endpoint.port}"
    headers = {"accept-encoding": "gzip", "user-agent": USER_AGENT}
    if has_body:
        headers |= {"accept": "application/json", "content-type": "application/json"}
    for name, value in (*endpoint.headers.items(), *endpoint.encrypted_headers.items(), *routed.headers):
        if name.lower() not in ("content-length", "host", "transfer-encoding", "connection"):
            headers[name.lower()] = str(value)
    if not has_body:
        headers.pop("content-encoding", None)
    gzip = headers.get("content-encoding", "").strip().lower() == "gzip"
    if gzip:
        headers["content-encoding"] = "gzip"
    lines = "".join(f"{_one_line(name)}: {_one_line(value)}\r\n" for name, value in sorted(headers.items()))
    head = f"{routed.method} {quote(target, safe=_URL_CHARACTERS)} HTTP/1.1\r\ncontent-length: "
    return RequestHead(head.encode(), f"\r\nhost: {host}\r\n{lines}\r\n".encode(), gzip)


def _one_line(text: str) -> str:
    """Replace line breaks, so that a header cannot inject another one."""
    return text.replace("\r", " ").replace("\n", " ")
