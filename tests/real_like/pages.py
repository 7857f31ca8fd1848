"""Responses of a real Sequin that differ from the engine's.

Calls are slow, `config/apply` returns raw resources, the metrics page is updated once a minute, and the engine's additions are missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.real_like.capture import RealLikeEngine
from userhooks.engine.api.prometheus import CONTENT_TYPE, exposition
from userhooks.engine.resources import HttpEndpoint, SinkResource

log = logging.getLogger(__name__)

_HEALTH = "sequin_entity_health"
_NOT_THERE = ("/discarded", "/redeliver")
ASGI = Callable[..., Awaitable[None]]


class SlowApi:
    """Wrapper of the engine's Management API that responds like a real server."""

    def __init__(self, app: ASGI, engine: RealLikeEngine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path.startswith("/api/"):
            await asyncio.sleep(self._engine.manners.call(self._engine.reader.is_busy))
        if not path.startswith(("/api/", "/health", "/info/")) or path.endswith(_NOT_THERE):
            await Response("Not Found", 404, media_type="text/html")(scope, receive, send)
            return
        body = b"".join([part async for part in Request(scope, receive).stream()])
        if _has_column_filters(body):
            refused = {"code": None, "summary": "Unknown field: filters", "validation_errors": {}}
            await Response(orjson.dumps(refused), 422, media_type="application/json")(scope, receive, send)
            return
        is_apply = path == "/api/config/apply"
        is_change = path.startswith("/api/") and scope["method"] != "GET"
        sent: list[dict[str, Any]] = []

        async def replay() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, replay, collect if is_apply else send)
        if is_apply and sent[0]["status"] == 200:
            await Response(orjson.dumps({"resources": self._resources()}), media_type="application/json")(scope, receive, send)
        elif is_apply:
            for message in sent:
                await send(message)
        if is_change:
            log.info("%s %s, then %d sinks", scope["method"], path, len(self._engine.catalog.sinks))

    def _resources(self) -> list[dict[str, Any]]:
        """Return every resource of the account, without its type and with passwords in plain text."""
        catalog = self._engine.catalog
        database = catalog.database
        resources: list[dict[str, Any]] = [{"id": "00000000-0000-4000-8000-000000000001", "name": "tutorial", "contact_email": None}]
        parts = ("id", "name", "hostname", "port", "database", "username", "password")
        resources.append({part: getattr(database, part) for part in parts} | {"pool_size": 10, "ssl": False})
        resources += [_endpoint(endpoint) for endpoint in catalog.endpoints.values()]
        resources += [
            {"name": item.name, "type": item.type, "description": item.description, "function": {"type": item.type, "code": item.code}}
            for item in catalog.functions.values()
        ]
        return resources + [_sink(sink) for sink in catalog.sinks.values()]


def _has_column_filters(body: bytes) -> bool:
    try:
        return "filters" in orjson.loads(body)
    except (orjson.JSONDecodeError, TypeError):
        return False


def _endpoint(endpoint: HttpEndpoint) -> dict[str, Any]:
    parts = ("id", "name", "scheme", "host", "port", "path", "query", "fragment")
    return {part: getattr(endpoint, part) for part in parts} | {
        "userinfo": None,
        "headers": dict(endpoint.headers),
        "use_local_tunnel": False,
    }


def _sink(sink: SinkResource) -> dict[str, Any]:
    """Return a sink as `config/apply` shows it: without destination, filter, source, or annotations."""
    fixed = {"ack_wait_ms": 30_000, "max_ack_pending": 10_000, "max_waiting": 20, "max_memory_mb": 128, "partition_count": 1}
    parts = ("id", "name", "status", "actions", "batch_size", "max_retry_count", "timestamp_format", "load_shedding_policy")
    return {part: getattr(sink, part) for part in parts} | fixed | {"type": "http_push"}


class MetricsPage:
    """The metrics page; `keep_health` updates the health of the sinks and the slot once a minute."""

    def __init__(self, engine: RealLikeEngine) -> None:
        self._engine = engine
        self._health: list[str] = []
        self.app = Starlette(routes=[Route("/metrics", self.page)])

    async def _lines(self) -> list[str]:
        return b"".join([piece async for piece in exposition(self._engine.catalog, self._engine.monitor)]).decode().splitlines()

    async def keep_health(self) -> None:
        """Update the health at fixed intervals, forever."""
        interval = self._engine.manners.health_metric
        while True:
            now = time.monotonic()
            await asyncio.sleep(interval - now % interval)
            self._health = [line for line in await self._lines() if line.startswith(_HEALTH)]

    async def page(self, request: Request) -> Response:
        """Respond with the page."""
        hidden = (_HEALTH, *self._engine.manners.never_set)
        lines = [line for line in await self._lines() if not line.startswith(hidden)]
        return Response("\n".join([*lines, *self._health, ""]), media_type=CONTENT_TYPE)
