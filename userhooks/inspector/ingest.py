"""Receive webhooks: requests of any method to `/in/{inbox}` and paths below it. Other requests are passed on to app.py.

This is a plain ASGI app, because a router in front of it would cost a third of the throughput. It reads, records, and answers requests, but
does not parse their bodies.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Sequence

import orjson

from userhooks.inspector.protocol import RESET
from userhooks.inspector.request_store import TOO_LARGE, TOO_SLOW, RequestStore, StoredInbox
from userhooks.inspector.response_script import DRIP_BYTES, OVERSIZED_BYTES, ScriptedAnswer, decide
from userhooks.web.host_guard import App, Receive, Scope, Send, without_our_cookies

BODY_LIMIT = 64 << 20
"""Maximum size of a request body in bytes. A request with a larger body gets 413 and is recorded without it."""

IN_FLIGHT_LIMIT = 512 << 20
"""Maximum bytes of bodies in memory at once; beyond it, senders get 503, which they retry."""

BODY_SECONDS = 60.0
"""Seconds a body may take to arrive; a slower request gets 408 and is recorded without its body."""

SENDER_LEFT = "the sender disconnected before the response"
RESET_NOTE = "the connection was reset without a response"

_SANDBOX = [(b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff")]
"""Headers of a response with a body, which a browser would otherwise treat as one of the inspector's own pages."""


class Ingest:
    """Record each request to an inbox, then answer it as the inbox's response script says.

    `clock` returns microseconds since 1970 (UTC).
    """

    def __init__(self, app: App, store: RequestStore, clock: Callable[[], int], body_seconds: float = BODY_SECONDS) -> None:
        self.app = app
        self.store = store
        self.clock = clock
        self.body_seconds = body_seconds
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/in/"):
            await self.app(scope, receive, send)
            return
        inbox = self.store.by_id.get(scope["path"].split("/", 3)[2])
        if inbox is None:
            await _error(
                send, 404, "There is no inbox at this URL. Copy the URL from the inbox's page, or create an inbox with POST /api/inboxes."
            )
            return
        recorded = await self._receive(inbox, scope, receive, send)
        if recorded is not None:
            await self._respond(inbox, *recorded, scope, receive, send)

    async def _receive(self, inbox: StoredInbox, scope: Scope, receive: Receive, send: Send) -> tuple[int, ScriptedAnswer] | None:
        """Receive and record one request, and return its seq and the response to send.

        Return None if a response was already sent or the sender disconnected. The body is no longer in memory after this returns, because
        the response may be sent minutes later.
        """
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if not message["more_body"]:
            return await self._record_and_decide(inbox, scope, message["body"], send)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.body_seconds):
                while True:
                    chunks.append(message["body"])
                    size += len(message["body"])
                    self.in_flight += len(message["body"])
                    is_too_large, is_memory_full = size > BODY_LIMIT, self.in_flight > IN_FLIGHT_LIMIT
                    if is_too_large or is_memory_full or not message["more_body"]:
                        break
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
            if is_too_large:
                await self._refuse(inbox, scope, send, 413, TOO_LARGE)
                return None
            if is_memory_full:
                await _error(send, 503, "Too many large bodies are being received at once. Retry in a moment.")
                return None
            return await self._record_and_decide(inbox, scope, b"".join(chunks), send)
        except TimeoutError:
            await self._refuse(inbox, scope, send, 408, TOO_SLOW)
            return None
        finally:
            self.in_flight -= size

    async def _record_and_decide(self, inbox: StoredInbox, scope: Scope, body: bytes, send: Send) -> tuple[int, ScriptedAnswer] | None:
        while inbox.changing:  # a script that is being stored applies to this request
            await asyncio.wait(inbox.changing)
        seq = inbox.next_seq()
        answer = decide(inbox.script, seq - inbox.set_at)
        is_immediate = not answer.delay and answer.effect not in ("hang", "drip", "reset")
        note = RESET_NOTE if answer.effect == "reset" else ""
        is_stored = await self._record(inbox, seq, scope, body, send, answer.status if is_immediate else None, answer.words, note)
        return (seq, answer) if is_stored else None

    async def _respond(self, inbox: StoredInbox, seq: int, answer: ScriptedAnswer, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response that was chosen for a recorded request."""
        if answer.effect == "reset":
            scope["extensions"][RESET]()
            await _sender_disconnects(receive, within=None)
            return
        if answer.effect == "hang" or answer.delay:
            is_connected = not await _sender_disconnects(receive, within=None if answer.effect == "hang" else answer.delay)
        elif answer.effect == "drip":
            is_connected = await _drip(receive, send, answer)
        else:
            await _give(send, answer, inbox)
            return
        await self.store.answered(inbox, seq, answer.status if is_connected else None, "" if is_connected else SENDER_LEFT)
        if is_connected and answer.effect != "drip":
            await _give(send, answer, inbox)

    async def _refuse(self, inbox: StoredInbox, scope: Scope, send: Send, status: int, why: str) -> None:
        """Record a request without its body, and answer it with an error; uvicorn reads and discards the rest of the body."""
        if await self._record(inbox, inbox.next_seq(), scope, b"", send, status, str(status), why):
            await _error(
                send, status, f"The request was recorded without its body: {why}.", [(b"connection", b"close")] if status == 408 else []
            )

    async def _record(
        self, inbox: StoredInbox, seq: int, scope: Scope, body: bytes, send: Send, status: int | None, response: str, note: str
    ) -> bool:
        """Store the request and return True. If that fails, answer with 500, so that the sender retries, and return False."""
        headers = scope["headers"]
        if b"cookie" in dict(headers):  # someone opened the URL in a browser
            headers = without_our_cookies(headers)
        target = scope["raw_path"], scope["query_string"], headers
        try:
            await self.store.record(inbox, seq, self.clock(), scope["method"], *target, body, status, response, note)
        except sqlite3.Error as error:
            print(f"a request could not be stored: {error}", file=sys.stderr, flush=True)  # stderr is this program's log
            await _error(send, 500, f"The inspector could not store the request: {error}. Is the disk full?")
            return False
        return True


async def _sender_disconnects(receive: Receive, within: float | None) -> bool:
    """Return whether the sender closes the connection within `within` seconds. If `within` is None, wait until the sender does."""
    try:
        async with asyncio.timeout(within):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


async def _give(send: Send, answer: ScriptedAnswer, inbox: StoredInbox) -> None:
    if answer.effect == "oversized":
        await _send(send, 200, [(b"content-type", b"application/octet-stream")], b"x" * OVERSIZED_BYTES)
    elif answer.effect == "redirect":
        await _send(send, answer.status, [(b"location", f"/in/{inbox.id}".encode())])
    else:
        headers = [] if answer.retry_after is None else [(b"retry-after", b"%d" % answer.retry_after)]
        headers += [(name.encode(), value.encode()) for name, value in answer.headers]
        await _send(send, answer.status, headers + _SANDBOX if answer.body else headers, answer.body.encode())


async def _drip(receive: Receive, send: Send, answer: ScriptedAnswer) -> bool:
    """Send the response one byte per second; return False if the sender disconnected before the last byte."""
    await send({"type": "http.response.start", "status": answer.status, "headers": [(b"content-length", b"%d" % DRIP_BYTES)]})
    for remaining in reversed(range(DRIP_BYTES)):
        await send({"type": "http.response.body", "body": b".", "more_body": remaining > 0})
        if remaining and await _sender_disconnects(receive, within=1):
            return False
    return True


async def _error(send: Send, status: int, error: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    await _send(send, status, [(b"content-type", b"application/json"), *headers], orjson.dumps({"error": error}))


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    length = [] if status in (204, 304) else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": body})
