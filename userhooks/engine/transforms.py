"""What a transform makes of a change: the JSON of an expression's value. Pure.

Columns and whole records go from Postgres' text into the JSON without becoming values in between; what has to be computed is evaluated as
`expressions.py` does it. What a function is, and what happens when it raises, is in `functions.py`.

Keys are in Elixir's order of terms: atoms before text, then by name. Inside a json column that is passed on they stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import orjson

from userhooks.engine import terms
from userhooks.engine.expressions import (
    Apply,
    Argument,
    Case,
    Choice,
    ColumnOf,
    Const,
    Evaluate,
    Expr,
    Make,
    MetadataOf,
    choose,
    choose_case,
    compile_expression,
    old_value,
)
from userhooks.engine.rendering import METADATA, Change
from userhooks.engine.terms import Atom, Raised
from userhooks.engine.values import TimestampFormat

Write: TypeAlias = Make[bytes]
Members: TypeAlias = Make[dict[Any, bytes]]
"""Makes the members of a map: keys, each with the JSON of its value"""


def to_json(term: Any) -> bytes:
    """Return a value as JSON; raises Raised for what JSON cannot hold."""
    if isinstance(term, str):
        return _text(term)
    if isinstance(term, dict):
        return _object({key: to_json(value) for key, value in term.items()})
    if isinstance(term, list):
        return _array(map(to_json, term))
    if isinstance(term, Atom):
        return _text(term.name)
    if type(term) is int:
        return b"%d" % term
    try:
        return json.dumps(term, allow_nan=False).encode()
    except ValueError as exc:
        raise Raised("a number is too large for JSON") from exc


def _text(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return json.dumps(text).encode()  # half a surrogate pair, which a json column may hold


def _array(items: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


def _object(members: Mapping[Any, bytes]) -> bytes:
    keys = sorted(members, key=terms.key_order)
    _check_names(keys)
    return b"{%b}" % b",".join([_name(key) + members[key] for key in keys])


def _name(key: str | Atom) -> bytes:
    return _text(key if isinstance(key, str) else key.name) + b":"


def _check_names(keys: Sequence[str | Atom]) -> None:
    names = {key if isinstance(key, str) else key.name for key in keys}
    if len(names) < len(keys):
        twice = next(key.name for key in keys if isinstance(key, Atom) and key.name in keys)
        raise Raised(f"a map has the key {twice} as an atom and as text, which are one in JSON")


def compile_writer(expr: Expr, metadata: Mapping[Atom, Any], timestamp_format: TimestampFormat) -> Write:
    """Make what writes the expression's value as JSON; it raises what `compile_expression` says."""
    write = partial(compile_writer, metadata=metadata, timestamp_format=timestamp_format)
    match expr:
        case Const(value):
            known = _known(value)
            if known is not None:
                return lambda change, variables: known
        case ColumnOf("record", column):
            return lambda change, variables: _column(change, column, timestamp_format)
        case ColumnOf(_, column):
            return lambda change, variables: _old_column(change, column, timestamp_format)
        case Argument("record"):
            return lambda change, variables: change.shape.record(change.row, timestamp_format)
        case Argument("metadata"):
            return write(_metadata_map(metadata))
        case Choice((condition, result, otherwise)):
            return choose(compile_expression(condition, metadata, timestamp_format), write(result), write(otherwise))
        case Case(patterns, operands):
            subject = compile_expression(operands[0], metadata, timestamp_format)
            return choose_case(subject, patterns, [write(operand) for operand in operands[1:]])
        case Apply("list", operands):
            items = [write(operand) for operand in operands]
            return lambda change, variables: _array([item(change, variables) for item in items])
        case Apply("map", operands) if _has_plain_keys(operands):
            return _compile_template(operands, write)
        case Apply("map" | "Map.put" | "Map.take" | "Map.drop" | "Map.merge", _):
            members = compile_members(expr, metadata, timestamp_format)
            return lambda change, variables: _object(members(change, variables))
    evaluate = compile_expression(expr, metadata, timestamp_format)
    return lambda change, variables: to_json(evaluate(change, variables))


def _known(value: Any) -> bytes | None:
    """Return the JSON of a value; None for one that has none, which then raises for every change."""
    try:
        return to_json(value)
    except (Raised, RecursionError):
        return None


def _metadata_map(metadata: Mapping[Atom, Any]) -> Expr:
    """Return `metadata` as if it had been written down field by field."""
    fields: dict[Atom, Expr] = {Atom(name): MetadataOf(name) for name in METADATA}
    fields |= {key: Const(value) for key, value in metadata.items()}
    return Apply("map", tuple(operand for key, value in fields.items() for operand in (Const(key), value)))


def _has_plain_keys(operands: Sequence[Expr]) -> bool:
    """Whether the keys of a map are known and have names of their own."""
    keys = [key.value for key in operands[::2] if isinstance(key, Const)]
    return len(keys) * 2 == len(operands) == 2 * len({key.name if isinstance(key, Atom) else key for key in keys})


def _compile_template(operands: Sequence[Expr], write: Callable[[Expr], Write]) -> Write:
    """Make what writes a map with plain keys."""
    pairs = [(key.value, value) for key, value in zip(operands[::2], operands[1::2], strict=True) if isinstance(key, Const)]
    pairs.sort(key=lambda pair: terms.key_order(pair[0]))
    template = b"{%b}" % b",".join([_name(key).replace(b"%", b"%%") + b"%b" for key, _ in pairs])
    values = [write(value) for _, value in pairs]
    return lambda change, variables: template % tuple([value(change, variables) for value in values])


def compile_members(expr: Expr, metadata: Mapping[Atom, Any], timestamp_format: TimestampFormat) -> Members:
    """Make what gives the members of the expression's value, which has to be a map."""
    members = partial(compile_members, metadata=metadata, timestamp_format=timestamp_format)
    write = partial(compile_writer, metadata=metadata, timestamp_format=timestamp_format)
    evaluate = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
    match expr:
        case Argument("record"):
            return lambda change, variables: _columns(change, timestamp_format)
        case Argument("metadata"):
            return members(_metadata_map(metadata))
        case Apply("map", operands):
            pairs = [(evaluate(key), write(value)) for key, value in zip(operands[::2], operands[1::2], strict=True)]
            return lambda change, variables: {terms.as_key(key(change, variables)): value(change, variables) for key, value in pairs}
        case Apply("Map.put", (inner, key, value)):
            return _compile_put(members(inner), evaluate(key), write(value))
        case Apply("Map.take", (Argument("record"), keys)):
            return _compile_columns(evaluate(keys), timestamp_format)
        case Apply("Map.take" | "Map.drop" as name, (inner, keys)):
            return _compile_selection(members(inner), evaluate(keys), name)
        case Apply("Map.merge", (left, right)):
            first, second = members(left), members(right)
            return lambda change, variables: {**first(change, variables), **second(change, variables)}
    whole = evaluate(expr)
    return lambda change, variables: {key: to_json(value) for key, value in terms.as_map(whole(change, variables)).items()}


def _compile_put(members: Members, key: Evaluate, value: Write) -> Members:
    return lambda change, variables: {**members(change, variables), terms.as_key(key(change, variables)): value(change, variables)}


def _compile_selection(members: Members, keys: Evaluate, name: str) -> Members:
    """Make what does as Map.take or Map.drop."""
    wanted = name == "Map.take"

    def select(change: Change, variables: list[Any]) -> dict[Any, bytes]:
        named = terms.as_keys(keys(change, variables))
        return {key: value for key, value in members(change, variables).items() if (key in named) is wanted}

    return select


def _compile_columns(keys: Evaluate, timestamp_format: TimestampFormat) -> Members:
    """Make what does as Map.take of the record; the other columns are not looked at."""

    def select(change: Change, variables: list[Any]) -> dict[Any, bytes]:
        shape, named = change.shape, terms.as_keys(keys(change, variables))
        return {name: shape.encode(i, change.raw(i), timestamp_format) for name, i in shape.positions.items() if name in named}

    return select


def _columns(change: Change, timestamp_format: TimestampFormat) -> dict[Any, bytes]:
    shape, row = change.shape, change.row
    return {column.name: shape.encode(i, row[i], timestamp_format) for i, column in enumerate(shape.columns)}


def _column(change: Change, column: str, timestamp_format: TimestampFormat) -> bytes:
    shape = change.shape
    position = shape.positions.get(column)
    return b"null" if position is None else shape.encode(position, change.raw(position), timestamp_format)


def _old_column(change: Change, column: str, timestamp_format: TimestampFormat) -> bytes:
    old = old_value(change, column)
    return b"null" if old is None else change.shape.encode(*old, timestamp_format)
