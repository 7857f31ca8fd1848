"""The console's routes: they gather the values that its pages show, and perform its buttons' actions. `html.py` renders the pages.

Every page needs one of the Management API's tokens, or a link made from one (`TokenGuard`). A button is a form with a CSRF token, random
per process, in addition to the checks that `HostGuard` makes on every request. The overview ranks 10,000 sinks in slices, between which
deliveries continue.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from heapq import nsmallest
from itertools import islice
from urllib.parse import parse_qsl, urlencode

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from userhooks.engine import exact_json
from userhooks.engine.api import request_bodies
from userhooks.engine.api.api_errors import ApiError
from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.console import html
from userhooks.engine.console.html import Overview, SinkDetail, SinkRow, Slot
from userhooks.engine.monitor import Monitor
from userhooks.engine.resources import BackfillResource, BackfillState, Catalog, HttpEndpoint, SinkResource
from userhooks.engine.sink_health import health, overall
from userhooks.engine.sink_registry import SinkRegistry
from userhooks.errors import DatabaseUnavailable
from userhooks.web.host_guard import TokenGuard

log = logging.getLogger(__name__)

SLICE = 200
"""Number of sinks to rank before yielding to the event loop."""
_MAX_FORM_BYTES = 16_384
_ADVICE = (
    "Open the link that `userhooks status` prints in a terminal. Programs send the header `Authorization: Bearer <token>`; "
    "`userhooks status --json` shows the token as sequin.api_token."
)
_STATES: dict[str, BackfillState] = {"pause": "paused", "resume": "active", "cancel": "cancelled"}


class NotDone(Exception):
    """A refused or failed request, answered with a page that says why."""

    def __init__(self, status: int, heading: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.heading = heading


class Console:
    """The pages of one engine."""

    def __init__(self, catalog: Catalog, *, registry: SinkRegistry, backfills: Backfills, monitor: Monitor, port: int) -> None:
        self.catalog = catalog
        self.registry = registry
        self.backfills = backfills
        self.monitor = monitor
        self._port = port
        self._token = secrets.token_urlsafe(32)

    def routes(self) -> list[Route]:
        """Return the routes of the pages and of their forms."""
        guard = [Middleware(TokenGuard, keys=self._keys, port=self._port, advice=_ADVICE)]
        sink = "/sinks/{name}"
        return [
            Route("/", self._with_error_pages(self.first), methods=["GET"], middleware=guard),
            Route(sink, self._with_error_pages(self.sink), methods=["GET"], middleware=guard),
            Route(sink, self._with_error_pages(self.change_sink), methods=["POST"], middleware=guard),
            Route(sink + "/backfills/{id}", self._with_error_pages(self.change_backfill), methods=["POST"], middleware=guard),
        ]

    def _keys(self) -> list[bytes]:
        return [bytes.fromhex(key.token_sha256) for key in self.catalog.api_keys.values()]

    def _with_error_pages(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except NotDone as exc:
                return _message(exc.status, exc.heading, str(exc))
            except DatabaseUnavailable as exc:
                return _message(503, "Request failed", f"{exc.what} {exc.remedy}")
            except sqlite3.Error as exc:
                log.error("request failed: cannot write to the store: %s", exc)
                return _message(503, "Request failed", f"The engine cannot write to its store: {exc}. Free up disk space, then try again.")

        return answer

    # --- pages ---------------------------------------------------------------------------------------------------------

    async def first(self, request: Request) -> Response:
        """Show the engine and the first of its sinks, or of the sinks whose names contain the query's `find`."""
        monitor = self.monitor
        find = request.query_params.get("find", "").strip()
        shown, matching = await self._rank(find.lower())
        slot = monitor.slot
        sinks = self.catalog.sinks
        backfills = list(reversed(self.catalog.backfills.values()))
        backfills.sort(key=lambda backfill: backfill.state != "active")
        values = Overview(
            problem=monitor.problem,
            slot=Slot(self.catalog.database.slot_name, slot.retained if slot else None, slot.lag if slot else None),
            changes=monitor.changes,
            store_bytes=monitor.store_bytes,
            find=find,
            sinks=[self._row(sink) for sink in shown],
            matching=matching,
            total=len(sinks),
            backfills=[
                (sinks[backfill.sink_id].name, backfill) for backfill in backfills[: html.SHOWN_BACKFILLS] if backfill.sink_id in sinks
            ],
        )
        return _page(lambda nonce: html.overview(values, self._token, nonce))

    async def _rank(self, find: str) -> tuple[list[SinkResource], int]:
        """Return the sinks to show and the number of sinks whose names contain `find`.

        Failing sinks come first, then those with the most pending messages.
        """
        monitor, sinks = self.monitor, self.catalog.sinks
        first: list[tuple[bool, int, str, str]] = []
        matching = 0
        ids = iter(list(sinks))
        while batch := list(islice(ids, SLICE)):
            matches = [sinks[sink_id] for sink_id in batch if sink_id in sinks and find in sinks[sink_id].name.lower()]
            ranked = [(not monitor.is_failing(sink), -monitor.delivery(sink.id).queue.count, sink.name, sink.id) for sink in matches]
            first = nsmallest(html.SHOWN_SINKS, first + ranked)
            matching += len(ranked)
            await asyncio.sleep(0)
        return [sinks[sink_id] for _, _, _, sink_id in first if sink_id in sinks], matching

    def _row(self, sink: SinkResource) -> SinkRow:
        delivery = self.monitor.delivery(sink.id)
        condition = self.monitor.condition(sink)
        return SinkRow(
            id=sink.id,
            name=sink.name,
            status=sink.status,
            health=overall(condition),
            pending=delivery.queue.count,
            failing=delivery.retrying,
            delivered=delivery.delivered,
            discarded=delivery.discarded,
            last_error=condition.delivery_error or condition.problem,
            oldest=delivery.oldest_age(time.time()),
        )

    async def sink(self, request: Request) -> Response:
        """Show one sink: its settings, health, discarded messages, and backfills."""
        sink = self._sink(request)
        delivery = self.monitor.delivery(sink.id)
        discarded = await self.monitor.discarded(sink.id, html.SHOWN_DISCARDED) if delivery.discarded else []
        backfills = [backfill for backfill in reversed(self.catalog.backfills.values()) if backfill.sink_id == sink.id]
        values = SinkDetail(
            row=self._row(sink),
            attempted=delivery.attempted,
            failed=delivery.failed,
            checks=health(self.monitor.condition(sink))["checks"],
            settings=settings(sink, self.catalog.endpoints[sink.endpoint_id]),
            discarded=discarded,
            backfills=backfills[: html.SHOWN_BACKFILLS],
        )
        return _page(lambda nonce: html.sink_page(values, self._token, nonce))

    def _sink(self, request: Request) -> SinkResource:
        name = request.path_params["name"]
        sink = next((sink for sink in self.catalog.sinks.values() if sink.name == name), None)
        if sink is None:
            raise NotDone(404, "Not found", f"There is no sink {name!r}. It may have been deleted or renamed.")
        return sink

    # --- actions -------------------------------------------------------------------------------------------------------

    async def change_sink(self, request: Request) -> Response:
        """Pause or resume a sink, or redeliver its discarded messages; redirect to the page that the button was on."""
        form = await self._form(request)
        async with self.registry.writing:
            sink = self._sink(request)
            match form.get("do"):
                case "pause" if sink.status == "active":
                    await self.registry.save_sink(replace(sink, status="paused"))
                case "resume" if sink.status == "paused":
                    await self.registry.save_sink(replace(sink, status="active"))
                case "redeliver" if sink.status != "disabled":
                    await self.registry.redeliver(sink.id, [int(form["message"])] if form.get("message", "").isdecimal() else None)
                case "pause" | "resume" | "redeliver":
                    raise NotDone(409, "Request failed", f"The sink {sink.name!r} is now {sink.status}.")
                case _:
                    raise NotDone(400, "Request failed", "The form does not name an action. Reload the page.")
        if "find" in form:
            return RedirectResponse("/?" + urlencode({"find": form["find"]}) if form["find"] else "/", 303)
        return RedirectResponse(html.sink_url(sink.name), 303)

    async def change_backfill(self, request: Request) -> Response:
        """Pause, resume, or cancel a backfill."""
        form = await self._form(request)
        async with self.registry.writing:
            sink = self._sink(request)
            backfill = self._backfill(request, sink)
            state = _STATES.get(form.get("do", ""))
            if state is None:
                raise NotDone(400, "Request failed", "The form does not name an action. Reload the page.")
            try:
                request_bodies.backfill_state({"state": state}, backfill.state)
            except ApiError:
                raise NotDone(409, "Request failed", f"The backfill is now {backfill.state}.") from None
            if state != backfill.state:
                await self.backfills.change(backfill.id, state)
        return RedirectResponse(html.sink_url(sink.name), 303)

    def _backfill(self, request: Request, sink: SinkResource) -> BackfillResource:
        backfill = self.catalog.backfills.get(request.path_params["id"])
        if backfill is None or backfill.sink_id != sink.id:
            raise NotDone(404, "Not found", f"The sink {sink.name!r} has no backfill with this id.")
        return backfill

    async def _form(self, request: Request) -> dict[str, str]:
        """Read a form's fields and check its CSRF token."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM_BYTES:
                raise NotDone(413, "Request failed", "The form is too large.")
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if not hmac.compare_digest(form.get("csrf", "").encode(), self._token.encode()):
            raise NotDone(403, "Request failed", "The engine has restarted since this page was loaded. Reload the page, then try again.")
        return form


def settings(sink: SinkResource, endpoint: HttpEndpoint) -> dict[str, str]:
    """Return a sink's settings as text by name, without possible secrets: header values and query strings."""
    address = f"{endpoint.scheme}://{endpoint.host}:{endpoint.port}{endpoint.path or ''}"
    headers = sorted([*endpoint.headers, *endpoint.encrypted_headers])
    columns = [
        f"{column.column_name} {column.operator} {'' if column.value is None else column.value}".strip() for column in sink.filters or ()
    ]
    source = sink.source
    tables = [".".join(name) for name in source.include_tables or ()]
    shown = {
        "Id": sink.id,
        "HTTP endpoint": f"{endpoint.name}, {address}" + (" and a query string" if endpoint.query else ""),
        "Path": (sink.path or "").partition("?")[0],
        "Headers": ", ".join(f"{name}: …" for name in headers),
        "Tables": ", ".join(tables) if source.include_tables is not None else "all in the publication",
        "Excluded tables": ", ".join(".".join(name) for name in source.exclude_tables or ()),
        "Schemas": ", ".join(source.include_schemas or ()),
        "Excluded schemas": ", ".join(source.exclude_schemas or ()),
        "Actions": ", ".join(sink.actions),
        "Filter": " and ".join(columns) if sink.filters is not None else sink.filter or "none",
        "Transform": sink.transform or "none",
        "Annotations": exact_json.dumps(dict(sink.annotations)).decode() if sink.annotations else "",
        "Messages per request": f"at most {sink.batch_size}" if sink.batch else "1, not wrapped in a batch",
        "Order": "kept within each group" if sink.message_grouping else "not kept",
        "Attempts": "no limit" if sink.max_retry_count is None else f"at most {sink.max_retry_count}",
        "Timestamps": sink.timestamp_format,
    }
    return {name: value for name, value in shown.items() if value}


def _page(render: Callable[[str], str], status: int = 200) -> HTMLResponse:
    """Return a page rendered with a new nonce, under a policy that allows only the style and the script with this nonce."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(render(nonce), status, headers)


def _message(status: int, heading: str, text: str) -> HTMLResponse:
    return _page(lambda nonce: html.message(heading, text, nonce), status)
