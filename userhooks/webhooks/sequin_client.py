"""A client for Sequin's Management API, for a real server and for the local engine.

`sequin_resources.py` defines the resources, `sequin_http.py` makes the HTTP calls, and `subscriptions.py` uses this client
to manage subscriptions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import httpx
import yaml

from userhooks.errors import SequinError, SequinFailed, SequinInvalid, SequinMismatch
from userhooks.webhooks.sequin_http import SequinHttp, api_path
from userhooks.webhooks.sequin_resources import (
    ACTIONS,
    Backfill,
    BackfillState,
    Endpoint,
    Function,
    FunctionState,
    Health,
    NewEndpoint,
    NewSink,
    Sink,
)

_LIVE_POLL_S, _LIVE_POLLS = 0.1, 300
# Sequin may report a sink as healthy slightly before it is live, because separate jobs are responsible for the two.
_SETTLE_S = 0.5

# The export of a server with thousands of sinks is megabytes long, and the C loader is ten times as fast.
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class SequinClient:
    """A thread-safe client for the Management API at `url`; `database` is the name of the database in Sequin.

    Every method may raise SequinUnreachable, SequinUnauthorized, SequinInvalid, or SequinFailed. Methods that name a resource may also
    raise SequinNotFound. GET and DELETE are tried three times if the connection breaks or a proxy answers 502, 503, or 504.

    It is long because each call of the API is one method.
    """

    def __init__(
        self,
        url: str,
        token: str,
        database: str = "postgres",
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.database = database
        self._sleep = sleep
        self._http = SequinHttp(url, token, transport=transport, sleep=sleep)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the server and its database -----------------------------------------------------------------------------------

    def health(self) -> Health:
        """Return whether the server is up, and its version; replication is not checked."""
        return self._http.one(Health.of, "GET", "/health")

    def version(self) -> str:
        """Return the server's version, like `v0.14.6`."""
        return self._http.one(lambda data: str(data["version"]), "GET", "/info/version", accept="*/*")

    def publication(self) -> str:
        """Return the name of the publication that Sequin reads."""
        return self._replication("publication_name")

    def slot(self) -> str:
        """Return the name of the replication slot from which Sequin reads the WAL."""
        return self._replication("slot_name")

    def _replication(self, field: str) -> str:
        def read(data: Mapping[str, Any]) -> str:
            return str(data["replication_slots"][0][field])

        return self._http.one(read, "GET", api_path("postgres_databases", self.database))

    def refresh_tables(self) -> None:
        """Make Sequin reload its list of tables; a sink cannot use a table that was created since the last reload."""
        self._http.call("POST", api_path("postgres_databases", self.database, "refresh_tables"), {})

    def test_connection(self) -> None:
        """Make Sequin connect to the database; raises SequinInvalid with the reason if that fails or the replication slot is missing.

        A server whose slot is missing still answers every other call, and its sinks look healthy. Sequin 0.14.6 creates the slot only when
        it adds the database, so applying the configuration again does not create a missing slot.
        """
        try:
            self._http.call("POST", api_path("postgres_databases", self.database, "test_connection"), {})
        except SequinInvalid as error:
            if "replication_slot" not in error.what:
                raise
            slot = self.slot()
            what = f"The replication slot {slot} of Sequin's database {self.database} is missing, so Sequin reads no changes."
            remedy = f"Run SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'); there, and backfill what was committed before."
            raise SequinInvalid(what, remedy, status=error.status, validation_errors=error.validation_errors) from None

    # --- HTTP endpoints ------------------------------------------------------------------------------------------------

    def endpoints(self) -> list[Endpoint]:
        """Return all HTTP endpoints."""
        return self._http.all(Endpoint.of, api_path("destinations", "http_endpoints"))

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint with this name or id."""
        return self._http.one(Endpoint.of, "GET", api_path("destinations", "http_endpoints", name))

    def create_endpoint(self, name: str, url: str, *, encrypted_headers: Mapping[str, str] | None = None) -> Endpoint:
        """Create an endpoint; `encrypted_headers` are sent with every webhook and never shown again."""
        body = {"name": name, "url": url, "encrypted_headers": dict(encrypted_headers or {})}
        return self._http.one(Endpoint.of, "POST", api_path("destinations", "http_endpoints"), body)

    def update_endpoint(self, name: str, **fields: Any) -> Endpoint:
        """Change fields of an endpoint (`url`, `headers`, `encrypted_headers`, `name`); headers are replaced as a whole."""
        return self._http.one(Endpoint.of, "PATCH", api_path("destinations", "http_endpoints", name), fields)

    def delete_endpoint(self, name: str) -> bool:
        """Delete an endpoint and return whether it existed; raises SequinInvalid if a sink uses it."""
        return self._http.delete(api_path("destinations", "http_endpoints", name))

    # --- sinks ---------------------------------------------------------------------------------------------------------

    def sinks(self) -> list[Sink]:
        """Return all sinks."""
        return self._http.all(Sink.of, api_path("sinks"))

    def sink(self, name: str) -> Sink:
        """Return the sink with this name or id."""
        return self._http.one(Sink.of, "GET", api_path("sinks", name))

    def create_sink(
        self,
        name: str,
        *,
        endpoint: str,
        include_tables: Iterable[str],
        filter_function: str,
        annotations: Mapping[str, Any] | None = None,
        actions: Iterable[str] = ACTIONS,
        batch: bool = True,
        batch_size: int = 1,
    ) -> Sink:
        """Create a webhook sink that sends the rows its filter function accepts; with `filter_function` "none", it sends all rows.

        If the created sink differs in filter, source, or annotations, it is deleted and SequinMismatch is raised: without its filter, a
        sink would send one user's rows to another.
        """
        body = self._new_sink(
            NewSink(name, endpoint, tuple(include_tables), filter_function, annotations or {}, tuple(actions), batch, batch_size)
        )
        return self.require_sink(self._http.one(Sink.of, "POST", api_path("sinks"), body), body)

    def wait_until_live(self, names: Sequence[str]) -> None:
        """Wait until these new sinks receive every row committed from now on; raises SequinFailed after 30 s.

        Sequin 0.14.6 answers the call that creates a sink before replication includes the sink, and the sink misses rows committed in
        between. In recordings, this took 50 ms on a quiet server, and seconds while replication restarted. Until then, the sink's health is
        `initializing`. A sink of the local engine is live at once.
        """
        for polls in range(_LIVE_POLLS + 1):
            looked_at = names if polls else names[-1:]  # There may be thousands of sinks, so check one of them first.
            starting = [sink.name for sink in self._named(looked_at) if sink.is_initializing]
            if not starting:
                if polls:
                    self._sleep(_SETTLE_S)
                return
            self._sleep(_LIVE_POLL_S)
        what = f"Sequin did not take up the sink {starting[0]} within {_LIVE_POLLS * _LIVE_POLL_S:.0f} s."
        raise SequinFailed(what, "It is overloaded, or its replication is down: run userhooks doctor, then try again.")

    def _named(self, names: Sequence[str]) -> list[Sink]:
        if len(names) == 1:
            return [self.sink(names[0])]
        wanted = set(names)
        return [sink for sink in self.sinks() if sink.name in wanted]

    def create_sinks(self, endpoints: Iterable[NewEndpoint], sinks: Iterable[NewSink]) -> list[Sink]:
        """Create endpoints and the sinks that use them in one call, or update those that already exist.

        Returns the sinks in order. Raises SequinMismatch like `create_sink`, and also if a sink is missing afterwards. In both cases, the
        other sinks are kept.
        """
        bodies = [self._new_sink(sink) for sink in sinks]

        def read(data: Mapping[str, Any]) -> dict[str, Sink]:
            return {entry["name"]: Sink.of(entry) for entry in data["resources"] if "destination" in entry}

        created = self._http.one(read, "POST", "/api/config/apply", _yaml_of(endpoints, bodies))
        if any(body["name"] not in created for body in bodies):  # A real server's answer leaves out destination, filter, and source.
            created = {sink.name: sink for sink in self.sinks()}
        missing = [body["name"] for body in bodies if body["name"] not in created]
        if missing:
            raise SequinMismatch(f"Sequin did not create the sink {missing[0]}.", "Look at its sinks in Sequin's console.")
        return [self.require_sink(created[body["name"]], body) for body in bodies]

    def taken_names(self, endpoints: Iterable[NewEndpoint], sinks: Iterable[NewSink]) -> set[str]:
        """Return the names that endpoints or sinks in Sequin already have, and that `create_sinks` would therefore overwrite."""
        endpoints, sinks = list(endpoints), list(sinks)
        wanted = {("http_endpoint", endpoint.name) for endpoint in endpoints} | {("sink", sink.name) for sink in sinks}

        def read(data: Mapping[str, Any]) -> set[str]:
            existing = [(change["resource_type"], change["old"].get("name")) for change in data["changes"] if change["old"] is not None]
            return {name for kind, name in existing if (kind, name) in wanted}

        return self._http.one(read, "POST", "/api/config/plan", _yaml_of(endpoints, [self._new_sink(sink) for sink in sinks]))

    def _new_sink(self, sink: NewSink) -> dict[str, Any]:
        return {
            "name": sink.name,
            "status": "active",
            "database": self.database,
            "source": {"include_tables": list(sink.include_tables)},
            "actions": list(sink.actions),
            "filter": sink.filter_function,
            "annotations": dict(sink.annotations),
            "destination": {"type": "webhook", "http_endpoint": sink.endpoint, "http_endpoint_path": "", "batch": sink.batch},
            "batch_size": sink.batch_size,
        }

    def update_sink(self, name: str, **fields: Any) -> Sink:
        """Change fields of a sink, named as in Sequin's API; raises SequinMismatch like `create_sink`."""
        body = {**fields, "database": self.database} if "source" in fields else fields
        return self.require_sink(self._http.one(Sink.of, "PATCH", api_path("sinks", name), body), body)

    def delete_sink(self, name: str) -> bool:
        """Delete a sink, its pending messages, and its backfills, but not its endpoint; return whether it existed."""
        return self._http.delete(api_path("sinks", name))

    def require_sink(self, sink: Sink, wanted: Mapping[str, Any]) -> Sink:
        """Return the sink if its filter, source, and annotations match the request body `wanted`.

        A key that is missing from `wanted` matches anything. If the sink does not match, it is deleted and SequinMismatch is raised.
        """
        wrong = _differences(sink, wanted)
        if not wrong:
            return sink
        what = f"The sink {sink.name} is not what was asked for: {'; '.join(wrong)}."
        try:
            self.delete_sink(sink.id)
        except SequinError as error:
            remedy = f"It could not be removed ({error.what}), and may send one user's rows to another: delete it in Sequin now."
            raise SequinMismatch(what, remedy) from error
        raise SequinMismatch(what, "It was removed, so that nobody gets another user's rows. Subscribe again to create a new sink.")

    # --- backfills -----------------------------------------------------------------------------------------------------

    def backfills(self, sink: str) -> list[Backfill]:
        """Return the sink's backfills, newest first."""
        return self._http.all(Backfill.of, api_path("sinks", sink, "backfills"))

    def backfill(self, sink: str, backfill_id: str) -> Backfill:
        """Return one backfill of the sink."""
        return self._http.one(Backfill.of, "GET", api_path("sinks", sink, "backfills", backfill_id))

    def create_backfill(self, sink: str, table: str | None = None) -> Backfill:
        """Start sending the table's rows as `read` messages; `table` may be omitted if the sink has only one."""
        return self._http.one(Backfill.of, "POST", api_path("sinks", sink, "backfills"), {"table": table} if table else {})

    def update_backfill(self, sink: str, backfill_id: str, state: BackfillState) -> Backfill:
        """Change a backfill's state: `paused`, `active` to resume it, or `cancelled`.

        Raises SequinInvalid if its current state does not allow the change.
        """
        return self._http.one(Backfill.of, "PATCH", api_path("sinks", sink, "backfills", backfill_id), {"state": state})

    # --- functions -----------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """Return all functions by name, read from `config/export` because the API has no resource for them."""

        def read(data: Mapping[str, Any]) -> dict[str, Function]:
            # Like yaml.safe_load, this loader builds plain values only.
            config = yaml.load(data["yaml"], Loader=_YAML_LOADER) or {}  # noqa: S506
            functions = [Function.of(entry) for entry in config.get("functions") or ()]
            return {function.name: function for function in functions}

        return self._http.one(read, "GET", "/api/config/export")

    def ensure_function(self, name: str, function_type: str, code: str) -> bool:
        """Create or replace a function and return True, or return False if it already has this code.

        An unchanged function is not applied again, because on a real server even that restarts replication. Raises SequinMismatch if the
        function does not have this code afterwards.
        """
        if self.function_state(name, function_type, code) == "same":
            return False
        self._http.call("POST", "/api/config/apply", {"yaml": _function_yaml(name, function_type, code)})
        if self.function_state(name, function_type, code) != "same":
            raise SequinMismatch(f"Sequin did not take the code of the function {name}.", "Look at the function in Sequin's console.")
        return True

    def function_state(self, name: str, function_type: str, code: str) -> FunctionState:
        """Return whether Sequin's function has this type and code.

        This calls `config/plan`, which changes nothing and, unlike an export, does not include the sinks.
        """

        def read(data: Mapping[str, Any]) -> FunctionState:
            for change in data["changes"]:
                if change["resource_type"] == "function" and change["new"]["name"] == name:
                    if change["old"] is None:
                        return "missing"
                    old = Function.of(change["old"])
                    return "same" if (old.type, old.code.strip()) == (function_type, code.strip()) else "different"
            return "same"

        return self._http.one(read, "POST", "/api/config/plan", {"yaml": _function_yaml(name, function_type, code)})


def _yaml_of(endpoints: Iterable[NewEndpoint], sinks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return a body for `config/apply` or `config/plan`. Its YAML is written as JSON, which is valid YAML."""
    http_endpoints = [{"name": e.name, "url": e.url, "encrypted_headers": dict(e.encrypted_headers)} for e in endpoints]
    return {"yaml": json.dumps({"http_endpoints": http_endpoints, "sinks": list(sinks)})}


def _function_yaml(name: str, function_type: str, code: str) -> str:
    return yaml.safe_dump({"functions": [{"name": name, "type": function_type, "code": code}]}, sort_keys=False)


def _differences(sink: Sink, wanted: Mapping[str, Any]) -> list[str]:
    """Describe each difference between the sink's filter, source, and annotations and those in `wanted`."""
    wrong = []
    if "filter" in wanted and sink.filter != wanted["filter"]:
        wrong.append(f"its filter is {sink.filter}, not {wanted['filter']}")
    if "source" in wanted and sorted(sink.include_tables) != sorted(wanted["source"]["include_tables"]):
        wrong.append(f"its tables are {', '.join(sink.include_tables) or 'all'}, not {', '.join(wanted['source']['include_tables'])}")
    for key, value in wanted.get("annotations", {}).items():
        actual = sink.annotations.get(key)
        if type(actual) is not type(value) or actual != value:
            wrong.append(f"its annotation {key} is {actual!r}, not {value!r}")
    return wrong
