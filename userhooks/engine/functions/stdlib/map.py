"""Elixir's `Map`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import terms
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.enum import items_of
from userhooks.engine.functions.stdlib.kernel import as_list, as_map
from userhooks.engine.functions.terms import ERROR, OK, STRUCT, Atom, Raised, as_key, is_truthy, of_key, pairs_of, sorted_keys
from userhooks.engine.functions.text import inspect

Map = dict[Any, Any]


def get(meter: Meter, mapping: Any, key: Any, default: Any = None) -> Any:
    return as_map(mapping).get(as_key(meter, key), default)


def fetch(meter: Meter, mapping: Any, key: Any) -> Any:
    key = as_key(meter, key)
    return (OK, mapping[key]) if key in as_map(mapping) else ERROR


def fetch_bang(meter: Meter, mapping: Any, key: Any) -> Any:
    name = as_key(meter, key)
    if name in as_map(mapping):
        return mapping[name]
    raise Raised(f"key {inspect(key)} not found in:\n\n    {inspect(mapping)}\n")


def has_key(meter: Meter, mapping: Any, key: Any) -> bool:
    return as_key(meter, key) in as_map(mapping)


def put(meter: Meter, mapping: Any, key: Any, value: Any) -> Map:
    return {**as_map(mapping), as_key(meter, key): value}


def put_new(meter: Meter, mapping: Any, key: Any, value: Any) -> Map:
    return mapping if as_key(meter, key) in as_map(mapping) else put(meter, mapping, key, value)


def put_new_lazy(meter: Meter, mapping: Any, key: Any, function: Any) -> Map:
    return mapping if as_key(meter, key) in as_map(mapping) else put(meter, mapping, key, function())


def replace(meter: Meter, mapping: Any, key: Any, value: Any) -> Map:
    return put(meter, mapping, key, value) if as_key(meter, key) in as_map(mapping) else mapping


def replace_bang(meter: Meter, mapping: Any, key: Any, value: Any) -> Map:
    fetch_bang(meter, mapping, key)
    return put(meter, mapping, key, value)


def delete(meter: Meter, mapping: Any, key: Any) -> Map:
    name = as_key(meter, key)
    return {other: value for other, value in as_map(mapping).items() if other != name}


def _keys(meter: Meter, keys: Any) -> set[Any]:
    return {as_key(meter, key) for key in as_list(keys, "a list of keys")}


def take(meter: Meter, mapping: Any, keys: Any) -> Map:
    wanted = _keys(meter, keys)
    return {key: value for key, value in as_map(mapping).items() if key in wanted}


def drop(meter: Meter, mapping: Any, keys: Any) -> Map:
    unwanted = _keys(meter, keys)
    return {key: value for key, value in as_map(mapping).items() if key not in unwanted}


def split(meter: Meter, mapping: Any, keys: Any) -> tuple[Map, Map]:
    return take(meter, mapping, keys), drop(meter, mapping, keys)


def merge(meter: Meter, mapping: Any, other: Any, function: Any = None) -> Map:
    as_map(mapping)
    as_map(other)
    if function is None:
        return {**mapping, **other}
    merged = dict(mapping)
    for key in sorted_keys(meter, other):
        merged[key] = function(of_key(key), mapping[key], other[key]) if key in mapping else other[key]
    return merged


def pop(meter: Meter, mapping: Any, key: Any, default: Any = None) -> tuple[Any, Map]:
    return get(meter, mapping, key, default), delete(meter, mapping, key)


def pop_bang(meter: Meter, mapping: Any, key: Any) -> tuple[Any, Map]:
    return fetch_bang(meter, mapping, key), delete(meter, mapping, key)


def update(meter: Meter, mapping: Any, key: Any, default: Any, function: Any) -> Map:
    name = as_key(meter, key)
    return put(meter, mapping, key, function(mapping[name]) if name in as_map(mapping) else default)


def update_bang(meter: Meter, mapping: Any, key: Any, function: Any) -> Map:
    return put(meter, mapping, key, function(fetch_bang(meter, mapping, key)))


def get_and_update(meter: Meter, mapping: Any, key: Any, function: Any) -> tuple[Any, Map]:
    current = get(meter, mapping, key)
    answer = function(current)
    if answer is Atom("pop"):
        return current, delete(meter, mapping, key)
    if type(answer) is tuple and len(answer) == 2:
        return answer[0], put(meter, mapping, key, answer[1])
    raise Raised(f"the given function must return a two-element tuple or :pop, got: {inspect(answer)}")


def get_lazy(meter: Meter, mapping: Any, key: Any, function: Any) -> Any:
    name = as_key(meter, key)
    return mapping[name] if name in as_map(mapping) else function()


def new(meter: Meter, mapping: Any = None, function: Any = None) -> Map:
    if mapping is None:
        return {}
    if function is None and type(mapping) is dict and terms.struct_name(mapping) is None:
        return mapping
    made: Map = {}
    for item in items_of(meter, mapping):
        pair = item if function is None else function(item)
        if not (type(pair) is tuple and len(pair) == 2):
            raise Raised("argument error: the items of a map must be pairs")
        made[as_key(meter, pair[0])] = pair[1]
    return made


def from_keys(meter: Meter, keys: Any, value: Any) -> Map:
    return dict.fromkeys(_keys(meter, keys), value)


def from_struct(meter: Meter, mapping: Any) -> Map:
    if STRUCT not in as_map(mapping):
        raise Raised("no function clause matching in Map.from_struct/1")
    return {key: value for key, value in mapping.items() if key is not STRUCT}


def keys(meter: Meter, mapping: Any) -> list[Any]:
    return [of_key(key) for key in sorted_keys(meter, as_map(mapping))]


def values(meter: Meter, mapping: Any) -> list[Any]:
    return [mapping[key] for key in sorted_keys(meter, as_map(mapping))]


def to_list(meter: Meter, mapping: Any) -> list[Any]:
    return list(pairs_of(meter, as_map(mapping)))


def equal(meter: Meter, mapping: Any, other: Any) -> bool:
    return terms.identical(meter, as_map(mapping), as_map(other))


def filter_(meter: Meter, mapping: Any, function: Any) -> Map:
    return {as_key(meter, key): value for key, value in pairs_of(meter, as_map(mapping)) if is_truthy(function((key, value)))}


def reject(meter: Meter, mapping: Any, function: Any) -> Map:
    return {as_key(meter, key): value for key, value in pairs_of(meter, as_map(mapping)) if not is_truthy(function((key, value)))}


def split_with(meter: Meter, mapping: Any, function: Any) -> tuple[Map, Map]:
    accepted = filter_(meter, mapping, function)
    return accepted, {key: value for key, value in mapping.items() if key not in accepted}


def intersect(meter: Meter, mapping: Any, other: Any, function: Any = None) -> Map:
    both = [key for key in sorted_keys(meter, as_map(mapping)) if key in as_map(other)]
    if function is None:
        return {key: other[key] for key in both}
    return {key: function(of_key(key), mapping[key], other[key]) for key in both}


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
