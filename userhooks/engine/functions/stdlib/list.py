"""Elixir's `List`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import terms, text
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.kernel import as_integer, as_list
from userhooks.engine.functions.terms import Raised

List = list[Any]


def first(meter: Meter, of: Any, default: Any = None) -> Any:
    return as_list(of)[0] if as_list(of) else default


def last(meter: Meter, of: Any, default: Any = None) -> Any:
    return as_list(of)[-1] if as_list(of) else default


def flatten(meter: Meter, of: Any, tail: Any = None) -> List:
    flat: List = []

    def add(items: List) -> None:
        for item in items:
            meter.spend()
            if type(item) is list:
                add(item)
            else:
                flat.append(item)

    add(as_list(of))
    return flat + ([] if tail is None else as_list(tail))


def wrap(meter: Meter, value: Any) -> List:
    return [] if value is None else value if type(value) is list else [value]


def duplicate(meter: Meter, value: Any, times: Any) -> List:
    times = as_integer(times)
    if times < 0:
        raise Raised("no function clause matching in List.duplicate/2")
    meter.spend(times)
    return [value] * times


def delete(meter: Meter, of: Any, value: Any) -> List:
    for i, item in enumerate(as_list(of)):
        if terms.identical(meter, item, value):
            return list(of[:i] + of[i + 1 :])
    return list(of)


def _index(of: List, index: Any, more: int = 0) -> int:
    """Return a position counted from the start, whatever it was counted from; it may be outside of the list."""
    at = as_integer(index)
    return at + len(of) + more if at < 0 else at


def delete_at(meter: Meter, of: Any, index: Any) -> List:
    at = _index(as_list(of), index)
    return of[:at] + of[at + 1 :] if 0 <= at < len(of) else of  # type: ignore[no-any-return]


def insert_at(meter: Meter, of: Any, index: Any, value: Any) -> List:
    at = max(_index(as_list(of), index, 1), 0)
    return [*of[:at], value, *of[at:]]


def replace_at(meter: Meter, of: Any, index: Any, value: Any) -> List:
    at = _index(as_list(of), index)
    return [*of[:at], value, *of[at + 1 :]] if 0 <= at < len(of) else of


def update_at(meter: Meter, of: Any, index: Any, function: Any) -> List:
    at = _index(as_list(of), index)
    return [*of[:at], function(of[at]), *of[at + 1 :]] if 0 <= at < len(of) else of


def pop_at(meter: Meter, of: Any, index: Any, default: Any = None) -> tuple[Any, List]:
    at = _index(as_list(of), index)
    return (of[at], of[:at] + of[at + 1 :]) if 0 <= at < len(of) else (default, of)


def foldl(meter: Meter, of: Any, start: Any, function: Any) -> Any:
    for item in as_list(of):
        start = function(item, start)
    return start


def foldr(meter: Meter, of: Any, start: Any, function: Any) -> Any:
    return foldl(meter, as_list(of)[::-1], start, function)


def _has(meter: Meter, item: Any, key: Any, position: int) -> bool:
    return type(item) is tuple and position < len(item) and terms.equal(meter, item[position], key)


def keyfind(meter: Meter, of: Any, key: Any, position: Any, default: Any = None) -> Any:
    at = as_integer(position)
    return next((item for item in as_list(of) if _has(meter, item, key, at)), default)


def keymember(meter: Meter, of: Any, key: Any, position: Any) -> bool:
    at = as_integer(position)
    return any(_has(meter, item, key, at) for item in as_list(of))


def keydelete(meter: Meter, of: Any, key: Any, position: Any) -> List:
    at = next((i for i, item in enumerate(as_list(of)) if _has(meter, item, key, as_integer(position))), None)
    return of if at is None else of[:at] + of[at + 1 :]  # type: ignore[no-any-return]


def keystore(meter: Meter, of: Any, key: Any, position: Any, value: Any) -> List:
    at = next((i for i, item in enumerate(as_list(of)) if _has(meter, item, key, as_integer(position))), len(of))
    return [*of[:at], value, *of[at + 1 :]]


def keyreplace(meter: Meter, of: Any, key: Any, position: Any, value: Any) -> List:
    return keystore(meter, of, key, position, value) if keymember(meter, of, key, position) else of


def keysort(meter: Meter, of: Any, position: Any) -> List:
    at = as_integer(position)
    if not all(type(item) is tuple and 0 <= at < len(item) for item in as_list(of)):
        raise Raised("argument error")
    return sorted(of, key=lambda item: terms.InOrder(meter, item[at]))


def keytake(meter: Meter, of: Any, key: Any, position: Any) -> Any:
    found = keyfind(meter, of, key, position)
    return None if found is None else (found, keydelete(meter, of, key, position))


def zip_(meter: Meter, of: Any) -> List:
    return [tuple(row) for row in zip(*[as_list(one) for one in as_list(of)], strict=False)]


def starts_with(meter: Meter, of: Any, prefix: Any) -> bool:
    return terms.identical(meter, as_list(of)[: len(as_list(prefix))], prefix)


def ascii_printable(meter: Meter, of: Any) -> bool:
    return all(type(item) is int and (32 <= item < 127 or item in (7, 8, 9, 10, 11, 12, 13, 27)) for item in as_list(of))


def to_integer(meter: Meter, of: Any) -> int:
    from userhooks.engine.functions.stdlib.string import to_integer as of_text

    return of_text(meter, text.joined(meter, as_list(of)))


def to_float(meter: Meter, of: Any) -> float:
    from userhooks.engine.functions.stdlib.string import to_float as of_text

    return of_text(meter, text.joined(meter, as_list(of)))


def ends_with(meter: Meter, of: Any, suffix: Any) -> bool:
    return not as_list(suffix) or terms.identical(meter, as_list(of)[-len(suffix) :], suffix)


FUNCTIONS = {
    "first": first,
    "last": last,
    "flatten": flatten,
    "wrap": wrap,
    "duplicate": duplicate,
    "delete": delete,
    "delete_at": delete_at,
    "insert_at": insert_at,
    "replace_at": replace_at,
    "update_at": update_at,
    "pop_at": pop_at,
    "foldl": foldl,
    "foldr": foldr,
    "keyfind": keyfind,
    "keymember?": keymember,
    "keydelete": keydelete,
    "keystore": keystore,
    "keyreplace": keyreplace,
    "keysort": keysort,
    "keytake": keytake,
    "zip": zip_,
    "starts_with?": starts_with,
    "ends_with?": ends_with,
    "ascii_printable?": ascii_printable,
    "to_integer": to_integer,
    "to_float": to_float,
    "to_tuple": lambda meter, of: tuple(as_list(of)),
    "to_string": lambda meter, of: text.joined(meter, as_list(of)),
}
