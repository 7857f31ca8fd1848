"""Functions as YAML: config/apply, config/plan and config/export. Pure; `api.py` puts the outcome in force.

Of the kinds of resources that Sequin takes in this YAML, the local engine takes functions; anything else is refused rather than ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from userhooks.engine import answers, functions
from userhooks.engine.refusals import Refused, refused
from userhooks.engine.requests import BAD_NAME, NAME
from userhooks.engine.resources import Catalog, Function


def functions_from(body: Mapping[str, Any], catalog: Catalog, new_id: Callable[[], str]) -> list[Function]:
    """Read the functions of a request, all of them or none; `new_id` makes ids for new ones. Raises Refused."""
    text = body.get("yaml")
    if not isinstance(text, str):
        raise Refused(400, {"summary": "`yaml` is required."})
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: a date that is none
        raise Refused(400, {"summary": f"Invalid YAML: {' '.join(str(exc).split())}"}) from exc
    if document is None:
        return []
    if not isinstance(document, dict):
        raise Refused(400, {"summary": "Invalid YAML: a mapping is needed at the top"})
    if "account" in document:
        raise Refused(400, {"summary": "Account configuration only supported when self hosting and using a config file on boot."})
    for key, listed in document.items():
        if key not in ("functions", "transforms"):
            raise Refused(400, {"summary": f"`{key}` cannot be applied to the local engine; it takes `functions`."})
        if not isinstance(listed, list | None):
            raise Refused(400, {"summary": f"Invalid YAML: `{key}` must be a list"})
    ids = {f.name: f.id for f in catalog.functions.values()}
    wanted: dict[str, Function] = {}
    for one in [*(document.get("functions") or []), *(document.get("transforms") or [])]:
        function = _function(one, ids, new_id)
        ids[function.name] = function.id
        wanted[function.name] = function  # the last one of a name is in force, as with one call after the other
    return list(wanted.values())


def _function(one: Any, ids: Mapping[str, str], new_id: Callable[[], str]) -> Function:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not one["name"]:
        raise refused("`name` is required on functions.")
    name = one["name"]
    if name in ("none", "null", "nil"):
        raise _cannot(name, {"name": "is reserved"})
    if not NAME.fullmatch(name):
        raise _cannot(name, {"name": BAD_NAME})
    nested = one.get("function")
    inner: dict[str, Any] = nested if isinstance(nested, dict) else one
    kind = "transform" if inner.get("type") == "function" else inner.get("type")
    if not isinstance(kind, str):
        raise _cannot(name, {"function": {"type": "can't be blank"}})
    key = answers.code_key(kind)
    code = inner.get(key)
    if not isinstance(code, str) or not code:
        raise _cannot(name, {"function": {key: "can't be blank"}})
    description = one.get("description") if inner is not one else None
    if description is not None and not isinstance(description, str):
        raise _cannot(name, {"description": "is invalid"})
    try:
        if kind in ("transform", "path"):
            functions.parse_transform(code, kind)
        else:
            functions.parse(code, kind)
    except functions.FunctionError as exc:
        raise _cannot(name, {"function": {key: str(exc)}}) from exc
    return Function(ids.get(name) or new_id(), name, kind, code, description)


def _cannot(name: str, errors: Mapping[str, Any]) -> Refused:
    return Refused(400, {"summary": f"Error creating function '{name}': {_inspected(errors)}"})


def _inspected(errors: Mapping[str, Any]) -> str:
    """Errors as Elixir prints them; Sequin puts them into the text like this."""
    parts = (f"{field}: {_inspected(why) if isinstance(why, dict) else '[' + json.dumps(why) + ']'}" for field, why in errors.items())
    return "%{" + ", ".join(parts) + "}"


def plan(wanted: list[Function], catalog: Catalog) -> dict[str, Any]:
    """What applying would change: one entry for each function that is new or different."""
    present = {f.name: f for f in catalog.functions.values()}
    changes = []
    for one in wanted:
        old = present.get(one.name)
        if old is None or (old.type, old.code) != (one.type, one.code):
            changes.append(
                {
                    "resource_type": "function",
                    "action": "create" if old is None else "update",
                    "new": _planned(one),
                    "old": None if old is None else _planned(old),
                }
            )
    return {"changes": changes, "actions": []}


def _planned(one: Function) -> dict[str, Any]:
    return {"name": one.name, "type": one.type, answers.code_key(one.type): one.code, "description": one.description}


class _Dumper(yaml.SafeDumper):
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
                "password": answers.obscured(database.password),
                "pool_size": 10,
                "ssl": False,
                "ipv6": False,
                "use_local_tunnel": False,
                "slot": {"name": database.slot_name},
                "publication": {"name": database.publication_name},
            }
        ],
        "functions": [_planned(f) for f in catalog.functions.values()],
        "http_endpoints": [_without_id(answers.endpoint(e)) for e in catalog.endpoints.values()],
        "sinks": [_without_id(s) for s in answers.sinks(catalog.sinks.values(), catalog)],
    }
    return "---\n" + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _without_id(shown: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shown.items() if key != "id"}
