"""Resources as YAML: config/apply, config/plan and config/export. Pure; `handlers.py` puts the outcome in force.

Of the kinds of resources that Sequin takes in this YAML, the local engine takes functions, HTTP endpoints and sinks; anything else is
refused rather than ignored. What is named is created or changed; nothing is deleted.
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

_HEAVIEST = 10_000_000
_KEYS = ("functions", "transforms", "http_endpoints", "sinks")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a YAML asks for: `after` is the catalog as it would be then, `named` are the resources of it that the YAML names.

    Both are in the order in which they can be saved: nothing names what is not there yet. `backfills` are those of new sinks.
    """

    before: Catalog
    after: Catalog
    named: tuple[Resource, ...]
    backfills: tuple[tuple[SinkResource, BackfillRange], ...]

    def changes(self) -> list[tuple[Resource, Resource | None]]:
        """Return what is new (with None) or different (with what it was)."""
        pairs = ((new, self._old(new)) for new in self.named)
        return [(new, old) for new, old in pairs if new != old]

    def _old(self, new: Resource) -> Resource | None:
        if isinstance(new, FunctionResource):
            return self.before.functions.get(new.id)
        return self.before.endpoints.get(new.id) if isinstance(new, HttpEndpoint) else self.before.sinks.get(new.id)


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C ten times as fast: a YAML may name hundreds of sinks


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Reads what JSON can say: a date is the text that it is written as."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _NotFinite(Exception):
    """A number that would be stored as null."""


def _finite(text: str, number: float) -> float:
    if not math.isfinite(number):
        raise _NotFinite(f"{text} is not a number that can be stored")
    return number


_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _finite(node.value, loader.construct_yaml_float(node)))


def document(body: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Read the YAML of a request: a list for each kind of resource that it names. Raises Refused."""
    text = body.get("yaml")
    if not isinstance(text, str):
        raise ApiError(400, {"summary": "`yaml` is required."})
    try:
        found = _json(text)
        if found is None:
            found = yaml.load(text, Loader=_Loader)  # noqa: S506  # it is a safe one
            if _weight(found, {}) > _HEAVIEST:
                raise ValueError("its aliases make too much of it, or contain themselves")
        found = exact_json.loads(exact_json.dumps(found))  # raises for what cannot be stored
    except (yaml.YAMLError, _NotFinite, ValueError, TypeError, RecursionError) as exc:
        raise ApiError(400, {"summary": f"Invalid YAML: {' '.join(str(exc).split())}"}) from exc
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ApiError(400, {"summary": "Invalid YAML: a mapping is needed at the top"})
    if "account" in found:
        raise ApiError(400, {"summary": "Account configuration only supported when self hosting and using a config file on boot."})
    for key, listed in found.items():
        if key not in _KEYS:
            takes = "`functions`, `http_endpoints` and `sinks`"
            raise ApiError(400, {"summary": f"`{key}` cannot be applied to the local engine; it takes {takes}."})
        if not isinstance(listed, list | None):
            raise ApiError(400, {"summary": f"Invalid YAML: `{key}` must be a list"})
    return {key: listed for key, listed in found.items() if listed}


def _json(text: str) -> Any:
    """Read YAML that is JSON, too, many times as fast: a call that names hundreds of sinks is mostly reading. None for any other."""
    try:
        return json.loads(
            text, parse_constant=_not_json, parse_float=lambda number: _finite(number, float(number))
        )  # orjson would make floats of integers that it cannot hold
    except ValueError:
        return None


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is text in YAML")


def _weight(value: Any, known: dict[int, int]) -> int:
    """How much a value is when its aliases are written out, about in bytes; `known` are the lists and mappings counted so far."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _HEAVIEST  # if it contains itself
        known[id(value)] = 1 + sum(_weight(one, known) for one in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]


def wanted(found: Mapping[str, list[Any]], catalog: Catalog, new_id: Callable[[], str]) -> Wanted:
    """Make resources of a `document`, all of them or none; `new_id` makes ids for new ones. Raises Refused.

    Of several entries of one name each changes what the one before has made, as with one call after the other.
    """
    after = replace(catalog, functions=dict(catalog.functions), endpoints=dict(catalog.endpoints), sinks=dict(catalog.sinks))
    named: dict[str, Resource] = {}
    backfills: list[tuple[str, BackfillRange]] = []
    ids = {one.name: one.id for one in after.functions.values()}
    for entry in [*found.get("functions", ()), *found.get("transforms", ())]:
        function = _function(entry, ids, new_id)
        ids[function.name] = function.id
        after.functions[function.id] = named[function.id] = function
    endpoints = {one.name: one for one in after.endpoints.values()}
    for entry in found.get("http_endpoints", ()):
        endpoint = _endpoint(entry, endpoints.get(_name(entry, "http_endpoints")), new_id)
        endpoints[endpoint.name] = after.endpoints[endpoint.id] = named[endpoint.id] = endpoint
    sinks = {one.name: one for one in after.sinks.values()}
    for entry in found.get("sinks", ()):
        present = sinks.get(_name(entry, "sinks"))
        sink, readings = _sink(entry, after, present, new_id)
        sinks[sink.name] = after.sinks[sink.id] = named[sink.id] = sink
        if present is None:
            backfills += [(sink.id, one) for one in readings]
    return Wanted(catalog, after, tuple(named.values()), tuple((after.sinks[sink_id], one) for sink_id, one in backfills))


def _name(entry: Any, key: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise refused(f"`name` is required on {key}.")
    name: str = entry["name"]
    return name


def _endpoint(entry: dict[str, Any], present: HttpEndpoint | None, new_id: Callable[[], str]) -> HttpEndpoint:
    secrets = present.encrypted_headers if present is not None else {}
    given = entry.get("encrypted_headers")
    if isinstance(given, dict):  # what the export shows instead of a secret means the secret that is there
        kept = {
            name: secrets[name] if name in secrets and value == responses.obscured(secrets[name]) else value
            for name, value in given.items()
        }
        entry = entry | {"encrypted_headers": kept}
    try:
        return endpoint_from(entry, present, present.id if present is not None else new_id(), set())
    except ApiError as exc:
        raise _of("http endpoint", entry, exc) from exc


def _sink(
    entry: dict[str, Any], catalog: Catalog, present: SinkResource | None, new_id: Callable[[], str]
) -> tuple[SinkResource, list[BackfillRange]]:
    try:
        if present is not None:
            _check_that_nothing_is_left_out(entry, present)
        one = sink_from(entry, catalog, present, present.id if present is not None else new_id(), set())
        return one, initial_backfills(entry.get("initial_backfill"), one, catalog)
    except ApiError as exc:
        raise _of("sink", entry, exc) from exc


def _check_that_nothing_is_left_out(entry: Mapping[str, Any], present: SinkResource) -> None:
    """A function left out means none to Sequin's YAML, the present one to a PATCH: who gets a row must not hang on that."""
    for key in ("filter", "filters", "transform", "routing"):
        value = getattr(present, key)
        if value is not None and entry.get(key) is None:
            remedy = "`filters` again" if key == "filters" else f"`{key}: {value}` to keep it or `{key}: none` to remove it"
            raise refused(f"it has a {key.removesuffix('s')} and the YAML says nothing of it; write {remedy}")


def _of(kind: str, entry: Mapping[str, Any], exc: ApiError) -> ApiError:
    said = exc.body.get("summary", "a value has the wrong type")
    return ApiError(exc.status, exc.body | {"summary": f"{kind} '{entry['name']}': {said}"})


def _function(one: Any, ids: Mapping[str, str], new_id: Callable[[], str]) -> FunctionResource:
    name = _name(one, "functions")
    if name in ("none", "null", "nil"):
        raise _cannot(name, {"name": "is reserved"})
    if not NAME.fullmatch(name):
        raise _cannot(name, {"name": BAD_NAME})
    nested = one.get("function")
    inner: dict[str, Any] = nested if isinstance(nested, dict) else one
    kind = "transform" if inner.get("type") == "function" else inner.get("type")
    if not isinstance(kind, str):
        raise _cannot(name, {"function": {"type": "can't be blank"}})
    if kind == "routing" and inner.get("sink_type") not in ("webhook", "http_push"):
        raise _cannot(name, {"function": {"sink_type": "can't be blank" if inner.get("sink_type") is None else "is invalid"}})
    key = responses.code_key(kind)
    code = inner.get(key)
    if not isinstance(code, str) or not code:
        raise _cannot(name, {"function": {key: "can't be blank"}})
    description = one.get("description") if inner is not one else None
    if description is not None and not isinstance(description, str):
        raise _cannot(name, {"description": "is invalid"})
    try:
        functions.check_function(code, kind)
    except functions.FunctionError as exc:
        raise _cannot(name, {"function": {key: str(exc)}}) from exc
    return FunctionResource(ids.get(name) or new_id(), name, kind, code, description)


def _cannot(name: str, errors: Mapping[str, Any]) -> ApiError:
    return ApiError(400, {"summary": f"Error creating function '{name}': {_inspected(errors)}"})


def _inspected(errors: Mapping[str, Any]) -> str:
    """Errors as Elixir prints them; Sequin puts them into the text like this."""
    parts = (f"{field}: {_inspected(why) if isinstance(why, dict) else '[' + json.dumps(why) + ']'}" for field, why in errors.items())
    return "%{" + ", ".join(parts) + "}"


def plan(of: Wanted) -> dict[str, Any]:
    """Say what applying would change: one entry for each resource that is new or different, one action for each backfill."""
    return {
        "changes": [
            {
                "resource_type": "function"
                if isinstance(new, FunctionResource)
                else "sink"
                if isinstance(new, SinkResource)
                else "http_endpoint",
                "action": "create" if old is None else "update",
                "new": _planned(new, of.after),
                "old": None if old is None else _planned(old, of.before),
            }
            for new, old in of.changes()
        ],
        "actions": [
            {"action": "initial_backfill", "sink": sink.name, "table": ".".join(one.table)}
            | {"sort_column": one.sort_column, "start_position": one.start_position}
            for sink, one in of.backfills
        ],
    }


def applied(of: Wanted, catalog: Catalog) -> dict[str, Any]:
    """Show what a YAML has named, as it is now in the catalog."""
    return {"resources": [_shown(one, catalog) for one in of.named]}


def _shown(one: Resource, catalog: Catalog) -> dict[str, Any]:
    if isinstance(one, FunctionResource):
        return responses.function(one)
    return responses.endpoint(one) if isinstance(one, HttpEndpoint) else responses.sink(one, catalog)


def _planned(one: Resource, catalog: Catalog) -> dict[str, Any]:
    if isinstance(one, FunctionResource):
        return {"name": one.name, "type": one.type, **responses.function_code(one), "description": one.description}
    return _without_id(_shown(one, catalog))


_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """Writes texts of several lines as blocks, so that code stays readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def export(catalog: Catalog) -> str:
    """All resources but keys as YAML, secrets obscured."""
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
        "functions": [_planned(f, catalog) for f in catalog.functions.values()],
        "http_endpoints": [_without_id(responses.endpoint(e)) for e in catalog.endpoints.values()],
        "sinks": [_without_id(s) for s in responses.sinks(catalog.sinks.values(), catalog)],
    }
    parts = ["---\n"]
    for kind, those in document.items():
        parts.append(f"{kind}:\n" if those else f"{kind}: []\n")
        # one by one: the library in C lets no other thread run before it is through
        parts += [yaml.dump([one], Dumper=_Dumper, sort_keys=False, allow_unicode=True) for one in those]
    return "".join(parts)


def _without_id(shown: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shown.items() if key != "id"}
