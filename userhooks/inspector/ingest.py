"""The receiving end: `/in/{inbox}` and below, any method; everything else goes on to the app behind (api.py).

A bare ASGI app, since a router in front of it costs a third of the throughput. It only reads, records and answers: no body is parsed here.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable

import orjson

from userhooks.guard import App, Receive, Scope, Send
from userhooks.inspector.store import Inbox, Store

BODY_LIMIT = 64 << 20
"""Bytes; a larger body is answered with 413, and the request is recorded without it."""

IN_FLIGHT_LIMIT = 512 << 20
"""Bytes of bodies that may be in memory at once; beyond it a sender gets 503, which it retries."""

TOO_LARGE = "the body was larger than 64 MB and was not kept"
SENDER_LEFT = "the sender left before the answer"


class Ingest:
    """Record each request to an inbox, then answer it as the inbox is set to. `clock` returns microseconds since 1970 (UTC)."""

    def __init__(self, app: App, store: Store, clock: Callable[[], int]) -> None:
        self.app = app
        self.store = store
        self.clock = clock
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/in/"):
            await self.app(scope, receive, send)
            return
        inbox = self.store.by_id.get(scope["path"].split("/", 3)[2])
        if inbox is None:
            await _answer(
                send, 404, "There is no such inbox. Copy its URL again from the inspector's page, or create one: POST /api/inboxes."
            )
            return
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message["more_body"]:
            await self._take(inbox, scope, message["body"], receive, send)
            return
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                chunks.append(message["body"])
                size += len(message["body"])
                self.in_flight += len(message["body"])
                if size > BODY_LIMIT:
                    await self._refuse(inbox, scope, send)
                    return
                if self.in_flight > IN_FLIGHT_LIMIT:
                    await _answer(send, 503, "Too many large bodies are being received at once. Send it again in a moment.")
                    return
                if not message["more_body"]:
                    break
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
            await self._take(inbox, scope, b"".join(chunks), receive, send)
        finally:
            self.in_flight -= size

    async def _take(self, inbox: Inbox, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Record a complete request, then answer it as the inbox is set to."""
        setting = inbox.response
        seq = inbox.next_seq()
        status = setting.status_for(seq - inbox.set_at)
        if not await self._record(inbox, seq, scope, body, send, status=None if setting.delay else status):
            return
        if setting.delay:
            if await _sender_leaves(receive, within=setting.delay):
                await self.store.answered(inbox, seq, None, SENDER_LEFT)
                return
            await self.store.answered(inbox, seq, status)
        await _answer(send, status)

    async def _refuse(self, inbox: Inbox, scope: Scope, send: Send) -> None:
        """Show in the inbox that a body was too large, without the body; the server reads and discards the rest of it."""
        if await self._record(inbox, inbox.next_seq(), scope, b"", send, status=413, note=TOO_LARGE):
            await _answer(send, 413, "The body is larger than 64 MB, which is the limit of the inspector.")

    async def _record(self, inbox: Inbox, seq: int, scope: Scope, body: bytes, send: Send, *, status: int | None, note: str = "") -> bool:
        """Store the request; when that fails, say so to the sender, who will send it again, and return False."""
        target = scope["raw_path"], scope["query_string"], scope["headers"]
        try:
            await self.store.record(inbox, seq, self.clock(), scope["method"], *target, body, status, note)
        except sqlite3.Error as error:
            print(f"a request could not be stored: {error}", file=sys.stderr, flush=True)  # stderr is this program's log
            await _answer(send, 500, f"The inspector could not store the request: {error}. Is the disk full?")
            return False
        return True


async def _sender_leaves(receive: Receive, within: float) -> bool:
    """Whether the sender closes the connection within that many seconds."""
    try:
        async with asyncio.timeout(within):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


async def _answer(send: Send, status: int, error: str = "") -> None:
    body = orjson.dumps({"error": error}) if error else b""
    headers = [] if status in (204, 304) else [(b"content-length", str(len(body)).encode())]
    if error:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
