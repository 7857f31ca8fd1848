"""Elixir's `Enum`, on lists and maps. Pure.

This module is long because Elixir's `Enum` has this many functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from userhooks.engine.functions import terms
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib import kernel
from userhooks.engine.functions.stdlib.kernel import as_integer
from userhooks.engine.functions.terms import ERROR, OK, Atom, Closure, Raised, as_key, is_truthy, pairs_of, struct_name
from userhooks.engine.functions.text import inspect, to_string

EMPTY = "empty error"


def items_of(meter: Meter, enumerable: Any) -> list[Any]:
    """Return the items of a list, or the pairs of a map; raises Raised for anything else."""
    if type(enumerable) is list:
        return enumerable
    if type(enumerable) is dict and struct_name(enumerable) is None:
        return pairs_of(meter, enumerable)
    raise Raised(f"protocol Enumerable not implemented for {kernel.kind_of(enumerable)}\n\nGot value:\n\n    {inspect(enumerable)}\n")


def _position(meter: Meter, items: list[Any], index: Any) -> int | None:
    index = as_integer(index)
    index = index + len(items) if index < 0 else index
    return index if 0 <= index < len(items) else None


def _identity(item: Any) -> Any:
    return item


# --- single items and predicates -----------------------------------------------------------------------------------------


def at(meter: Meter, enumerable: Any, index: Any, default: Any = None) -> Any:
    items = items_of(meter, enumerable)
    position = _position(meter, items, index)
    return default if position is None else items[position]


def fetch(meter: Meter, enumerable: Any, index: Any) -> Any:
    items = items_of(meter, enumerable)
    position = _position(meter, items, index)
    return ERROR if position is None else (OK, items[position])


def fetch_bang(meter: Meter, enumerable: Any, index: Any) -> Any:
    items = items_of(meter, enumerable)
    position = _position(meter, items, index)
    if position is None:
        raise Raised(f"out of bounds error at position {inspect(index)} when traversing enumerable {inspect(enumerable)}")
    return items[position]


def all_(meter: Meter, enumerable: Any, function: Any = _identity) -> bool:
    return all(is_truthy(function(item)) for item in items_of(meter, enumerable))


def any_(meter: Meter, enumerable: Any, function: Any = _identity) -> bool:
    return any(is_truthy(function(item)) for item in items_of(meter, enumerable))


def find(meter: Meter, enumerable: Any, default_or_function: Any, function: Any = None) -> Any:
    default, test = (None, default_or_function) if function is None else (default_or_function, function)
    return next((item for item in items_of(meter, enumerable) if is_truthy(test(item))), default)


def find_index(meter: Meter, enumerable: Any, function: Any) -> int | None:
    return next((i for i, item in enumerate(items_of(meter, enumerable)) if is_truthy(function(item))), None)


def find_value(meter: Meter, enumerable: Any, default_or_function: Any, function: Any = None) -> Any:
    default, test = (None, default_or_function) if function is None else (default_or_function, function)
    return next((value for value in (test(item) for item in items_of(meter, enumerable)) if is_truthy(value)), default)


def member(meter: Meter, enumerable: Any, item: Any) -> bool:
    return any(terms.identical(meter, item, other) for other in items_of(meter, enumerable))


def empty(meter: Meter, enumerable: Any) -> bool:
    return not (enumerable if type(enumerable) is dict and struct_name(enumerable) is None else items_of(meter, enumerable))


def count(meter: Meter, enumerable: Any, function: Any = None) -> int:
    items = items_of(meter, enumerable)
    return len(items) if function is None else sum(is_truthy(function(item)) for item in items)


def count_until(meter: Meter, enumerable: Any, function_or_limit: Any, limit: Any = None) -> int:
    if limit is None:
        return min(len(items_of(meter, enumerable)), as_integer(function_or_limit))
    return min(count(meter, enumerable, function_or_limit), as_integer(limit))


def _best(meter: Meter, enumerable: Any, by: Callable[[Any], Any], better: Callable[[Any, Any], bool], if_empty: Any) -> Any:
    items = items_of(meter, enumerable)
    if not items:
        if isinstance(if_empty, Closure):
            return if_empty()
        raise Raised(EMPTY)
    best = items[0]
    measure = by(best)
    for item in items[1:]:
        meter.spend()
        other = by(item)
        if not better(measure, other):
            best, measure = item, other
    return best


def _sorter(meter: Meter, sorter: Any, default: str) -> Callable[[Any, Any], bool]:
    """Return a function that tells whether the first of two values may come before the second.

    The sorter is `:asc`, `:desc`, a module with `compare`, a tuple of direction and module, or a function. If it is None, the
    default direction is used.
    """
    if isinstance(sorter, Closure):
        return lambda a, b: is_truthy(sorter(a, b))
    direction, module = default, sorter
    if sorter is None or sorter in (Atom("asc"), Atom("desc")):
        direction, module = (default if sorter is None else sorter.name), None
    elif type(sorter) is tuple and len(sorter) == 2 and sorter[0] in (Atom("asc"), Atom("desc")):
        direction, module = sorter[0].name, sorter[1]
    order: Callable[[Any, Any], int] = lambda a, b: terms.compare(meter, a, b)  # noqa: E731
    if module is not None:
        order = _order_of(meter, module)
    return (lambda a, b: order(a, b) <= 0) if direction == "asc" else (lambda a, b: order(a, b) >= 0)


def _order_of(meter: Meter, module: Any) -> Callable[[Any, Any], int]:
    from userhooks.engine.functions.library import LIBRARY

    name = module.name.removeprefix("Elixir.") if isinstance(module, Atom) else ""
    function = LIBRARY.get(f"{name}.compare")
    if function is None:
        raise Raised(f"cannot sort by {inspect(module)}")
    orders = {Atom("lt"): -1, Atom("eq"): 0, Atom("gt"): 1}
    return lambda a, b: orders.get(function.run(meter, a, b), 0)


def max_(meter: Meter, enumerable: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    return max_by(meter, enumerable, _identity, *_two(sorter, if_empty))


def min_(meter: Meter, enumerable: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    return min_by(meter, enumerable, _identity, *_two(sorter, if_empty))


def _two(sorter: Any, if_empty: Any) -> tuple[Any, Any]:
    """Return the sorter and the function for an empty list. If the sorter was omitted, that function is passed in its place."""
    return (None, sorter) if isinstance(sorter, Closure) and sorter.arity == 0 else (sorter, if_empty)


def max_by(meter: Meter, enumerable: Any, function: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    sorter, if_empty = _two(sorter, if_empty)
    return _best(
        meter,
        enumerable,
        function,
        _sorter(meter, sorter, "desc") if sorter is None else _swapped(_sorter(meter, sorter, "asc"), sorter),
        if_empty,
    )


def _swapped(before: Callable[[Any, Any], bool], sorter: Any) -> Callable[[Any, Any], bool]:
    """Return the order for a maximum. A sorter function already puts the larger value first; any other order is reversed."""
    return before if isinstance(sorter, Closure) else lambda a, b: before(b, a)


def min_by(meter: Meter, enumerable: Any, function: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    sorter, if_empty = _two(sorter, if_empty)
    return _best(meter, enumerable, function, _sorter(meter, sorter, "asc"), if_empty)


def min_max(meter: Meter, enumerable: Any) -> tuple[Any, Any]:
    return min_(meter, enumerable), max_(meter, enumerable)


def min_max_by(meter: Meter, enumerable: Any, function: Any) -> tuple[Any, Any]:
    return min_by(meter, enumerable, function), max_by(meter, enumerable, function)


def sum_(meter: Meter, enumerable: Any) -> Any:
    total: Any = 0
    for item in items_of(meter, enumerable):
        total = kernel.add(meter, total, item)
    return total


def sum_by(meter: Meter, enumerable: Any, function: Any) -> Any:
    return sum_(meter, [function(item) for item in items_of(meter, enumerable)])


def product(meter: Meter, enumerable: Any) -> Any:
    total: Any = 1
    for item in items_of(meter, enumerable):
        total = kernel.multiply(meter, total, item)
    return total


def join(meter: Meter, enumerable: Any, joiner: Any = "") -> Any:
    return map_join(meter, enumerable, joiner, _identity)


def map_join(meter: Meter, enumerable: Any, joiner: Any, function: Any = None) -> Any:
    if function is None:
        joiner, function = "", joiner
    parts: list[Any] = []
    for item in items_of(meter, enumerable):
        parts += [joiner, to_string(meter, function(item))]
        meter.weigh(parts[-1])
        meter.spend()
    return kernel.concatenate(meter, *parts[1:]) if parts else ""


def reduce(meter: Meter, enumerable: Any, start_or_function: Any, function: Any = None) -> Any:
    items = items_of(meter, enumerable)
    if function is None:
        if not items:
            raise Raised(EMPTY)
        value, items, function = items[0], items[1:], start_or_function
    else:
        value = start_or_function
    for item in items:
        value = function(item, value)
    return value


def reduce_while(meter: Meter, enumerable: Any, start: Any, function: Any) -> Any:
    value = start
    for item in items_of(meter, enumerable):
        answer = function(item, value)
        if not (type(answer) is tuple and len(answer) == 2 and answer[0] in (Atom("cont"), Atom("halt"))):
            raise Raised(f"no case clause matching:\n\n    {inspect(answer)}\n")
        value = answer[1]
        if answer[0] is Atom("halt"):
            break
    return value


# --- derived lists -------------------------------------------------------------------------------------------------------


def map_(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    return [function(item) for item in items_of(meter, enumerable)]


def map_every(meter: Meter, enumerable: Any, every: Any, function: Any) -> list[Any]:
    step = as_integer(every)
    return [function(item) if step and i % step == 0 else item for i, item in enumerate(items_of(meter, enumerable))]


def map_intersperse(meter: Meter, enumerable: Any, separator: Any, function: Any) -> list[Any]:
    return intersperse(meter, map_(meter, enumerable, function), separator)


def map_reduce(meter: Meter, enumerable: Any, start: Any, function: Any) -> tuple[list[Any], Any]:
    mapped = []
    for item in items_of(meter, enumerable):
        answer = function(item, start)
        if not (type(answer) is tuple and len(answer) == 2):
            raise Raised(f"no match of right hand side value:\n\n    {inspect(answer)}\n")
        mapped.append(answer[0])
        start = answer[1]
    return mapped, start


def flat_map(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    result: list[Any] = []
    for item in items_of(meter, enumerable):
        inner = items_of(meter, function(item))
        meter.spend(len(inner))
        result.extend(inner)
    return result


def flat_map_reduce(meter: Meter, enumerable: Any, start: Any, function: Any) -> tuple[list[Any], Any]:
    result: list[Any] = []
    for item in items_of(meter, enumerable):
        answer = function(item, start)
        if not (type(answer) is tuple and len(answer) == 2):
            raise Raised(f"no case clause matching:\n\n    {inspect(answer)}\n")
        if answer[0] is Atom("halt"):
            return result, answer[1]
        inner = items_of(meter, answer[0])
        meter.spend(len(inner))
        result.extend(inner)
        start = answer[1]
    return result, start


def concat(meter: Meter, enumerable: Any, other: Any = None) -> list[Any]:
    return flat_map(meter, enumerable if other is None else [enumerable, other], _identity)


def filter_(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    return [item for item in items_of(meter, enumerable) if is_truthy(function(item))]


def reject(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    return [item for item in items_of(meter, enumerable) if not is_truthy(function(item))]


def split_with(meter: Meter, enumerable: Any, function: Any) -> tuple[list[Any], list[Any]]:
    accepted: list[Any] = []
    rejected: list[Any] = []
    for item in items_of(meter, enumerable):
        (accepted if is_truthy(function(item)) else rejected).append(item)
    return accepted, rejected


def with_index(meter: Meter, enumerable: Any, start_or_function: Any = 0) -> list[Any]:
    items = items_of(meter, enumerable)
    if isinstance(start_or_function, Closure):
        return [start_or_function(item, i) for i, item in enumerate(items)]
    start = as_integer(start_or_function)
    return [(item, start + i) for i, item in enumerate(items)]


def each(meter: Meter, enumerable: Any, function: Any) -> Atom:
    for item in items_of(meter, enumerable):
        function(item)
    return OK


def reverse(meter: Meter, enumerable: Any, tail: Any = None) -> list[Any]:
    return items_of(meter, enumerable)[::-1] + ([] if tail is None else items_of(meter, tail))


def reverse_slice(meter: Meter, enumerable: Any, start: Any, size: Any) -> list[Any]:
    items, first = items_of(meter, enumerable), as_integer(start)
    last = first + as_integer(size)
    return items[:first] + items[first:last][::-1] + items[last:]


def sort(meter: Meter, enumerable: Any, sorter: Any = None) -> list[Any]:
    return sort_by(meter, enumerable, _identity, sorter)


class _Before:
    """A sort key based on a "may come before" function; equal values keep their order, as in Elixir's merge sort."""

    __slots__ = ("before", "meter", "value")

    def __init__(self, meter: Meter, value: Any, before: Callable[[Any, Any], bool]) -> None:
        self.meter = meter
        self.value = value
        self.before = before

    def __lt__(self, other: _Before) -> bool:
        self.meter.spend()
        return not self.before(other.value, self.value)


def sort_by(meter: Meter, enumerable: Any, function: Any, sorter: Any = None) -> list[Any]:
    before = _sorter(meter, sorter, "asc")
    pairs = [(_Before(meter, function(item), before), item) for item in items_of(meter, enumerable)]
    meter.spend(len(pairs))
    return [item for _, item in sorted(pairs, key=lambda pair: pair[0])]


def uniq(meter: Meter, enumerable: Any) -> list[Any]:
    return uniq_by(meter, enumerable, _identity)


def uniq_by(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    first_by_key: dict[Any, Any] = {}
    for item in items_of(meter, enumerable):
        first_by_key.setdefault(as_key(meter, function(item)), item)
        meter.spend()
    return list(first_by_key.values())


def dedup(meter: Meter, enumerable: Any) -> list[Any]:
    return dedup_by(meter, enumerable, _identity)


def dedup_by(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    kept: list[Any] = []
    previous: Any = None
    for item in items_of(meter, enumerable):
        value = function(item)
        if not kept or not terms.identical(meter, value, previous):
            kept.append(item)
        previous = value
    return kept


def group_by(meter: Meter, enumerable: Any, function: Any, value: Any = _identity) -> dict[Any, Any]:
    groups: dict[Any, Any] = {}
    for item in items_of(meter, enumerable):
        groups.setdefault(as_key(meter, function(item)), []).append(value(item))
    return groups


def frequencies(meter: Meter, enumerable: Any) -> dict[Any, Any]:
    return frequencies_by(meter, enumerable, _identity)


def frequencies_by(meter: Meter, enumerable: Any, function: Any) -> dict[Any, Any]:
    return {key: len(items) for key, items in group_by(meter, enumerable, function).items()}


def chunk_every(meter: Meter, enumerable: Any, size: Any, step: Any = None, leftover: Any = None) -> list[Any]:
    items, size = items_of(meter, enumerable), as_integer(size)
    step = size if step is None else as_integer(step)
    if size < 1 or step < 1:
        raise Raised("no function clause matching in Enum.chunk_every/4")
    chunks = []
    for start in range(0, len(items), step):
        chunk = items[start : start + size]
        meter.spend(len(chunk))
        if len(chunk) < size:
            if leftover is Atom("discard"):
                break
            chunk = chunk + ([] if leftover is None else items_of(meter, leftover))[: size - len(chunk)]
            chunks.append(chunk)
            break
        chunks.append(chunk)
    return chunks


def chunk_by(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    chunks: list[Any] = []
    previous: Any = None
    for item in items_of(meter, enumerable):
        value = function(item)
        if chunks and terms.identical(meter, value, previous):
            chunks[-1].append(item)
        else:
            chunks.append([item])
        previous = value
    return chunks


def take(meter: Meter, enumerable: Any, amount: Any) -> list[Any]:
    items, amount = items_of(meter, enumerable), as_integer(amount)
    return items[:amount] if amount >= 0 else items[amount:]


def drop(meter: Meter, enumerable: Any, amount: Any) -> list[Any]:
    items, amount = items_of(meter, enumerable), as_integer(amount)
    return items[amount:] if amount >= 0 else items[:amount]


def _run(items: list[Any], function: Any) -> int:
    return next((i for i, item in enumerate(items) if not is_truthy(function(item))), len(items))


def take_while(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    items = items_of(meter, enumerable)
    return items[: _run(items, function)]


def drop_while(meter: Meter, enumerable: Any, function: Any) -> list[Any]:
    items = items_of(meter, enumerable)
    return items[_run(items, function) :]


def split_while(meter: Meter, enumerable: Any, function: Any) -> tuple[list[Any], list[Any]]:
    items = items_of(meter, enumerable)
    position = _run(items, function)
    return items[:position], items[position:]


def split(meter: Meter, enumerable: Any, amount: Any) -> tuple[list[Any], list[Any]]:
    items, amount = items_of(meter, enumerable), as_integer(amount)
    position = amount if amount >= 0 else max(len(items) + amount, 0)
    return items[:position], items[position:]


def take_every(meter: Meter, enumerable: Any, every: Any) -> list[Any]:
    step = as_integer(every)
    return items_of(meter, enumerable)[::step] if step > 0 else []


def drop_every(meter: Meter, enumerable: Any, every: Any) -> list[Any]:
    step = as_integer(every)
    return [item for i, item in enumerate(items_of(meter, enumerable)) if not step or i % step]


def slice_(meter: Meter, enumerable: Any, start: Any, amount: Any) -> list[Any]:
    items, first, amount = items_of(meter, enumerable), as_integer(start), as_integer(amount)
    if amount < 0:
        raise Raised("no function clause matching in Enum.slice/3")
    first = max(first + len(items), 0) if first < 0 else first
    return items[first : first + amount]


def slide(meter: Meter, enumerable: Any, index: Any, to: Any) -> list[Any]:
    items = list(items_of(meter, enumerable))
    items.insert(as_integer(to), items.pop(as_integer(index)))
    return items


def zip_(meter: Meter, enumerable: Any, other: Any = None) -> list[Any]:
    lists = [items_of(meter, inner) for inner in (items_of(meter, enumerable) if other is None else (enumerable, other))]
    return [tuple(row) for row in zip(*lists, strict=False)]


def zip_with(meter: Meter, enumerable: Any, other_or_function: Any, function: Any = None) -> list[Any]:
    if function is None:
        return [other_or_function(list(row)) for row in zip_(meter, enumerable)]
    return [function(*pair) for pair in zip_(meter, enumerable, other_or_function)]


def zip_reduce(meter: Meter, enumerable: Any, other: Any, start: Any, function: Any) -> Any:
    for left, right in zip_(meter, enumerable, other):
        start = function(left, right, start)
    return start


def unzip(meter: Meter, enumerable: Any) -> tuple[list[Any], list[Any]]:
    pairs = items_of(meter, enumerable)
    if not all(type(pair) is tuple and len(pair) == 2 for pair in pairs):
        raise Raised("no function clause matching in Enum.unzip/1")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def intersperse(meter: Meter, enumerable: Any, separator: Any) -> list[Any]:
    return [part for item in items_of(meter, enumerable) for part in (separator, item)][1:]


def into(meter: Meter, enumerable: Any, target: Any, function: Any = _identity) -> Any:
    items = [function(item) for item in items_of(meter, enumerable)]
    if type(target) is list:
        return target + items
    if type(target) is dict:
        return {**target, **terms.new_map(meter, map(_pair, items))}
    if type(target) is str:
        return kernel.concatenate(meter, target, *items)
    raise Raised(f"protocol Collectable not implemented for {kernel.kind_of(target)}")


def _pair(item: Any) -> tuple[Any, Any]:
    if type(item) is tuple and len(item) == 2:
        return item
    raise Raised("argument error: the items of a map must be pairs")


def scan(meter: Meter, enumerable: Any, start_or_function: Any, function: Any = None) -> list[Any]:
    items = items_of(meter, enumerable)
    scanned: list[Any] = []
    if function is None:
        function, value, items = start_or_function, (items[0] if items else None), items[1:]
        scanned = [value] if items_of(meter, enumerable) else []
    else:
        value = start_or_function
    for item in items:
        value = function(item, value)
        scanned.append(value)
    return scanned


FUNCTIONS = {
    "at": at,
    "fetch": fetch,
    "fetch!": fetch_bang,
    "all?": all_,
    "any?": any_,
    "find": find,
    "find_index": find_index,
    "find_value": find_value,
    "member?": member,
    "empty?": empty,
    "count": count,
    "count_until": count_until,
    "max": max_,
    "min": min_,
    "max_by": max_by,
    "min_by": min_by,
    "min_max": min_max,
    "min_max_by": min_max_by,
    "sum": sum_,
    "sum_by": sum_by,
    "product": product,
    "join": join,
    "map_join": map_join,
    "reduce": reduce,
    "reduce_while": reduce_while,
    "map": map_,
    "map_every": map_every,
    "map_intersperse": map_intersperse,
    "map_reduce": map_reduce,
    "flat_map": flat_map,
    "flat_map_reduce": flat_map_reduce,
    "concat": concat,
    "filter": filter_,
    "reject": reject,
    "split_with": split_with,
    "with_index": with_index,
    "each": each,
    "reverse": reverse,
    "reverse_slice": reverse_slice,
    "sort": sort,
    "sort_by": sort_by,
    "uniq": uniq,
    "uniq_by": uniq_by,
    "dedup": dedup,
    "dedup_by": dedup_by,
    "group_by": group_by,
    "frequencies": frequencies,
    "frequencies_by": frequencies_by,
    "chunk_every": chunk_every,
    "chunk_by": chunk_by,
    "take": take,
    "drop": drop,
    "take_while": take_while,
    "drop_while": drop_while,
    "split_while": split_while,
    "split": split,
    "take_every": take_every,
    "drop_every": drop_every,
    "slice": slice_,
    "slide": slide,
    "zip": zip_,
    "zip_with": zip_with,
    "zip_reduce": zip_reduce,
    "unzip": unzip,
    "intersperse": intersperse,
    "into": into,
    "scan": scan,
    "to_list": lambda meter, enumerable: list(items_of(meter, enumerable)),
}
