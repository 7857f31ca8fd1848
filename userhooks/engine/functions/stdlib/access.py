"""Elixir's `Access`: `container[key]`, `map.field`, and key paths. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import terms
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.terms import Atom, Closure, Raised, as_key
from userhooks.engine.functions.text import inspect


def get(meter: Meter, container: Any, key: Any, default: Any = None) -> Any:
    """Return `container[key]`, or the default if the key is missing or the container is nil."""
    if container is None:
        return default
    kind = type(container)
    if kind is dict:
        name = terms.struct_name(container)
        if name is not None:
            raise Raised(
                f"function {name}.fetch/2 is undefined ({name} does not implement the Access behaviour. If you are using get_in/put_in/"
                f"update_in, you can specify the field to be accessed using Access.key!({inspect(key)}))"
            )
        return container.get(as_key(meter, key), default)
    if kind is list:
        if not terms.is_atom(key):
            message = (
                f"the Access module does not support accessing lists by index, got: {inspect(key)}"
                if type(key) is int
                else (f"the Access calls for keywords expect the key to be an atom, got: {inspect(key)}")
            )
            advice = (
                "\n\nAccessing a list by index is typically discouraged in Elixir, instead we prefer to use the Enum module to manipulate "
                "lists as a whole. If you really must access a list element by index, you can use Enum.at/2 or the functions in the List "
                "module"
            )
            raise Raised(message + advice * (type(key) is int))
        meter.spend(len(container) // 8)
        return next((item[1] for item in container if type(item) is tuple and len(item) == 2 and item[0] is key), default)
    raise Raised("no function clause matching in Access.get/3")


def field(meter: Meter, container: Any, name: Atom) -> Any:
    """Return `container.name`; raises Raised unless the container is a map with this atom as a key."""
    key = terms.as_key(meter, terms.atom(name.name))
    if type(container) is dict:
        if key in container:
            return container[key]
        raise Raised(f"key {inspect(terms.atom(name.name))} not found in:\n\n    {inspect(container)}\n")
    if isinstance(container, Atom):
        raise Raised(f"function {inspect(container)}.{name.name}/0 is undefined")
    raise Raised(f"expected a map or struct when accessing .{name.name} in variable, got:\n\n    {inspect(container)}\n")


def _keys(keys: Any) -> list[Any]:
    if type(keys) is list and keys and not any(isinstance(key, Closure) for key in keys):
        return keys
    raise Raised("a path must be a non-empty list of keys; functions in it are not supported")


def get_in(meter: Meter, container: Any, keys: Any) -> Any:
    for key in _keys(keys):
        meter.spend()
        if container is None:
            return None
        container = get(meter, container, key)
    return container


def _put(meter: Meter, container: Any, key: Any, value: Any) -> Any:
    if type(container) is dict:
        meter.spend(len(container))
        return {**container, as_key(meter, key): value}
    if type(container) is list and terms.is_atom(key):
        meter.spend(len(container))
        if any(type(item) is tuple and item[:1] == (key,) for item in container):
            return [(key, value) if type(item) is tuple and item[:1] == (key,) else item for item in container]
        return [(key, value), *container]
    if container is None:
        raise Raised(f"could not put/update key {inspect(key)} on a nil value")
    raise Raised("no function clause matching in Access.get_and_update/3")


def put_in(meter: Meter, container: Any, keys: Any, value: Any) -> Any:
    return update_in(meter, container, keys, Closure(1, lambda _: value))


def update_in(meter: Meter, container: Any, keys: Any, function: Any) -> Any:
    first, *rest = _keys(keys)
    if container is None:
        raise Raised(f"could not put/update key {inspect(first)} on a nil value")
    inner = get(meter, container, first)
    return _put(meter, container, first, update_in(meter, inner, rest, function) if rest else function(inner))


def pop_in(meter: Meter, container: Any, keys: Any) -> tuple[Any, Any]:
    first, *rest = _keys(keys)
    if container is None:
        raise Raised(f"could not pop key {inspect(first)} on a nil value")
    inner = get(meter, container, first)
    if rest:
        if inner is None:
            return None, container
        popped, inner = pop_in(meter, inner, rest)
        return popped, _put(meter, container, first, inner)
    if type(container) is dict:
        name = as_key(meter, first)
        return inner, {key: value for key, value in container.items() if key != name}
    return inner, [item for item in container if not (type(item) is tuple and item[:1] == (first,))]


def get_and_update_in(meter: Meter, container: Any, keys: Any, function: Any) -> tuple[Any, Any]:
    first, *rest = _keys(keys)
    inner = get(meter, container, first)
    if rest:
        returned, inner = get_and_update_in(meter, inner, rest, function)
        return returned, _put(meter, container, first, inner)
    answer = function(inner)
    if answer is terms.Atom("pop"):
        popped, remaining = pop_in(meter, container, [first])
        return popped, remaining
    if not (type(answer) is tuple and len(answer) == 2):
        raise Raised(f"the given function must return a two-element tuple or :pop, got: {inspect(answer)}")
    return answer[0], _put(meter, container, first, answer[1])
