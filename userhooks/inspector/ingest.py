"""The receiving end: `/in/{inbox}` and below, any method; everything else goes on to the app behind (app.py).

A bare ASGI app, since a router in front of it costs a third of the throughput. It only reads, records and answers: no body is parsed here.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Sequence

import orjson

from userhooks.inspector.protocol import RESET
from userhooks.inspector.request_store import RequestStore, StoredInbox
from userhooks.inspector.response_script import DRIP_BYTES, OVERSIZED_BYTES, ScriptedAnswer, decide
from userhooks.web.host_guard import App, Receive, Scope, Send, without_our_cookies

BODY_LIMIT = 64 << 20
"""Bytes; a larger body is answered with 413, and the request is recorded without it."""

IN_FLIGHT_LIMIT = 512 << 20
"""Bytes of bodies that may be in memory at once; beyond it a sender gets 503, which it retries."""

BODY_SECONDS = 60.0
"""How long a body may take to arrive; beyond it 408, and the request is recorded without it."""

TOO_LARGE = "the body was larger than 64 MB"
TOO_SLOW = "the body did not arrive within a minute"
NOT_KEPT = (TOO_LARGE, TOO_SLOW)
SENDER_LEFT = "the sender left before the answer"
RESET_NOTE = "the connection was reset without an answer"


class Ingest:
    """Record each request to an inbox, then answer it as the inbox is set to. `clock` returns microseconds since 1970 (UTC)."""

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
                send, 404, "There is no such inbox. Copy its URL again from the inspector's page, or create one: POST /api/inboxes."
            )
            return
        taken = await self._take(inbox, scope, receive, send)
        if taken is not None:
            await self._respond(inbox, *taken, scope, receive, send)

    async def _take(self, inbox: StoredInbox, scope: Scope, receive: Receive, send: Send) -> tuple[int, ScriptedAnswer] | None:
        """Receive and record one request; returns its seq and the answer to give, None when all is said already.

        Its body is not held any longer then: an answer may take minutes.
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
                    too_large, too_many = size > BODY_LIMIT, self.in_flight > IN_FLIGHT_LIMIT
                    if too_large or too_many or not message["more_body"]:
                        break
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
            if too_large:
                await self._refuse(inbox, scope, send, 413, TOO_LARGE)
                return None
            if too_many:
                await _error(send, 503, "Too many large bodies are being received at once. Send it again in a moment.")
                return None
            return await self._record_and_decide(inbox, scope, b"".join(chunks), send)
        except TimeoutError:
            await self._refuse(inbox, scope, send, 408, TOO_SLOW)
            return None
        finally:
            self.in_flight -= size

    async def _record_and_decide(self, inbox: StoredInbox, scope: Scope, body: bytes, send: Send) -> tuple[int, ScriptedAnswer] | None:
        while inbox.changing:  # from this request on, if the disk takes it
            await asyncio.wait(inbox.changing)
        seq = inbox.next_seq()
        answer = decide(inbox.script, seq - inbox.set_at)
        at_once = not answer.delay and answer.effect not in ("hang", "drip", "reset")
        note = RESET_NOTE if answer.effect == "reset" else ""
        stored = await self._record(inbox, seq, scope, body, send, answer.status if at_once else None, answer.words, note)
        return (seq, answer) if stored else None

    async def _respond(self, inbox: StoredInbox, seq: int, answer: ScriptedAnswer, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a recorded request as the inbox's response script says."""
        if answer.effect == "reset":
            scope["extensions"][RESET]()
            await _sender_leaves(receive, within=None)
            return
        if answer.effect == "hang" or answer.delay:
            stayed = not await _sender_leaves(receive, within=None if answer.effect == "hang" else answer.delay)
        elif answer.effect == "drip":
            stayed = await _drip(receive, send, answer)
        else:
            await _give(send, answer, inbox)
            return
        await self.store.answered(inbox, seq, answer.status if stayed else None, "" if stayed else SENDER_LEFT)
        if stayed and answer.effect != "drip":
            await _give(send, answer, inbox)

    async def _refuse(self, inbox: StoredInbox, scope: Scope, send: Send, status: int, why: str) -> None:
        """Show in the inbox that a body was not kept; the server reads and discards the rest of it."""
        if await self._record(inbox, inbox.next_seq(), scope, b"", send, status, str(status), why):
            await _error(send, status, f"The request was not kept: {why}.", [(b"connection", b"close")] if status == 408 else [])

    async def _record(
        self, inbox: StoredInbox, seq: int, scope: Scope, body: bytes, send: Send, status: int | None, response: str, note: str
    ) -> bool:
        """Store the request; when that fails, say so to the sender, who will send it again, and return False."""
        headers = scope["headers"]
        if b"cookie" in dict(headers):  # a person has opened the address in a browser
            headers = without_our_cookies(headers)
        target = scope["raw_path"], scope["query_string"], headers
        try:
            await self.store.record(inbox, seq, self.clock(), scope["method"], *target, body, status, response, note)
        except sqlite3.Error as error:
            print(f"a request could not be stored: {error}", file=sys.stderr, flush=True)  # stderr is this program's log
            await _error(send, 500, f"The inspector could not store the request: {error}. Is the disk full?")
            return False
        return True


async def _sender_leaves(receive: Receive, within: float | None) -> bool:
    """Whether the sender closes the connection within that many seconds; None waits until it does."""
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
        await _send(send, answer.status, [] if answer.retry_after is None else [(b"retry-after", b"%d" % answer.retry_after)])


async def _drip(receive: Receive, send: Send, answer: ScriptedAnswer) -> bool:
    """Answer one byte a second; False when the sender left before the last one."""
    await send({"type": "http.response.start", "status": answer.status, "headers": [(b"content-length", b"%d" % DRIP_BYTES)]})
    for left in reversed(range(DRIP_BYTES)):
        await send({"type": "http.response.body", "body": b".", "more_body": left > 0})
        if left and await _sender_leaves(receive, within=1):
            return False
    return True


async def _error(send: Send, status: int, error: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    await _send(send, status, [(b"content-type", b"application/json"), *headers], orjson.dumps({"error": error}))


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    length = [] if status in (204, 304) else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": body})
