"""The part of Elixir that functions may be written in: code in, a `Program` out, or the line of what is not understood and why. Pure.

What expressions mean is in `expressions.py`, what a function does with changes in `functions.py`. tree-sitter reads the syntax.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tree_sitter
import tree_sitter_elixir

from userhooks.engine.expressions import COMPARISONS, QUESTIONS, Apply, Argument, Case, Choice, Const, Expr, Local, Logic, Program
from userhooks.engine.terms import Atom

MAX_CODE_BYTES = 10_240
_MAX_DEPTH = 100
_MAX_SIZE = MAX_CODE_BYTES
"""Parts of which a value may be put together: without such a bound, a variable that is joined to itself again and again fills the memory"""
_MAX_DIGITS = 400
"""More than any float has before the point"""
_FUNCTIONS = {
    "is_nil": (1,),
    "to_string": (1,),
    "Map.get": (2, 3),
    "Map.put": (3,),
    "Map.take": (2,),
    "Map.drop": (2,),
    "Map.merge": (2,),
}
"""The functions of Elixir that may be called, with the numbers of their arguments"""


class FunctionError(Exception):
    """A function's code cannot be used; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_elixir.language()))
_PARAMETERS = ("action", "record", "changes", "metadata")


def parse_code(code: str, name: str) -> Program:
    """Parse the code that defines the one function `name`; raises FunctionError with the line and what is wrong or not supported there."""
    source = code.encode(errors="replace")
    if len(source) > MAX_CODE_BYTES:
        raise FunctionError(1, f"the code is longer than {MAX_CODE_BYTES} bytes")
    root = _PARSER.parse(source).root_node
    if root.has_error:
        raise FunctionError(_first_error(root), "this is not Elixir")
    definitions = _children(root)
    if len(definitions) != 1:
        raise _wrong_shape(_line(definitions[1]) if definitions else 1, name)
    parameters, body = _definition(definitions[0], name)
    return _Body(parameters).read(body)


def _wrong_shape(line: int, name: str) -> FunctionError:
    return FunctionError(line, f"a {name} function is one `def {name}(action, record, changes, metadata) do … end`")


def _line(node: tree_sitter.Node) -> int:
    return node.start_point[0] + 1


def _children(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    return [child for child in node.named_children if child.type != "comment"]


def _text(node: tree_sitter.Node) -> str:
    return (node.text or b"").decode(errors="replace")


def _first_error(root: tree_sitter.Node) -> int:
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            return _line(node)
        nodes.extend(child for child in reversed(node.children) if child.has_error or child.is_missing)
    return _line(root)


def _definition(node: tree_sitter.Node, function: str) -> tuple[dict[str, Expr], list[tree_sitter.Node]]:
    """Take `def filter(…) do … end` or `def filter(…), do: …` apart; returns the names in scope and the body's expressions."""
    wrong = _wrong_shape(_line(node), function)
    parts = _children(node)
    if node.type != "call" or not parts or _text(parts[0]) != "def" or len(parts) < 2 or parts[1].type != "arguments":
        raise wrong
    head, *keywords = _children(parts[1])
    if head.type != "call":
        raise wrong
    name, *arguments = _children(head)
    names = [_text(n) for n in _children(arguments[0])] if len(arguments) == 1 else []
    if _text(name) != function or [n.removeprefix("_") for n in names] != list(_PARAMETERS):
        raise wrong
    if len(parts) == 3 and parts[2].type == "do_block" and not keywords:
        body = _children(parts[2])
    elif len(parts) == 2 and len(keywords) == 1 and keywords[0].type == "keywords":
        pairs = _pairs(keywords[0])
        if [key for key, _ in pairs] != ["do:"]:
            raise wrong
        body = [pairs[0][1]]
    else:
        raise wrong
    return {n: Argument(n.removeprefix("_")) for n in names}, body


def _pairs(keywords: tree_sitter.Node) -> list[tuple[str, tree_sitter.Node]]:
    """Take `do: …, else: …` apart."""
    return [(_text(key).rstrip(), value) for key, value in map(_children, _children(keywords))]


class _Body:
    """Turns the expressions of a function's body into steps and a result."""

    def __init__(self, scope: dict[str, Expr]) -> None:
        self._scope = scope
        self._steps: list[Expr] = []
        self._sizes: list[int] = []

    def read(self, body: list[tree_sitter.Node]) -> Program:
        """Read the whole body; the value of its last expression is the result."""
        result: Expr = Const(None)
        for node in body:
            target, value = self._assignment(node)
            result = self._expression(value, 0)
            size = self._size(result)
            if size > _MAX_SIZE:
                raise FunctionError(_line(node), "what this builds is too large")
            if target is not None or node is not body[-1]:
                self._steps.append(result)
                self._sizes.append(size)
                result = Local(len(self._steps) - 1)
            if target is not None:
                self._scope[target] = result
        return Program(tuple(self._steps), result)

    def _size(self, expr: Expr) -> int:
        match expr:
            case Local(number):
                return self._sizes[number]
            case Apply(operation, _) if operation in QUESTIONS:
                return 1
            case Apply(_, operands) | Logic(_, operands) | Choice(operands) | Case(_, operands):
                return 1 + sum(map(self._size, operands))
        return 1

    def _assignment(self, node: tree_sitter.Node) -> tuple[str | None, tree_sitter.Node]:
        if node.type != "binary_operator" or _operator(node) != "=":
            return None, node
        left, right = _children(node)
        if left.type != "identifier":
            raise FunctionError(_line(node), f"only a variable can be assigned to, not `{_text(left)[:40]}`")
        return _text(left), right

    def _expression(self, node: tree_sitter.Node, depth: int) -> Expr:
        if depth > _MAX_DEPTH:
            raise FunctionError(_line(node), "this is nested too deeply")
        read = self._READERS.get(node.type)
        if read is None:
            raise _unsupported(node)
        return read(self, node, depth + 1)

    def _identifier(self, node: tree_sitter.Node, depth: int) -> Expr:
        name = _text(node)
        if name not in self._scope:
            raise FunctionError(_line(node), f"the variable `{name}` is not defined")
        return self._scope[name]

    def _block(self, node: tree_sitter.Node, depth: int) -> Expr:
        inside = _children(node)
        if len(inside) != 1:
            raise _unsupported(node)
        return self._expression(inside[0], depth)

    def _unary(self, node: tree_sitter.Node, depth: int) -> Expr:
        (operand,) = _children(node)
        sign = _operator(node)
        if sign == "not":
            return Apply("not", (self._expression(operand, depth),))
        if sign in ("-", "+") and operand.type in ("integer", "float"):
            number = _number(operand)
            return Const(-number if sign == "-" else number)
        raise _unsupported(node)

    def _binary(self, node: tree_sitter.Node, depth: int) -> Expr:
        name = _operator(node)
        if name in ("and", "or"):
            return Logic(name, tuple(self._expression(operand, depth) for operand in _chain(node, name)))
        if name == "<>":
            return Apply(name, tuple(self._expression(operand, depth) for operand in _joined(node)))
        if name not in COMPARISONS and name not in ("in", "not in"):
            raise _unsupported(node, f"the operator `{name}`")
        left, right = _children(node)
        return Apply(name, (self._expression(left, depth), self._expression(right, depth)))

    def _access(self, node: tree_sitter.Node, depth: int) -> Expr:
        container, key = _children(node)
        return Apply("access", (self._expression(container, depth), self._expression(key, depth)))

    def _call(self, node: tree_sitter.Node, depth: int) -> Expr:
        target, *rest = _children(node)
        if target.type == "dot" and not rest:
            container, name = _children(target)
            if name.type != "identifier":
                raise _unsupported(node)
            return Apply("field", (self._expression(container, depth), Const(_text(name))))
        name_of_it = _text(target)
        if not rest or rest[0].type != "arguments":
            raise _unsupported(node, f"`{name_of_it[:40]}`")
        arguments = _children(rest[0])
        if name_of_it == "if":
            return self._if(node, arguments, rest[1:], depth)
        if name_of_it == "case":
            return self._case(node, arguments, rest[1:], depth)
        if len(rest) > 1 or len(arguments) not in _FUNCTIONS.get(name_of_it, ()):
            raise _unsupported(node, f"the function `{name_of_it[:40]}/{len(arguments)}`")
        return Apply(name_of_it, tuple(self._expression(argument, depth) for argument in arguments))

    def _if(self, node: tree_sitter.Node, arguments: list[tree_sitter.Node], block: list[tree_sitter.Node], depth: int) -> Expr:
        """Read `if … do … else … end` or `if …, do: …, else: …`; without `else` it is nil."""
        otherwise: Expr = Const(None)
        if len(arguments) == 1 and len(block) == 1:
            inside = _children(block[0])
            if inside and inside[-1].type == "else_block":
                otherwise = self._branch(inside[-1], _children(inside.pop()), depth)
            result = self._branch(node, inside, depth)
        elif len(arguments) == 2 and not block and arguments[1].type == "keywords":
            pairs = _pairs(arguments[1])
            if [key for key, _ in pairs] not in (["do:"], ["do:", "else:"]):
                raise _unsupported(node)
            result, otherwise = [self._expression(value, depth) for _, value in pairs] + [otherwise] * (2 - len(pairs))
        else:
            raise _unsupported(node)
        return Choice((self._expression(arguments[0], depth), result, otherwise))

    def _case(self, node: tree_sitter.Node, arguments: list[tree_sitter.Node], block: list[tree_sitter.Node], depth: int) -> Expr:
        """Read a `case` whose patterns are literals, but for `_` as the last one."""
        clauses = _children(block[0]) if block else []
        if len(arguments) != 1 or not clauses or any(clause.type != "stab_clause" for clause in clauses):
            raise _unsupported(node)
        patterns: list[Any] = []
        operands = [self._expression(arguments[0], depth)]
        for clause in clauses:
            left, body = clause.child_by_field_name("left"), clause.child_by_field_name("right")
            if left is None or body is None:
                raise _unsupported(clause)
            operands.append(self._branch(clause, _children(body), depth))
            if clause is not clauses[-1] or not _is_wildcard(left):
                patterns.append(self._pattern(left, depth))
        return Case(tuple(patterns), tuple(operands))

    def _pattern(self, left: tree_sitter.Node, depth: int) -> Any:
        patterns = _children(left)
        if left.type == "arguments" and len(patterns) == 1 and patterns[0].type in _LITERALS:
            pattern = self._expression(patterns[0], depth)
            if isinstance(pattern, Const):
                return pattern.value
        shown = _text(left).splitlines()[0][:40]
        raise FunctionError(_line(left), f"a pattern of `case` is a literal, or `_` as the last one, not `{shown}`")

    def _branch(self, node: tree_sitter.Node, inside: list[tree_sitter.Node], depth: int) -> Expr:
        if len(inside) != 1:
            raise FunctionError(_line(node), "a branch of `if` or `case` is one expression; bind variables before it")
        return self._expression(inside[0], depth)

    def _list(self, node: tree_sitter.Node, depth: int) -> Expr:
        return Apply("list", tuple(self._expression(item, depth) for item in _children(node)))

    def _map(self, node: tree_sitter.Node, depth: int) -> Expr:
        operands: list[Expr] = []
        contents = _children(node)
        if len(contents) > 1 or (contents and contents[0].type != "map_content"):
            raise _unsupported(node)
        for item in _children(contents[0]) if contents else ():
            if item.type == "keywords":
                for key, value in map(_children, _children(item)):
                    operands += [self._keyword(key), self._expression(value, depth)]
            elif item.type == "binary_operator" and _operator(item) == "=>":
                key, value = _children(item)
                operands += [self._expression(key, depth), self._expression(value, depth)]
            else:
                raise _unsupported(node)
        for key_read in operands[::2]:
            if isinstance(key_read, Const) and not isinstance(key_read.value, (str, Atom)):
                raise FunctionError(_line(node), "a key of a map has to be text or an atom here, other than true, false and nil")
        return Apply("map", tuple(operands))

    def _keyword(self, node: tree_sitter.Node) -> Expr:
        """Read `key:` or `"key":`, which are atoms."""
        if node.type == "keyword":
            name = _text(node).rstrip()[:-1]
            return Const(_WORDS.get(name, Atom(name)))
        return Const(Atom("".join(_characters(part) for part in _children(node))))

    def _string(self, node: tree_sitter.Node, depth: int) -> Expr:
        start = node.child_by_field_name("quoted_start")
        if start is None or _text(start) != '"':
            raise _unsupported(node)
        parts: list[Expr] = []
        for child in _children(node):
            if child.type == "interpolation":
                inside = _children(child)
                if len(inside) != 1:
                    raise _unsupported(child)
                parts.append(Apply("to_string", (self._expression(inside[0], depth),)))
            else:
                parts.append(Const(_characters(child)))
        if all(isinstance(part, Const) for part in parts):
            return Const("".join(part.value for part in parts if isinstance(part, Const)))
        return Apply("<>", tuple(parts))

    _READERS: Mapping[str, Callable[[_Body, tree_sitter.Node, int], Expr]] = {
        "identifier": _identifier,
        "block": _block,
        "unary_operator": _unary,
        "binary_operator": _binary,
        "access_call": _access,
        "call": _call,
        "list": _list,
        "integer": lambda body, node, depth: Const(_number(node)),
        "float": lambda body, node, depth: Const(_number(node)),
        "map": _map,
        "string": _string,
        "atom": lambda body, node, depth: Const(_WORDS.get(_text(node)[1:], Atom(_text(node)[1:]))),
        "boolean": lambda body, node, depth: Const(_WORDS[_text(node)]),
        "nil": lambda body, node, depth: Const(None),
    }


_LITERALS = ("string", "integer", "float", "atom", "boolean", "nil", "unary_operator")
_SUPPORTED = (
    'comparisons, and/or/not, in, if, case, record["column"], maps, lists, strings with #{} and <>, to_string, is_nil, '
    "Map.get/put/take/drop/merge"
)


def _unsupported(node: tree_sitter.Node, what: str | None = None) -> FunctionError:
    what = what or f"`{_text(node).splitlines()[0][:40]}`"
    return FunctionError(_line(node), f"{what} is not supported; use {_SUPPORTED}")


def _is_wildcard(left: tree_sitter.Node) -> bool:
    return left.type == "arguments" and [(n.type, _text(n)[:1]) for n in _children(left)] == [("identifier", "_")]


def _operator(node: tree_sitter.Node) -> str:
    sign = node.child_by_field_name("operator")
    return " ".join(_text(sign).split()) if sign is not None else ""


def _chain(node: tree_sitter.Node, name: str) -> Iterator[tree_sitter.Node]:
    """Yield the operands of `a and b and c`, which is (a and b) and c: a long chain is not a deep one."""
    operands = []
    while node.type == "binary_operator" and _operator(node) == name:
        node, right = _children(node)
        operands.append(right)
    operands.append(node)
    return reversed(operands)


def _joined(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """Yield the operands of `a <> b <> c`, which is a <> (b <> c)."""
    while node.type == "binary_operator" and _operator(node) == "<>":
        left, node = _children(node)
        yield left
    yield node


def _number(node: tree_sitter.Node) -> int | float:
    digits = _text(node).replace("_", "")
    if len(digits) > _MAX_DIGITS:
        raise FunctionError(_line(node), f"a number of more than {_MAX_DIGITS} digits is too large")
    if node.type == "integer":
        return int(digits, 0) if digits[:2] in ("0x", "0b", "0o") else int(digits)
    number = float(digits)
    if math.isinf(number):
        raise FunctionError(_line(node), f"{digits} is too large for a float")
    return number


_WORDS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}
_ESCAPES = dict(zip("abdefnrstv0\n", ["\a", "\b", "\x7f", "\x1b", "\f", "\n", "\r", " ", "\t", "\v", "\0", ""], strict=True))
_CODEPOINT = re.compile(r"[xu]\{?([0-9A-Fa-f]+)\}?").fullmatch


def _characters(node: tree_sitter.Node) -> str:
    """Return what a part of a quoted text stands for."""
    if node.type == "quoted_content":
        return _text(node)
    if node.type == "escape_sequence":
        return _escape(node)
    raise _unsupported(node)


def _escape(node: tree_sitter.Node) -> str:
    escaped = _text(node)[1:]
    match = _CODEPOINT(escaped)
    if match is None:
        return _ESCAPES.get(escaped, escaped)
    number = int(match[1], 16)
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF or (escaped[0] == "x" and number > 0x7F):
        raise FunctionError(_line(node), f"\\{escaped} is no character")
    return chr(number)
