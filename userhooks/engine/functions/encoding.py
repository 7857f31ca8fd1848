"""Encode values as JSON in the same way as Sequin. Pure.

Keys are in Elixir's term order: atoms before strings. A json column that is passed through keeps its own key order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.kernel import kind_of
from userhooks.engine.functions.terms import STRUCT, Atom, Raised, atom_name, is_atom, of_key, sorted_keys, struct_name
from userhooks.engine.functions.text import inspect, to_string


def to_json(meter: Meter, term: Any) -> bytes:
    """Encode a value as JSON; raises Raised for a value without a JSON form."""
    meter.spend(2)
    kind = type(term)
    if kind is str:
        meter.text(len(term))
        return text_json(term)
    if kind is dict:
        if STRUCT in term:
            return _struct(term)
        return object_json(meter, {key: to_json(meter, value) for key, value in term.items()})
    if kind is list:
        return array_json([to_json(meter, item) for item in term])
    if kind is Atom:
        return text_json(term.name)
    if kind is int:
        meter.digits(term.bit_length())
        return b"%d" % term
    if kind is bytes:
        raise Raised(f"invalid byte 0x{term[0]:X} in {inspect(term)}")
    if kind is float or term is None or kind is bool:
        try:
            return json.dumps(term, allow_nan=False).encode()
        except ValueError as exc:
            raise Raised("the number is too large for JSON") from exc
    raise Raised(_not_encoded(kind_of(term)))


def _not_encoded(kind: str) -> str:
    return f"protocol Jason.Encoder not implemented for {kind}, Jason.Encoder protocol must always be explicitly implemented"


def _struct(term: dict[Any, Any]) -> bytes:
    name = struct_name(term)
    text = structs.text_of(term) if name == "Decimal" else structs.iso_text(term)
    if text is None:
        raise Raised(_not_encoded(f"{name} (a struct)"))
    return text_json(text)


def text_json(text: str) -> bytes:
    """Encode a string as JSON."""
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return json.dumps(text).encode()  # an unpaired surrogate, which a json column may contain


def array_json(items: Iterable[bytes]) -> bytes:
    """Join the JSON of items into an array."""
    return b"[%b]" % b",".join(items)


def object_json(meter: Meter, members: dict[Any, bytes]) -> bytes:
    """Join a map's members into an object; their values are already JSON."""
    keys = sorted_keys(meter, members)
    names = keys
    if not all(type(key) is str for key in keys):
        names = [_key_name(meter, key) for key in keys]
        _check_names(names)
    return b"{%b}" % b",".join([text_json(name) + b":" + members[key] for name, key in zip(names, keys, strict=True)])


def _key_name(meter: Meter, key: Any) -> str:
    term = of_key(key)
    if type(term) is str:
        return term
    if is_atom(term):
        return atom_name(term)
    text = to_string(meter, term)
    if isinstance(text, bytes):
        raise Raised("a map key is not valid UTF-8")
    return str(text)


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise Raised(f"two keys of a map, like an atom and a string, have the same JSON name: {duplicate}")
