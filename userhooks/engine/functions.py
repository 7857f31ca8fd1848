"""Filter functions: a subset of Elixir, parsed, specialised for a sink and evaluated with Elixir's semantics. Pure; who is asked is in
`routing.py`.

Supported: one `def filter(action, record, changes, metadata)`, local bindings, literals, `record["column"]`, `changes["column"]`, fields
of `metadata`, comparisons, `and`, `or`, `not`, `in`, `not in`, `is_nil/1`, `to_string/1`. Anything else is refused with its line, so that
a filter which would behave differently here than on Sequin cannot come into force. Column filters of Sequin 0.9.4 bodies end in the same
`Bound`.

Terms are Python values: None is nil, and strings, integers, floats, booleans, lists and maps are themselves; other atoms are `Atom`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, Literal

import tree_sitter_elixir
from tree_sitter import Language, Node, Parser

from userhooks.engine.rendering import Change
from userhooks.engine.resources import ColumnFilter, Table

_PARSER: Final = Parser(Language(tree_sitter_elixir.language()))
_PARAMETERS: Final = ("action", "record", "changes", "metadata")


class FunctionError(ValueError):
    """The code is refused; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


class FunctionRaised(Exception):
    """The function raised, or answered something that is no boolean."""


@dataclass(frozen=True)
class Atom:
    """An atom other than nil, true and false."""

    name: str


# --- terms -------------------------------------------------------------------------------------------------------------


def compare(left: Any, right: Any) -> int:
    """Order two terms as Erlang does: number < atom < map < list < string; returns -1, 0 or 1, and 1 equals 1.0."""
    a, b = _rank(left), _rank(right)
    if a != b:
        return -1 if a < b else 1
    if a == _LIST:
        for x, y in zip(left, right, strict=False):
            if order := compare(x, y):
                return order
        return _sign(len(left), len(right))
    if a == _MAP:
        return _compare_maps(left, right)
    if a == _ATOM:
        return _sign(_atom_name(left), _atom_name(right))
    if a == _STRING:
        return _sign(left.encode(), right.encode())
    return _sign(left, right)  # numbers


_NUMBER, _ATOM, _MAP, _LIST, _STRING = range(5)


def _rank(term: Any) -> int:
    if term is None or isinstance(term, (bool, Atom)):
        return _ATOM
    if isinstance(term, (int, float)):
        return _NUMBER
    if isinstance(term, dict):
        return _MAP
    return _LIST if isinstance(term, list) else _STRING


def _sign(a: Any, b: Any) -> int:
    return int(a > b) - int(a < b)


def _compare_maps(left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    """By size, then by keys in order, then by values in the order of keys (Erlang reference manual, 9.10)."""
    if order := _sign(len(left), len(right)):
        return order
    if order := _sign(sorted(left), sorted(right)):
        return order
    return next((order for key in sorted(left) if (order := compare(left[key], right[key]))), 0)


def _atom_name(term: Any) -> str:
    return {None: "nil", True: "true", False: "false"}[term] if not isinstance(term, Atom) else term.name


def identical(left: Any, right: Any) -> bool:
    """`===`: like `==`, but 1 is not 1.0."""
    return isinstance(left, float) == isinstance(right, float) and compare(left, right) == 0


def to_string(term: Any) -> str:
    """`to_string/1`; raises FunctionRaised for a map, and for a list, which Elixir would read as characters."""
    if term is None:
        return ""
    if isinstance(term, (bool, Atom)):
        return _atom_name(term)
    if isinstance(term, str):
        return term
    if isinstance(term, int):
        return str(term)
    if isinstance(term, float):
        return _float_text(term)
    raise FunctionRaised(f"to_string of a {'map' if isinstance(term, dict) else 'list'}")


def _float_text(value: float) -> str:
    digits, _, exponent = repr(value).partition("e")
    if not exponent:
        return digits
    return f"{digits if '.' in digits else digits + '.0'}e{int(exponent)}"


# --- expressions -------------------------------------------------------------------------------------------------------

Locals = list[Any]


@dataclass(frozen=True)
class Expression:
    """One node. `total` means that it cannot raise; `boolean` that it then is true or false."""

    def evaluate(self, change: Change, local: Locals) -> Any:
        """Return the term, or raise FunctionRaised."""
        raise NotImplementedError

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        """Return the expression with all that `constants` determines worked out."""
        return self

    @property
    def total(self) -> bool:
        return True

    @property
    def boolean(self) -> bool:
        return False


@dataclass(frozen=True)
class Const(Expression):
    """A term that does not depend on the change."""

    value: Any

    def evaluate(self, change: Change, local: Locals) -> Any:
        return self.value

    @property
    def boolean(self) -> bool:
        return isinstance(self.value, bool)


@dataclass(frozen=True)
class Action(Expression):
    """`action`."""

    def evaluate(self, change: Change, local: Locals) -> Any:
        return change.action


@dataclass(frozen=True)
class Column(Expression):
    """`record["name"]` or `changes["name"]`."""

    of: Literal["record", "changes"]
    name: str

    def evaluate(self, change: Change, local: Locals) -> Any:
        return change.record(self.name) if self.of == "record" else change.changes(self.name)


@dataclass(frozen=True)
class Local(Expression):
    """A name that was bound before, by its position among the bindings."""

    position: int

    def evaluate(self, change: Change, local: Locals) -> Any:
        return local[self.position]

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        bound = local[self.position]
        return bound if isinstance(bound, (Const, Column)) else self


@dataclass(frozen=True)
class Metadata(Expression):
    """`metadata`, or a path of fields below it."""

    path: tuple[str, ...] = ()

    def evaluate(self, change: Change, local: Locals) -> Any:
        if self.path == ("table_name",):
            return change.shape.name
        if self.path == ("table_schema",):
            return change.shape.schema
        raise FunctionRaised(f"metadata has no field {'.'.join(self.path)}")

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        term: Any = constants
        for field in self.path:
            if not isinstance(term, Mapping) or field not in term:
                return self
            term = term[field]
        return Const(term)

    @property
    def total(self) -> bool:
        return self.path in (("table_name",), ("table_schema",))


@dataclass(frozen=True)
class Access(Expression):
    """`target["key"]` of anything but record and changes: nil of nil, the value of a map, a raise otherwise."""

    target: Expression
    key: str

    def evaluate(self, change: Change, local: Locals) -> Any:
        term = self.target.evaluate(change, local)
        if term is None:
            return None
        if isinstance(term, Mapping):
            return term.get(self.key)
        raise FunctionRaised(f"[{self.key!r}] of something that is no map")

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        return _fold(Access(self.target.bind(constants, local), self.key))

    @property
    def total(self) -> bool:
        return False


@dataclass(frozen=True)
class Compare(Expression):
    """`== != === !== < > <= >=`, in term order."""

    operator: str
    left: Expression
    right: Expression

    def evaluate(self, change: Change, local: Locals) -> Any:
        return _COMPARISONS[self.operator](self.left.evaluate(change, local), self.right.evaluate(change, local))

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        return _fold(Compare(self.operator, self.left.bind(constants, local), self.right.bind(constants, local)))

    @property
    def total(self) -> bool:
        return self.left.total and self.right.total

    @property
    def boolean(self) -> bool:
        return True


_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": lambda a, b: compare(a, b) == 0,
    "!=": lambda a, b: compare(a, b) != 0,
    "===": identical,
    "!==": lambda a, b: not identical(a, b),
    "<": lambda a, b: compare(a, b) < 0,
    ">": lambda a, b: compare(a, b) > 0,
    "<=": lambda a, b: compare(a, b) <= 0,
    ">=": lambda a, b: compare(a, b) >= 0,
}


@dataclass(frozen=True)
class Logic(Expression):
    """`and`, `or`: the left side must be a boolean, and decides alone where it can."""

    operator: Literal["and", "or"]
    left: Expression
    right: Expression

    def evaluate(self, change: Change, local: Locals) -> Any:
        left = self.left.evaluate(change, local)
        if not isinstance(left, bool):
            raise FunctionRaised(f"the left side of {self.operator!r} is not a boolean")
        return left if left == (self.operator == "or") else self.right.evaluate(change, local)

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        left = self.left.bind(constants, local)
        if isinstance(left, Const) and isinstance(left.value, bool):
            return left if left.value == (self.operator == "or") else self.right.bind(constants, local)
        return Logic(self.operator, left, self.right.bind(constants, local))

    @property
    def total(self) -> bool:
        return self.left.total and self.left.boolean and self.right.total

    @property
    def boolean(self) -> bool:
        return self.right.boolean


@dataclass(frozen=True)
class Not(Expression):
    """`not`: of booleans only."""

    operand: Expression

    def evaluate(self, change: Change, local: Locals) -> Any:
        term = self.operand.evaluate(change, local)
        if not isinstance(term, bool):
            raise FunctionRaised("the operand of 'not' is not a boolean")
        return not term

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        return _fold(Not(self.operand.bind(constants, local)))

    @property
    def total(self) -> bool:
        return self.operand.total and self.operand.boolean

    @property
    def boolean(self) -> bool:
        return True


@dataclass(frozen=True)
class IsNil(Expression):
    """`is_nil/1`."""

    operand: Expression

    def evaluate(self, change: Change, local: Locals) -> Any:
        return self.operand.evaluate(change, local) is None

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        return _fold(IsNil(self.operand.bind(constants, local)))

    @property
    def total(self) -> bool:
        return self.operand.total

    @property
    def boolean(self) -> bool:
        return True


@dataclass(frozen=True)
class ToString(Expression):
    """`to_string/1`."""

    operand: Expression

    def evaluate(self, change: Change, local: Locals) -> Any:
        return to_string(self.operand.evaluate(change, local))

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        return _fold(ToString(self.operand.bind(constants, local)))

    @property
    def total(self) -> bool:
        return False


@dataclass(frozen=True)
class In(Expression):
    """`in` a list that is written out; its elements are compared with `===`, as `Enum.member?/2` does."""

    left: Expression
    elements: tuple[Expression, ...]

    def evaluate(self, change: Change, local: Locals) -> Any:
        term = self.left.evaluate(change, local)
        return any(identical(term, element.evaluate(change, local)) for element in self.elements)

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        elements = tuple(element.bind(constants, local) for element in self.elements)
        return _fold(In(self.left.bind(constants, local), elements))

    @property
    def total(self) -> bool:
        return self.left.total and all(element.total for element in self.elements)

    @property
    def boolean(self) -> bool:
        return True


@dataclass(frozen=True)
class ListOf(Expression):
    """A list that is written out."""

    elements: tuple[Expression, ...]

    def evaluate(self, change: Change, local: Locals) -> Any:
        return [element.evaluate(change, local) for element in self.elements]

    def bind(self, constants: Mapping[str, Any], local: Sequence[Expression]) -> Expression:
        return _fold(ListOf(tuple(element.bind(constants, local) for element in self.elements)))

    @property
    def total(self) -> bool:
        return all(element.total for element in self.elements)


def _fold(expression: Expression) -> Expression:
    """Work out an expression whose operands are all constants; one that would raise is left to raise for each change."""
    operands = [value for value in vars(expression).values() if isinstance(value, (Expression, tuple))]
    flat = [one for value in operands for one in (value if isinstance(value, tuple) else (value,))]
    if not all(isinstance(one, Const) for one in flat):
        return expression
    try:
        return Const(expression.evaluate(None, []))  # type: ignore[arg-type]  # constants do not look at the change
    except FunctionRaised:
        return expression


# --- programs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equality:
    """A condition that every accepted change meets: the column, as it is or through `to_string`, equals `key`."""

    column: str
    key: Any
    via_to_string: bool


@dataclass(frozen=True)
class Bound:
    """A filter with a sink's constants worked in. `equality` is set when changes that do not meet it need not be looked at."""

    check: Callable[[Change], Any]
    equality: Equality | None

    def accepts(self, change: Change) -> bool:
        """Ask the filter about a change; raises FunctionRaised when it raises or answers no boolean."""
        answer = self.check(change)
        if not isinstance(answer, bool):
            raise FunctionRaised("the filter answered something that is no boolean")
        return answer


@dataclass(frozen=True)
class Program:
    """A parsed filter function."""

    bindings: tuple[Expression, ...]
    result: Expression

    def bind(self, constants: Mapping[str, Any]) -> Bound:
        """Specialise for a sink; `constants` is the part of `metadata` that is the same for all its messages."""
        local: list[Expression] = []
        for binding in self.bindings:
            local.append(binding.bind(constants, local))
        result = self.result.bind(constants, local)
        needed = [one for one in local if not isinstance(one, (Const, Column))]

        def check(change: Change) -> Any:
            if not needed:
                return result.evaluate(change, [])
            values: Locals = []
            for one in local:
                values.append(one.evaluate(change, values))
            return result.evaluate(change, values)

        return Bound(check, _equality(result) if all(one.total for one in needed) else None)


def _equality(result: Expression) -> Equality | None:
    """Find an equality that must hold and that nothing before it can raise ahead of; `and` does not look at what comes after a false."""
    for conjunct in _conjuncts(result):
        if isinstance(conjunct, Compare) and conjunct.operator == "==":
            for one, other in ((conjunct.left, conjunct.right), (conjunct.right, conjunct.left)):
                via = isinstance(one, ToString)
                column = one.operand if isinstance(one, ToString) else one
                if isinstance(column, Column) and column.of == "record" and isinstance(other, Const) and _is_key(other.value):
                    return Equality(column.name, other.value, via)
        if not (conjunct.total and conjunct.boolean):
            return None
    return None


def _conjuncts(expression: Expression) -> list[Expression]:
    if isinstance(expression, Logic) and expression.operator == "and":
        return [*_conjuncts(expression.left), *_conjuncts(expression.right)]
    return [expression]


def _is_key(term: Any) -> bool:
    return term is None or isinstance(term, (str, int, float))


# --- parsing -----------------------------------------------------------------------------------------------------------


def parse(code: str, type: str) -> Program:  # noqa: A002  # Sequin's own word
    """Read a function of Sequin's `type`; raises FunctionError with the line and what is not supported."""
    if type != "filter":
        raise FunctionError(1, f"functions of type {type!r} are not supported by the local engine")
    root = _PARSER.parse(code.encode()).root_node
    if root.has_error:
        raise FunctionError(_first_error(root).start_point[0] + 1, "this is not valid Elixir")
    definitions = [node for node in root.named_children if node.type != "comment"]
    if len(definitions) != 1:
        raise FunctionError(1, "exactly one function definition is needed: def filter(action, record, changes, metadata) do … end")
    return _definition(definitions[0])


def _first_error(node: Node) -> Node:
    for child in node.children:
        if child.has_error or child.is_missing:
            return _first_error(child)
    return node


def _definition(node: Node) -> Program:
    wanted = FunctionError(_line(node), "def filter(action, record, changes, metadata) do … end is needed")
    body = next((child for child in node.children if child.type == "do_block"), None)
    arguments = next((child for child in node.children if child.type == "arguments"), None)
    if node.type != "call" or _target(node) != "def" or body is None or arguments is None:
        raise wanted
    head = arguments.named_children
    if len(head) != 1 or head[0].type != "call" or _target(head[0]) != "filter":
        raise wanted
    parameters = next((child for child in head[0].children if child.type == "arguments"), None)
    given = [_text(p) for p in parameters.named_children] if parameters is not None else []
    if len(given) != 4 or any(g.removeprefix("_") != p for g, p in zip(given, _PARAMETERS, strict=True)):
        raise FunctionError(_line(node), f"the parameters must be {', '.join(_PARAMETERS)}, each with or without a leading underscore")
    scope = _Scope(dict(zip(given, _PARAMETERS, strict=True)))
    statements = [child for child in body.named_children if child.type != "comment"]
    if not statements:
        raise FunctionError(_line(node), "the function has no body")
    bindings: list[Expression] = []
    for statement in statements[:-1]:
        name, value = _binding(statement, scope)
        bindings.append(value)
        scope.local[name] = len(bindings) - 1
    return Program(tuple(bindings), _expression(statements[-1], scope))


class _Scope:
    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.parameters = dict(parameters)
        self.local: dict[str, int] = {}


def _binding(node: Node, scope: _Scope) -> tuple[str, Expression]:
    if node.type == "binary_operator" and _operator(node) == "=":
        left, right = _sides(node)
        if left.type == "identifier":
            return _text(left), _expression(right, scope)
    raise FunctionError(_line(node), "only bindings like `name = …` may stand before the last expression")


def _expression(node: Node, scope: _Scope) -> Expression:
    handler = _NODES.get(node.type)
    if handler is None:
        raise FunctionError(_line(node), f"`{_text(node)[:60]}` is not supported")
    return handler(node, scope)


def _identifier(node: Node, scope: _Scope) -> Expression:
    name = _text(node)
    if name in scope.local:
        return Local(scope.local[name])
    match scope.parameters.get(name):
        case "action":
            return Action()
        case "metadata":
            return Metadata()
        case "record" | "changes":
            raise FunctionError(_line(node), f'{name} as a whole is not supported; use {name}["column"]')
    raise FunctionError(_line(node), f"`{name}` is not defined")


def _access(node: Node, scope: _Scope) -> Expression:
    target, key = node.child_by_field_name("target"), node.child_by_field_name("key")
    if target is None or key is None or key.type != "string":
        raise FunctionError(_line(node), "only texts are supported as keys in [ ]")
    name = _string_value(key)
    if target.type == "identifier" and _text(target) not in scope.local:
        of = scope.parameters.get(_text(target))
        if of == "record":
            return Column("record", name)
        if of == "changes":
            return Column("changes", name)
    inner = _expression(target, scope)
    if isinstance(inner, Metadata) and not inner.path:
        raise FunctionError(_line(node), "metadata has atom keys; use metadata.field")
    return Access(inner, name)


def _call(node: Node, scope: _Scope) -> Expression:
    target = node.child_by_field_name("target")
    arguments = next((child for child in node.children if child.type == "arguments"), None)
    given = arguments.named_children if arguments is not None else []
    if target is not None and target.type == "dot" and arguments is None:
        left, right = target.child_by_field_name("left"), target.child_by_field_name("right")
        inner = _expression(left, scope) if left is not None else None
        if isinstance(inner, Metadata) and right is not None and right.type == "identifier":
            path = (*inner.path, _text(right))
            if path[0] not in _METADATA:
                raise FunctionError(_line(node), f"metadata.{path[0]} is not supported; there are: {', '.join(sorted(_METADATA))}")
            return Metadata(path)
    if target is not None and target.type == "identifier" and len(given) == 1:
        if _text(target) == "is_nil":
            return IsNil(_expression(given[0], scope))
        if _text(target) == "to_string":
            return ToString(_expression(given[0], scope))
    raise FunctionError(_line(node), f"`{_text(node)[:60]}` is not supported; functions: is_nil/1, to_string/1")


_METADATA: Final = frozenset({"consumer", "database", "database_name", "table_name", "table_schema"})


def _binary(node: Node, scope: _Scope) -> Expression:
    operator = _operator(node)
    left, right = _sides(node)
    if operator in _COMPARISONS:
        return Compare(operator, _expression(left, scope), _expression(right, scope))
    if operator == "and":
        return Logic("and", _expression(left, scope), _expression(right, scope))
    if operator == "or":
        return Logic("or", _expression(left, scope), _expression(right, scope))
    if operator in ("in", "not in"):
        if right.type != "list":
            raise FunctionError(_line(node), "`in` needs a list that is written out")
        found = In(_expression(left, scope), tuple(_expression(one, scope) for one in right.named_children))
        return found if operator == "in" else Not(found)
    raise FunctionError(_line(node), f"the operator `{operator}` is not supported")


def _unary(node: Node, scope: _Scope) -> Expression:
    operand = node.child_by_field_name("operand")
    operator = _operator(node)
    if operand is not None and operator == "not":
        return Not(_expression(operand, scope))
    if operand is not None and operator == "-":
        inner = _expression(operand, scope)
        if isinstance(inner, Const) and isinstance(inner.value, (int, float)):
            return Const(-inner.value)
    raise FunctionError(_line(node), f"the operator `{operator}` is not supported here")


def _block(node: Node, scope: _Scope) -> Expression:
    inside = node.named_children
    if len(inside) != 1:
        raise FunctionError(_line(node), "only one expression may stand in parentheses")
    return _expression(inside[0], scope)


def _string_value(node: Node) -> str:
    parts = []
    for child in node.named_children:
        if child.type == "quoted_content":
            parts.append(_text(child))
        elif child.type == "escape_sequence" and _text(child) in _ESCAPES:
            parts.append(_ESCAPES[_text(child)])
        else:
            raise FunctionError(_line(child), "interpolation and this escape are not supported in texts")
    return "".join(parts)


_ESCAPES: Final = {"\\n": "\n", "\\t": "\t", "\\r": "\r", '\\"': '"', "\\\\": "\\", "\\s": " ", "\\0": "\0"}


def _integer(node: Node, scope: _Scope) -> Expression:
    return Const(int(_text(node), 0))


def _list(node: Node, scope: _Scope) -> Expression:
    return ListOf(tuple(_expression(child, scope) for child in node.named_children))


_NODES: Final[Mapping[str, Callable[[Node, _Scope], Expression]]] = {
    "identifier": _identifier,
    "access_call": _access,
    "call": _call,
    "binary_operator": _binary,
    "unary_operator": _unary,
    "block": _block,
    "string": lambda node, _: Const(_string_value(node)),
    "integer": _integer,
    "float": lambda node, _: Const(float(_text(node).replace("_", ""))),
    "boolean": lambda node, _: Const(_text(node) == "true"),
    "nil": lambda node, _: Const(None),
    "atom": lambda node, _: Const(Atom(_text(node).removeprefix(":"))),
    "list": _list,
}


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _line(node: Node) -> int:
    return int(node.start_point[0]) + 1


def _target(node: Node) -> str:
    target = node.child_by_field_name("target")
    return _text(target) if target is not None else ""


def _operator(node: Node) -> str:
    operator = node.child_by_field_name("operator")
    return " ".join(_text(operator).split()) if operator is not None else ""


def _sides(node: Node) -> tuple[Node, Node]:
    left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
    if left is None or right is None:
        raise FunctionError(_line(node), "an operand is missing")
    return left, right


# --- column filters of Sequin 0.9.4 ------------------------------------------------------------------------------------


def bind_column_filters(filters: Sequence[ColumnFilter], table: Table | None) -> Bound:
    """Combine column filters by AND (Sequin contract 3.5); NULL, and a column that is not there, match only the null tests."""
    checks = [_column_check(one) for one in filters]
    equality = next(
        (
            Equality(one.column_name, one.value, False)
            for one in filters
            if one.operator == "==" and one.field_path is None and (_is_number(one.value) or isinstance(one.value, str))
        ),
        None,
    )
    if equality is not None and isinstance(equality.key, str):
        equality = None  # texts may stand for instants or ignore case; only numbers are the same key in every type
    names = {column.name for column in table.columns} if table is not None else set()
    if any(one.column_name not in names for one in filters):
        return Bound(lambda _: False, None)
    return Bound(lambda change: all(check(change) for check in checks), equality)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _column_check(one: ColumnFilter) -> Callable[[Change], bool]:
    path = one.field_path.split(".") if one.field_path else []

    def value(change: Change) -> Any:
        term = change.record(one.column_name)
        for field in path:
            term = term.get(field) if isinstance(term, dict) else None
        return term

    if one.operator in ("is null", "is not null"):
        return lambda change: (value(change) is None) == (one.operator == "is null")
    if one.operator in ("in", "not_in"):
        listed = list(one.value) if isinstance(one.value, (list, tuple)) else [one.value]
        inside = one.operator == "in"
        return lambda change: (term := value(change)) is not None and _listed(term, listed) == inside
    test = _ORDERS[one.operator]

    def check(change: Change) -> bool:
        term = value(change)
        if term is None:
            return False
        pair = _comparable(term, one.value, one.field_type)
        return pair is not None and test(_sign(*pair))

    return check


_ORDERS: Final[Mapping[str, Callable[[int], bool]]] = {
    "==": lambda order: order == 0,
    "!=": lambda order: order != 0,
    ">": lambda order: order > 0,
    "<": lambda order: order < 0,
    ">=": lambda order: order >= 0,
    "<=": lambda order: order <= 0,
}


def _listed(term: Any, listed: Sequence[Any]) -> bool:
    text = to_string(term) if not isinstance(term, (dict, list)) else None
    return any(identical(term, one) or (text is not None and text == one) for one in listed)


def _comparable(term: Any, wanted: Any, field_type: str | None) -> tuple[Any, Any] | None:
    """Bring both sides to one type, or None when they have none in common."""
    if isinstance(wanted, bool) or isinstance(term, bool):
        return (term, wanted) if isinstance(wanted, bool) and isinstance(term, bool) else None
    if _is_number(wanted):
        number = _number(term)
        return None if number is None else (number, wanted)
    if not isinstance(wanted, str):
        return None
    text = to_string(term) if not isinstance(term, (dict, list)) else None
    if text is None:
        return None
    if field_type == "cistring":
        return text.lower(), wanted.lower()
    instants = _instant(text), _instant(wanted)
    if field_type == "datetime" or (field_type is None and None not in instants):
        return None if None in instants else instants
    return text, wanted


def _number(term: Any) -> float | int | None:
    if _is_number(term):
        return term  # type: ignore[no-any-return]
    try:
        return float(term)
    except (TypeError, ValueError):
        return None


def _instant(text: str) -> datetime | None:
    if len(text) < 10 or not text[:4].isdigit():
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=timezone.utc)  # noqa: UP017
