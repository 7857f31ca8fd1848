"""An in-memory Sequin behind `httpx.MockTransport`: responses as recorded from 0.14.6, with state, and faults on demand.

It replaces Sequin where a test needs a fault at one exact step. Other tests compare the engine with recordings of the real API.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import yaml

TOKEN = "s3cret-token"
_ACCOUNT = str(uuid.uuid4())
Fault = Callable[[httpx.Request, Callable[[], httpx.Response]], httpx.Response]


class FakeSequin:
    """A fake server; `calls` lists the requests (`"POST /api/sinks"`), and `fault` may answer, delay, or break a call."""

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.sinks: dict[str, dict[str, Any]] = {}
        self.backfills: dict[str, dict[str, Any]] = {}
        self.functions: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.tables = {"public.notifications"}
        self.slot_is_there = True
        self.calls: list[str] = []
        self.fault: Fault | None = None
        self.initializing_for = 0
        """Number of reads of a sink that show it as initializing."""
        self.transport = httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(f"{request.method} {request.url.raw_path.decode()}")

        def answer() -> httpx.Response:
            return self._answer(request)

        return self.fault(request, answer) if self.fault else answer()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        parts = [part for part in request.url.path.split("/") if part]
        if parts == ["health"]:
            return httpx.Response(200, content=b'{"ok":true,"rev":"v0.14.6"}')
        if parts == ["info", "version"]:
            assert request.headers["accept"] == "*/*"
            return httpx.Response(200, json={"version": "v0.14.6"})
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            summary = (
                "The API token you provided is invalid or has expired. Your token may have been revoked or deleted in the Sequin console.\n"
            )
            return httpx.Response(401, json={"summary": summary})
        body = json.loads(request.content) if request.content else {}
        assert request.method in ("GET", "DELETE") or request.headers["content-type"] == "application/json"
        match [request.method, *parts[1:]]:
            case [method, "destinations", "http_endpoints", *name]:
                return self._endpoint(method, name, body)
            case [method, "sinks", sink, "backfills", *backfill_id]:
                return self._backfill(method, sink, backfill_id, body)
            case [method, "sinks", *name]:
                return self._sink(method, name, body)
            case ["POST", "postgres_databases", "postgres", "test_connection"] if not self.slot_is_there:
                reason = 'Not found: replication_slot with params %{name: "sequin_slot"}'
                return httpx.Response(422, json={"success": False, "reason": reason})
            case ["GET", "postgres_databases", "postgres"]:
                return httpx.Response(200, json={"name": "postgres", "replication_slots": [{"slot_name": "sequin_slot"}]})
            case ["POST", "postgres_databases", "postgres", "refresh_tables" | "test_connection"]:
                return httpx.Response(200, json={"success": True})
            case ["POST", "postgres_databases", _, _]:
                return _not_found("database")
            case ["GET", "config", "export"]:
                config = {"databases": [], "functions": list(self.functions.values()), "http_endpoints": [], "sinks": []}
                return httpx.Response(200, json={"yaml": "---\n" + yaml.safe_dump(config)})
            case ["POST", "config", "apply"]:
                return self._apply(yaml.safe_load(body["yaml"]))
            case ["POST", "config", "plan"]:
                return self._plan(yaml.safe_load(body["yaml"]))
        return httpx.Response(404, text="Not Found")

    def _apply(self, config: dict[str, Any]) -> httpx.Response:
        """Create or update the named resources, all or nothing; returns raw rows of all resources, without some of a sink's fields."""
        before = dict(self.endpoints), dict(self.sinks)
        for function in config.get("functions", ()):
            self.functions[function["name"]] = {**function, "description": None}
        for kind, create in (("http_endpoints", self._endpoint), ("sinks", self._sink)):
            for entry in config.get(kind, ()):
                present = entry["name"] in (self.endpoints if kind == "http_endpoints" else self.sinks)
                answer = create("PATCH" if present else "POST", [entry["name"]] if present else [], entry)
                if answer.status_code != 200:
                    self.endpoints, self.sinks = before
                    return answer
        account = {"account_id": _ACCOUNT, "inserted_at": "2026-11-28T20:09:14Z", "updated_at": "2026-11-28T20:09:14Z"}
        database = {"id": str(uuid.uuid4()), "name": "postgres", "hostname": "127.0.0.1", "port": 5432, "password": "postgres"}
        resources: list[dict[str, Any]] = [{"id": _ACCOUNT, "name": "tutorial", "contact_email": None}, database]
        for endpoint in self.endpoints.values():
            url = httpx.URL(endpoint["url"])
            address = {"scheme": url.scheme, "host": url.host, "port": url.port, "path": url.path, "query": None, "fragment": None}
            resources.append({"id": endpoint["id"], "name": endpoint["name"], "headers": {}, "userinfo": None, **address, **account})
        for function in self.functions.values():
            nested = {"type": function["type"], "code": function["code"]}
            resources.append({"name": function["name"], "type": function["type"], "description": None, "function": nested})
        for sink in self.sinks.values():
            raw = {"ack_wait_ms": 30000, "max_ack_pending": 10000, "max_waiting": 20, "legacy_transform": "none", "health": None}
            resources.append({"id": sink["id"], "name": sink["name"], "status": sink["status"], **raw, **account})
        return httpx.Response(200, json={"resources": resources})

    def _plan(self, config: dict[str, Any]) -> httpx.Response:
        """Respond with an update for every existing resource, named or not, and a creation for every new one."""
        changes: list[dict[str, Any]] = []
        kinds = (("function", self.functions), ("http_endpoint", self.endpoints), ("sink", self.sinks))
        for resource_type, present in kinds:
            requested = {entry["name"]: entry for entry in config.get(f"{resource_type}s", ())}
            for name, old in present.items():
                new = requested.get(name, old) if resource_type == "function" else old
                changes.append({"resource_type": resource_type, "action": "update", "old": old, "new": new})
            created = [requested[name] for name in requested if name not in present]
            changes += [{"resource_type": resource_type, "action": "create", "old": None, "new": new} for new in created]
        return httpx.Response(200, json={"changes": changes, "actions": []})

    def _endpoint(self, method: str, name: list[str], body: dict[str, Any]) -> httpx.Response:
        if not name:
            if method == "GET":
                return httpx.Response(200, json={"data": list(self.endpoints.values())})
            if body["name"] in self.endpoints:
                return _invalid({"name": ["has already been taken"]})
            endpoint = {"id": str(uuid.uuid4()), "name": body["name"], "headers": {}, "url": body["url"], "encrypted_headers": {}}
            self.endpoints[body["name"]] = endpoint
        else:
            existing = _find(self.endpoints, name[0])
            if existing is None:
                return _not_found("http endpoint")
            endpoint = existing
            if method == "DELETE":
                sink_count = sum(sink["destination"]["http_endpoint"] == endpoint["name"] for sink in self.sinks.values())
                if sink_count:
                    in_use = f"it is in use by {sink_count} sink consumer(s)"
                    text = f"Cannot delete HTTP endpoint {endpoint['name']} ({endpoint['id']}), as {in_use}"
                    return httpx.Response(400, json={"summary": text})
                del self.endpoints[endpoint["name"]]
                return httpx.Response(200, json={"id": endpoint["id"], "deleted": True})
        if "url" in body:
            endpoint["url"] = body["url"]
        if body.get("encrypted_headers"):
            self.secrets[endpoint["name"]] = body["encrypted_headers"]
            endpoint["encrypted_headers"] = dict.fromkeys(body["encrypted_headers"], "***")
        return httpx.Response(200, json=endpoint)

    def _sink(self, method: str, name: list[str], body: dict[str, Any]) -> httpx.Response:
        if not name:
            if method == "GET":
                return httpx.Response(200, json={"data": [{**sink, "health": self._health()} for sink in self.sinks.values()]})
            return self._create_sink(body)
        existing = _find(self.sinks, name[0])
        if existing is None:
            return _not_found("consumer")
        if method == "GET":
            return httpx.Response(200, json={**existing, "health": self._health()})
        if method == "DELETE":
            del self.sinks[existing["name"]]
            return httpx.Response(200, json={"id": existing["id"], "deleted": True})
        existing.update(body)
        return httpx.Response(200, json=existing)

    def _health(self) -> dict[str, Any]:
        if self.initializing_for == 0:
            return _HEALTH
        self.initializing_for -= 1
        checks = [{"name": "Sink configuration", "status": "initializing"}, {"name": "Message delivery", "status": "waiting"}]
        return {"name": "Consumer health", "status": "initializing", "checks": checks}

    def _create_sink(self, body: dict[str, Any]) -> httpx.Response:
        if "filters" in body:
            return httpx.Response(422, json={"code": None, "summary": "Unknown field: filters", "validation_errors": {}})
        if body["database"] != "postgres":
            return _not_found("database")
        if body["destination"]["http_endpoint"] not in self.endpoints:
            return _not_found("http endpoint")
        for table in body["source"]["include_tables"]:
            if table not in self.tables:
                summary = f"Table '{table}' not found in database 'postgres'"
                return httpx.Response(422, json={"code": None, "summary": summary, "validation_errors": {}})
        if body["filter"] != "none" and body["filter"] not in self.functions:
            return httpx.Response(422, json={"code": None, "summary": f"Function '{body['filter']}' not found.", "validation_errors": {}})
        if body["name"] in self.sinks:
            return _invalid({"name": ["has already been taken"]})
        source = {"include_schemas": None, "exclude_schemas": None, "exclude_tables": None, **body["source"]}
        defaults = {
            "tables": [],
            "transform": "none",
            "routing": "none",
            "enrichment": "none",
            "active_backfills": [],
            "max_retry_count": None,
        }
        self.sinks[body["name"]] = {"id": str(uuid.uuid4()), **body, **defaults, "source": source}
        return httpx.Response(200, json=self.sinks[body["name"]])

    def _backfill(self, method: str, sink_name: str, backfill_id: list[str], body: dict[str, Any]) -> httpx.Response:
        sink = _find(self.sinks, sink_name)
        if sink is None:
            return _not_found("consumer")
        backfills = [b for b in self.backfills.values() if b["sink_consumer"] == sink["name"]]
        if not backfill_id:
            if method == "GET":
                return httpx.Response(200, json={"data": backfills[::-1]})
            if any(b["state"] in ("active", "paused") for b in backfills):
                return _invalid({"sink_consumer_id": ["already has an active backfill"]})
            created = {"id": str(uuid.uuid4()), "table": "public.notifications", "state": "active", "sink_consumer": sink["name"]}
            counts = {
                "rows_initial_count": None,
                "rows_processed_count": 0,
                "rows_ingested_count": 0,
                "inserted_at": "2026-11-28T20:09:14Z",
            }
            self.backfills[str(created["id"])] = {**created, **counts, "completed_at": None, "canceled_at": None, "sort_column": None}
            return httpx.Response(200, json=self.backfills[str(created["id"])])
        backfill = next((b for b in backfills if b["id"] == backfill_id[0]), None)
        if backfill is None:
            return _not_found("backfill")
        if method == "PATCH":
            if backfill["state"] not in ("active", "paused"):
                text = f"Invalid state transition from {backfill['state']} to {body['state']}. Valid transitions: none"
                return _invalid({"state": [text]})
            backfill["state"] = body["state"]
        return httpx.Response(200, json=backfill)


_HEALTH = {
    "name": "Consumer health",
    "status": "error",
    "checks": [
        {"name": "Sink configuration", "status": "healthy"},
        {"name": "Message delivery", "status": "error", "error": "[http_endpoint]: Unexpected status code: 500"},
    ],
}


def _find(resources: dict[str, dict[str, Any]], name_or_id: str) -> dict[str, Any] | None:
    return resources.get(name_or_id) or next((resource for resource in resources.values() if resource["id"] == name_or_id), None)


def _not_found(kind: str) -> httpx.Response:
    return httpx.Response(404, json={"summary": f"Not found: No `{kind}` found matching the provided ID or name"})


def _invalid(errors: dict[str, Any]) -> httpx.Response:
    return httpx.Response(422, json={"summary": "Validation failed", "validation_errors": errors})
