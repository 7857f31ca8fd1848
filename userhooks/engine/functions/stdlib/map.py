"""Elixir's `Map`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import terms
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.enum import items_of
from userhooks.engine.functions.stdlib.kernel import as_list
from userhooks.engine.functions.terms import ERROR, OK, STRUCT, Atom, Raised, as_key, is_truthy, of_key, pairs_of, sorted_keys
from userhooks.engine.functions.text import inspect

Map = dict[Any, Any]


def as_map(value: Any) -> Map:
    """Return a value that has to be a map."""
    if type(value) is dict:
        return value
    raise Raised(f"expected a map, got:\n\n    {inspect(value)}\n")


def get(meter: Meter, of: Any, key: Any, default: Any = None) -> Any:
    return as_map(of).get(as_key(meter, key), default)


def fetch(meter: Meter, of: Any, key: Any) -> Any:
    key = as_key(meter, key)
    return (OK, of[key]) if key in as_map(of) else ERROR


def fetch_bang(meter: Meter, of: Any, key: Any) -> Any:
    name = as_key(meter, key)
    if name in as_map(of):
        return of[name]
    raise Raised(f"key {inspect(key)} not found in:\n\n    {inspect(of)}\n")


def has_key(meter: Meter, of: Any, key: Any) -> bool:
    return as_key(meter, key) in as_map(of)


def put(meter: Meter, of: Any, key: Any, value: Any) -> Map:
    return {**as_map(of), as_key(meter, key): value}


def put_new(meter: Meter, of: Any, key: Any, value: Any) -> Map:
    return of if as_key(meter, key) in as_map(of) else put(meter, of, key, value)


def put_new_lazy(meter: Meter, of: Any, key: Any, function: Any) -> Map:
    return of if as_key(meter, key) in as_map(of) else put(meter, of, key, function())


def replace(meter: Meter, of: Any, key: Any, value: Any) -> Map:
    return put(meter, of, key, value) if as_key(meter, key) in as_map(of) else of


def replace_bang(meter: Meter, of: Any, key: Any, value: Any) -> Map:
    fetch_bang(meter, of, key)
    return put(meter, of, key, value)


def delete(meter: Meter, of: Any, key: Any) -> Map:
    name = as_key(meter, key)
    return {one: value for one, value in as_map(of).items() if one != name}


def _keys(meter: Meter, keys: Any) -> set[Any]:
    return {as_key(meter, key) for key in as_list(keys, "a list of keys")}


def take(meter: Meter, of: Any, keys: Any) -> Map:
    wanted = _keys(meter, keys)
    return {key: value for key, value in as_map(of).items() if key in wanted}


def drop(meter: Meter, of: Any, keys: Any) -> Map:
    unwanted = _keys(meter, keys)
    return {key: value for key, value in as_map(of).items() if key not in unwanted}


def split(meter: Meter, of: Any, keys: Any) -> tuple[Map, Map]:
    return take(meter, of, keys), drop(meter, of, keys)


def merge(meter: Meter, of: Any, other: Any, function: Any = None) -> Map:
    as_map(of)
    as_map(other)
    if function is None:
        return {**of, **other}
    merged = dict(of)
    for key in sorted_keys(meter, other):
        merged[key] = function(of_key(key), of[key], other[key]) if key in of else other[key]
    return merged


def pop(meter: Meter, of: Any, key: Any, default: Any = None) -> tuple[Any, Map]:
    return get(meter, of, key, default), delete(meter, of, key)


def pop_bang(meter: Meter, of: Any, key: Any) -> tuple[Any, Map]:
    return fetch_bang(meter, of, key), delete(meter, of, key)


def update(meter: Meter, of: Any, key: Any, default: Any, function: Any) -> Map:
    name = as_key(meter, key)
    return put(meter, of, key, function(of[name]) if name in as_map(of) else default)


def update_bang(meter: Meter, of: Any, key: Any, function: Any) -> Map:
    return put(meter, of, key, function(fetch_bang(meter, of, key)))


def get_and_update(meter: Meter, of: Any, key: Any, function: Any) -> tuple[Any, Map]:
    current = get(meter, of, key)
    answer = function(current)
    if answer is Atom("pop"):
        return current, delete(meter, of, key)
    if type(answer) is tuple and len(answer) == 2:
        return answer[0], put(meter, of, key, answer[1])
    raise Raised(f"the given function must return a two-element tuple or :pop, got: {inspect(answer)}")


def get_lazy(meter: Meter, of: Any, key: Any, function: Any) -> Any:
    name = as_key(meter, key)
    return of[name] if name in as_map(of) else function()


def new(meter: Meter, of: Any = None, function: Any = None) -> Map:
    if of is None:
        return {}
    if function is None and type(of) is dict and terms.struct_name(of) is None:
        return of
    made: Map = {}
    for item in items_of(meter, of):
        pair = item if function is None else function(item)
        if not (type(pair) is tuple and len(pair) == 2):
            raise Raised("argument error: a map is made of pairs")
        made[as_key(meter, pair[0])] = pair[1]
    return made


def from_keys(meter: Meter, keys: Any, value: Any) -> Map:
    return dict.fromkeys(_keys(meter, keys), value)


def from_struct(meter: Meter, of: Any) -> Map:
    if STRUCT not in as_map(of):
        raise Raised("no function clause matching in Map.from_struct/1")
    return {key: value for key, value in of.items() if key is not STRUCT}


def keys(meter: Meter, of: Any) -> list[Any]:
    return [of_key(key) for key in sorted_keys(meter, as_map(of))]


def values(meter: Meter, of: Any) -> list[Any]:
    return [of[key] for key in sorted_keys(meter, as_map(of))]


def to_list(meter: Meter, of: Any) -> list[Any]:
    return list(pairs_of(meter, as_map(of)))


def equal(meter: Meter, of: Any, other: Any) -> bool:
    return terms.identical(meter, as_map(of), as_map(other))


def filter_(meter: Meter, of: Any, function: Any) -> Map:
    return {as_key(meter, key): value for key, value in pairs_of(meter, as_map(of)) if is_truthy(function((key, value)))}


def reject(meter: Meter, of: Any, function: Any) -> Map:
    return {as_key(meter, key): value for key, value in pairs_of(meter, as_map(of)) if not is_truthy(function((key, value)))}


def split_with(meter: Meter, of: Any, function: Any) -> tuple[Map, Map]:
    good = filter_(meter, of, function)
    return good, {key: value for key, value in of.items() if key not in good}


def intersect(meter: Meter, of: Any, other: Any, function: Any = None) -> Map:
    both = [key for key in sorted_keys(meter, as_map(of)) if key in as_map(other)]
    if function is None:
        return {key: other[key] for key in both}
    return {key: function(of_key(key), of[key], other[key]) for key in both}


FUNCTIONS = {
    "get": get,
    "fetch": fetch,
    "fetch!": fetch_bang,
    "has_key?": has_key,
    "put": put,
    "put_new": put_new,
    "put_new_lazy": put_new_lazy,
    "replace": replace,
    "replace!": replace_bang,
    "delete": delete,
    "take": take,
    "drop": drop,
    "split": split,
    "merge": merge,
    "pop": pop,
    "pop!": pop_bang,
    "update": update,
    "update!": update_bang,
    "get_and_update": get_and_update,
    "get_lazy": get_lazy,
    "new": new,
    "from_keys": from_keys,
    "from_struct": from_struct,
    "keys": keys,
    "values": values,
    "to_list": to_list,
    "equal?": equal,
    "filter": filter_,
    "reject": reject,
    "split_with": split_with,
    "intersect": intersect,
}
