"""The console's routes, which perform its buttons' actions. `page_values.py` gathers the values of its pages, and `html.py` renders them.

Every page needs one of the Management API's tokens, or a link made from one (`TokenGuard`). Each button is a form with a CSRF token, which
is random per process. In addition, `HostGuard` checks every request.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import parse_qsl

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from userhooks.engine.api import request_bodies
from userhooks.engine.api.api_errors import ApiError
from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.console import html
from userhooks.engine.console.html import Overview, PageFrame
from userhooks.engine.console.page_values import PageValues
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.monitor import Monitor
from userhooks.engine.resources import BackfillResource, BackfillState, Catalog, SinkResource
from userhooks.engine.sink_registry import SinkRegistry
from userhooks.engine.startup import Config
from userhooks.errors import DatabaseUnavailable
from userhooks.web.access_tokens import page_link
from userhooks.web.host_guard import TokenGuard
from userhooks.web.stack_parts import PartAddress, StackParts

log = logging.getLogger(__name__)

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


class Form:
    """The fields of a form, as (name, value) pairs."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = fields

    def all(self, name: str) -> list[str]:
        """Return the values of all fields with this name."""
        return [value for key, value in self._fields if key == name]

    def last(self, name: str) -> str:
        """Return the value of the last field with this name, or an empty string."""
        return (self.all(name) or [""])[-1]

    def has(self, name: str) -> bool:
        """Return whether there is a field with this name."""
        return bool(self.all(name))


class Console:
    """The pages of one engine."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        registry: SinkRegistry,
        deliveries: Mapping[str, SinkDelivery],
        backfills: Backfills,
        monitor: Monitor,
        config: Config,
    ) -> None:
        self.catalog = catalog
        self.registry = registry
        self.backfills = backfills
        self._deliveries = deliveries
        self._values = PageValues(catalog, monitor)
        self._parts = StackParts([PartAddress(name, url) for name, url in config.parts.items() if name != "sequin"])
        self._names = [*config.parts] or ["sequin"]
        self._inspector = config.inspector
        self._port = config.port
        self._token = secrets.token_urlsafe(32)

    def routes(self) -> list[Route]:
        """Return the routes of the pages and of their forms."""
        guard = [Middleware(TokenGuard, keys=self._keys, port=self._port, advice=_ADVICE)]
        sink = "/sinks/{name}"
        return [
            Route("/", self._with_error_pages(self.first), methods=["GET"], middleware=guard),
            Route("/inspector", self._with_error_pages(self.inspector), methods=["GET"], middleware=guard),
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
                return await self._message(exc.status, exc.heading, str(exc))
            except DatabaseUnavailable as exc:
                return await self._message(503, "Request failed", f"{exc.what} {exc.remedy}")
            except sqlite3.Error as exc:
                log.error("request failed: cannot write to the store: %s", exc)
                return await self._message(
                    503, "Request failed", f"The engine cannot write to its store: {exc}. Free up disk space, then try again."
                )

        return answer

    async def _message(self, status: int, heading: str, text: str) -> HTMLResponse:
        return await self._page(lambda frame: html.message(heading, text, frame), status)

    # --- pages ---------------------------------------------------------------------------------------------------------

    async def _page(self, render: Callable[[PageFrame], str | Awaitable[str]], status: int = 200) -> HTMLResponse:
        """Return a page whose Content-Security-Policy allows only the style and the script with a new nonce."""
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
        }
        page = render(PageFrame(await self._states(), bool(self._inspector), self._token, nonce))
        return HTMLResponse(page if isinstance(page, str) else await page, status, headers)

    async def _states(self) -> dict[str, str]:
        """Return the states of the stack's parts. This engine, called sequin, runs but may not be able to read the slot."""
        states = {**await self._parts.states(), "sequin": "running" if self._values.monitor.problem is None else "not reading"}
        return {name: states[name] for name in self._names}

    async def inspector(self, _: Request) -> Response:
        """Redirect to the inspector, with a link that gives this browser access to it."""
        if not self._inspector:
            raise NotDone(404, "Not found", "There is no inspector. Start the whole stack with userhooks up.")
        link = page_link(self._inspector["url"], self._inspector["token"], time.time())
        return RedirectResponse(link, 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

    async def first(self, request: Request) -> Response:
        """Show the engine and the first of its sinks, or of the sinks that match the query's `find` and `state`."""
        query = request.query_params
        state = query.get("state", "")
        values = await self._values.overview(query.get("find", "").strip(), state if state in html.STATES else "")
        return await self._page(lambda frame: self._overview(values, frame))

    @staticmethod
    async def _overview(values: Overview, frame: PageFrame) -> str:
        rows = []
        for row in html.sink_rows(values, frame):
            rows.append(row)
            await asyncio.sleep(0)
        return html.overview(values, frame, rows)

    async def sink(self, request: Request) -> Response:
        """Show one sink; the query's `message` is the message to open, and `show=url` shows the full URL."""
        query = request.query_params
        shows_url = query.get("show") == "url"
        values = await self._values.detail(self._sink(request), opened_id=query.get("message", ""), shows_url=shows_url)
        return await self._page(lambda frame: html.sink_page(values, frame))

    def _sink(self, request: Request) -> SinkResource:
        name = request.path_params["name"]
        sink = next((sink for sink in self.catalog.sinks.values() if sink.name == name), None)
        if sink is None:
            raise NotDone(404, "Not found", f"There is no sink {name!r}. It may have been deleted or renamed.")
        return sink

    # --- actions -------------------------------------------------------------------------------------------------------

    async def change_sink(self, request: Request) -> Response:
        """Pause or resume a sink, or redeliver messages; redirect to the page that the button was on.

        The form's `do` field names the action. `redeliver all` redelivers all discarded messages, and `redeliver discarded` only those in
        `message`. `redeliver` redelivers the messages in `message`, which were delivered recently.
        """
        form = await self._form(request)
        do, chosen = form.last("do"), form.all("message")
        async with self.registry.writing:
            sink = self._sink(request)
            match do:
                case "pause" if sink.status == "active":
                    await self.registry.save_sink(replace(sink, status="paused"))
                case "resume" if sink.status == "paused":
                    await self.registry.save_sink(replace(sink, status="active"))
                case "redeliver all" if sink.status != "disabled":
                    await self.registry.redeliver(sink.id, None)
                case "redeliver discarded" | "redeliver" if not chosen:
                    raise NotDone(400, "Nothing selected", "Select the messages to redeliver first.")
                case "redeliver discarded" if sink.status != "disabled":
                    await self.registry.redeliver(sink.id, [int(number) for number in chosen if number.isascii() and number.isdecimal()])
                case "redeliver" if sink.status != "disabled":
                    self._redeliver(sink, chosen)
                case "pause" | "resume" | "redeliver" | "redeliver all" | "redeliver discarded":
                    raise NotDone(409, "Request failed", f"The sink {sink.name!r} is now {sink.status}.")
                case _:
                    raise NotDone(400, "Request failed", "The form does not name an action. Reload the page.")
        if form.has("find"):
            return RedirectResponse(html.overview_url(form.last("find"), form.last("state")), 303)
        return RedirectResponse(html.sink_url(sink.name, form.last("opened")), 303)

    def _redeliver(self, sink: SinkResource, message_ids: Sequence[str]) -> None:
        """Redeliver messages that a page has shown, oldest first, all or none."""
        changes = []
        for message_id in message_ids:
            message = self._values.message(sink, message_id)
            if message is None:
                raise NotDone(404, "Not found", "The engine does not keep this message any more. Reload the page.")
            if message.last.change is None:
                raise NotDone(409, "Request failed", "A selected message is too large to be kept, so it cannot be redelivered.")
            if not message.last.is_delivered:
                raise NotDone(409, "Request failed", "A selected message is not delivered yet. The engine retries it, or has discarded it.")
            changes.append(message.last.change)
        self._deliveries[sink.id].send_again(sorted(changes, key=lambda change: (change.commit_lsn, change.commit_idx)))

    async def change_backfill(self, request: Request) -> Response:
        """Pause, resume, or cancel a backfill."""
        form = await self._form(request)
        async with self.registry.writing:
            sink = self._sink(request)
            backfill = self._backfill(request, sink)
            state = _STATES.get(form.last("do"))
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

    async def _form(self, request: Request) -> Form:
        """Read a form's fields and check its CSRF token."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM_BYTES:
                raise NotDone(413, "Request failed", "The form is too large.")
        form = Form(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if not hmac.compare_digest(form.last("csrf").encode(), self._token.encode()):
            raise NotDone(403, "Request failed", "The engine has restarted since this page was loaded. Reload the page, then try again.")
        return form
