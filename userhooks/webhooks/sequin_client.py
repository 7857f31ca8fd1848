"""A client of Sequin's Management API, the same for a real server and the local engine; what a subscription needs is in `subscriptions.py`.

Shapes, statuses and texts are those of Sequin 0.14.6. Tokens, encrypted headers and what `config/apply` answers (database passwords are
in it) are neither logged nor put into errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
import yaml

from userhooks.errors import (
    START,
    ConfigurationError,
    SequinError,
    SequinFailed,
    SequinInvalid,
    SequinMismatch,
    SequinNotFound,
    SequinUnauthorized,
    SequinUnreachable,
)

T = TypeVar("T")

FunctionState = Literal["same", "different", "missing"]

ACTIONS = ("insert", "update", "delete")

_EXTENSIONS = {"timeout": httpx.Timeout(15.0, connect=5.0).as_dict()}
_LIVE_POLL_S, _LIVE_POLLS = 0.1, 300
_SETTLE_S = 0.5  # a sink's health is written by another job than the one that makes it live
_PAUSES_S = (0.1, 0.4)  # before the second and the third try of a GET or DELETE; a POST is never repeated: it may have worked
_WORTH_ANOTHER_TRY = frozenset({502, 503, 504})

# A server with thousands of sinks exports megabytes, which the loader in C reads ten times as fast.
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Health:
    """What `/health` says of the server itself, and its version like `v0.14.6`."""

    ok: bool
    version: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read an answer."""
        return cls(data["ok"] is True, str(data["rev"]))


@dataclass(frozen=True)
class Endpoint:
    """An HTTP endpoint: where a sink sends to. Its encrypted headers, which come back starred out, are left aside."""

    id: str
    name: str
    url: str
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read an answer; the endpoint of a CLI tunnel has no URL."""
        return cls(str(data["id"]), str(data["name"]), str(data.get("url") or ""), data["headers"])


@dataclass(frozen=True)
class Sink:
    """A webhook sink. `filter` is a function's name or "none".

    `health`, `error` and `is_initializing` are known from reads, not from create and update.
    """

    id: str
    name: str
    database: str
    status: str
    filter: str | None
    include_tables: tuple[str, ...]
    annotations: Mapping[str, Any]
    actions: tuple[str, ...]
    endpoint: str
    batch: bool
    batch_size: int
    max_retry_count: int | None
    health: str | None
    error: str | None
    is_initializing: bool

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read an answer; servers before 0.10 give neither `source` nor `filter`, and a sink without them is what it looks like."""
        health = data.get("health") or {}
        errors = [str(check["error"]) for check in health.get("checks", ()) if check.get("error")]
        return cls(
            id=str(data["id"]),
            name=str(data["name"]),
            database=str(data["database"]),
            status=str(data["status"]),
            filter=data.get("filter"),
            include_tables=tuple((data.get("source") or {}).get("include_tables") or ()),
            annotations=data.get("annotations") or {},
            actions=tuple(data["actions"]),
            endpoint=str(data["destination"].get("http_endpoint")),
            batch=data["destination"].get("batch") is True,
            batch_size=int(data["batch_size"]),
            max_retry_count=data.get("max_retry_count"),
            health=health.get("status"),
            error="; ".join(errors) or None,
            is_initializing=any(check.get("status") == "initializing" for check in health.get("checks", ())),
        )


@dataclass(frozen=True)
class NewEndpoint:
    """An HTTP endpoint that is to be; `encrypted_headers` go with every webhook and are never shown again."""

    name: str
    url: str
    encrypted_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class NewSink:
    """A webhook sink that is to be; fields as in `SequinClient.create_sink`."""

    name: str
    endpoint: str
    include_tables: tuple[str, ...]
    filter_function: str
    annotations: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[str, ...] = ACTIONS
    batch: bool = True
    batch_size: int = 1


@dataclass(frozen=True)
class Backfill:
    """A backfill. The counters count the whole table's rows; `rows_initial_count` is None until Sequin has counted.

    `error` says what keeps it from reading, where Sequin tells.
    """

    id: str
    sink_name: str
    table: str
    state: str
    rows_initial_count: int | None
    rows_processed_count: int
    rows_ingested_count: int
    error: str | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read an answer."""
        return cls(
            id=str(data["id"]),
            sink_name=str(data["sink_consumer"]),
            table=str(data["table"]),
            state=str(data["state"]),
            rows_initial_count=data["rows_initial_count"],
            rows_processed_count=int(data["rows_processed_count"]),
            rows_ingested_count=int(data["rows_ingested_count"]),
            error=data.get("error"),
        )


@dataclass(frozen=True)
class Function:
    """A function as `config/export` lists it: `type` is filter, transform, routing, path or enrichment."""

    name: str
    type: str
    code: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read an entry of the YAML, flat or nested."""
        inner = data.get("function") or data
        return cls(str(data["name"]), str(inner["type"]), str(inner.get("code") or ""))


class SequinClient:
    """Sequin's Management API at `url`; `database` is the database's name inside Sequin. Usable from several threads.

    Every method raises SequinUnreachable, SequinUnauthorized, SequinInvalid or SequinFailed; those that name something also
    SequinNotFound. GET and DELETE are tried three times when the connection breaks or a proxy answers 502, 503 or 504.
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
        if not (token.isascii() and token.isprintable()):
            raise ConfigurationError("SEQUIN_API_TOKEN holds characters that no token has.", "Copy it again from Sequin's console.")
        self.url = url
        self.database = database
        self._sleep = sleep
        self._headers = {"Accept": "application/json", "Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        # The proxies of the environment are not asked: the token is for Sequin alone. A whole httpx.Client, with its cookies, redirects and
        # hooks, takes twice as long for a call, and a crowd of users is removed with 20,000 of them.
        self._transport = transport or httpx.HTTPTransport(trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the server and its database -----------------------------------------------------------------------------------

    def health(self) -> Health:
        """Ask whether the server is up; the state of replication is not part of it."""
        return self._one(Health.of, "GET", "/health")

    def version(self) -> str:
        """Return the server's version, like `v0.14.6`."""
        return self._one(lambda data: str(data["version"]), "GET", "/info/version", accept="*/*")

    def publication(self) -> str:
        """Return the name of the publication that Sequin reads."""
        return self._replication("publication_name")

    def slot(self) -> str:
        """Return the name of the replication slot from which Sequin reads the WAL."""
        return self._replication("slot_name")

    def _replication(self, field: str) -> str:
        def read(data: Mapping[str, Any]) -> str:
            return str(data["replication_slots"][0][field])

        return self._one(read, "GET", _path("postgres_databases", self.database))

    def refresh_tables(self) -> None:
        """Make Sequin look at the database's tables anew: a table younger than Sequin's last look cannot be named by a sink."""
        self._call("POST", _path("postgres_databases", self.database, "refresh_tables"), {})

    def test_connection(self) -> None:
        """Make Sequin connect to the database; raises SequinInvalid with its reason when that fails."""
        self._call("POST", _path("postgres_databases", self.database, "test_connection"), {})

    # --- HTTP endpoints ------------------------------------------------------------------------------------------------

    def endpoints(self) -> list[Endpoint]:
        """Return all HTTP endpoints."""
        return self._all(Endpoint.of, _path("destinations", "http_endpoints"))

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint with this name or id."""
        return self._one(Endpoint.of, "GET", _path("destinations", "http_endpoints", name))

    def create_endpoint(self, name: str, url: str, *, encrypted_headers: Mapping[str, str] | None = None) -> Endpoint:
        """Create an endpoint; `encrypted_headers` go with every webhook and are never shown again."""
        body = {"name": name, "url": url, "encrypted_headers": dict(encrypted_headers or {})}
        return self._one(Endpoint.of, "POST", _path("destinations", "http_endpoints"), body)

    def update_endpoint(self, name: str, **fields: Any) -> Endpoint:
        """Change these fields (`url`, `headers`, `encrypted_headers`, `name`) of an endpoint; headers are replaced as a whole."""
        return self._one(Endpoint.of, "PATCH", _path("destinations", "http_endpoints", name), fields)

    def delete_endpoint(self, name: str) -> bool:
        """Delete an endpoint; False when there is none. SequinInvalid when a sink uses it."""
        return self._delete(_path("destinations", "http_endpoints", name))

    # --- sinks ---------------------------------------------------------------------------------------------------------

    def sinks(self) -> list[Sink]:
        """Return all sinks."""
        return self._all(Sink.of, _path("sinks"))

    def sink(self, name: str) -> Sink:
        """Return the sink with this name or id."""
        return self._one(Sink.of, "GET", _path("sinks", name))

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
        """Create a webhook sink that sends the rows its filter function lets through; `filter_function` "none" sends all rows.

        Raises SequinMismatch, with the sink deleted, when the answer shows another filter, source or annotation than was asked for:
        a filter that got lost sends one user's rows to another.
        """
        body = self._new_sink(
            NewSink(name, endpoint, tuple(include_tables), filter_function, annotations or {}, tuple(actions), batch, batch_size)
        )
        return self.require_sink(self._one(Sink.of, "POST", _path("sinks"), body), body)

    def wait_until_live(self, names: Sequence[str]) -> None:
        """Wait until these new sinks get every row that is committed from now on; raises SequinFailed when that takes over 30 s.

        Sequin 0.14.6 answers a create call before replication knows the sink, and the sink misses what is committed until then: for 50 ms
        on a quiet server, for seconds while replication restarts (recorded). Meanwhile the sink's health is `initializing`; the local
        engine's never is.
        """
        for polls in range(_LIVE_POLLS + 1):
            looked_at = names if polls else names[-1:]  # one answer tells whether the server takes its time: there may be thousands
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
        """Create endpoints and the sinks that use them with one call, for hundreds at once; those of these names that exist are changed.

        Returns the sinks in order. Raises SequinMismatch like `create_sink`, also for one that is missing afterwards; then those that
        were right are still there.
        """
        bodies = [self._new_sink(sink) for sink in sinks]

        def read(data: Mapping[str, Any]) -> dict[str, Sink]:
            return {entry["name"]: Sink.of(entry) for entry in data["resources"] if "destination" in entry}

        found = self._one(read, "POST", "/api/config/apply", _yaml_of(endpoints, bodies))
        if any(body["name"] not in found for body in bodies):  # a real server answers its sinks without destination, filter and source
            found = {sink.name: sink for sink in self.sinks()}
        missing = [body["name"] for body in bodies if body["name"] not in found]
        if missing:
            raise SequinMismatch(f"Sequin did not create the sink {missing[0]}.", "Look at its sinks in Sequin's console.")
        return [self.require_sink(found[body["name"]], body) for body in bodies]

    def taken_names(self, endpoints: Iterable[NewEndpoint], sinks: Iterable[NewSink]) -> set[str]:
        """Return the names among these endpoints and sinks that something else in Sequin has, so that `create_sinks` would change it."""
        endpoints, sinks = list(endpoints), list(sinks)
        wanted = {("http_endpoint", one.name) for one in endpoints} | {("sink", one.name) for one in sinks}

        def read(data: Mapping[str, Any]) -> set[str]:
            existing = [(change["resource_type"], change["old"].get("name")) for change in data["changes"] if change["old"] is not None]
            return {name for kind, name in existing if (kind, name) in wanted}

        return self._one(read, "POST", "/api/config/plan", _yaml_of(endpoints, [self._new_sink(sink) for sink in sinks]))

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
        """Change these fields of a sink (as in Sequin's API); raises SequinMismatch like `create_sink`."""
        body = {**fields, "database": self.database} if "source" in fields else fields
        return self.require_sink(self._one(Sink.of, "PATCH", _path("sinks", name), body), body)

    def delete_sink(self, name: str) -> bool:
        """Delete a sink, its waiting messages and its backfills, but not its endpoint; False when there is none."""
        return self._delete(_path("sinks", name))

    def require_sink(self, sink: Sink, wanted: Mapping[str, Any]) -> Sink:
        """Return the sink when its filter, source and annotations are those `wanted`, as in a request's body; keys left out do not count.

        Otherwise the sink is deleted and SequinMismatch raised.
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
        raise SequinMismatch(what, "It was removed, so that nobody gets another user's rows. Subscribe again to make it anew.")

    # --- backfills -----------------------------------------------------------------------------------------------------

    def backfills(self, sink: str) -> list[Backfill]:
        """Return the sink's backfills, newest first."""
        return self._all(Backfill.of, _path("sinks", sink, "backfills"))

    def backfill(self, sink: str, backfill_id: str) -> Backfill:
        """Return one backfill of the sink."""
        return self._one(Backfill.of, "GET", _path("sinks", sink, "backfills", backfill_id))

    def create_backfill(self, sink: str, table: str | None = None) -> Backfill:
        """Send the table's rows once more as `read` messages; `table` can be left out when the sink has one table."""
        return self._one(Backfill.of, "POST", _path("sinks", sink, "backfills"), {"table": table} if table else {})

    def update_backfill(self, sink: str, backfill_id: str, state: str) -> Backfill:
        """Pause, resume (`active`) or cancel (`cancelled`) a backfill."""
        return self._one(Backfill.of, "PATCH", _path("sinks", sink, "backfills", backfill_id), {"state": state})

    # --- functions -----------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """Return all functions by name, from `config/export`, since Sequin has no resource for them."""

        def read(data: Mapping[str, Any]) -> dict[str, Function]:
            # The loader in use builds plain values only, like yaml.safe_load.
            config = yaml.load(data["yaml"], Loader=_YAML_LOADER) or {}  # noqa: S506
            found = [Function.of(entry) for entry in config.get("functions") or ()]
            return {function.name: function for function in found}

        return self._one(read, "GET", "/api/config/export")

    def ensure_function(self, name: str, function_type: str, code: str) -> bool:
        """Create or replace a function and return True; when it is there with this code do nothing and return False.

        Nothing is applied in vain, since even an unchanged function restarts replication on a real server. Raises SequinMismatch when
        the function has another code afterwards.
        """
        if self.function_state(name, function_type, code) == "same":
            return False
        self._call("POST", "/api/config/apply", {"yaml": _function_yaml(name, function_type, code)})
        if self.function_state(name, function_type, code) != "same":
            raise SequinMismatch(f"Sequin did not take the code of the function {name}.", "Look at the function in Sequin's console.")
        return True

    def function_state(self, name: str, function_type: str, code: str) -> FunctionState:
        """Compare a function with this code, by `config/plan`, which changes nothing: an export would list every sink as well."""

        def read(data: Mapping[str, Any]) -> FunctionState:
            for change in data["changes"]:
                if change["resource_type"] == "function" and change["new"]["name"] == name:
                    if change["old"] is None:
                        return "missing"
                    old = Function.of(change["old"])
                    return "same" if (old.type, old.code.strip()) == (function_type, code.strip()) else "different"
            return "same"

        return self._one(read, "POST", "/api/config/plan", {"yaml": _function_yaml(name, function_type, code)})

    # --- HTTP ----------------------------------------------------------------------------------------------------------

    def _one(self, read: Callable[[Mapping[str, Any]], T], method: str, path: str, body: Any = None, *, accept: str | None = None) -> T:
        data = self._call(method, path, body, accept=accept)
        try:
            return read(data)
        except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError):
            raise _not_sequin(method, path) from None

    def _all(self, read: Callable[[Mapping[str, Any]], T], path: str) -> list[T]:
        return self._one(lambda data: [read(entry) for entry in data["data"]], "GET", path)

    def _delete(self, path: str) -> bool:
        try:
            self._call("DELETE", path)
        except SequinNotFound:
            return False
        return True

    def _call(self, method: str, path: str, body: Any = None, *, accept: str | None = None) -> dict[str, Any]:
        pauses = (*_PAUSES_S, None) if method in ("GET", "DELETE") else (None,)
        headers = {**self._headers, "Accept": accept} if accept else self._headers
        for pause in pauses:
            try:
                request = httpx.Request(method, f"{self.url}{path}", json=body, headers=headers, extensions=_EXTENSIONS)
                response = self._transport.handle_request(request)
                _hang_up_after_an_error(response)
                response.read()
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if pause is None or isinstance(error, httpx.ReadTimeout | httpx.UnsupportedProtocol | httpx.InvalidURL):
                    raise self._unreachable(error) from None
            else:
                if pause is None or response.status_code not in _WORTH_ANOTHER_TRY:
                    return _read(response, method, path)
            self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: Exception) -> SequinUnreachable:
        reason = str(error) or type(error).__name__
        return SequinUnreachable(f"Sequin at {self.url} does not answer: {reason}.", f"{START}; or correct SEQUIN_URL.")


def _yaml_of(endpoints: Iterable[NewEndpoint], sinks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the body of `config/apply` and `config/plan`; the text is JSON, which is YAML as well."""
    listed = [{"name": one.name, "url": one.url, "encrypted_headers": dict(one.encrypted_headers)} for one in endpoints]
    return {"yaml": json.dumps({"http_endpoints": listed, "sinks": list(sinks)})}


def _function_yaml(name: str, function_type: str, code: str) -> str:
    return yaml.safe_dump({"functions": [{"name": name, "type": function_type, "code": code}]}, sort_keys=False)


class _LastAnswer(httpx.SyncByteStream):
    """The body of a connection's last answer: its end is never read, so the connection cannot be used again and is closed."""

    def __init__(self, body: httpx.SyncByteStream, length: int) -> None:
        self._body = body
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        left = self._length
        parts = iter(self._body)
        while left > 0:
            part = next(parts)
            left -= len(part)
            yield part

    def close(self) -> None:
        self._body.close()


def _hang_up_after_an_error(response: httpx.Response) -> None:
    """Sequin 0.14.6 sometimes writes a second answer after an error, which the next call on the connection would take for its own."""
    length = response.headers.get("content-length")  # in every recorded answer
    if response.is_error and length is not None and isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _LastAnswer(response.stream, int(length))


def _path(*parts: str) -> str:
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def _differences(sink: Sink, wanted: Mapping[str, Any]) -> list[str]:
    """What of filter, source and annotations is not as wanted, in words."""
    wrong = []
    if "filter" in wanted and sink.filter != wanted["filter"]:
        wrong.append(f"its filter is {sink.filter}, not {wanted['filter']}")
    if "source" in wanted and sorted(sink.include_tables) != sorted(wanted["source"]["include_tables"]):
        wrong.append(f"its tables are {', '.join(sink.include_tables) or 'all'}, not {', '.join(wanted['source']['include_tables'])}")
    for key, value in wanted.get("annotations", {}).items():
        found = sink.annotations.get(key)
        if type(found) is not type(value) or found != value:
            wrong.append(f"its annotation {key} is {found!r}, not {value!r}")
    return wrong


def _read(response: httpx.Response, method: str, path: str) -> dict[str, Any]:
    """Return the JSON object of a good answer, or raise the error of a bad one."""
    status = response.status_code
    try:
        data = response.json()
    except ValueError:
        data = None
    if response.is_success:
        if isinstance(data, dict):
            return data
        raise _not_sequin(method, path)
    summary, fields = _explanation(data)
    said = f"{method} {path} ({status}): {summary or response.reason_phrase}"
    if status == 401:
        remedy = "Set SEQUIN_API_TOKEN to a token of this server (its console lists them)."
        raise SequinUnauthorized("Sequin refused the API token.", remedy, status=status)
    if status == 404:
        raise SequinNotFound(f"Sequin does not know what was asked for. {said}", "Is it listed in Sequin's console?", status=status)
    if 400 <= status < 500:
        raise SequinInvalid(f"Sequin refused {said}", "Correct what it names and try again.", status=status, validation_errors=fields)
    if status >= 500:
        raise SequinFailed(f"Sequin failed at {said}", "Look at Sequin's log, and try again.", status=status)
    raise _not_sequin(method, path)


def _explanation(data: Any) -> tuple[str, dict[str, Any]]:
    """The text of an error body, its validation errors flattened into it, and these errors as they came."""
    if not isinstance(data, dict):
        return "", {}
    detail = data.get("errors")
    summary = data.get("summary") or data.get("reason") or (detail.get("detail") if isinstance(detail, dict) else "")
    fields = data.get("validation_errors")
    fields = fields if isinstance(fields, dict) else {}
    return "; ".join([str(summary or "").strip(), *_flatten(fields)]), fields


def _flatten(errors: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`{"sink": {"path": ["is bad"]}}` as `["sink.path is bad"]`."""
    lines: list[str] = []
    for key, value in errors.items():
        if isinstance(value, dict):
            lines += _flatten(value, f"{prefix}{key}.")
        else:
            lines += [f"{prefix}{key} {message}" for message in (value if isinstance(value, list) else [value])]
    return lines


def _not_sequin(method: str, path: str) -> SequinFailed:
    return SequinFailed(f"The answer to {method} {path} is not Sequin's.", "Does SEQUIN_URL name a Sequin server, without a path?")
