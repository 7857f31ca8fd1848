"""HTTP handlers of the Management API.

`request_bodies.py` parses bodies and `responses.py` builds responses. `sink_registry.py`, `api_keys.py`, and `backfill/` apply the changes.
`apps.py` assembles the app.

Routes, status codes, and the order of checks are as recorded from Sequin 0.14.6. The route is checked first, then the token, the content
type, and the JSON.

It is long because each call of the API is one short method.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from userhooks.engine import exact_json
from userhooks.engine.api import request_bodies, responses, yaml_config
from userhooks.engine.api.api_errors import ApiError, bad_request, invalid, not_found, refused
from userhooks.engine.api.call_batching import BatchedCalls
from userhooks.engine.api_keys import ApiKeys
from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.capture.published_tables import PublishedTables
from userhooks.engine.clock import utc_now
from userhooks.engine.monitor import Monitor
from userhooks.engine.resources import ApiKey, BackfillResource, Catalog, FunctionResource, HttpEndpoint, SinkResource
from userhooks.engine.sink_registry import SinkRegistry
from userhooks.errors import DatabaseUnavailable
from userhooks.web.host_guard import App, Receive, Scope, Send

log = logging.getLogger(__name__)
VERSION = "v0.14.6"
_MAX_DISCARDED = 1000
_SLICE = 50
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_AUTHORIZATION_HELP = (
    "\n\nAPI tokens are generated in the Sequin console (console.sequin.io) and should be included in the Authorization header"
    " of your request. For example:\n\nAuthorization: Bearer <your-api-token>\n\n"
)
_NO_TOKEN = "Please provide a valid API token in the Authorization header."  # noqa: S105
_NOT_BEARER = _NO_TOKEN + ' Ensure your Authorization value is prefixed with "Bearer".'
_TWO_TOKENS = "Please provide exactly one Authorization header in your request."
_BAD_TOKEN = (
    "The API token you provided is invalid or has expired."  # noqa: S105
    " Your token may have been revoked or deleted in the Sequin console.\n"
)

T = TypeVar("T", HttpEndpoint, SinkResource)
Handler = Callable[[Request, dict[str, Any]], Awaitable[Any]]


class EmptySegments:
    """Middleware that routes `/api/sinks/` and `/api//sinks` like `/api/sinks`, as Sequin does."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = "/" + "/".join(filter(None, scope["path"].split("/")))
        await self.app(scope, receive, send)


async def _not_found_page(request: Request, exc: Exception) -> Response:
    return Response("Not Found", 404, media_type="text/html")


async def _internal_error(request: Request, exc: Exception) -> Response:
    return _json({"errors": {"detail": "Internal Server Error"}}, 500)


ERROR_PAGES: dict[Any, Any] = {404: _not_found_page, 405: _not_found_page, Exception: _internal_error}
"""Error handlers of the app, by status or exception."""


def _json(body: Any, status: int = 200) -> Response:
    return Response(exact_json.dumps(body), status, media_type="application/json")


class Api:
    """The handlers. Each takes the request and its JSON body, and returns the body of a response with status 200.

    It is long because each call of the API is one short method.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        registry: SinkRegistry,
        keys: ApiKeys,
        backfills: Backfills,
        tables: PublishedTables,
        health: CaptureHealth,
        monitor: Monitor,
    ) -> None:
        self.catalog = catalog
        self.registry = registry
        self.keys = keys
        self.backfills = backfills
        self.tables = tables
        self._capture = health
        self.monitor = monitor
        self._removing_sinks: BatchedCalls[dict[str, Any]] = BatchedCalls(registry.writing, self._remove_sinks)
        self._removing_endpoints: BatchedCalls[dict[str, Any]] = BatchedCalls(registry.writing, self._remove_endpoints)

    def routes(self) -> list[Route]:
        """Return the routes of the API, the health check, and the version."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/info/version", self.version, methods=["GET"]),
            *(Route(f"/api{path}", self.endpoint(handlers), methods=list(handlers)) for path, handlers in self.handlers().items()),
        ]

    def handlers(self) -> dict[str, dict[str, Handler]]:
        """Return the handlers by path below /api and then by method. PUT behaves like PATCH, as recorded from Sequin."""
        endpoint, sink, backfill = "/destinations/http_endpoints", "/sinks", "/sinks/{sink}/backfills"
        database, keys = "/postgres_databases", "/api_keys"
        return {
            endpoint: {"GET": self.list_endpoints, "POST": self.create_endpoint},
            endpoint + "/{name}": {
                "GET": self.get_endpoint,
                "PUT": self.update_endpoint,
                "PATCH": self.update_endpoint,
                "DELETE": self.delete_endpoint,
            },
            sink: {"GET": self.list_sinks, "POST": self.create_sink},
            sink + "/{name}/discarded": {"GET": self.list_discarded},
            sink + "/{name}/redeliver": {"POST": self.redeliver},
            sink + "/{name}": {"GET": self.get_sink, "PUT": self.update_sink, "PATCH": self.update_sink, "DELETE": self.delete_sink},
            backfill: {"GET": self.list_backfills, "POST": self.create_backfill},
            backfill + "/{id}": {"GET": self.get_backfill, "PUT": self.update_backfill, "PATCH": self.update_backfill},
            database: {"GET": self.list_databases},
            database + "/{name}": {"GET": self.get_database},
            database + "/{name}/test_connection": {"POST": self.try_connection},
            database + "/{name}/refresh_tables": {"POST": self.refresh_tables},
            keys: {"GET": self.list_keys, "POST": self.create_key},
            keys + "/{id}": {"DELETE": self.delete_key},
            "/config/apply": {"POST": self.apply},
            "/config/plan": {"POST": self.plan},
            "/config/export": {"GET": self.export},
        }

    def endpoint(self, handlers: Mapping[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
        """Return a route's endpoint, which performs the checks common to all calls, then calls the method's handler.

        Errors become responses. Handlers that change something run one at a time.
        """

        async def answer(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            try:
                self._check_token(request)
                body = await _body(request)
                if method == "GET" or handlers[method] in (self.delete_sink, self.delete_endpoint):  # deletes acquire the lock in batches
                    return _json(await handlers[method](request, body))
                async with self.registry.writing:  # between a request's checks and its changes, no other request may change anything
                    return _json(await handlers[method](request, body))
            except ApiError as exc:
                return _json(exc.body, exc.status)
            except _Malformed:
                return Response("Bad Request", 400, media_type="text/html")
            except sqlite3.Error as exc:
                log.error("request failed: cannot write to the store: %s", exc)
                return _json({"summary": f"The engine cannot write to its store: {exc}. Free up disk space, then try again."}, 503)
            except DatabaseUnavailable as exc:
                return _json({"summary": exc.what}, 503)

        return answer

    def _check_token(self, request: Request) -> None:
        headers = request.headers.getlist("authorization")
        if not headers:
            raise ApiError(401, {"summary": _NO_TOKEN + _AUTHORIZATION_HELP})
        if len(headers) > 1:
            raise ApiError(401, {"summary": _TWO_TOKENS + _AUTHORIZATION_HELP})
        if not headers[0].startswith("Bearer ") and headers[0] != "Bearer":
            raise ApiError(401, {"summary": _NOT_BEARER + _AUTHORIZATION_HELP})
        digest = hashlib.sha256(headers[0].removeprefix("Bearer").strip().encode("latin-1")).hexdigest()
        if not any(hmac.compare_digest(digest, key.token_sha256) for key in self.catalog.api_keys.values()):
            raise ApiError(401, {"summary": _BAD_TOKEN})

    # --- without a token -----------------------------------------------------------------------------------------------

    async def health(self, _: Request) -> Response:
        """Report that the engine is running."""
        return Response(orjson.dumps({"ok": True, "rev": VERSION}))

    async def version(self, _: Request) -> Response:
        """Return the version of Sequin whose API this engine implements."""
        return _json({"version": VERSION})

    # --- HTTP endpoints ------------------------------------------------------------------------------------------------

    async def list_endpoints(self, _: Request, __: dict[str, Any]) -> Any:
        """List all HTTP endpoints."""
        return {"data": [responses.endpoint(endpoint) for endpoint in self.catalog.endpoints.values()]}

    async def create_endpoint(self, _: Request, body: dict[str, Any]) -> Any:
        """Create an HTTP endpoint."""
        taken = {endpoint.name for endpoint in self.catalog.endpoints.values()}
        endpoint = request_bodies.endpoint_from(body, None, _new_id(), taken)
        await self.registry.save_endpoint(endpoint)
        return responses.endpoint(endpoint)

    def _endpoint(self, request: Request) -> HttpEndpoint:
        return _find(self.catalog.endpoints, request.path_params["name"], "http endpoint")

    async def get_endpoint(self, request: Request, _: dict[str, Any]) -> Any:
        """Return an HTTP endpoint."""
        return responses.endpoint(self._endpoint(request))

    async def update_endpoint(self, request: Request, body: dict[str, Any]) -> Any:
        """Update an HTTP endpoint with the fields in the body."""
        existing = self._endpoint(request)
        taken = {endpoint.name for endpoint in self.catalog.endpoints.values() if endpoint.id != existing.id}
        endpoint = request_bodies.endpoint_from(body, existing, existing.id, taken)
        await self.registry.save_endpoint(endpoint)
        return responses.endpoint(endpoint)

    async def delete_endpoint(self, request: Request, _: dict[str, Any]) -> Any:
        """Delete an HTTP endpoint that no sink uses."""
        return await self._removing_endpoints(request.path_params["name"])

    async def _remove_endpoints(self, names: Sequence[str]) -> list[dict[str, Any] | Exception]:
        def check_unused(endpoint: HttpEndpoint) -> None:
            if sinks := self.registry.sinks_at(endpoint.id):
                in_use = f"Cannot delete HTTP endpoint {endpoint.name} ({endpoint.id}), as it is in use by {sinks} sink consumer(s)"
                raise ApiError(400, {"summary": in_use})

        outcomes = _find_each(self.catalog.endpoints, names, "http endpoint", check_unused)
        await self.registry.delete_endpoints([outcome.id for outcome in outcomes if not isinstance(outcome, ApiError)])
        return [outcome if isinstance(outcome, ApiError) else {"id": outcome.id, "deleted": True} for outcome in outcomes]

    # --- sinks ---------------------------------------------------------------------------------------------------------

    def _with_health(self, sinks: list[SinkResource]) -> list[dict[str, Any]]:
        bodies = responses.sinks(sinks, self.catalog)
        return [body | {"health": self.monitor.health(sink)} for sink, body in zip(sinks, bodies, strict=True)]

    async def list_sinks(self, _: Request, __: dict[str, Any]) -> Any:
        """List all sinks, with their health.

        The list is built in slices so that deliveries continue meanwhile: 10,000 sinks take half a second.
        """
        sinks, parts = self.catalog.sinks, []
        ids = iter(list(sinks))
        while batch := list(islice(ids, _SLICE)):
            parts.append(exact_json.dumps(self._with_health([sinks[sink_id] for sink_id in batch if sink_id in sinks]))[1:-1])
            await asyncio.sleep(0)
        return {"data": orjson.Fragment(b"[%b]" % b",".join(filter(None, parts)))}

    async def create_sink(self, _: Request, body: dict[str, Any]) -> Any:
        """Create a sink. It is live when the response is sent."""
        self._capture.check_tables()
        taken = {sink.name for sink in self.catalog.sinks.values()}
        sink = request_bodies.sink_from(body, self.catalog, None, _new_id(), taken)
        await self.registry.save_sink(sink)
        return responses.sink(sink, self.catalog)

    def _sink(self, name: str) -> SinkResource:
        return _find(self.catalog.sinks, name, "consumer")

    async def get_sink(self, request: Request, _: dict[str, Any]) -> Any:
        """Return a sink, with its health."""
        return self._with_health([self._sink(request.path_params["name"])])[0]

    async def update_sink(self, request: Request, body: dict[str, Any]) -> Any:
        """Update a sink with the fields in the body."""
        existing = self._sink(request.path_params["name"])
        taken = {sink.name for sink in self.catalog.sinks.values() if sink.id != existing.id}
        sink = request_bodies.sink_from(body, self.catalog, existing, existing.id, taken)
        await self.registry.save_sink(sink)
        return responses.sink(sink, self.catalog)

    async def delete_sink(self, request: Request, _: dict[str, Any]) -> Any:
        """Delete a sink, its backfills, and its pending and discarded messages."""
        return await self._removing_sinks(request.path_params["name"])

    async def _remove_sinks(self, names: Sequence[str]) -> list[dict[str, Any] | Exception]:
        outcomes = _find_each(self.catalog.sinks, names, "consumer", lambda _: None)
        await self.registry.delete_sinks([outcome.id for outcome in outcomes if not isinstance(outcome, ApiError)])
        return [outcome if isinstance(outcome, ApiError) else {"id": outcome.id, "deleted": True} for outcome in outcomes]

    async def list_discarded(self, request: Request, _: dict[str, Any]) -> Any:
        """List a sink's discarded messages, oldest first, up to a limit."""
        sink = self._sink(request.path_params["name"])
        return {"data": [asdict(message) for message in await self.monitor.discarded(sink.id, _MAX_DISCARDED)]}

    async def redeliver(self, request: Request, body: dict[str, Any]) -> Any:
        """Redeliver a sink's discarded messages: all, or only those whose ids are in the body's `ids`."""
        sink = self._sink(request.path_params["name"])
        ids = body.get("ids")
        if ids is not None and not (isinstance(ids, list) and all(type(message_id) is int for message_id in ids)):
            raise refused("ids must be a list of integers, as returned by `discarded`")
        if sink.status == "disabled":
            raise refused("the sink is disabled, so nothing is delivered to it; set its status to active first")
        return {"redelivered": await self.registry.redeliver(sink.id, ids)}

    # --- backfills -----------------------------------------------------------------------------------------------------

    async def list_backfills(self, request: Request, _: dict[str, Any]) -> Any:
        """List a sink's backfills, newest first."""
        sink = self._sink(request.path_params["sink"])
        backfills = [backfill for backfill in self.catalog.backfills.values() if backfill.sink_id == sink.id]
        return {"data": [responses.backfill(backfill, sink) for backfill in reversed(backfills)]}

    async def create_backfill(self, request: Request, body: dict[str, Any]) -> Any:
        """Create a backfill of a table, using the table's current definition."""
        sink = self._sink(request.path_params["sink"])
        with suppress(DatabaseUnavailable):  # the backfill waits until Postgres is back
            await self.tables.refresh()
        self._capture.check_tables()
        table, state = request_bodies.backfill_from(body, sink, self.catalog)
        backfill = BackfillResource(_new_id(), sink.id, table, state, utc_now(), utc_now())
        await self.backfills.create(backfill)
        return responses.backfill(backfill, sink)

    def _backfill(self, request: Request) -> tuple[BackfillResource, SinkResource]:
        sink = self._sink(request.path_params["sink"])
        backfill_id = request.path_params["id"].lower()
        if not _UUID.fullmatch(backfill_id):
            raise bad_request()
        backfill = self.catalog.backfills.get(backfill_id)
        if backfill is None or backfill.sink_id != sink.id:
            raise not_found("backfill")
        return backfill, sink

    async def get_backfill(self, request: Request, _: dict[str, Any]) -> Any:
        """Return a backfill."""
        return responses.backfill(*self._backfill(request))

    async def update_backfill(self, request: Request, body: dict[str, Any]) -> Any:
        """Pause, resume, or cancel a backfill."""
        backfill, sink = self._backfill(request)
        state = request_bodies.backfill_state(body, backfill.state)
        if state != backfill.state:
            backfill = await self.backfills.change(backfill.id, state)
        return responses.backfill(backfill, sink)

    # --- the database, API keys ----------------------------------------------------------------------------------------

    def _database(self) -> dict[str, Any]:
        return responses.database(self.catalog.database, "active")

    async def list_databases(self, _: Request, __: dict[str, Any]) -> Any:
        """List the only database."""
        return {"data": [self._database()]}

    def _check_database(self, request: Request) -> None:
        if request.path_params["name"] not in (self.catalog.database.name, self.catalog.database.id):
            raise not_found("postgres database")

    async def get_database(self, request: Request, _: dict[str, Any]) -> Any:
        """Return the database."""
        self._check_database(request)
        return self._database()

    async def try_connection(self, request: Request, _: dict[str, Any]) -> Any:
        """Test the connection to Postgres."""
        self._check_database(request)
        problem = await self.monitor.check_database()
        if problem is not None:
            raise ApiError(422, {"success": False, "reason": problem})
        return {"success": True}

    async def refresh_tables(self, request: Request, _: dict[str, Any]) -> Any:
        """Read the tables' definitions again."""
        self._check_database(request)
        await self.tables.refresh()
        return {"success": True}

    async def list_keys(self, _: Request, __: dict[str, Any]) -> Any:
        """List all API tokens, without their secrets."""
        return {"data": [responses.api_key(key) for key in self.catalog.api_keys.values()]}

    async def create_key(self, _: Request, body: dict[str, Any]) -> Any:
        """Create an API token with the secret in the body."""
        name, token = body.get("name"), body.get("token")
        if not isinstance(name, str) or not name:
            raise invalid({"name": ["can't be blank"]})
        if not isinstance(token, str) or not token:
            raise invalid({"token": ["can't be blank"]})
        key = ApiKey(_new_id(), name, hashlib.sha256(token.encode()).hexdigest(), utc_now())
        await self.keys.save(key)
        return responses.api_key(key)

    async def delete_key(self, request: Request, _: dict[str, Any]) -> Any:
        """Delete an API token."""
        key = self.catalog.api_keys.get(request.path_params["id"])
        if key is None:
            raise not_found("api token")
        await self.keys.delete(key.id)
        return {"success": True}

    # --- resources as YAML ---------------------------------------------------------------------------------------------

    async def _wanted(self, body: dict[str, Any]) -> yaml_config.Wanted:
        """Parse and check a YAML document; the initial backfills of its sinks are also checked in Postgres."""
        document = yaml_config.document(body)
        if "sinks" in document:
            await self.tables.refresh()
        wanted = yaml_config.wanted(document, self.catalog, _new_id)
        for sink, backfill in wanted.backfills:
            obstacle = await self.backfills.find_obstacle(backfill)
            if obstacle is not None:
                raise refused(f"sink '{sink.name}': initial_backfill of {'.'.join(backfill.table)}: {obstacle}")
        return wanted

    async def apply(self, _: Request, body: dict[str, Any]) -> Any:
        """Apply a YAML document. It is checked as a whole first, and rolled back if Postgres or the store fails midway."""
        wanted = await self._wanted(body)
        applied: list[tuple[yaml_config.Resource, yaml_config.Resource | None]] = []
        try:
            changes = wanted.changes()
            endpoints = [new for new, old in changes if old is None and isinstance(new, HttpEndpoint)]
            sinks = [new for new, old in changes if old is None and isinstance(new, SinkResource) and new.status != "disabled"]
            created: list[yaml_config.Resource] = [*endpoints, *sinks]
            created_ids = {new.id for new in created}
            functions = [pair for pair in changes if isinstance(pair[0], FunctionResource)]
            for new, old in functions:  # first, since sinks refer to them
                await self._save(new)
                applied.append((new, old))
            if created_ids:
                await self.registry.create(endpoints, sinks)
                applied += [(new, None) for new in created]
            for new, old in changes:
                if not isinstance(new, FunctionResource) and new.id not in created_ids:
                    await self._save(new)
                    applied.append((new, old))
            for sink, (table, sort_column, start) in wanted.backfills:
                backfill = BackfillResource(
                    _new_id(), sink.id, table, "active", utc_now(), utc_now(), sort_column=sort_column, start_position=start
                )
                await self.backfills.create(backfill)
        except BaseException:
            for new, old in reversed(applied):
                with suppress(sqlite3.Error, DatabaseUnavailable):
                    await self._roll_back(new, old)
            raise
        return yaml_config.applied(wanted, self.catalog)

    async def _save(self, resource: yaml_config.Resource) -> None:
        if isinstance(resource, FunctionResource):
            await self.registry.save_function(resource)
        elif isinstance(resource, HttpEndpoint):
            await self.registry.save_endpoint(resource)
        else:
            await self.registry.save_sink(resource)

    async def _roll_back(self, new: yaml_config.Resource, old: yaml_config.Resource | None) -> None:
        if old is not None:
            await self._save(old)
        elif isinstance(new, SinkResource):
            await self.registry.delete_sinks([new.id])
        elif isinstance(new, HttpEndpoint):
            await self.registry.delete_endpoints([new.id])

    async def plan(self, _: Request, body: dict[str, Any]) -> Any:
        """Return the changes that applying a YAML document would make."""
        return yaml_config.plan(await self._wanted(body))

    async def export(self, _: Request, __: dict[str, Any]) -> Any:
        """Return all resources as YAML, generated in another thread because 10,000 sinks take seconds."""
        catalog = self.catalog
        snapshot = Catalog(
            catalog.database,
            catalog.endpoints.copy(),
            catalog.functions.copy(),
            catalog.sinks.copy(),
            catalog.backfills.copy(),
            tables=catalog.tables.copy(),
        )
        return {"yaml": await asyncio.to_thread(yaml_config.export, snapshot)}


def _new_id() -> str:
    return str(uuid.uuid4())


class _Malformed(Exception):
    """The body is not JSON."""


async def _body(request: Request) -> dict[str, Any]:
    if request.method not in ("POST", "PUT", "PATCH"):
        return {}
    if "application/json" not in request.headers.get("content-type", ""):
        raise ApiError(400, {"summary": "Content-Type: application/json is required"})
    raw = await request.body()
    if not raw.strip():
        return {}
    try:
        body = exact_json.loads_first(raw)
    except ValueError:
        raise _Malformed from None
    if not isinstance(body, dict):
        raise refused("Unknown field: _json")
    return body


def _find(resources: Mapping[str, T], name: str, entity: str) -> T:
    """Look up a resource: by id if `name` is a version-4 UUID, else by name."""
    if _UUID4.fullmatch(name):
        resource = resources.get(name)
    else:
        resource = next((candidate for candidate in resources.values() if candidate.name == name), None)
    if resource is None:
        raise not_found(entity)
    return resource


def _find_each(resources: Mapping[str, T], names: Sequence[str], entity: str, check: Callable[[T], None]) -> list[T | ApiError]:
    """Look up resources to delete; return, for each name, the resource or the reason that it cannot be deleted.

    If `names` refers to a resource twice, the second reference is reported as not found, as if the calls had come one after the other.
    """
    outcomes: list[T | ApiError] = []
    deleted: set[str] = set()
    for name in names:
        try:
            resource = _find(resources, name, entity)
            check(resource)
            if resource.id in deleted:
                raise not_found(entity)
            deleted.add(resource.id)
            outcomes.append(resource)
        except ApiError as exc:
            outcomes.append(exc)
    return outcomes
