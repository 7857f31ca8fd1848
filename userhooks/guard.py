"""The ASGI middleware in front of every port of this project: which `Host`, `Origin` and content type are let in.

A web page must not read an inbox or create a sink through DNS rebinding or a cross-site form, so a request is refused unless it names a
host that we serve and, where a browser says where it comes from, an origin that we serve.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import orjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class HostGuard:
    """Refuse requests whose `Host` or `Origin` is not one of `origins` (403), and API posts that are not JSON (415).

    `origins` are URLs like `http://127.0.0.1:3334`; for a loopback one, `localhost` and `[::1]` at the same port are let in as well.
    Paths that begin with one of `open_to_origins` are asked for a known `Host` only (webhooks come without an Origin anyway).
    `json_paths`: a POST, PUT or PATCH below them must say `Content-Type: application/json`.
    """

    def __init__(
        self,
        app: App,
        origins: Iterable[str],
        *,
        open_to_origins: tuple[str, ...] = (),
        json_paths: tuple[str, ...] = (),
    ) -> None:
        self.app = app
        self.hosts, self.origins = _allowed(origins)
        self.open_to_origins = open_to_origins
        self.json_paths = json_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, text = refusal
        body = orjson.dumps({"error": text})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        host = origin = content_type = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"content-type":
                content_type = value
        if host.decode("latin-1").lower() not in self.hosts:
            return (
                403,
                "The Host header names a host that is not served here. Use the address that `userhooks status` prints.",
            )
        path: str = scope["path"]
        if origin and not path.startswith(self.open_to_origins or ("\0",)) and origin.decode("latin-1").lower() not in self.origins:
            return 403, "Requests from web pages of another origin are refused."
        writes = scope["method"] in ("POST", "PUT", "PATCH")
        if writes and path.startswith(self.json_paths or ("\0",)) and not content_type.lower().startswith(b"application/json"):
            return 415, "Send JSON: the header Content-Type: application/json is required."
        return None


def _allowed(origins: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    hosts: set[str] = set()
    full: set[str] = set()
    for origin in origins:
        parts = urlsplit(origin)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        names = {"127.0.0.1", "localhost", "[::1]"} if parts.hostname in ("127.0.0.1", "localhost", "::1") else {parts.hostname or ""}
        for name in names:
            hosts.add(f"{name}:{port}")
            full.add(f"{parts.scheme}://{name}:{port}")
            if port in (80, 443):
                hosts.add(name)
                full.add(f"{parts.scheme}://{name}")
    return frozenset(hosts), frozenset(full)
