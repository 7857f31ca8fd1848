"""Resources as YAML, for config/apply, config/plan, and config/export. Pure; `handlers.py` applies the changes.

Of the resources in Sequin's YAML, the local engine supports functions, HTTP endpoints, and sinks. Anything else is refused rather than
ignored. Applying a document creates or changes the resources that it contains, and deletes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from userhooks.engine import exact_json, functions
from userhooks.engine.api import responses
from userhooks.engine.api.api_errors import ApiError, refused
from userhooks.engine.api.request_bodies import BAD_NAME, NAME, endpoint_from, initial_backfills, sink_from
from userhooks.engine.resources import BackfillRange, Catalog, FunctionResource, HttpEndpoint, SinkResource

Resource = FunctionResource | HttpEndpoint | SinkResource
_KINDS: Mapping[type[Resource], str] = {FunctionResource: "function", HttpEndpoint: "http_endpoint", SinkResource: "sink"}

_MAX_SIZE = 10_000_000
"""Approximate maximum size in bytes of a document with its aliases expanded."""
_KEYS = ("functions", "transforms", "http_endpoints", "sinks")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The outcome of applying a YAML document: the catalogs `before` and `after`, and the resources that the document contains.

    `named` has the resources in an order in which they can be saved: each after the resources that it refers to. `backfills` has the
    initial backfills of new sinks.
    """

    before: Catalog
    after: Catalog
    named: tuple[Resource, ...]
    backfills: tuple[tuple[SinkResource, BackfillRange], ...]

    def changes(self) -> list[tuple[Resource, Resource | None]]:
        """Return pairs of a new or changed resource and its old version, which is None for a new resource."""
        pairs = ((new, self._old(new)) for new in self.named)
        return [(new, old) for new, old in pairs if new != old]

    def _old(self, new: Resource) -> Resource | None:
        if isinstance(new, FunctionResource):
            return self.before.functions.get(new.id)
        return self.before.endpoints.get(new.id) if isinstance(new, HttpEndpoint) else self.before.sinks.get(new.id)


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, which matters for hundreds of sinks


class _Loader(_SafeLoader):  # type: ignore[misc]
    """A loader that produces only what JSON can represent; for example, a date remains a string, as written."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _NotFinite(Exception):
    """A NaN or an infinity, which JSON would store as null."""


def _finite(text: str, number: float) -> float:
    if not math.isfinite(number):
        raise _NotFinite(f"{text} is not a finite number")
    return number


_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _finite(node.value, loader.construct_yaml_float(node)))


def document(body: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Parse the YAML in a request's body into lists of resources by kind. Raise ApiError if it is invalid."""
    text = body.get("yaml")
    if not isinstance(text, str):
        raise ApiError(400, {"summary": "`yaml` is required."})
    try:
        parsed = _json(text)
        if parsed is None:
            parsed = yaml.load(text, Loader=_Loader)  # noqa: S506  # _Loader is a safe loader
            if _expanded_size(parsed, {}) > _MAX_SIZE:
                raise ValueError("its aliases expand to too much data, or contain themselves")
        parsed = exact_json.loads(exact_json.dumps(parsed))  # raises for values that JSON cannot represent
    except (yaml.YAMLError, _NotFinite, ValueError, TypeError, RecursionError) as exc:
        raise ApiError(400, {"summary": f"Invalid YAML: {' '.join(str(exc).split())}"}) from exc
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise ApiError(400, {"summary": "Invalid YAML: the top level must be a mapping"})
    if "account" in parsed:
        raise ApiError(400, {"summary": "Account configuration only supported when self hosting and using a config file on boot."})
    for key, entries in parsed.items():
        if key not in _KEYS:
            supported = "`functions`, `http_endpoints`, and `sinks`"
            raise ApiError(400, {"summary": f"`{key}` is not supported by the local engine; it supports {supported}."})
        if not isinstance(entries, list | None):
            raise ApiError(400, {"summary": f"Invalid YAML: `{key}` must be a list"})
    return {key: entries for key, entries in parsed.items() if entries}


def _json(text: str) -> Any:
    """Parse YAML that is also JSON, much faster than a YAML parser would; return None for any other YAML.

    For a call with hundreds of sinks, parsing takes most of the time.
    """
    try:  # not with orjson, which turns large integers into floats
        return json.loads(text, parse_constant=_not_json, parse_float=lambda number: _finite(number, float(number)))
    except ValueError:
        return None


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is a string in YAML")


def _expanded_size(value: Any, known: dict[int, int]) -> int:
    """Return a value's approximate size in bytes with its aliases expanded; `known` caches the sizes of lists and mappings by id."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MAX_SIZE  # used if the value contains itself
        known[id(value)] = 1 + sum(_expanded_size(item, known) for item in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]


def wanted(entries: Mapping[str, list[Any]], catalog: Catalog, new_id: Callable[[], str]) -> Wanted:
    """Build the resources of a parsed `document`, with ids from `new_id` for new ones. Raise ApiError if any of them is invalid.

    If several entries have the same name, each changes the result of the previous one, as separate calls would.
    """
    after = replace(catalog, functions=dict(catalog.functions), endpoints=dict(catalog.endpoints), sinks=dict(catalog.sinks))
    named: dict[str, Resource] = {}
    backfills: list[tuple[str, BackfillRange]] = []
    ids = {function.name: function.id for function in after.functions.values()}
    for entry in [*entries.get("functions", ()), *entries.get("transforms", ())]:
        function = _function(entry, ids, new_id)
        ids[function.name] = function.id
        after.functions[function.id] = named[function.id] = function
    endpoints = {endpoint.name: endpoint for endpoint in after.endpoints.values()}
    for entry in entries.get("http_endpoints", ()):
        endpoint = _endpoint(entry, endpoints.get(_name(entry, "http_endpoints")), new_id)
        endpoints[endpoint.name] = after.endpoints[endpoint.id] = named[endpoint.id] = endpoint
    sinks = {sink.name: sink for sink in after.sinks.values()}
    for entry in entries.get("sinks", ()):
        existing = sinks.get(_name(entry, "sinks"))
        sink, initial = _sink(entry, after, existing, new_id)
        sinks[sink.name] = after.sinks[sink.id] = named[sink.id] = sink
        if existing is None:
            backfills += [(sink.id, backfill) for backfill in initial]
    return Wanted(catalog, after, tuple(named.values()), tuple((after.sinks[sink_id], backfill) for sink_id, backfill in backfills))


def _name(entry: Any, key: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise refused(f"`name` is required on {key}.")
    name: str = entry["name"]
    return name


def _endpoint(entry: dict[str, Any], existing: HttpEndpoint | None, new_id: Callable[[], str]) -> HttpEndpoint:
    secrets = existing.encrypted_headers if existing is not None else {}
    headers = entry.get("encrypted_headers")
    if isinstance(headers, dict):  # an obscured secret, as exported, leaves the secret unchanged
        restored = {
            name: secrets[name] if name in secrets and value == responses.obscured(secrets[name]) else value
            for name, value in headers.items()
        }
        entry = entry | {"encrypted_headers": restored}
    try:
        return endpoint_from(entry, existing, existing.id if existing is not None else new_id(), set())
    except ApiError as exc:
        raise _in_resource("http endpoint", entry, exc) from exc


def _sink(
    entry: dict[str, Any], catalog: Catalog, existing: SinkResource | None, new_id: Callable[[], str]
) -> tuple[SinkResource, list[BackfillRange]]:
    try:
        if existing is not None:
            _check_nothing_omitted(entry, existing)
        sink = sink_from(entry, catalog, existing, existing.id if existing is not None else new_id(), set())
        return sink, initial_backfills(entry.get("initial_backfill"), sink, catalog)
    except ApiError as exc:
        raise _in_resource("sink", entry, exc) from exc


def _check_nothing_omitted(entry: Mapping[str, Any], existing: SinkResource) -> None:
    """Check that the entry keeps or removes the existing sink's filter, transform, and routing explicitly.

    If one of these is omitted, Sequin's YAML removes it, whereas a PATCH keeps it. That difference must not decide who receives a row.
    """
    for key in ("filter", "filters", "transform", "routing"):
        value = getattr(existing, key)
        if value is not None and entry.get(key) is None:
            remedy = "`filters` again" if key == "filters" else f"`{key}: {value}` to keep it or `{key}: none` to remove it"
            raise refused(f"it has a {key.removesuffix('s')} that the YAML omits; write {remedy}")


def _in_resource(kind: str, entry: Mapping[str, Any], exc: ApiError) -> ApiError:
    summary = exc.body.get("summary", "a value has the wrong type")
    return ApiError(exc.status, exc.body | {"summary": f"{kind} '{entry['name']}': {summary}"})


def _function(entry: Any, ids: Mapping[str, str], new_id: Callable[[], str]) -> FunctionResource:
    name = _name(entry, "functions")
    if name in ("none", "null", "nil"):
        raise _function_error(name, {"name": "is reserved"})
    if not NAME.fullmatch(name):
        raise _function_error(name, {"name": BAD_NAME})
    nested = entry.get("function")
    inner: dict[str, Any] = nested if isinstance(nested, dict) else entry
    kind = "transform" if inner.get("type") == "function" else inner.get("type")
    if not isinstance(kind, str):
        raise _function_error(name, {"function": {"type": "can't be blank"}})
    if kind == "routing" and inner.get("sink_type") not in ("webhook", "http_push"):
        raise _function_error(name, {"function": {"sink_type": "can't be blank" if inner.get("sink_type") is None else "is invalid"}})
    key = responses.code_key(kind)
    code = inner.get(key)
    if not isinstance(code, str) or not code:
        raise _function_error(name, {"function": {key: "can't be blank"}})
    description = entry.get("description") if inner is not entry else None
    if description is not None and not isinstance(description, str):
        raise _function_error(name, {"description": "is invalid"})
    try:
        functions.check_function(code, kind)
    except functions.FunctionError as exc:
        raise _function_error(name, {"function": {key: str(exc)}}) from exc
    return FunctionResource(ids.get(name) or new_id(), name, kind, code, description)


def _function_error(name: str, errors: Mapping[str, Any]) -> ApiError:
    return ApiError(400, {"summary": f"Error creating function '{name}': {_inspect(errors)}"})


def _inspect(errors: Mapping[str, Any]) -> str:
    """Format errors as Elixir's inspect does; Sequin includes them in its message in this form."""
    parts = (f"{field}: {_inspect(error) if isinstance(error, dict) else '[' + json.dumps(error) + ']'}" for field, error in errors.items())
    return "%{" + ", ".join(parts) + "}"


def plan(outcome: Wanted) -> dict[str, Any]:
    """Return what applying would do: a change for each new or changed resource, and an action for each initial backfill."""
    return {
        "changes": [
            {
                "resource_type": _KINDS[type(new)],
                "action": "create" if old is None else "update",
                "new": _definition(new, outcome.after),
                "old": None if old is None else _definition(old, outcome.before),
            }
            for new, old in outcome.changes()
        ],
        "actions": [
            {"action": "initial_backfill", "sink": sink.name, "table": ".".join(backfill.table)}
            | {"sort_column": backfill.sort_column, "start_position": backfill.start_position}
            for sink, backfill in outcome.backfills
        ],
    }


def applied(outcome: Wanted, catalog: Catalog) -> dict[str, Any]:
    """Return the resources that an applied document contains, as they are in the catalog."""
    return {"resources": [_response(resource, catalog) for resource in outcome.named]}


def _response(resource: Resource, catalog: Catalog) -> dict[str, Any]:
    if isinstance(resource, FunctionResource):
        return responses.function(resource)
    return responses.endpoint(resource) if isinstance(resource, HttpEndpoint) else responses.sink(resource, catalog)


def _definition(resource: Resource, catalog: Catalog) -> dict[str, Any]:
    if isinstance(resource, FunctionResource):
        return {"name": resource.name, "type": resource.type, **responses.function_code(resource), "description": resource.description}
    return _without_id(_response(resource, catalog))


_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """A dumper that writes multi-line strings as blocks, so that code stays readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def export(catalog: Catalog) -> str:
    """Return all resources except API keys as YAML, with secrets masked."""
    database = catalog.database
    document = {
        "databases": [
            {
                "name": database.name,
                "hostname": database.hostname,
                "port": database.port,
                "database": database.database,
                "username": database.username,
                "password": responses.obscured(database.password),
                "pool_size": 10,
                "ssl": False,
                "ipv6": False,
                "use_local_tunnel": False,
                "slot": {"name": database.slot_name},
                "publication": {"name": database.publication_name},
            }
        ],
        "functions": [_definition(function, catalog) for function in catalog.functions.values()],
        "http_endpoints": [_without_id(responses.endpoint(endpoint)) for endpoint in catalog.endpoints.values()],
        "sinks": [_without_id(sink) for sink in responses.sinks(catalog.sinks.values(), catalog)],
    }
    parts = ["---\n"]
    for kind, entries in document.items():
        parts.append(f"{kind}:\n" if entries else f"{kind}: []\n")
        # one entry at a time: the dumper in C blocks all other threads until it returns
        parts += [yaml.dump([entry], Dumper=_Dumper, sort_keys=False, allow_unicode=True) for entry in entries]
    return "".join(parts)


def _without_id(response: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in response.items() if key != "id"}
