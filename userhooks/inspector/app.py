"""The inspector's API and pages for people, and the whole app put together.

Receiving webhooks lives in ingest.py, keeping them in request_store.py, judging them in entries.py and judgement.py.

An inbox:
    {"id", "name", "url", "page", "count": 12, "first_seq": 1, "last_seq": 12, "dropped": 0,
     "response": {"script": [rule, …],           as `PUT …/response` takes it, `{"script": [rule, …]}`; [] answers 200 at once
                  "words": ["first 3: 500", "else: 200"],
                  "requests": 5}}                since the script was set; the next one is the 6th
A rule: at most one of "first": N | "every": K | "percent": P with "seed": S; and "status", "delay" (s), "retry_after" (s), all optional,
or "effect": "hang" | "drip" | "reset" | "redirect" | "oversized".
A request, in `GET …/requests` and in the `request` events:
    {"seq": 7, "received_at": "2026-01-01T00:00:00.000000Z", "method", "path", "query", "headers": [["k", "v"], …],
     "body", "body_encoding": "utf-8" | "base64", "size": 123, "truncated": false,     cut to `body_limit` bytes when truncated
     "decoded": null | text, "decoded_encoding", "decoded_truncated": false,           of a gzip or deflate body, unpacked
     "response_status": 500 | null,              null while the answer is to come (then `note` is "") or none was given
     "response": "500, rule 1: first 3",         what the script wanted; "200, no rule"; "" when an older inspector received it
     "secret": "ok" | "wrong" | "missing" | "not applicable", "secret_reason": "…",
     "judgements": [{"kind", "text", "seq"?}],   empty when there is nothing to say; kinds: secret (wrong or missing), foreign,
                                                 duplicate_of (seq), out_of_order_with (seq), late, body (not what its headers say),
                                                 unread (could not be judged, or not in full)
     "note": ""}
`GET …/requests?after=0&limit=100&body_limit=67108864`: {"requests": [request, …], "dropped": 0, "last_seq": 12}; where there are more, with
    the header `Link: <…?after=7…>; rel="next"`.
`GET …/requests.ndjson`: every request in the inbox, one such object a line.
`POST …/requests/{seq}/send` with {"inbox": id}: the request once more, as it was, to an inbox of this inspector; answers
    {"inbox": id, "status": 200 | null}          null when none came within send_again.SECONDS
`GET …/rates?seconds=60`: the newest seconds, oldest first, those without a request included:
    {"rates": [{"second": 1767225600 (unix), "requests": 9, "accepted": 7 (2xx), "refused": 1, "unanswered": 1 (yet or ever),
                "rows": 5 (whose inserts were accepted for the first time),
                "latency_ms": {"p50": 1.2, "max": 9.0} | null (from commit to receipt)}, …]}
An error: {"error": "what happened, and what to do", "field"?: "script[0].status"}.
Every call but `/in/…` and `/health` needs `Authorization: Bearer <token>`, or a browser's cookie (web/host_guard.py); without it the
answer is 401.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from userhooks.errors import InvalidInput, NotFound
from userhooks.inspector.entries import Entries
from userhooks.inspector.ingest import BODY_LIMIT, NOT_KEPT, Ingest
from userhooks.inspector.rates import KEPT_SECONDS
from userhooks.inspector.request_store import RequestStore, StoredInbox
from userhooks.inspector.response_script import in_words, parse_script
from userhooks.inspector.send_again import send_again
from userhooks.web.access_tokens import key_of
from userhooks.web.host_guard import App, HostGuard, TokenGuard

DEFAULT_LIMIT = 100
HIGHEST_LIMIT = 10_000
CALL_BYTES = 1 << 20
EXPORT_ROWS = 500
EVENT_ROWS = 200
EVENT_BODY = 64 << 10
"""A longer body is cut in events (`"truncated": true`); the requests call has it in full."""

EVENT_PAUSE = 0.05
"""Seconds between two looks at a busy inbox, so that watching does not slow receiving."""

HEARTBEAT = 15.0
"""Seconds after which a silent event stream says that it is alive."""

_ADVICE = (
    "Open the link that `userhooks inbox NAME` or `userhooks status` prints in a terminal, or `print(inbox.page)` in a notebook. "
    "Programs send the header `Authorization: Bearer <token>`; `userhooks status --json` shows it as inspector.token."
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the inspector is called: `local` by people on this machine, `public` by senders; both like `http://127.0.0.1:3334`."""

    local: str
    public: str

    def own_bases(self) -> list[str]:
        """Every beginning that the URL of an inbox may have been given with."""
        return list(dict.fromkeys([self.public, self.local, f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"]))

    @property
    def port(self) -> int:
        """The port that the inspector listens on."""
        return int(self.local.rsplit(":", 1)[1])


def build_app(store: RequestStore, addresses: Addresses, home_key: bytes, token: str, clock: Callable[[], int]) -> App:
    """The whole inspector as one ASGI app; it opens the store when the server starts and closes it when it ends."""
    api = _Api(store, addresses, home_key, clock)
    key = key_of(token)
    guard = Middleware(TokenGuard, keys=lambda: [key], port=addresses.port, advice=_ADVICE)
    guarded = [
        Route("/api/inboxes", api.create, methods=["POST"]),
        Route("/api/inboxes", api.index),
        Route("/api/inboxes/{id}", api.show),
        Route("/api/inboxes/{id}/requests", api.requests, methods=["GET"]),
        Route("/api/inboxes/{id}/requests", api.clear, methods=["DELETE"]),
        Route("/api/inboxes/{id}/requests.ndjson", api.export),
        Route("/api/inboxes/{id}/requests/{seq}/send", api.send, methods=["POST"]),
        Route("/api/inboxes/{id}/rates", api.rates),
        Route("/api/inboxes/{id}/events", api.events),
        Route("/api/inboxes/{id}/response", api.respond, methods=["PUT"]),
        Route("/", api.page),
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
    def __init__(self, store: RequestStore, addresses: Addresses, home_key: bytes, clock: Callable[[], int]) -> None:
        self.store = store
        self.addresses = addresses
        self.clock = clock
        self.entries = Entries(store, home_key, addresses.own_bases())

    async def health(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def create(self, request: Request) -> Response:
        payload = await _json_body(request)
        if not isinstance(payload, dict):
            raise InvalidInput("body", "The body is no JSON object.", 'Send {} or {"name": "ada"}.')
        for key in payload:
            if key != "name":
                raise InvalidInput(str(key), f"{key!r} is no field of an inbox.", 'The one field is "name".')
        name = payload.get("name")
        if name is not None and not (isinstance(name, str) and 0 < len(name.strip()) == len(name) <= 100 and name.isprintable()):
            raise InvalidInput(
                "name", f"name is {name!r}.", "It must be a text of 1 to 100 printable characters, without blanks around it."
            )
        inbox, created = await self.store.create(name)
        return _json(self._inbox(inbox), 201 if created else 200)

    async def index(self, _request: Request) -> Response:
        return _json({"inboxes": [self._inbox(inbox) for inbox in self.store.by_id.values()]})

    async def show(self, request: Request) -> Response:
        return _json(self._inbox(self._wanted(request)))

    async def requests(self, request: Request) -> Response:
        inbox = self._wanted(request)
        after = _whole(request, "after", 0, 0, 1 << 40)
        limit = _whole(request, "limit", DEFAULT_LIMIT, 1, HIGHEST_LIMIT)
        body_limit = _whole(request, "body_limit", BODY_LIMIT, 0, BODY_LIMIT)
        last, dropped = inbox.stored, inbox.dropped
        entries = await run_in_threadpool(self.entries.read, inbox, after, limit, body_limit)
        parts = (b'{"requests":[', b",".join([entry.json for entry in entries]), b'],"dropped":%d,"last_seq":%d}' % (dropped, last))
        more = entries[-1].seq if entries and entries[-1].seq < last else None
        url = f"{request.url.path}?after={more}&limit={limit}&body_limit={body_limit}"
        headers = {} if more is None else {"Link": f'<{url}>; rel="next"'}
        return Response(b"".join(parts), headers=headers, media_type="application/json")

    async def clear(self, request: Request) -> Response:
        await self.store.clear(self._wanted(request))
        return Response(status_code=204)

    async def export(self, request: Request) -> Response:
        inbox = self._wanted(request)
        headers = {"Content-Disposition": f'attachment; filename="{inbox.id}.ndjson"', "Cache-Control": "no-store"}
        return StreamingResponse(self._lines(inbox), media_type="application/x-ndjson", headers=headers)

    async def send(self, request: Request) -> Response:
        inbox = self._wanted(request)
        payload = await _json_body(request)
        if not isinstance(payload, dict) or list(payload) != ["inbox"] or not isinstance(payload["inbox"], str):
            raise InvalidInput("inbox", "The body does not name an inbox.", 'Send {"inbox": "<id of an inbox of this inspector>"}.')
        target = self.store.by_id.get(payload["inbox"])
        if target is None:
            raise InvalidInput("inbox", "There is no inbox with this id.", "GET /api/inboxes lists those that a request can be sent to.")
        text = request.path_params["seq"]
        seq = int(text) if text.isascii() and text.isdigit() and len(text) < 13 else 0
        found = await run_in_threadpool(self.store.read, inbox, seq - 1, 1, 1) if seq else []
        if not found or found[0].seq != seq:
            raise NotFound(f"There is no request {text} in this inbox.", "It may have been dropped or cleared since.")
        if found[0].note in NOT_KEPT:
            raise InvalidInput("seq", f"Request {seq} cannot be sent again: {found[0].note}.")
        return _json({"inbox": target.id, "status": await send_again(found[0], target.id, self.addresses.local)})

    async def rates(self, request: Request) -> Response:
        inbox = self._wanted(request)
        seconds = _whole(request, "seconds", 60, 1, KEPT_SECONDS)
        return _json({"rates": await run_in_threadpool(self.entries.rates, inbox, self.clock() / 1e6, seconds)})

    async def respond(self, request: Request) -> Response:
        """Body `{"script": [rule, …]}`; answers what `response` of the inbox is from then on."""
        inbox = self._wanted(request)
        payload = await _json_body(request)
        if not isinstance(payload, dict) or list(payload) != ["script"]:
            raise InvalidInput("body", 'The body is not {"script": [...]}.', 'Send for example {"script": [{"first": 3, "status": 500}]}.')
        await self.store.set_script(inbox, parse_script(payload["script"]))
        return _json(self._inbox(inbox)["response"])

    async def events(self, request: Request) -> Response:
        """Server-sent events: `request` (data as in the requests call, id = seq) and `inbox` (its counts).

        A request that was announced without an answer is sent again, without an id, when the answer was given. A client resumes with
        Last-Event-ID, which browsers do by themselves, or begins at `?after=SEQ`.
        """
        inbox = self._wanted(request)
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
                still = await run_in_threadpool(self.store.unanswered, inbox)
                for seq in sorted(unanswered - still):
                    yield b"".join((await run_in_threadpool(self._announce, inbox, seq - 1, 1, unanswered)).values())
                unanswered &= still
            while events := await run_in_threadpool(self._announce, inbox, after, EVENT_ROWS, unanswered):
                yield b"".join([b"id: %d\n%b" % announced for announced in events.items()])
                after = max(events)
            yield b"event: inbox\ndata: " + orjson.dumps(self._inbox(inbox)) + b"\n\n"
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
        """The `request` events after a seq, by seq; adds to `unanswered` those that are to be sent again."""
        entries = self.entries.read(inbox, after, limit, EVENT_BODY)
        unanswered |= {entry.seq for entry in entries if entry.unanswered}
        return {entry.seq: b"event: request\ndata: %b\n\n" % entry.json for entry in entries}

    def _inbox(self, inbox: StoredInbox) -> dict[str, Any]:
        return {
            "id": inbox.id,
            "name": inbox.name,
            "url": f"{self.addresses.public}/in/{inbox.id}",
            "page": f"{self.addresses.local}/inboxes/{inbox.id}",
            "count": inbox.count,
            "first_seq": inbox.floor + 1,
            "last_seq": inbox.stored,
            "dropped": inbox.dropped,
            "response": {
                "script": [rule.as_json() for rule in inbox.script],
                "words": in_words(inbox.script),
                "requests": inbox.last - inbox.set_at,
            },
        }

    def _wanted(self, request: Request) -> StoredInbox:
        inbox = self.store.by_id.get(request.path_params["id"])
        if inbox is None:
            raise NotFound("There is no inbox with this id.", "GET /api/inboxes lists them; POST /api/inboxes creates one.")
        return inbox


async def _json_body(request: Request) -> object:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > CALL_BYTES:
            raise InvalidInput("body", "The body is larger than 1 MB.", "No call of this API needs so much.")
    try:
        return orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise InvalidInput("body", f"The body is no JSON: {error}.", "Send a JSON object.") from None


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
    texts = {404: f"There is nothing at {request.url.path}.", 405: f"{request.method} is not possible at {request.url.path}."}
    return _json({"error": texts.get(error.status_code, error.detail)}, error.status_code)


def _broken_store(_request: Request, error: Exception) -> Response:
    return _json({"error": f"The inspector's store failed: {error}. Is the disk full?"}, 500)


def _failed(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer, and so the log has it."""
    return _json({"error": f"The inspector failed at {request.method} {request.url.path} ({type(error).__name__}): see its log."}, 500)


def _page_headers(page: str) -> dict[str, str]:
    """Let the page run its own script and style, by their hashes, and talk to this server; nothing else, whatever a payload holds."""
    allowed = {tag: re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style")}
    hashes = {
        tag: " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)
        for tag, texts in allowed.items()
    }
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _page() -> str:
    """page.html with its style and script inside, so that the page is one answer."""
    html, css, js = (Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return html.replace("/* page.css */\n", css).replace("/* page.js */\n", js)


PAGE = _page()
PAGE_HEADERS = _page_headers(PAGE)
