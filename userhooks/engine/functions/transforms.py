"""Transforms: evaluate an expression for a change and write its value as JSON. Pure.

Columns and whole records are converted from Postgres's text to JSON directly. `evaluator.py` evaluates everything that has to be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from userhooks.engine.change import Change
from userhooks.engine.functions.columns import old_value
from userhooks.engine.functions.encoding import array_json, object_json, text_json, to_json
from userhooks.engine.functions.evaluator import Compile, Evaluate, Frame, Make, compile_branches, compile_expression
from userhooks.engine.functions.expressions import Apply, Argument, ColumnOf, Const, Expr, MetadataOf
from userhooks.engine.functions.library import LIBRARY
from userhooks.engine.functions.metadata import METADATA_TERMS, constant_metadata
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.program import Program, read_program, run_program
from userhooks.engine.functions.stdlib.kernel import as_list
from userhooks.engine.functions.syntax import FunctionError
from userhooks.engine.functions.terms import STRUCT, Atom, Raised, as_key, sorted_keys
from userhooks.engine.message_format import CONSUMER_FIELDS, DATABASE_FIELDS, METADATA, Transform
from userhooks.engine.postgres.pg_types import TimestampFormat

_CONSTANT_STEPS = 10_000
"""Step limit for encoding a constant ahead of time."""

Write: TypeAlias = Make[bytes]
Members: TypeAlias = Make[dict[Any, bytes]]
"""Function that returns the members of a map: the JSON of each value, by key."""


@dataclass(frozen=True, slots=True)
class TransformFunction:
    """A parsed transform."""

    program: Program

    def bind(self, constants: Mapping[str, Any], timestamp_format: TimestampFormat = "iso8601") -> Transform:
        """Return a callable that writes the JSON of a message of the sink.

        The callable raises FunctionRaised if the function fails. `constants` is the same as in `Filter.bind`.
        """
        metadata = constant_metadata(constants)
        writer = partial(compile_writer, metadata=metadata, timestamp_format=timestamp_format)
        return run_program(self.program, metadata, timestamp_format, writer)


def parse_transform(code: str, kind: str) -> TransformFunction:
    """Parse a function of type `transform` or `path`; raises FunctionError with the line and the reason."""
    return TransformFunction(read_program(code) if kind == "transform" else Program((_path(code),), 0))


def _path(path: str) -> Expr:
    """Parse a path like `record.column` or `metadata.table_name`: one of the arguments, optionally followed by keys."""
    root, *keys = path.split(".")
    if root not in ("record", "changes", "action", "metadata") or "" in keys or (root == "action" and keys):
        raise FunctionError(1, "a path must be record, changes, action, or metadata, optionally followed by keys, like `record.id`")
    expr: Expr = Argument(root)
    fields = _METADATA_PATHS if root == "metadata" else None
    for key in keys:
        if fields is None:
            expr = Apply(LIBRARY["Access.get"], (expr, Const(key)))
        elif key not in fields:
            raise FunctionError(1, f"`{path}` does not exist: `{key}` must be one of {', '.join(fields)}")
        else:
            expr, fields = Apply(LIBRARY["field"], (expr, Const(Atom(key)))), fields[key]
    return expr


_METADATA_PATHS: dict[str, Any] = {
    **dict.fromkeys(METADATA),
    "consumer": dict.fromkeys(CONSUMER_FIELDS),
    "database": dict.fromkeys(DATABASE_FIELDS),
    "database_name": None,
}


# --- writing JSON --------------------------------------------------------------------------------------------------------


def compile_writer(expr: Expr, metadata: Mapping[Atom, Any], timestamp_format: TimestampFormat) -> Write:
    """Compile an expression to a function that writes its value as JSON and raises as described in `compile_expression`."""
    write = partial(compile_writer, metadata=metadata, timestamp_format=timestamp_format)
    evaluate = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
    match expr:
        case Const(value):
            known = _known(value)
            if known is not None:
                return lambda frame: known
        case ColumnOf("record", column):
            return lambda frame: _column(frame.change, column, timestamp_format)
        case ColumnOf(_, column):
            return lambda frame: _old_column(frame.change, column, timestamp_format)
        case Argument("record"):
            return lambda frame: frame.change.shape.record(frame.change.row, timestamp_format)
        case Argument("metadata"):
            return write(_metadata_map(metadata))
        case MetadataOf(field):
            read = METADATA[field]
            return lambda frame: to_json(frame.meter, read(frame.change))
        case Apply(_, operands) if expr.name == "list":
            items = [write(operand) for operand in operands]
            return lambda frame: array_json([item(frame) for item in items])
        case Apply(_, operands) if expr.name == "map" and _has_plain_keys(operands):
            return _compile_template(operands, write)
        case Apply() if _is_plain_map(expr):
            members = compile_members(expr, metadata, timestamp_format)
            return lambda frame: object_json(frame.meter, members(frame))
    branches = compile_branches(expr, evaluate, write)
    if branches is not None:
        return branches
    whole = evaluate(expr)
    return lambda frame: to_json(frame.meter, whole(frame))


def _is_plain_map(expr: Expr) -> bool:
    """Whether the expression combines only the record, `metadata`, and maps, so that its value cannot be a struct."""
    match expr:
        case Argument("record" | "metadata"):
            return True
        case Apply(_, operands) if expr.name == "map":
            return all(isinstance(key, Const) and key.value is not STRUCT for key in operands[::2])
        case Apply(_, (inner, key, _)) if expr.name == "Map.put":
            return _is_plain_map(inner) and isinstance(key, Const) and key.value is not STRUCT
        case Apply(_, (inner, _)) if expr.name in ("Map.take", "Map.drop", "Map.delete"):
            return _is_plain_map(inner)
        case Apply(_, (first, second)) if expr.name == "Map.merge":
            return _is_plain_map(first) and _is_plain_map(second)
    return False


def _known(value: Any) -> bytes | None:
    """Return the JSON of a constant; None if it cannot be encoded ahead of time, and encoding it for each change may raise."""
    try:
        return to_json(Meter(_CONSTANT_STEPS), value)
    except (Raised, RecursionError):
        return None


def _metadata_map(metadata: Mapping[Atom, Any]) -> Expr:
    """Return `metadata` as an expression that builds it field by field."""
    fields: dict[Atom, Expr] = {Atom(name): MetadataOf(name) for name in METADATA_TERMS}
    fields |= {key: Const(value) for key, value in metadata.items()}
    return Apply(LIBRARY["map"], tuple(operand for key, value in fields.items() for operand in (Const(key), value)))


def _has_plain_keys(operands: Sequence[Expr]) -> bool:
    """Whether all keys of a map are constants with distinct names."""
    keys = [key.value for key in operands[::2] if isinstance(key, Const) and isinstance(key.value, (str, Atom))]
    return len(keys) * 2 == len(operands) == 2 * len({key.name if isinstance(key, Atom) else key for key in keys})


def _compile_template(operands: Sequence[Expr], write: Compile[bytes]) -> Write:
    """Compile a map with plain keys to a template that its values are inserted into."""
    values_of = {key.value: value for key, value in zip(operands[::2], operands[1::2], strict=True) if isinstance(key, Const)}
    keys = sorted_keys(Meter(), values_of)
    names = [text_json(key if isinstance(key, str) else key.name) + b":" for key in keys]
    template = b"{%b}" % b",".join([name.replace(b"%", b"%%") + b"%b" for name in names])
    values = [write(values_of[key]) for key in keys]
    return lambda frame: template % tuple([value(frame) for value in values])


def compile_members(expr: Expr, metadata: Mapping[Atom, Any], timestamp_format: TimestampFormat) -> Members:
    """Compile a map expression to a function that returns the map's members. `_is_plain_map` must be true of the expression."""
    members = partial(compile_members, metadata=metadata, timestamp_format=timestamp_format)
    write = partial(compile_writer, metadata=metadata, timestamp_format=timestamp_format)
    evaluate = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
    match expr:
        case Argument("record"):
            return lambda frame: _columns(frame.change, timestamp_format)
        case Argument("metadata"):
            return members(_metadata_map(metadata))
        case Apply(_, operands) if expr.name == "map":
            pairs = [(evaluate(key), write(value)) for key, value in zip(operands[::2], operands[1::2], strict=True)]
            return lambda frame: {as_key(frame.meter, key(frame)): value(frame) for key, value in pairs}
        case Apply(_, (inner, key, value)) if expr.name == "Map.put":
            return _compile_put(members(inner), evaluate(key), write(value))
        case Apply(_, (Argument("record"), keys)) if expr.name == "Map.take":
            return _compile_columns(evaluate(keys), timestamp_format)
        case Apply(_, (inner, keys)) if expr.name in ("Map.take", "Map.drop"):
            return _compile_selection(members(inner), evaluate(keys), expr.name == "Map.take")
        case Apply(_, (inner, key)) if expr.name == "Map.delete":
            key_of = evaluate(key)
            return _compile_selection(members(inner), lambda frame: [key_of(frame)], False)
        case Apply(_, (left, right)) if expr.name == "Map.merge":
            first, second = members(left), members(right)
            return lambda frame: {**first(frame), **second(frame)}
    raise TypeError(expr)


def _compile_put(members: Members, key: Evaluate, value: Write) -> Members:
    return lambda frame: {**members(frame), as_key(frame.meter, key(frame)): value(frame)}


def _selected_keys(frame: Frame, keys: Evaluate) -> set[Any]:
    return {as_key(frame.meter, key) for key in as_list(keys(frame), "a list of keys")}


def _compile_selection(members: Members, keys: Evaluate, keep: bool) -> Members:
    """Compile `Map.take` if `keep`, otherwise `Map.drop`."""

    def select(frame: Frame) -> dict[Any, bytes]:
        selected = _selected_keys(frame, keys)
        return {key: value for key, value in members(frame).items() if (key in selected) is keep}

    return select


def _compile_columns(keys: Evaluate, timestamp_format: TimestampFormat) -> Members:
    """Compile `Map.take` of the record, encoding only the selected columns."""

    def select(frame: Frame) -> dict[Any, bytes]:
        change = frame.change
        shape, selected = change.shape, _selected_keys(frame, keys)
        return {name: shape.encode(i, change.raw(i), timestamp_format) for name, i in shape.positions.items() if name in selected}

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
