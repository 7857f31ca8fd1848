"""The inspector's API, and the function that builds the whole app.

Webhooks are received in ingest.py, stored in request_store.py, and judged in entries.py and judgement.py.

An inbox:
    {"id", "name", "url", "page", "count": 12, "first_seq": 1, "last_seq": 12, "dropped": 0,
     "restorable": 0,                            requests that `POST …/requests/restore` brings back, for 10 s after `DELETE …/requests`
     "response": {"script": [rule, …],           as sent to `PUT …/response` in `{"script": [rule, …]}`; [] means 200 immediately
                  "words": ["first 3: 500", "else: 200"],
                  "requests": 5}}                number since the script was set; the next request is the 6th
A rule has at most one of "first": N | "every": K | "percent": P with "seed": S. It also has either "status", "delay" (seconds),
"retry_after" (seconds), "headers" ({"name": "value"}), and "body" (a string of up to 64 kB), all optional, or
"effect": "hang" | "drip" | "reset" | "redirect" | "oversized".
A request, in `GET …/requests` and in the `request` events:
    {"seq": 7, "received_at": "2026-01-01T00:00:00.000000Z", "method", "path", "query", "headers": [["k", "v"], …],
     "body", "body_encoding": "utf-8" | "base64", "size": 123, "truncated": false,     if truncated, "body" has `body_limit` bytes
     "decoded": null | text, "decoded_encoding", "decoded_truncated": false,           a gzip or deflate body, decompressed
     "response_status": 500 | null,              null if no response was sent, or not yet (then `note` is "")
     "response": "500, rule 1: first 3",         chosen by the script; "200, no rule"; "" if an older inspector received it
     "secret": "ok" | "wrong" | "missing" | "not applicable", "secret_reason": "…",
     "judgements": [{"kind", "text", "seq"?}],   empty if nothing is wrong; kinds: secret (wrong or missing), foreign,
                                                 duplicate_of (seq), out_of_order_with (seq), late, body (does not match its headers),
                                                 unread (could not be judged completely)
     "note": ""}
`GET …/requests?after=0&limit=100&body_limit=67108864`: {"requests": [request, …], "dropped": 0, "last_seq": 12}. If there are more, the
    response has the header `Link: <…?after=7…>; rel="next"`.
`GET …/requests.ndjson`: every request in the inbox, one object per line.
`POST …/requests/{seq}/send` with {"inbox": id}: sends the same request again to an inbox of this inspector, and returns
    {"inbox": id, "status": 200 | null}          null if no response arrived within send_again.SECONDS
`GET …/rates?seconds=60`: the most recent seconds, oldest first, including seconds without requests:
    {"rates": [{"second": 1767225600 (unix), "requests": 9, "accepted": 7 (2xx), "refused": 1, "unanswered": 1 (no response, or not yet),
                "rows": 5 (inserts accepted for the first time),
                "latency_ms": {"p50": 1.2, "max": 9.0} | null (from commit to receipt)}, …]}
`GET /api/stack`: {"parts": [{"name": "sequin", "state": "running" | "down"}, …], "console": true (`GET /console` redirects to it)}
An error: {"error": "what happened, and what to do", "field"?: "script[0].status"}.
Every call except `/in/…` and `/health` requires `Authorization: Bearer <token>` or a browser's cookie (web/host_guard.py). Without either,
the response is 401.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from userhooks.errors import InvalidInput, NotFound
from userhooks.inspector.entries import Entries
from userhooks.inspector.ingest import BODY_LIMIT, Ingest
from userhooks.inspector.rates import KEPT_SECONDS
from userhooks.inspector.request_store import NOT_KEPT, UNDO_SECONDS, RequestStore, StoredInbox
from userhooks.inspector.response_script import describe_script, parse_script
from userhooks.inspector.send_again import send_again
from userhooks.inspector.web_pages import PAGE, PAGE_HEADERS
from userhooks.web.access_tokens import key_of, page_link
from userhooks.web.host_guard import App, HostGuard, TokenGuard
from userhooks.web.stack_parts import PartAddress, StackParts

DEFAULT_LIMIT = 100
HIGHEST_LIMIT = 10_000
CALL_BYTES = 1 << 20
EXPORT_ROWS = 500
EVENT_ROWS = 200
EVENT_BODY = 64 << 10
"""Maximum bytes of a body in an event. Longer bodies are truncated in events, but complete in `GET …/requests`."""

EVENT_PAUSE = 0.05
"""Seconds between reads of a busy inbox, so that an open page does not slow down receiving."""

HEARTBEAT = 15.0
"""Seconds without events after which a comment is sent to keep the stream alive."""

_ADVICE = (
    "Open the link that `userhooks inbox NAME` or `userhooks status` prints in a terminal, or `print(inbox.page)` in a notebook. "
    "Programs send the header `Authorization: Bearer <token>`; `userhooks status --json` shows the token as inspector.token."
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The inspector's base URLs, like `http://127.0.0.1:3334`: `local` for people on this machine, `public` for senders."""

    local: str
    public: str

    def own_bases(self) -> list[str]:
        """Return every base URL that the URL of a subscribed inbox may start with."""
        return list(dict.fromkeys([self.public, self.local, f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"]))

    @property
    def port(self) -> int:
        """The port that the inspector listens on."""
        return int(self.local.rsplit(":", 1)[1])


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The rest of the stack, which the inspector's pages show: the other parts, and the console's URL and token if there is a console."""

    parts: Sequence[PartAddress] = ()
    console_url: str | None = None
    console_token: str | None = None


def build_app(
    store: RequestStore, addresses: Addresses, home_key: bytes, token: str, clock: Callable[[], int], surroundings: Surroundings
) -> App:
    """Return the inspector as one ASGI app, which opens the store on startup and closes it on shutdown.

    `clock` returns microseconds since 1970 (UTC).
    """
    api = _Api(store, addresses, home_key, clock, surroundings)
    key = key_of(token)
    guard = Middleware(TokenGuard, keys=lambda: [key], port=addresses.port, advice=_ADVICE)
    guarded = [
        Route("/api/inboxes", api.create, methods=["POST"]),
        Route("/api/inboxes", api.index),
        Route("/api/stack", api.stack),
        Route("/api/inboxes/{id}", api.show),
        Route("/api/inboxes/{id}/requests", api.requests, methods=["GET"]),
        Route("/api/inboxes/{id}/requests", api.clear, methods=["DELETE"]),
        Route("/api/inboxes/{id}/requests/restore", api.restore, methods=["POST"]),
        Route("/api/inboxes/{id}/requests.ndjson", api.export),
        Route("/api/inboxes/{id}/requests/{seq}/send", api.send, methods=["POST"]),
        Route("/api/inboxes/{id}/rates", api.rates),
        Route("/api/inboxes/{id}/events", api.events),
        Route("/api/inboxes/{id}/response", api.respond, methods=["PUT"]),
        Route("/", api.page),
        Route("/console", api.console),
        Route("/inboxes/{id}", api.page),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await store.open()
        yield
        await store.close()

    starlette = Starlette(
        routes=[
            Route("/health", api.health),
            Mount("/", routes=guarded, middleware=[guard]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            InvalidInput: _invalid,
            NotFound: _not_found,
            sqlite3.Error: _broken_store,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    ingest = Ingest(starlette, store, clock)
    return HostGuard(ingest, [addresses.local, addresses.public], json_paths=("/api/",))


class _Api:
    def __init__(
        self, store: RequestStore, addresses: Addresses, home_key: bytes, clock: Callable[[], int], surroundings: Surroundings
    ) -> None:
        self.surroundings = surroundings
        self.parts = StackParts(surroundings.parts)
        self.store = store
        self.addresses = addresses
        self.clock = clock
        self.entries = Entries(store, home_key, addresses.own_bases())

    async def health(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def stack(self, _request: Request) -> Response:
        states = {**await self.parts.states(), "inspector": "running"}
        parts = [{"name": name, "state": state} for name, state in states.items()]
        return _json({"parts": parts, "console": self.surroundings.console_url is not None})

    async def console(self, _request: Request) -> Response:
        """Redirect to the console, with a link that gives this browser access to it."""
        url, token = self.surroundings.console_url, self.surroundings.console_token
        if url is None:
            raise NotFound("There is no console.", "Start the whole stack with userhooks up.")
        link = url if token is None else page_link(url, token, time.time())
        return RedirectResponse(link, 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

    async def create(self, request: Request) -> Response:
        payload = await _json_body(request)
        if not isinstance(payload, dict):
            raise InvalidInput("body", "The body is not a JSON object.", 'Send {} or {"name": "ada"}.')
        for key in payload:
            if key != "name":
                raise InvalidInput(str(key), f"An inbox has no field {key!r}.", 'The only field is "name".')
        name = payload.get("name")
        if name is not None and not (isinstance(name, str) and 0 < len(name.strip()) == len(name) <= 100 and name.isprintable()):
            raise InvalidInput(
                "name", f"name is {name!r}.", "It must be a string of 1 to 100 printable characters, without leading or trailing spaces."
            )
        inbox, created = await self.store.create(name)
        return _json(self._inbox_json(inbox), 201 if created else 200)

    async def index(self, _request: Request) -> Response:
        return _json({"inboxes": [self._inbox_json(inbox) for inbox in self.store.by_id.values()]})

    async def show(self, request: Request) -> Response:
        return _json(self._inbox_json(self._inbox_of(request)))

    async def requests(self, request: Request) -> Response:
        inbox = self._inbox_of(request)
        after = _whole(request, "after", 0, 0, 1 << 40)
        limit = _whole(request, "limit", DEFAULT_LIMIT, 1, HIGHEST_LIMIT)
        body_limit = _whole(request, "body_limit", BODY_LIMIT, 0, BODY_LIMIT)
        last, dropped = inbox.stored, inbox.dropped
        entries = await run_in_threadpool(self.entries.read, inbox, after, limit, body_limit)
        parts = (b'{"requests":[', b",".join([entry.json for entry in entries]), b'],"dropped":%d,"last_seq":%d}' % (dropped, last))
        next_after = entries[-1].seq if entries and entries[-1].seq < last else None
        url = f"{request.url.path}?after={next_after}&limit={limit}&body_limit={body_limit}"
        headers = {} if next_after is None else {"Link": f'<{url}>; rel="next"'}
        return Response(b"".join(parts), headers=headers, media_type="application/json")

    async def clear(self, request: Request) -> Response:
        await self.store.clear(self._inbox_of(request))
        return Response(status_code=204)

    async def restore(self, request: Request) -> Response:
        inbox = self._inbox_of(request)
        if not await self.store.restore(inbox):
            raise NotFound("There is no clearing to undo.", f"Clearing can be undone for {UNDO_SECONDS:g} seconds.")
        return _json(self._inbox_json(inbox))

    async def export(self, request: Request) -> Response:
        inbox = self._inbox_of(request)
        headers = {"Content-Disposition": f'attachment; filename="{inbox.id}.ndjson"', "Cache-Control": "no-store"}
        return StreamingResponse(self._lines(inbox), media_type="application/x-ndjson", headers=headers)

    async def send(self, request: Request) -> Response:
        inbox = self._inbox_of(request)
        payload = await _json_body(request)
        if not isinstance(payload, dict) or list(payload) != ["inbox"] or not isinstance(payload["inbox"], str):
            raise InvalidInput("inbox", "The body does not name an inbox.", 'Send {"inbox": "<id of an inbox of this inspector>"}.')
        target = self.store.by_id.get(payload["inbox"])
        if target is None:
            raise InvalidInput("inbox", "There is no inbox with this id.", "GET /api/inboxes lists the inboxes.")
        text = request.path_params["seq"]
        seq = int(text) if text.isascii() and text.isdigit() and len(text) < 13 else 0
        requests = await run_in_threadpool(self.store.read, inbox, seq - 1, 1, 1) if seq else []
        if not requests or requests[0].seq != seq:
            raise NotFound(f"There is no request {text} in this inbox.", "It may have been dropped or cleared.")
        if requests[0].note in NOT_KEPT:
            raise InvalidInput("seq", f"Request {seq} cannot be sent again: {requests[0].note}.")
        return _json({"inbox": target.id, "status": await send_again(requests[0], target.id, self.addresses.local)})

    async def rates(self, request: Request) -> Response:
        inbox = self._inbox_of(request)
        seconds = _whole(request, "seconds", 60, 1, KEPT_SECONDS)
        return _json({"rates": await run_in_threadpool(self.entries.rates, inbox, self.clock() / 1e6, seconds)})

    async def respond(self, request: Request) -> Response:
        """Set the response script from the body `{"script": [rule, …]}`, and return the inbox's new `response`."""
        inbox = self._inbox_of(request)
        payload = await _json_body(request)
        if not isinstance(payload, dict) or list(payload) != ["script"]:
            raise InvalidInput("body", 'The body is not {"script": [...]}.', 'For example: {"script": [{"first": 3, "status": 500}]}.')
        await self.store.set_script(inbox, parse_script(payload["script"]))
        return _json(self._inbox_json(inbox)["response"])

    async def events(self, request: Request) -> Response:
        """Stream server-sent events: `request` (an object as in `GET …/requests`, id = seq) and `inbox` (an inbox object).

        A request that is streamed before its response is sent is streamed again afterwards, without an id. A client starts at
        `?after=SEQ`, and resumes with Last-Event-ID, which browsers send automatically.
        """
        inbox = self._inbox_of(request)
        after = _whole(request, "after", 0, 0, 1 << 40)
        resumed = request.headers.get("last-event-id", "")
        if resumed.isascii() and resumed.isdigit() and len(resumed) < 20:
            after = int(resumed)
        return StreamingResponse(self._stream(inbox, after), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def page(self, request: Request) -> Response:
        unknown = "id" in request.path_params and request.path_params["id"] not in self.store.by_id
        return HTMLResponse(PAGE, 404 if unknown else 200, headers=PAGE_HEADERS)

    async def _stream(self, inbox: StoredInbox, after: int) -> AsyncIterator[bytes]:
        unanswered: set[int] = set()
        yield b"retry: 1000\n\n"
        while True:
            changed = self.store.next_change(inbox)
            if unanswered:
                still_unanswered = await run_in_threadpool(self.store.unanswered, inbox)
                for seq in sorted(unanswered - still_unanswered):
                    yield b"".join((await run_in_threadpool(self._announce, inbox, seq - 1, 1, unanswered)).values())
                unanswered &= still_unanswered
            while events := await run_in_threadpool(self._announce, inbox, after, EVENT_ROWS, unanswered):
                yield b"".join([b"id: %d\n%b" % announced for announced in events.items()])
                after = max(events)
            yield b"event: inbox\ndata: " + orjson.dumps(self._inbox_json(inbox)) + b"\n\n"
            while not changed.done():
                await asyncio.wait([changed], timeout=HEARTBEAT)
                if not changed.done():
                    yield b": nothing new\n\n"
            await asyncio.sleep(EVENT_PAUSE)

    async def _lines(self, inbox: StoredInbox) -> AsyncIterator[bytes]:
        after, last = 0, inbox.stored
        while after < last and (entries := await run_in_threadpool(self.entries.read, inbox, after, EXPORT_ROWS, BODY_LIMIT)):
            yield b"".join([b"%b\n" % entry.json for entry in entries])
            after = entries[-1].seq

    def _announce(self, inbox: StoredInbox, after: int, limit: int, unanswered: set[int]) -> dict[int, bytes]:
        """Return the `request` events after a seq, keyed by seq, and add the unanswered requests to `unanswered`."""
        entries = self.entries.read(inbox, after, limit, EVENT_BODY)
        unanswered |= {entry.seq for entry in entries if entry.unanswered}
        return {entry.seq: b"event: request\ndata: %b\n\n" % entry.json for entry in entries}

    def _inbox_json(self, inbox: StoredInbox) -> dict[str, Any]:
        return {
            "id": inbox.id,
            "name": inbox.name,
            "url": f"{self.addresses.public}/in/{inbox.id}",
            "page": f"{self.addresses.local}/inboxes/{inbox.id}",
            "count": inbox.count,
            "first_seq": inbox.floor + 1,
            "last_seq": inbox.stored,
            "dropped": inbox.dropped,
            "restorable": inbox.restorable,
            "response": {
                "script": [rule.as_json() for rule in inbox.script],
                "words": describe_script(inbox.script),
                "requests": inbox.last - inbox.set_at,
            },
        }

    def _inbox_of(self, request: Request) -> StoredInbox:
        inbox = self.store.by_id.get(request.path_params["id"])
        if inbox is None:
            raise NotFound("There is no inbox with this id.", "GET /api/inboxes lists them; POST /api/inboxes creates one.")
        return inbox


async def _json_body(request: Request) -> object:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > CALL_BYTES:
            raise InvalidInput("body", "The body is larger than 1 MB.", "Send less in one call.")
    try:
        return orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise InvalidInput("body", f"The body is not valid JSON: {error}.", "Send a JSON object.") from None


def _whole(request: Request, name: str, default: int, lowest: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and lowest <= int(text) <= highest):
        raise InvalidInput(name, f"{name} is {text!r}.", f"It must be a whole number from {lowest} to {highest}.")
    return int(text)


def _json(payload: object, status: int = 200) -> Response:
    return Response(orjson.dumps(payload), status, media_type="application/json")


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidInput)  # noqa: S101
    return _json({"error": f"{error.what} {error.remedy}", "field": error.field}, 400)


def _not_found(_request: Request, error: Exception) -> Response:
    assert isinstance(error, NotFound)  # noqa: S101
    return _json({"error": f"{error.what} {error.remedy}"}, 404)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    texts = {404: f"There is nothing at {request.url.path}.", 405: f"{request.url.path} does not support {request.method}."}
    return _json({"error": texts.get(error.status_code, error.detail)}, error.status_code)


def _broken_store(_request: Request, error: Exception) -> Response:
    return _json({"error": f"The inspector's store failed: {error}. Is the disk full?"}, 500)


def _failed(request: Request, error: Exception) -> Response:
    """Return 500; Starlette then raises the error again, so that it is logged."""
    return _json({"error": f"{request.method} {request.url.path} failed ({type(error).__name__}). See the inspector's log."}, 500)
