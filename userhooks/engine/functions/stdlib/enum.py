"""Elixir's `Enum`, on lists and maps. Pure.

It is long because Elixir's `Enum` has that many functions.
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


def items_of(meter: Meter, of: Any) -> list[Any]:
    """Return what is enumerated: a list's items, a map's pairs."""
    if type(of) is list:
        return of
    if type(of) is dict and struct_name(of) is None:
        return pairs_of(meter, of)
    raise Raised(f"protocol Enumerable not implemented for {kernel.kind_of(of)}\n\nGot value:\n\n    {inspect(of)}\n")


def _position(meter: Meter, items: list[Any], index: Any) -> int | None:
    index = as_integer(index)
    index = index + len(items) if index < 0 else index
    return index if 0 <= index < len(items) else None


def _identity(item: Any) -> Any:
    return item


# --- one item, or a question ---------------------------------------------------------------------------------------------


def at(meter: Meter, of: Any, index: Any, default: Any = None) -> Any:
    items = items_of(meter, of)
    position = _position(meter, items, index)
    return default if position is None else items[position]


def fetch(meter: Meter, of: Any, index: Any) -> Any:
    items = items_of(meter, of)
    position = _position(meter, items, index)
    return ERROR if position is None else (OK, items[position])


def fetch_bang(meter: Meter, of: Any, index: Any) -> Any:
    items = items_of(meter, of)
    position = _position(meter, items, index)
    if position is None:
        raise Raised(f"out of bounds error at position {inspect(index)} when traversing enumerable {inspect(of)}")
    return items[position]


def all_(meter: Meter, of: Any, function: Any = _identity) -> bool:
    return all(is_truthy(function(item)) for item in items_of(meter, of))


def any_(meter: Meter, of: Any, function: Any = _identity) -> bool:
    return any(is_truthy(function(item)) for item in items_of(meter, of))


def find(meter: Meter, of: Any, default_or_function: Any, function: Any = None) -> Any:
    default, test = (None, default_or_function) if function is None else (default_or_function, function)
    return next((item for item in items_of(meter, of) if is_truthy(test(item))), default)


def find_index(meter: Meter, of: Any, function: Any) -> int | None:
    return next((i for i, item in enumerate(items_of(meter, of)) if is_truthy(function(item))), None)


def find_value(meter: Meter, of: Any, default_or_function: Any, function: Any = None) -> Any:
    default, test = (None, default_or_function) if function is None else (default_or_function, function)
    return next((found for found in (test(item) for item in items_of(meter, of)) if is_truthy(found)), default)


def member(meter: Meter, of: Any, item: Any) -> bool:
    return any(terms.identical(meter, item, one) for one in items_of(meter, of))


def empty(meter: Meter, of: Any) -> bool:
    return not (of if type(of) is dict and struct_name(of) is None else items_of(meter, of))


def count(meter: Meter, of: Any, function: Any = None) -> int:
    items = items_of(meter, of)
    return len(items) if function is None else sum(is_truthy(function(item)) for item in items)


def count_until(meter: Meter, of: Any, function_or_limit: Any, limit: Any = None) -> int:
    if limit is None:
        return min(len(items_of(meter, of)), as_integer(function_or_limit))
    return min(count(meter, of, function_or_limit), as_integer(limit))


def _best(meter: Meter, of: Any, by: Callable[[Any], Any], better: Callable[[Any, Any], bool], if_empty: Any) -> Any:
    items = items_of(meter, of)
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
    """Return whether the first of two values may stand before the second: by `:asc`, `:desc`, a module with `compare`, or a function."""
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


def max_(meter: Meter, of: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    return max_by(meter, of, _identity, *_two(sorter, if_empty))


def min_(meter: Meter, of: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    return min_by(meter, of, _identity, *_two(sorter, if_empty))


def _two(sorter: Any, if_empty: Any) -> tuple[Any, Any]:
    """Tell the sorter from what is called for an empty list, which may come alone."""
    return (None, sorter) if isinstance(sorter, Closure) and sorter.arity == 0 else (sorter, if_empty)


def max_by(meter: Meter, of: Any, function: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    sorter, if_empty = _two(sorter, if_empty)
    return _best(
        meter, of, function, _sorter(meter, sorter, "desc") if sorter is None else _swapped(_sorter(meter, sorter, "asc"), sorter), if_empty
    )


def _swapped(before: Callable[[Any, Any], bool], sorter: Any) -> Callable[[Any, Any], bool]:
    """For a maximum a function answers whether the first is the larger one; a module's order has to be turned round."""
    return before if isinstance(sorter, Closure) else lambda a, b: before(b, a)


def min_by(meter: Meter, of: Any, function: Any, sorter: Any = None, if_empty: Any = None) -> Any:
    sorter, if_empty = _two(sorter, if_empty)
    return _best(meter, of, function, _sorter(meter, sorter, "asc"), if_empty)


def min_max(meter: Meter, of: Any) -> tuple[Any, Any]:
    return min_(meter, of), max_(meter, of)


def min_max_by(meter: Meter, of: Any, function: Any) -> tuple[Any, Any]:
    return min_by(meter, of, function), max_by(meter, of, function)


def sum_(meter: Meter, of: Any) -> Any:
    total: Any = 0
    for item in items_of(meter, of):
        total = kernel.add(meter, total, item)
    return total


def sum_by(meter: Meter, of: Any, function: Any) -> Any:
    return sum_(meter, [function(item) for item in items_of(meter, of)])


def product(meter: Meter, of: Any) -> Any:
    total: Any = 1
    for item in items_of(meter, of):
        total = kernel.multiply(meter, total, item)
    return total


def join(meter: Meter, of: Any, joiner: Any = "") -> Any:
    return map_join(meter, of, joiner, _identity)


def map_join(meter: Meter, of: Any, joiner: Any, function: Any = None) -> Any:
    if function is None:
        joiner, function = "", joiner
    parts: list[Any] = []
    for item in items_of(meter, of):
        parts += [joiner, to_string(meter, function(item))]
        meter.weigh(parts[-1])
        meter.spend()
    return kernel.concatenate(meter, *parts[1:]) if parts else ""


def reduce(meter: Meter, of: Any, start_or_function: Any, function: Any = None) -> Any:
    items = items_of(meter, of)
    if function is None:
        if not items:
            raise Raised(EMPTY)
        value, items, function = items[0], items[1:], start_or_function
    else:
        value = start_or_function
    for item in items:
        value = function(item, value)
    return value


def reduce_while(meter: Meter, of: Any, start: Any, function: Any) -> Any:
    value = start
    for item in items_of(meter, of):
        answer = function(item, value)
        if not (type(answer) is tuple and len(answer) == 2 and answer[0] in (Atom("cont"), Atom("halt"))):
            raise Raised(f"no case clause matching:\n\n    {inspect(answer)}\n")
        value = answer[1]
        if answer[0] is Atom("halt"):
            break
    return value


# --- other lists ---------------------------------------------------------------------------------------------------------


def map_(meter: Meter, of: Any, function: Any) -> list[Any]:
    return [function(item) for item in items_of(meter, of)]


def map_every(meter: Meter, of: Any, every: Any, function: Any) -> list[Any]:
    step = as_integer(every)
    return [function(item) if step and i % step == 0 else item for i, item in enumerate(items_of(meter, of))]


def map_intersperse(meter: Meter, of: Any, separator: Any, function: Any) -> list[Any]:
    return intersperse(meter, map_(meter, of, function), separator)


def map_reduce(meter: Meter, of: Any, start: Any, function: Any) -> tuple[list[Any], Any]:
    mapped = []
    for item in items_of(meter, of):
        answer = function(item, start)
        if not (type(answer) is tuple and len(answer) == 2):
            raise Raised(f"no match of right hand side value:\n\n    {inspect(answer)}\n")
        mapped.append(answer[0])
        start = answer[1]
    return mapped, start


def flat_map(meter: Meter, of: Any, function: Any) -> list[Any]:
    found: list[Any] = []
    for item in items_of(meter, of):
        more = items_of(meter, function(item))
        meter.spend(len(more))
        found.extend(more)
    return found


def flat_map_reduce(meter: Meter, of: Any, start: Any, function: Any) -> tuple[list[Any], Any]:
    found: list[Any] = []
    for item in items_of(meter, of):
        answer = function(item, start)
        if not (type(answer) is tuple and len(answer) == 2):
            raise Raised(f"no case clause matching:\n\n    {inspect(answer)}\n")
        if answer[0] is Atom("halt"):
            return found, answer[1]
        more = items_of(meter, answer[0])
        meter.spend(len(more))
        found.extend(more)
        start = answer[1]
    return found, start


def concat(meter: Meter, of: Any, other: Any = None) -> list[Any]:
    return flat_map(meter, of if other is None else [of, other], _identity)


def filter_(meter: Meter, of: Any, function: Any) -> list[Any]:
    return [item for item in items_of(meter, of) if is_truthy(function(item))]


def reject(meter: Meter, of: Any, function: Any) -> list[Any]:
    return [item for item in items_of(meter, of) if not is_truthy(function(item))]


def split_with(meter: Meter, of: Any, function: Any) -> tuple[list[Any], list[Any]]:
    good: list[Any] = []
    bad: list[Any] = []
    for item in items_of(meter, of):
        (good if is_truthy(function(item)) else bad).append(item)
    return good, bad


def with_index(meter: Meter, of: Any, start_or_function: Any = 0) -> list[Any]:
    items = items_of(meter, of)
    if isinstance(start_or_function, Closure):
        return [start_or_function(item, i) for i, item in enumerate(items)]
    start = as_integer(start_or_function)
    return [(item, start + i) for i, item in enumerate(items)]


def each(meter: Meter, of: Any, function: Any) -> Atom:
    for item in items_of(meter, of):
        function(item)
    return OK


def reverse(meter: Meter, of: Any, tail: Any = None) -> list[Any]:
    return items_of(meter, of)[::-1] + ([] if tail is None else items_of(meter, tail))


def reverse_slice(meter: Meter, of: Any, start: Any, size: Any) -> list[Any]:
    items, first = items_of(meter, of), as_integer(start)
    last = first + as_integer(size)
    return items[:first] + items[first:last][::-1] + items[last:]


def sort(meter: Meter, of: Any, sorter: Any = None) -> list[Any]:
    return sort_by(meter, of, _identity, sorter)


class _Before:
    """Sorts by what says whether one value may stand before another: as Elixir's merge sort, equal ones stay in their order."""

    __slots__ = ("before", "meter", "value")

    def __init__(self, meter: Meter, value: Any, before: Callable[[Any, Any], bool]) -> None:
        self.meter = meter
        self.value = value
        self.before = before

    def __lt__(self, other: _Before) -> bool:
        self.meter.spend()
        return not self.before(other.value, self.value)


def sort_by(meter: Meter, of: Any, function: Any, sorter: Any = None) -> list[Any]:
    before = _sorter(meter, sorter, "asc")
    pairs = [(_Before(meter, function(item), before), item) for item in items_of(meter, of)]
    meter.spend(len(pairs))
    return [item for _, item in sorted(pairs, key=lambda pair: pair[0])]


def uniq(meter: Meter, of: Any) -> list[Any]:
    return uniq_by(meter, of, _identity)


def uniq_by(meter: Meter, of: Any, function: Any) -> list[Any]:
    found: dict[Any, Any] = {}
    for item in items_of(meter, of):
        found.setdefault(as_key(meter, function(item)), item)
        meter.spend()
    return list(found.values())


def dedup(meter: Meter, of: Any) -> list[Any]:
    return dedup_by(meter, of, _identity)


def dedup_by(meter: Meter, of: Any, function: Any) -> list[Any]:
    kept: list[Any] = []
    before: Any = None
    for item in items_of(meter, of):
        value = function(item)
        if not kept or not terms.identical(meter, value, before):
            kept.append(item)
        before = value
    return kept


def group_by(meter: Meter, of: Any, function: Any, value: Any = _identity) -> dict[Any, Any]:
    groups: dict[Any, Any] = {}
    for item in items_of(meter, of):
        groups.setdefault(as_key(meter, function(item)), []).append(value(item))
    return groups


def frequencies(meter: Meter, of: Any) -> dict[Any, Any]:
    return frequencies_by(meter, of, _identity)


def frequencies_by(meter: Meter, of: Any, function: Any) -> dict[Any, Any]:
    return {key: len(items) for key, items in group_by(meter, of, function).items()}


def chunk_every(meter: Meter, of: Any, size: Any, step: Any = None, leftover: Any = None) -> list[Any]:
    items, size = items_of(meter, of), as_integer(size)
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


def chunk_by(meter: Meter, of: Any, function: Any) -> list[Any]:
    chunks: list[Any] = []
    before: Any = None
    for item in items_of(meter, of):
        value = function(item)
        if chunks and terms.identical(meter, value, before):
            chunks[-1].append(item)
        else:
            chunks.append([item])
        before = value
    return chunks


def take(meter: Meter, of: Any, amount: Any) -> list[Any]:
    items, amount = items_of(meter, of), as_integer(amount)
    return items[:amount] if amount >= 0 else items[amount:]


def drop(meter: Meter, of: Any, amount: Any) -> list[Any]:
    items, amount = items_of(meter, of), as_integer(amount)
    return items[amount:] if amount >= 0 else items[:amount]


def _run(items: list[Any], function: Any) -> int:
    return next((i for i, item in enumerate(items) if not is_truthy(function(item))), len(items))


def take_while(meter: Meter, of: Any, function: Any) -> list[Any]:
    items = items_of(meter, of)
    return items[: _run(items, function)]


def drop_while(meter: Meter, of: Any, function: Any) -> list[Any]:
    items = items_of(meter, of)
    return items[_run(items, function) :]


def split_while(meter: Meter, of: Any, function: Any) -> tuple[list[Any], list[Any]]:
    items = items_of(meter, of)
    at_ = _run(items, function)
    return items[:at_], items[at_:]


def split(meter: Meter, of: Any, amount: Any) -> tuple[list[Any], list[Any]]:
    items, amount = items_of(meter, of), as_integer(amount)
    at_ = amount if amount >= 0 else max(len(items) + amount, 0)
    return items[:at_], items[at_:]


def take_every(meter: Meter, of: Any, every: Any) -> list[Any]:
    step = as_integer(every)
    return items_of(meter, of)[::step] if step > 0 else []


def drop_every(meter: Meter, of: Any, every: Any) -> list[Any]:
    step = as_integer(every)
    return [item for i, item in enumerate(items_of(meter, of)) if not step or i % step]


def slice_(meter: Meter, of: Any, start: Any, amount: Any) -> list[Any]:
    items, first, amount = items_of(meter, of), as_integer(start), as_integer(amount)
    if amount < 0:
        raise Raised("no function clause matching in Enum.slice/3")
    first = max(first + len(items), 0) if first < 0 else first
    return items[first : first + amount]


def slide(meter: Meter, of: Any, index: Any, to: Any) -> list[Any]:
    items = list(items_of(meter, of))
    items.insert(as_integer(to), items.pop(as_integer(index)))
    return items


def zip_(meter: Meter, of: Any, other: Any = None) -> list[Any]:
    lists = [items_of(meter, one) for one in (items_of(meter, of) if other is None else (of, other))]
    return [tuple(row) for row in zip(*lists, strict=False)]


def zip_with(meter: Meter, of: Any, other_or_function: Any, function: Any = None) -> list[Any]:
    if function is None:
        return [other_or_function(list(row)) for row in zip_(meter, of)]
    return [function(*pair) for pair in zip_(meter, of, other_or_function)]


def zip_reduce(meter: Meter, of: Any, other: Any, start: Any, function: Any) -> Any:
    for one, two in zip_(meter, of, other):
        start = function(one, two, start)
    return start


def unzip(meter: Meter, of: Any) -> tuple[list[Any], list[Any]]:
    pairs = items_of(meter, of)
    if not all(type(pair) is tuple and len(pair) == 2 for pair in pairs):
        raise Raised("no function clause matching in Enum.unzip/1")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def intersperse(meter: Meter, of: Any, separator: Any) -> list[Any]:
    return [part for item in items_of(meter, of) for part in (separator, item)][1:]


def into(meter: Meter, of: Any, target: Any, function: Any = _identity) -> Any:
    items = [function(item) for item in items_of(meter, of)]
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
    raise Raised("argument error: a map is made of pairs")


def scan(meter: Meter, of: Any, start_or_function: Any, function: Any = None) -> list[Any]:
    items = items_of(meter, of)
    scanned: list[Any] = []
    if function is None:
        function, value, items = start_or_function, (items[0] if items else None), items[1:]
        scanned = [value] if items_of(meter, of) else []
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
    "to_list": lambda meter, of: list(items_of(meter, of)),
}
