"""ASGI middleware for this project's ports: checks of `Host`, `Origin`, and content type, and of access to pages and APIs.

A web page must not read an inbox or create a sink through DNS rebinding or a cross-site form. A request is therefore refused unless its
`Host` is served here and, if it has an `Origin`, that is too. Because any program can send `Host: localhost`, pages and APIs also require a
token, which `access_tokens.py` checks.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from userhooks.web import access_tokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class HostGuard:
    """Middleware that refuses requests whose `Host` or `Origin` is not in `origins` (403), and API writes that are not JSON (415).

    `origins` are URLs like `http://127.0.0.1:3334`. For a loopback address, `localhost` and `[::1]` at the same port are admitted too.
    Paths that start with one of `open_to_origins` need only a known `Host`, since webhooks have no `Origin`. A POST, PUT, or PATCH below
    one of `json_paths` must have `Content-Type: application/json`.
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
        await _answer(send, status, [(b"content-type", b"application/json")], orjson.dumps({"error": text}))

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
        name = parts.hostname or ""
        names = {"127.0.0.1", "localhost", "[::1]"} if name in ("127.0.0.1", "localhost", "::1") else {f"[{name}]" if ":" in name else name}
        for name in names:
            hosts.add(f"{name}:{port}")
            full.add(f"{parts.scheme}://{name}:{port}")
            if port in (80, 443):
                hosts.add(name)
                full.add(f"{parts.scheme}://{name}")
    return frozenset(hosts), frozenset(full)


async def _answer(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope, *names: bytes) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {name: [] for name in names}
    for name, value in scope["headers"]:
        if name in found:
            found[name].append(value.decode("latin-1"))
    return found


class TokenGuard:
    """Middleware that admits requests with a token: from programs in `Authorization`, from browsers by a link that sets a cookie.

    `keys` returns the digests of the tokens that are valid now (`access_tokens.py`). `port` is part of the cookie's name, because browsers
    share cookies between all ports of a host. `advice` is the end of every refusal; it says how to get a link, and where programs find the
    token.
    """

    def __init__(self, app: App, *, keys: Callable[[], Collection[bytes]], port: int, advice: str) -> None:
        self.app = app
        self.keys = keys
        self.cookie = f"{_COOKIE_PREFIX}{port}"
        self.advice = advice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = _headers(scope, b"authorization", b"cookie")
        pairs = [pair.strip().partition("=") for line in given[b"cookie"] for pair in line.split(";")]
        decision = access_tokens.decide(
            self.keys(),
            query=scope["query_string"].decode("latin-1"),
            authorizations=given[b"authorization"],
            cookies=[value for name, _, value in pairs if name == self.cookie],
            reads=scope["method"] in ("GET", "HEAD"),
            now=time.time(),
        )
        match decision:
            case access_tokens.Admitted():
                await self.app(scope, receive, send)
            case access_tokens.SentOn(query, cookie):
                # Exactly one slash, because a path like //host would send the browser to another host.
                path = b"/" + scope["raw_path"].lstrip(b"/\\")
                headers = [(b"location", path + b"?" * bool(query) + query.encode("latin-1")), *_NO_TRACE]
                if cookie is not None:
                    headers.append((b"set-cookie", f"{self.cookie}={cookie}; {_COOKIE}".encode()))
                await _answer(send, 303, headers, b"")
            case access_tokens.AccessRefused(reason):
                text = f"{reason} {self.advice}"
                body, kind = orjson.dumps({"error": text}), b"application/json"
                if any("text/html" in value for value in _headers(scope, b"accept")[b"accept"]):
                    body, kind = _page(text), b"text/html; charset=utf-8"
                await _answer(send, 401, [(b"content-type", kind), (b"www-authenticate", b"Bearer"), *_NO_TRACE], body)


def without_our_cookies(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a request's headers without the cookies of `TokenGuard`, which must not be recorded or forwarded."""
    kept = []
    for name, value in headers:
        if name != b"cookie":
            kept.append((name, value))
        elif others := [cookie for cookie in value.split(b";") if not cookie.strip().startswith(_COOKIE_PREFIX.encode())]:
            kept.append((name, b";".join(others).strip()))
    return kept


_COOKIE_PREFIX = "userhooks-"
_COOKIE = f"Max-Age={access_tokens.COOKIE_SECONDS}; Path=/; HttpOnly; SameSite=Lax"
"""Attributes of the cookie. A link from JupyterLab at `localhost` to `127.0.0.1` is cross-site, so `Strict` would drop the cookie."""

_STYLE = "body { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem }"
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_NO_TRACE = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", _POLICY.encode()),
]


def _page(text: str) -> bytes:
    marked_up = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return _PAGE.format(style=_STYLE, text=marked_up).encode()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>No access</title>
<style>{style}</style>
</head>
<body>
<main><h1>No access</h1><p class="problem">{text}</p></main>
</body>
</html>
"""
