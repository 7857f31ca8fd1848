"""Elixir's values and how its operators treat them: order, equality, truth, access, text, maps. Pure; the language is in `elixir.py`.

Numbers are int and float, strings str, `true`, `false` and `nil` are True, False and None, other atoms `Atom`, lists list, maps dict with
str or Atom keys. Sources: the Erlang reference manual, 9.14 "Term Comparisons"; Elixir's documentation of Kernel, Access and String.Chars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Raised(Exception):
    """What Elixir would raise."""


@dataclass(frozen=True, slots=True)
class Atom:
    """An atom other than true, false and nil."""

    name: str


_NUMBER, _ATOM, _MAP, _LIST, _STRING = range(5)
_KINDS = {int: _NUMBER, float: _NUMBER, bool: _ATOM, type(None): _ATOM, Atom: _ATOM, dict: _MAP, list: _LIST, str: _STRING}
_NAMES = {True: "true", False: "false", None: "nil"}


def compare(a: Any, b: Any) -> int:
    """Return a negative number, 0 or a positive number: number < atom < map < list < string, and within a kind by value."""
    kind, other = _KINDS[type(a)], _KINDS[type(b)]
    if kind != other:
        return kind - other
    if kind == _MAP:
        return _compare_maps(a, b)
    if kind == _LIST:
        for x, y in zip(a, b, strict=False):
            order = compare(x, y)
            if order:
                return order
        return len(a) - len(b)
    if kind == _ATOM:
        a, b = _atom_name(a), _atom_name(b)
    return int(a > b) - int(a < b)


def _compare_maps(a: dict[Any, Any], b: dict[Any, Any]) -> int:
    """By size, then by keys in order, then by the values of the keys in order."""
    if len(a) != len(b):
        return len(a) - len(b)
    keys, others = (sorted(m, key=key_order) for m in (a, b))
    return compare(keys, others) or compare([a[k] for k in keys], [b[k] for k in others])


def key_order(key: str | Atom) -> tuple[bool, str]:
    """Return what sorts the keys of a map as Elixir does: atoms before strings."""
    return (True, key) if isinstance(key, str) else (False, key.name)


def equal(a: Any, b: Any) -> bool:
    """`==`: 1 equals 1.0, and nothing else equals a value of another kind."""
    if type(a) is type(b):
        if isinstance(a, list):
            return len(a) == len(b) and all(map(equal, a, b))
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        return bool(a == b)
    return _is_number(a) and _is_number(b) and bool(a == b)


def identical(a: Any, b: Any) -> bool:
    """`===`: like `==`, and 1 is not 1.0 either."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    return bool(a == b)


def is_member(item: Any, of: Any) -> bool:
    """`in`: whether a list holds an identical value; a map holds pairs, so none of these values."""
    if isinstance(of, list):
        return any(identical(item, other) for other in of)
    if isinstance(of, dict):
        return False
    raise Raised(f"`in` needs a list on its right, got {inspect(of)}")


def access(container: Any, key: Any) -> Any:
    """`container[key]`: nil for a key that is not there, and for nil itself."""
    if container is None:
        return None
    if isinstance(container, dict):
        return container.get(key) if isinstance(key, (str, Atom)) else None
    if isinstance(container, list) and _KINDS[type(key)] == _ATOM:
        return None  # a keyword list would hold pairs; JSON has none
    raise Raised(f"{inspect(container)} has no keys to look up {inspect(key)} in")


def field(container: Any, name: str) -> Any:
    """`container.name`: the atom key of a map, which has to be there."""
    if isinstance(container, dict):
        key = Atom(name)
        if key in container:
            return container[key]
        raise Raised(f"the key :{name} is not in {inspect(container)}")
    raise Raised(f"{inspect(container)} has no field {name}")


def new_map(*keys_and_values: Any) -> dict[Any, Any]:
    """`%{key => value}`: of two equal keys the later one counts."""
    return {as_key(keys_and_values[i]): keys_and_values[i + 1] for i in range(0, len(keys_and_values), 2)}


def map_get(of: Any, key: Any, default: Any = None) -> Any:
    """`Map.get`."""
    return as_map(of).get(key, default) if isinstance(key, (str, Atom)) else default


def map_put(of: Any, key: Any, value: Any) -> dict[Any, Any]:
    """`Map.put`."""
    return {**as_map(of), as_key(key): value}


def map_take(of: Any, keys: Any) -> dict[Any, Any]:
    """`Map.take`: keys that are not there are left out."""
    wanted = as_keys(keys)
    return {key: value for key, value in as_map(of).items() if key in wanted}


def map_drop(of: Any, keys: Any) -> dict[Any, Any]:
    """`Map.drop`."""
    unwanted = as_keys(keys)
    return {key: value for key, value in as_map(of).items() if key not in unwanted}


def map_merge(of: Any, other: Any) -> dict[Any, Any]:
    """`Map.merge`: what is in both is taken from the second."""
    return {**as_map(of), **as_map(other)}


def as_map(value: Any) -> dict[Any, Any]:
    """Return a value that has to be a map."""
    if isinstance(value, dict):
        return value
    raise Raised(f"expected a map, got {inspect(value)}")


def as_key(value: Any) -> str | Atom:
    """Return a key for a new map; Elixir takes any value, JSON and this module text and atoms."""
    if isinstance(value, (str, Atom)):
        return value
    raise Raised(f"a key of a map has to be text or an atom here, got {inspect(value)}")


def as_keys(value: Any) -> set[str | Atom]:
    """Return the keys in a value that has to be a list; what can be no key is left out."""
    if isinstance(value, list):
        return {key for key in value if isinstance(key, (str, Atom))}
    raise Raised(f"expected a list of keys, got {inspect(value)}")


def concatenate(*texts: Any) -> str:
    """`<>`."""
    for text in texts:
        if not isinstance(text, str):
            raise Raised(f"`<>` joins strings, got {inspect(text)}")
    return "".join(texts)


def to_string(value: Any) -> str:
    """`to_string`: nil is empty, a list is text given as characters and strings, a map has none."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float):
        return _float_text(value)
    if _is_number(value):
        return str(value)
    if isinstance(value, list):
        return "".join(map(_characters, value))
    if isinstance(value, dict):
        raise Raised(f"to_string of the map {inspect(value)}")
    return _atom_name(value)


def _characters(value: Any) -> str:
    if isinstance(value, (str, list)):
        return to_string(value)
    if type(value) is int and 0 <= value <= 0x10FFFF and not 0xD800 <= value <= 0xDFFF:
        return chr(value)
    raise Raised(f"to_string of a list that holds {inspect(value)}")


def _float_text(value: float) -> str:
    """The shortest digits that read back as the float, with an exponent where that is shorter, or the number above 2^53 (Erlang/OTP 25)."""
    mantissa, _, exponent = f"{value!r}e0".partition("e")
    sign = "-" * mantissa.startswith("-")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    point = len(whole) + int(exponent.partition("e")[0])
    unpadded = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(unpadded)
    digits = unpadded.rstrip("0")
    if not digits:
        return sign + "0.0"
    scientific = f"{digits[0]}.{digits[1:] or '0'}e{point - 1}"
    if point <= 0:
        plain = "0." + "0" * -point + digits
    elif point >= len(digits):
        plain = digits.ljust(point, "0") + ".0"
    else:
        return sign + digits[:point] + "." + digits[point:]
    if point == 0 or (len(plain) <= len(scientific) and abs(value) < 2**53):
        return sign + plain
    return sign + scientific


def boolean(value: Any, where: str) -> bool:
    """Return a value that has to be true or false; `where` says who asks."""
    if value is True or value is False:
        return value is True
    raise Raised(f"expected true or false {where}, got {inspect(value)}")


def is_truthy(value: Any) -> bool:
    """What `if` asks: anything but nil and false."""
    return value is not None and value is not False


def inspect(value: Any) -> str:
    """Return the value for an error message as Elixir would write it, cut short; half a surrogate pair becomes `?`."""
    text = _inspect(value, 3).encode(errors="replace").decode()
    return text if len(text) <= 80 else text[:77] + "..."


def _inspect(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return '"' + value[:80].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, float):
        return _float_text(value)
    if _is_number(value):
        return str(value)
    if isinstance(value, (list, dict)):
        start, end = ("[", "]") if isinstance(value, list) else ("%{", "}")
        if value and not depth:
            return f"{start}...{end}"
        items = (
            [_inspect(item, depth - 1) for item in value[:10]]
            if isinstance(value, list)
            else [f"{_inspect(k, 0)} => {_inspect(value[k], depth - 1)}" for k in list(value)[:10]]
        )
        return start + ", ".join(items) + end
    return ":" + value.name if isinstance(value, Atom) else _atom_name(value)


def _atom_name(value: Any) -> str:
    return value.name if isinstance(value, Atom) else _NAMES[value]


def _is_number(value: Any) -> bool:
    return _KINDS[type(value)] == _NUMBER
