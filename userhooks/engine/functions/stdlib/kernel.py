"""Elixir's `Kernel`: operators, type checks, and the functions that are called without a module. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from userhooks.engine.functions import terms
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.access import field, get, get_and_update_in, get_in, pop_in, put_in, update_in
from userhooks.engine.functions.terms import Atom, Closure, Opaque, Raised, as_binary, as_bytes, as_key, is_binary, is_number
from userhooks.engine.functions.text import inspect, to_string

BAD_ARITHMETIC = "bad argument in arithmetic expression"


def as_integer(value: Any, message: str = "argument error") -> int:
    """Return the value if it is an integer; raises Raised with `message` otherwise."""
    if isinstance(value, int) and type(value) is int:
        return value
    raise Raised(message)


def as_list(value: Any, expected: str = "a list") -> list[Any]:
    """Return the value if it is a list; raises Raised otherwise."""
    if type(value) is list:
        return value
    raise Raised(f"expected {expected}, got:\n\n    {inspect(value)}\n")


def as_text(value: Any) -> str:
    """Return the value if it is a string; raises Raised otherwise."""
    if type(value) is str:
        return value
    raise Raised(f"no function clause matching: expected a string, got:\n\n    {inspect(value)}\n")


def as_map(value: Any) -> dict[Any, Any]:
    """Return the value if it is a map; raises Raised otherwise."""
    if type(value) is dict:
        return value
    raise Raised(f"expected a map, got:\n\n    {inspect(value)}\n")


def options(value: Any) -> dict[str, Any]:
    """Return a keyword list as a dictionary; of two equal keys, the first one wins."""
    settings: dict[str, Any] = {}
    for pair in as_list(value):
        if not (type(pair) is tuple and len(pair) == 2 and terms.is_atom(pair[0])):
            raise Raised(f"expected a keyword list, got:\n\n    {inspect(value)}\n")
        settings.setdefault(terms.atom_name(pair[0]), pair[1])
    return settings


def finite(number: float) -> float:
    """Return the float if it is finite; raises Raised otherwise, since Elixir has no other floats."""
    if math.isfinite(number):
        return number
    raise Raised(BAD_ARITHMETIC)


# --- arithmetic ----------------------------------------------------------------------------------------------------------


def _numbers(*values: Any) -> None:
    if not all(map(is_number, values)):
        raise Raised(BAD_ARITHMETIC)


def add(meter: Meter, a: Any, b: Any) -> Any:
    _numbers(a, b)
    return _checked(meter, lambda: a + b)


def subtract(meter: Meter, a: Any, b: Any) -> Any:
    _numbers(a, b)
    return _checked(meter, lambda: a - b)


def multiply(meter: Meter, a: Any, b: Any) -> Any:
    _numbers(a, b)
    if type(a) is int and type(b) is int:
        meter.bits(a.bit_length() + b.bit_length())
    return _checked(meter, lambda: a * b)


def _checked(meter: Meter, compute: Any) -> Any:
    try:
        result = compute()
    except OverflowError as exc:  # the integer is too large for a float
        raise Raised(BAD_ARITHMETIC) from exc
    if type(result) is int:
        meter.bits(result.bit_length())
        return result
    return finite(result)


def divide(meter: Meter, a: Any, b: Any) -> float:
    _numbers(a, b)
    if b == 0:
        raise Raised(BAD_ARITHMETIC)
    return float(_checked(meter, lambda: a / b))


def div(meter: Meter, a: Any, b: Any) -> int:
    """Divide, rounding toward zero."""
    a, b = as_integer(a, BAD_ARITHMETIC), as_integer(b, BAD_ARITHMETIC)
    if b == 0:
        raise Raised(BAD_ARITHMETIC)
    return int(abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1))


def rem(meter: Meter, a: Any, b: Any) -> int:
    """Return the remainder, which has the sign of the dividend."""
    return int(a - div(meter, a, b) * b)


def negate(meter: Meter, a: Any) -> Any:
    _numbers(a)
    return -a


def plus(meter: Meter, a: Any) -> Any:
    _numbers(a)
    return a


def absolute(meter: Meter, a: Any) -> Any:
    _argument(is_number(a))
    return abs(a)


def _argument(condition: bool) -> None:
    if not condition:
        raise Raised("argument error")


def round_(meter: Meter, a: Any) -> int:
    """Round half away from zero."""
    _argument(is_number(a))
    if isinstance(a, int):
        return a
    size = abs(float(a))
    whole = math.floor(size)
    return int(math.copysign(1, a)) * (whole + (size - whole >= 0.5))


def trunc(meter: Meter, a: Any) -> int:
    _argument(is_number(a))
    return math.trunc(float(a)) if isinstance(a, float) else int(a)


def floor(meter: Meter, a: Any) -> int:
    _argument(is_number(a))
    return math.floor(float(a)) if isinstance(a, float) else int(a)


def ceil(meter: Meter, a: Any) -> int:
    _argument(is_number(a))
    return math.ceil(float(a)) if isinstance(a, float) else int(a)


# --- comparison, logic, membership ---------------------------------------------------------------------------------------


def not_(meter: Meter, a: Any) -> bool:
    if a is True or a is False:
        return not a
    raise Raised("argument error")


def is_member(meter: Meter, item: Any, container: Any) -> bool:
    """Whether `item in container`: a list contains an identical value, or a map contains the pair."""
    if type(container) is list:
        return any(terms.identical(meter, item, other) for other in container)
    if type(container) is dict and terms.struct_name(container) is None:
        if type(item) is tuple and len(item) == 2:
            key = as_key(meter, item[0])
            return key in container and terms.identical(meter, container[key], item[1])
        return False
    raise Raised(f"protocol Enumerable not implemented for {kind_of(container)}\n\nGot value:\n\n    {inspect(container)}\n")


def kind_of(value: Any) -> str:
    """Return the name of a value's type as it appears in Elixir's errors about protocols."""
    name = terms.struct_name(value)
    if name is not None:
        return f"{name} (a struct)"
    kinds = {int: "Integer", float: "Float", list: "List", tuple: "Tuple", dict: "Map", Closure: "Function"}
    if type(value) is Opaque:
        return str(value.kind)
    return "BitString" if is_binary(value) else kinds.get(type(value), "Atom")


def maximum(meter: Meter, a: Any, b: Any) -> Any:
    return a if terms.compare(meter, a, b) >= 0 else b


def minimum(meter: Meter, a: Any, b: Any) -> Any:
    return a if terms.compare(meter, a, b) <= 0 else b


# --- lists, tuples, maps, binaries ---------------------------------------------------------------------------------------


def append(meter: Meter, a: Any, b: Any) -> Any:
    _argument(type(a) is list)
    if type(b) is not list:
        if not a:
            return b
        raise Raised("improper lists are not supported")
    meter.spend((len(a) + len(b)) // 8)
    return a + b


def new_map(meter: Meter, *keys_and_values: Any) -> dict[Any, Any]:
    return {as_key(meter, keys_and_values[i]): keys_and_values[i + 1] for i in range(0, len(keys_and_values), 2)}


def hd(meter: Meter, container: Any) -> Any:
    _argument(type(container) is list and len(container) > 0)
    return container[0]


def tl(meter: Meter, container: Any) -> list[Any]:
    _argument(type(container) is list and len(container) > 0)
    return list(container[1:])


def length(meter: Meter, container: Any) -> int:
    _argument(type(container) is list)
    return len(container)


def elem(meter: Meter, container: Any, index: Any) -> Any:
    _argument(type(container) is tuple and type(index) is int and 0 <= index < len(container))
    return container[index]


def put_elem(meter: Meter, container: Any, index: Any, value: Any) -> tuple[Any, ...]:
    elem(meter, container, index)
    return (*container[:index], value, *container[index + 1 :])


def tuple_size(meter: Meter, container: Any) -> int:
    _argument(type(container) is tuple)
    return len(container)


def map_size(meter: Meter, container: Any) -> int:
    if type(container) is not dict:
        raise Raised(f"expected a map, got:\n\n    {inspect(container)}\n")
    return len(container)


def is_map_key(meter: Meter, container: Any, key: Any) -> bool:
    return as_key(meter, key) in as_map(container)


def byte_size(meter: Meter, container: Any) -> int:
    _argument(is_binary(container))
    return len(as_bytes(container))


def bit_size(meter: Meter, container: Any) -> int:
    return 8 * byte_size(meter, container)


def binary_part(meter: Meter, container: Any, start: Any, size: Any) -> str | bytes:
    _argument(is_binary(container) and type(start) is int and type(size) is int)
    raw = as_bytes(container)
    if size < 0:
        start, size = start + size, -size
    _argument(start >= 0 and start + size <= len(raw))
    return as_binary(raw[start : start + size])


def concatenate(meter: Meter, *parts: Any) -> Any:
    """Concatenate binaries, for `<>`, interpolation, and `<<…>>`."""
    size = 0
    for part in parts:
        if type(part) is not str:
            return _concatenate_bytes(meter, parts)
        size += len(part)
    meter.text(size)
    return "".join(parts)


def _concatenate_bytes(meter: Meter, parts: tuple[Any, ...]) -> str | bytes:
    for i, part in enumerate(parts):
        if not is_binary(part):
            text = inspect(part)
            raise Raised(f"construction of binary failed: segment {i + 1} of type 'binary': expected a binary but got: {text}")
    meter.text(sum(map(len, parts)))
    return as_binary(b"".join(map(as_bytes, parts)))


def segment(meter: Meter, value: Any, size: Any, specification: Any) -> Any:
    """Encode a segment of `<<…>>` other than a whole binary."""
    kind, _, little = specification
    if kind == "utf8":
        if not (type(value) is int and 0 <= value <= 0x10FFFF and not 0xD800 <= value <= 0xDFFF):
            raise Raised("construction of binary failed: expected an integer that is a codepoint")
        return chr(value)
    if kind == "binary":
        return binary_part(meter, value, 0, size)
    bits = 8 if size is None else size
    if type(value) is not int or type(bits) is not int or bits < 0:
        raise Raised(f"construction of binary failed: segment 1 of type 'integer': expected an integer but got: {inspect(value)}")
    if bits % 8:
        raise Raised("segments that are not whole bytes are not supported")
    meter.bits(bits)
    raw = (value % (1 << bits)).to_bytes(bits // 8, "little" if little else "big")
    return as_binary(raw)


# --- type checks ---------------------------------------------------------------------------------------------------------


def is_struct(meter: Meter, value: Any, name: Any = None) -> bool:
    actual = terms.struct_name(value)
    return actual is not None and (name is None or (isinstance(name, Atom) and name.name == f"Elixir.{actual}"))


def is_function(meter: Meter, value: Any, arity: Any = None) -> bool:
    return isinstance(value, Closure) and (arity is None or value.arity == arity)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "negate": negate,
    "plus": plus,
    "div": div,
    "rem": rem,
    "abs": absolute,
    "round": round_,
    "trunc": trunc,
    "floor": floor,
    "ceil": ceil,
    "max": maximum,
    "min": minimum,
    "==": terms.equal,
    "!=": lambda meter, a, b: not terms.equal(meter, a, b),
    "===": terms.identical,
    "!==": lambda meter, a, b: not terms.identical(meter, a, b),
    "<": lambda meter, a, b: terms.compare(meter, a, b) < 0,
    ">": lambda meter, a, b: terms.compare(meter, a, b) > 0,
    "<=": lambda meter, a, b: terms.compare(meter, a, b) <= 0,
    ">=": lambda meter, a, b: terms.compare(meter, a, b) >= 0,
    "in": is_member,
    "not": not_,
    "to_string": to_string,
    "field": field,
    "get_in": get_in,
    "put_in": put_in,
    "update_in": update_in,
    "pop_in": pop_in,
    "get_and_update_in": get_and_update_in,
    "list": lambda meter, *items: list(items),
    "tuple": lambda meter, *items: items,
    "map": new_map,
    "++": append,
    "<>": concatenate,
    "segment": segment,
    "hd": hd,
    "tl": tl,
    "length": length,
    "elem": elem,
    "put_elem": put_elem,
    "tuple_size": tuple_size,
    "map_size": map_size,
    "is_map_key": is_map_key,
    "byte_size": byte_size,
    "bit_size": bit_size,
    "binary_part": binary_part,
    "self": lambda meter: Opaque("PID"),
    "make_ref": lambda meter: Opaque("Reference"),
    "is_nil": lambda meter, value: value is None,
    "is_integer": lambda meter, value: type(value) is int,
    "is_float": lambda meter, value: type(value) is float,
    "is_number": lambda meter, value: is_number(value),
    "is_boolean": lambda meter, value: type(value) is bool,
    "is_atom": lambda meter, value: terms.is_atom(value),
    "is_binary": lambda meter, value: is_binary(value),
    "is_bitstring": lambda meter, value: is_binary(value),
    "is_list": lambda meter, value: type(value) is list,
    "is_tuple": lambda meter, value: type(value) is tuple,
    "is_map": lambda meter, value: type(value) is dict,
    "is_reference": lambda meter, value: type(value) is Opaque and value.kind == "Reference",
    "is_exception": lambda meter, value: False,
    "is_struct": is_struct,
    "is_function": is_function,
}
ACCESS = {"get": get}
"""Functions of `Access`; `container[key]` calls `get`."""
