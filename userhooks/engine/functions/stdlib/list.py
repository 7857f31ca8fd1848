"""Elixir's `List`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import terms, text
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.kernel import as_integer, as_list
from userhooks.engine.functions.terms import Raised

List = list[Any]


def first(meter: Meter, items: Any, default: Any = None) -> Any:
    return as_list(items)[0] if as_list(items) else default


def last(meter: Meter, items: Any, default: Any = None) -> Any:
    return as_list(items)[-1] if as_list(items) else default


def flatten(meter: Meter, items: Any, tail: Any = None) -> List:
    flat: List = []

    def add(items: List) -> None:
        for item in items:
            meter.spend()
            if type(item) is list:
                add(item)
            else:
                flat.append(item)

    add(as_list(items))
    return flat + ([] if tail is None else as_list(tail))


def wrap(meter: Meter, value: Any) -> List:
    return [] if value is None else value if type(value) is list else [value]


def duplicate(meter: Meter, value: Any, times: Any) -> List:
    times = as_integer(times)
    if times < 0:
        raise Raised("no function clause matching in List.duplicate/2")
    meter.spend(times)
    return [value] * times


def delete(meter: Meter, items: Any, value: Any) -> List:
    for i, item in enumerate(as_list(items)):
        if terms.identical(meter, item, value):
            return list(items[:i] + items[i + 1 :])
    return list(items)


def _index(items: List, index: Any, offset: int = 0) -> int:
    """Return an index counted from the start, which may be outside the list.

    A negative `index` counts from the end, and `offset` is then added to the result.
    """
    at = as_integer(index)
    return at + len(items) + offset if at < 0 else at


def delete_at(meter: Meter, items: Any, index: Any) -> List:
    at = _index(as_list(items), index)
    return items[:at] + items[at + 1 :] if 0 <= at < len(items) else items  # type: ignore[no-any-return]


def insert_at(meter: Meter, items: Any, index: Any, value: Any) -> List:
    at = max(_index(as_list(items), index, 1), 0)
    return [*items[:at], value, *items[at:]]


def replace_at(meter: Meter, items: Any, index: Any, value: Any) -> List:
    at = _index(as_list(items), index)
    return [*items[:at], value, *items[at + 1 :]] if 0 <= at < len(items) else items


def update_at(meter: Meter, items: Any, index: Any, function: Any) -> List:
    at = _index(as_list(items), index)
    return [*items[:at], function(items[at]), *items[at + 1 :]] if 0 <= at < len(items) else items


def pop_at(meter: Meter, items: Any, index: Any, default: Any = None) -> tuple[Any, List]:
    at = _index(as_list(items), index)
    return (items[at], items[:at] + items[at + 1 :]) if 0 <= at < len(items) else (default, items)


def foldl(meter: Meter, items: Any, start: Any, function: Any) -> Any:
    for item in as_list(items):
        start = function(item, start)
    return start


def foldr(meter: Meter, items: Any, start: Any, function: Any) -> Any:
    return foldl(meter, as_list(items)[::-1], start, function)


def _has(meter: Meter, item: Any, key: Any, position: int) -> bool:
    return type(item) is tuple and position < len(item) and terms.equal(meter, item[position], key)


def keyfind(meter: Meter, items: Any, key: Any, position: Any, default: Any = None) -> Any:
    at = as_integer(position)
    return next((item for item in as_list(items) if _has(meter, item, key, at)), default)


def keymember(meter: Meter, items: Any, key: Any, position: Any) -> bool:
    at = as_integer(position)
    return any(_has(meter, item, key, at) for item in as_list(items))


def keydelete(meter: Meter, items: Any, key: Any, position: Any) -> List:
    at = next((i for i, item in enumerate(as_list(items)) if _has(meter, item, key, as_integer(position))), None)
    return items if at is None else items[:at] + items[at + 1 :]  # type: ignore[no-any-return]


def keystore(meter: Meter, items: Any, key: Any, position: Any, value: Any) -> List:
    at = next((i for i, item in enumerate(as_list(items)) if _has(meter, item, key, as_integer(position))), len(items))
    return [*items[:at], value, *items[at + 1 :]]


def keyreplace(meter: Meter, items: Any, key: Any, position: Any, value: Any) -> List:
    return keystore(meter, items, key, position, value) if keymember(meter, items, key, position) else items


def keysort(meter: Meter, items: Any, position: Any) -> List:
    at = as_integer(position)
    if not all(type(item) is tuple and 0 <= at < len(item) for item in as_list(items)):
        raise Raised("argument error")
    return sorted(items, key=lambda item: terms.InOrder(meter, item[at]))


def keytake(meter: Meter, items: Any, key: Any, position: Any) -> Any:
    item = keyfind(meter, items, key, position)
    return None if item is None else (item, keydelete(meter, items, key, position))


def zip_(meter: Meter, items: Any) -> List:
    return [tuple(row) for row in zip(*[as_list(inner) for inner in as_list(items)], strict=False)]


def starts_with(meter: Meter, items: Any, prefix: Any) -> bool:
    return terms.identical(meter, as_list(items)[: len(as_list(prefix))], prefix)


def ascii_printable(meter: Meter, items: Any) -> bool:
    return all(type(item) is int and (32 <= item < 127 or item in (7, 8, 9, 10, 11, 12, 13, 27)) for item in as_list(items))


def to_integer(meter: Meter, items: Any) -> int:
    from userhooks.engine.functions.stdlib.string import to_integer as of_text

    return of_text(meter, text.joined(meter, as_list(items)))


def to_float(meter: Meter, items: Any) -> float:
    from userhooks.engine.functions.stdlib.string import to_float as of_text

    return of_text(meter, text.joined(meter, as_list(items)))


def ends_with(meter: Meter, items: Any, suffix: Any) -> bool:
    return not as_list(suffix) or terms.identical(meter, as_list(items)[-len(suffix) :], suffix)


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
    "to_tuple": lambda meter, items: tuple(as_list(items)),
    "to_string": lambda meter, items: text.joined(meter, as_list(items)),
}
