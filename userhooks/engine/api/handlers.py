"""The Management API over HTTP. Bodies are read in `request_bodies.py`, answers made in `responses.py`; changes are put in force by
`sink_registry.py`, `api_keys.py` and `backfill/`. The app is put together in `apps.py`.

Routes, status codes and the order of checks are Sequin 0.14.6's (recorded): a path that is not routed is a 404 before any token is looked
at; then the token, then the content type, then the JSON.

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
_DISCARDED_SHOWN = 1000
_SLICE = 50
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_HOW = (
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
    """Route `/api/sinks/` and `/api//sinks` like `/api/sinks`, as Sequin does."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = "/" + "/".join(filter(None, scope["path"].split("/")))
        await self.app(scope, receive, send)


async def _not_found_page(request: Request, exc: Exception) -> Response:
    return Response("Not Found", 404, media_type="text/html")


async def _fault(request: Request, exc: Exception) -> Response:
    return _json({"errors": {"detail": "Internal Server Error"}}, 500)


ERROR_PAGES: dict[Any, Any] = {404: _not_found_page, 405: _not_found_page, Exception: _fault}
"""Status or exception -> handler, for the app"""


def _json(body: Any, status: int = 200) -> Response:
    return Response(exact_json.dumps(body), status, media_type="application/json")


class Api:
    """The handlers; each takes the request and its JSON body and returns what is answered with 200.

    It is long because each call is one short method.
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
        """Return everything that the app answers but the console."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/info/version", self.version, methods=["GET"]),
            *(Route(f"/api{path}", self.endpoint(handlers), methods=list(handlers)) for path, handlers in self.handlers().items()),
        ]

    def handlers(self) -> dict[str, dict[str, Handler]]:
        """Path below /api -> method -> handler; PUT is PATCH (recorded)."""
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
        """Wrap handlers in the checks that come before them, and turn refusals into answers."""

        async def answer(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            try:
                self._check_token(request)
                body = await _body(request)
                if method == "GET" or handlers[method] in (self.delete_sink, self.delete_endpoint):  # those take turns together
                    return _json(await handlers[method](request, body))
                async with self.registry.writing:  # what a request was checked against must still hold when it is put in force
                    return _json(await handlers[method](request, body))
            except ApiError as exc:
                return _json(exc.body, exc.status)
            except _Malformed:
                return Response("Bad Request", 400, media_type="text/html")
            except sqlite3.Error as exc:
                log.error("a request could not be carried out: %s", exc)
                return _json({"summary": f"The engine's store cannot be written: {exc}. Make room on its disk, then try again."}, 503)
            except DatabaseUnavailable as exc:
                return _json({"summary": exc.what}, 503)

        return answer

    def _check_token(self, request: Request) -> None:
        given = request.headers.getlist("authorization")
        if not given:
            raise ApiError(401, {"summary": _NO_TOKEN + _HOW})
        if len(given) > 1:
            raise ApiError(401, {"summary": _TWO_TOKENS + _HOW})
        if not given[0].startswith("Bearer ") and given[0] != "Bearer":
            raise ApiError(401, {"summary": _NOT_BEARER + _HOW})
        digest = hashlib.sha256(given[0].removeprefix("Bearer").strip().encode("latin-1")).hexdigest()
        if not any(hmac.compare_digest(digest, key.token_sha256) for key in self.catalog.api_keys.values()):
            raise ApiError(401, {"summary": _BAD_TOKEN})

    # --- what needs no token -------------------------------------------------------------------------------------------

    async def health(self, _: Request) -> Response:
        """Whether the program answers."""
        return Response(orjson.dumps({"ok": True, "rev": VERSION}))

    async def version(self, _: Request) -> Response:
        """Which Sequin this is."""
        return _json({"version": VERSION})

    # --- HTTP endpoints ------------------------------------------------------------------------------------------------

    async def list_endpoints(self, _: Request, __: dict[str, Any]) -> Any:
        """All HTTP endpoints."""
        return {"data": [responses.endpoint(one) for one in self.catalog.endpoints.values()]}

    async def create_endpoint(self, _: Request, body: dict[str, Any]) -> Any:
        """A new HTTP endpoint."""
        taken = {one.name for one in self.catalog.endpoints.values()}
        one = request_bodies.endpoint_from(body, None, _new_id(), taken)
        await self.registry.save_endpoint(one)
        return responses.endpoint(one)

    def _endpoint(self, request: Request) -> HttpEndpoint:
        return _find(self.catalog.endpoints, request.path_params["name"], "http endpoint")

    async def get_endpoint(self, request: Request, _: dict[str, Any]) -> Any:
        """One HTTP endpoint."""
        return responses.endpoint(self._endpoint(request))

    async def update_endpoint(self, request: Request, body: dict[str, Any]) -> Any:
        """Change the fields that are given."""
        present = self._endpoint(request)
        taken = {one.name for one in self.catalog.endpoints.values() if one.id != present.id}
        one = request_bodies.endpoint_from(body, present, present.id, taken)
        await self.registry.save_endpoint(one)
        return responses.endpoint(one)

    async def delete_endpoint(self, request: Request, _: dict[str, Any]) -> Any:
        """Remove an endpoint that no sink uses."""
        return await self._removing_endpoints(request.path_params["name"])

    async def _remove_endpoints(self, names: Sequence[str]) -> list[dict[str, Any] | Exception]:
        def unused(one: HttpEndpoint) -> None:
            if used := self.registry.sinks_at(one.id):
                in_use = f"Cannot delete HTTP endpoint {one.name} ({one.id}), as it is in use by {used} sink consumer(s)"
                raise ApiError(400, {"summary": in_use})

        found = _find_each(self.catalog.endpoints, names, "http endpoint", unused)
        await self.registry.delete_endpoints([one.id for one in found if not isinstance(one, ApiError)])
        return [one if isinstance(one, ApiError) else {"id": one.id, "deleted": True} for one in found]

    # --- sinks ---------------------------------------------------------------------------------------------------------

    def _with_health(self, those: list[SinkResource]) -> list[dict[str, Any]]:
        shown = responses.sinks(those, self.catalog)
        return [answer | {"health": self.monitor.health(one)} for one, answer in zip(those, shown, strict=True)]

    async def list_sinks(self, _: Request, __: dict[str, Any]) -> Any:
        """All sinks, with their health, looked at in slices: ten thousand take half a second, and deliveries go on meanwhile."""
        sinks, parts = self.catalog.sinks, []
        ids = iter(list(sinks))
        while some := list(islice(ids, _SLICE)):
            parts.append(exact_json.dumps(self._with_health([sinks[one] for one in some if one in sinks]))[1:-1])
            await asyncio.sleep(0)
        return {"data": orjson.Fragment(b"[%b]" % b",".join(filter(None, parts)))}

    async def create_sink(self, _: Request, body: dict[str, Any]) -> Any:
        """Create a sink, which is live when this returns."""
        self._capture.check_tables()
        taken = {one.name for one in self.catalog.sinks.values()}
        one = request_bodies.sink_from(body, self.catalog, None, _new_id(), taken)
        await self.registry.save_sink(one)
        return responses.sink(one, self.catalog)

    def _sink(self, name: str) -> SinkResource:
        return _find(self.catalog.sinks, name, "consumer")

    async def get_sink(self, request: Request, _: dict[str, Any]) -> Any:
        """One sink, with its health."""
        return self._with_health([self._sink(request.path_params["name"])])[0]

    async def update_sink(self, request: Request, body: dict[str, Any]) -> Any:
        """Change the fields that are given."""
        present = self._sink(request.path_params["name"])
        taken = {one.name for one in self.catalog.sinks.values() if one.id != present.id}
        one = request_bodies.sink_from(body, self.catalog, present, present.id, taken)
        await self.registry.save_sink(one)
        return responses.sink(one, self.catalog)

    async def delete_sink(self, request: Request, _: dict[str, Any]) -> Any:
        """Remove a sink with its backfills and all that it owes."""
        return await self._removing_sinks(request.path_params["name"])

    async def _remove_sinks(self, names: Sequence[str]) -> list[dict[str, Any] | Exception]:
        found = _find_each(self.catalog.sinks, names, "consumer", lambda _: None)
        await self.registry.delete_sinks([one.id for one in found if not isinstance(one, ApiError)])
        return [one if isinstance(one, ApiError) else {"id": one.id, "deleted": True} for one in found]

    async def list_discarded(self, request: Request, _: dict[str, Any]) -> Any:
        """The first messages of a sink that were given up, oldest first."""
        sink = self._sink(request.path_params["name"])
        return {"data": [asdict(one) for one in await self.monitor.discarded(sink.id, _DISCARDED_SHOWN)]}

    async def redeliver(self, request: Request, body: dict[str, Any]) -> Any:
        """Send messages that were given up once more: all, or those in `ids`."""
        sink = self._sink(request.path_params["name"])
        ids = body.get("ids")
        if ids is not None and not (isinstance(ids, list) and all(type(one) is int for one in ids)):
            raise refused("ids must be a list of whole numbers, as `discarded` shows them")
        if sink.status == "disabled":
            raise refused("the sink is disabled, so nothing is delivered to it: set its status to active first")
        return {"redelivered": await self.registry.redeliver(sink.id, ids)}

    # --- backfills -----------------------------------------------------------------------------------------------------

    async def list_backfills(self, request: Request, _: dict[str, Any]) -> Any:
        """A sink's backfills, newest first."""
        sink = self._sink(request.path_params["sink"])
        listed = [b for b in self.catalog.backfills.values() if b.sink_id == sink.id]
        return {"data": [responses.backfill(one, sink) for one in reversed(listed)]}

    async def create_backfill(self, request: Request, body: dict[str, Any]) -> Any:
        """Start a backfill of a table, using its current definition."""
        sink = self._sink(request.path_params["sink"])
        with suppress(DatabaseUnavailable):  # it waits, then
            await self.tables.refresh()
        self._capture.check_tables()
        table, state = request_bodies.backfill_from(body, sink, self.catalog)
        one = BackfillResource(_new_id(), sink.id, table, state, utc_now(), utc_now())
        await self.backfills.create(one)
        return responses.backfill(one, sink)

    def _backfill(self, request: Request) -> tuple[BackfillResource, SinkResource]:
        sink = self._sink(request.path_params["sink"])
        backfill_id = request.path_params["id"].lower()
        if not _UUID.fullmatch(backfill_id):
            raise bad_request()
        one = self.catalog.backfills.get(backfill_id)
        if one is None or one.sink_id != sink.id:
            raise not_found("backfill")
        return one, sink

    async def get_backfill(self, request: Request, _: dict[str, Any]) -> Any:
        """One backfill."""
        return responses.backfill(*self._backfill(request))

    async def update_backfill(self, request: Request, body: dict[str, Any]) -> Any:
        """Pause, resume or cancel."""
        one, sink = self._backfill(request)
        state = request_bodies.backfill_state(body, one.state)
        if state != one.state:
            one = await self.backfills.change(one.id, state)
        return responses.backfill(one, sink)

    # --- the database, keys --------------------------------------------------------------------------------------------

    def _shown_database(self) -> dict[str, Any]:
        return responses.database(self.catalog.database, "active")

    async def list_databases(self, _: Request, __: dict[str, Any]) -> Any:
        """The one database."""
        return {"data": [self._shown_database()]}

    def _check_database(self, request: Request) -> None:
        if request.path_params["name"] not in (self.catalog.database.name, self.catalog.database.id):
            raise not_found("postgres database")

    async def get_database(self, request: Request, _: dict[str, Any]) -> Any:
        """The one database."""
        self._check_database(request)
        return self._shown_database()

    async def try_connection(self, request: Request, _: dict[str, Any]) -> Any:
        """Whether Postgres answers."""
        self._check_database(request)
        problem = await self.monitor.check_database()
        if problem is not None:
            raise ApiError(422, {"success": False, "reason": problem})
        return {"success": True}

    async def refresh_tables(self, request: Request, _: dict[str, Any]) -> Any:
        """Read the tables again."""
        self._check_database(request)
        await self.tables.refresh()
        return {"success": True}

    async def list_keys(self, _: Request, __: dict[str, Any]) -> Any:
        """All tokens, by name."""
        return {"data": [responses.api_key(one) for one in self.catalog.api_keys.values()]}

    async def create_key(self, _: Request, body: dict[str, Any]) -> Any:
        """A token chosen by the caller."""
        name, token = body.get("name"), body.get("token")
        if not isinstance(name, str) or not name:
            raise invalid({"name": ["can't be blank"]})
        if not isinstance(token, str) or not token:
            raise invalid({"token": ["can't be blank"]})
        one = ApiKey(_new_id(), name, hashlib.sha256(token.encode()).hexdigest(), utc_now())
        await self.keys.save(one)
        return responses.api_key(one)

    async def delete_key(self, request: Request, _: dict[str, Any]) -> Any:
        """Remove a token."""
        one = self.catalog.api_keys.get(request.path_params["id"])
        if one is None:
            raise not_found("api token")
        await self.keys.delete(one.id)
        return {"success": True}

    # --- resources as YAML ---------------------------------------------------------------------------------------------

    async def _wanted(self, body: dict[str, Any]) -> yaml_config.Wanted:
        """Read a YAML and check all of it, with Postgres' help when there are sinks in it."""
        document = yaml_config.document(body)
        if "sinks" in document:
            await self.tables.refresh()
        wanted = yaml_config.wanted(document, self.catalog, _new_id)
        for sink, read in wanted.backfills:
            hindrance = await self.backfills.hindrance(read)
            if hindrance is not None:
                raise refused(f"sink '{sink.name}': initial_backfill of {'.'.join(read.table)}: {hindrance}")
        return wanted

    async def apply(self, _: Request, body: dict[str, Any]) -> Any:
        """Put a YAML in force; all of it is checked first, and taken back when Postgres or the store fails on the way."""
        wanted = await self._wanted(body)
        done: list[tuple[yaml_config.Resource, yaml_config.Resource | None]] = []
        try:
            changes = wanted.changes()
            endpoints = [one for one, old in changes if old is None and isinstance(one, HttpEndpoint)]
            sinks = [one for one, old in changes if old is None and isinstance(one, SinkResource) and one.status != "disabled"]
            new_ones: list[yaml_config.Resource] = [*endpoints, *sinks]
            together = {one.id for one in new_ones}
            functions = [pair for pair in changes if isinstance(pair[0], FunctionResource)]
            for new, old in functions:  # first, since sinks are routed by them
                await self._save(new)
                done.append((new, old))
            if together:
                await self.registry.create(endpoints, sinks)
                done += [(one, None) for one in new_ones]
            for new, old in changes:
                if not isinstance(new, FunctionResource) and new.id not in together:
                    await self._save(new)
                    done.append((new, old))
            for sink, reading in wanted.backfills:
                table, sort_column, start = reading
                one = BackfillResource(
                    _new_id(), sink.id, table, "active", utc_now(), utc_now(), sort_column=sort_column, start_position=start
                )
                await self.backfills.create(one)
        except BaseException:
            for new, old in reversed(done):
                with suppress(sqlite3.Error, DatabaseUnavailable):
                    await self._take_back(new, old)
            raise
        return yaml_config.applied(wanted, self.catalog)

    async def _save(self, one: yaml_config.Resource) -> None:
        if isinstance(one, FunctionResource):
            await self.registry.save_function(one)
        elif isinstance(one, HttpEndpoint):
            await self.registry.save_endpoint(one)
        else:
            await self.registry.save_sink(one)

    async def _take_back(self, new: yaml_config.Resource, old: yaml_config.Resource | None) -> None:
        if old is not None:
            await self._save(old)
        elif isinstance(new, SinkResource):
            await self.registry.delete_sinks([new.id])
        elif isinstance(new, HttpEndpoint):
            await self.registry.delete_endpoints([new.id])

    async def plan(self, _: Request, body: dict[str, Any]) -> Any:
        """Say what applying would change."""
        return yaml_config.plan(await self._wanted(body))

    async def export(self, _: Request, __: dict[str, Any]) -> Any:
        """Everything as YAML, written on another thread: ten thousand sinks take seconds."""
        now = self.catalog
        seen = Catalog(
            now.database, now.endpoints.copy(), now.functions.copy(), now.sinks.copy(), now.backfills.copy(), tables=now.tables.copy()
        )
        return {"yaml": await asyncio.to_thread(yaml_config.export, seen)}


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


def _find(among: Mapping[str, T], name: str, entity: str) -> T:
    """Look a thing up: by id when the name is a version-4 UUID, else by name."""
    found = among.get(name) if _UUID4.fullmatch(name) else next((one for one in among.values() if one.name == name), None)
    if found is None:
        raise not_found(entity)
    return found


def _find_each(among: Mapping[str, T], names: Sequence[str], entity: str, check: Callable[[T], None]) -> list[T | ApiError]:
    """Look things up that are to be removed; for each what was found, or why it cannot be removed: one that is named again is gone then."""
    found: list[T | ApiError] = []
    gone: set[str] = set()
    for name in names:
        try:
            one = _find(among, name, entity)
            check(one)
            if one.id in gone:
                raise not_found(entity)
            gone.add(one.id)
            found.append(one)
        except ApiError as exc:
            found.append(exc)
    return found
