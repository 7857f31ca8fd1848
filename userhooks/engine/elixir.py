"""The part of Elixir that functions may be written in: code in, a `Program` out, or the line of what is not understood and why. Pure.

What expressions mean is in `expressions.py`, what a function does with changes in `functions.py`. tree-sitter reads the syntax.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping

import tree_sitter
import tree_sitter_elixir

from userhooks.engine.expressions import COMPARISONS, Apply, Argument, Const, Expr, Local, Logic, Program
from userhooks.engine.terms import Atom

MAX_CODE_BYTES = 10_240
_MAX_DEPTH = 100


class FunctionError(Exception):
    """A function's code cannot be used; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_elixir.language()))
_PARAMETERS = ("action", "record", "changes", "metadata")
_SHAPE = "a filter is one `def filter(action, record, changes, metadata) do … end`"


def parse_code(code: str) -> Program:
    """Parse the code of a filter function; raises FunctionError with the line and what is wrong or not supported there."""
    source = code.encode(errors="replace")
    if len(source) > MAX_CODE_BYTES:
        raise FunctionError(1, f"the code is longer than {MAX_CODE_BYTES} bytes")
    root = _PARSER.parse(source).root_node
    if root.has_error:
        raise FunctionError(_first_error(root), "this is not Elixir")
    definitions = _children(root)
    if len(definitions) != 1:
        raise FunctionError(_line(definitions[1]) if definitions else 1, _SHAPE)
    parameters, body = _definition(definitions[0])
    return _Body(parameters).read(body)


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


def _definition(node: tree_sitter.Node) -> tuple[dict[str, Expr], list[tree_sitter.Node]]:
    """Take `def filter(…) do … end` or `def filter(…), do: …` apart; returns the names in scope and the body's expressions."""
    wrong = FunctionError(_line(node), _SHAPE)
    parts = _children(node)
    if node.type != "call" or not parts or _text(parts[0]) != "def" or len(parts) < 2 or parts[1].type != "arguments":
        raise wrong
    head, *keywords = _children(parts[1])
    if head.type != "call":
        raise wrong
    name, *arguments = _children(head)
    names = [_text(n) for n in _children(arguments[0])] if len(arguments) == 1 else []
    if _text(name) != "filter" or [n.removeprefix("_") for n in names] != list(_PARAMETERS):
        raise wrong
    if len(parts) == 3 and parts[2].type == "do_block" and not keywords:
        body = _children(parts[2])
    elif len(parts) == 2 and len(keywords) == 1 and keywords[0].type == "keywords":
        pairs = [_children(pair) for pair in _children(keywords[0])]
        if len(pairs) != 1 or _text(pairs[0][0]).rstrip() != "do:":
            raise wrong
        body = [pairs[0][1]]
    else:
        raise wrong
    return {n: Argument(n.removeprefix("_")) for n in names}, body


class _Body:
    """Turns the expressions of a function's body into steps and a result."""

    def __init__(self, scope: dict[str, Expr]) -> None:
        self._scope = scope
        self._steps: list[Expr] = []

    def read(self, body: list[tree_sitter.Node]) -> Program:
        """Read the whole body; the value of its last expression is the result."""
        result: Expr = Const(None)
        for node in body:
            target, value = self._assignment(node)
            result = self._expression(value, 0)
            if target is not None or node is not body[-1]:
                self._steps.append(result)
                result = Local(len(self._steps) - 1)
            if target is not None:
                self._scope[target] = result
        return Program(tuple(self._steps), result)

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
        if target.type == "identifier" and len(rest) == 1 and rest[0].type == "arguments":
            arguments = _children(rest[0])
            if _text(target) in ("is_nil", "to_string") and len(arguments) == 1:
                return Apply(_text(target), (self._expression(arguments[0], depth),))
            raise _unsupported(node, f"the function `{_text(target)}/{len(arguments)}`")
        raise _unsupported(node, f"`{_text(target)[:40]}`")

    def _list(self, node: tree_sitter.Node, depth: int) -> Expr:
        return Apply("list", tuple(self._expression(item, depth) for item in _children(node)))

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
        "string": lambda body, node, depth: Const(_string(node)),
        "atom": lambda body, node, depth: Const(_WORDS.get(_text(node)[1:], Atom(_text(node)[1:]))),
        "boolean": lambda body, node, depth: Const(_WORDS[_text(node)]),
        "nil": lambda body, node, depth: Const(None),
    }


def _unsupported(node: tree_sitter.Node, what: str | None = None) -> FunctionError:
    what = what or f"`{_text(node).splitlines()[0][:40]}`"
    return FunctionError(
        _line(node), f'{what} is not supported in a filter; use comparisons, and/or/not, in, record["column"], to_string, is_nil'
    )


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


def _number(node: tree_sitter.Node) -> int | float:
    digits = _text(node).replace("_", "")
    if node.type == "integer":
        return int(digits, 0) if digits[:2] in ("0x", "0b", "0o") else int(digits)
    number = float(digits)
    if math.isinf(number):
        raise FunctionError(_line(node), f"{digits} is too large for a float")
    return number


_WORDS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}
_ESCAPES = dict(zip("abdefnrstv0\n", ["\a", "\b", "\x7f", "\x1b", "\f", "\n", "\r", " ", "\t", "\v", "\0", ""], strict=True))
_CODEPOINT = re.compile(r"[xu]\{?([0-9A-Fa-f]+)\}?").fullmatch


def _string(node: tree_sitter.Node) -> str:
    start = node.child_by_field_name("quoted_start")
    if start is None or _text(start) != '"':
        raise _unsupported(node)
    parts = []
    for child in _children(node):
        if child.type == "quoted_content":
            parts.append(_text(child))
        elif child.type == "escape_sequence":
            parts.append(_escape(child))
        else:
            raise _unsupported(child)
    return "".join(parts)


def _escape(node: tree_sitter.Node) -> str:
    escaped = _text(node)[1:]
    match = _CODEPOINT(escaped)
    if match is None:
        return _ESCAPES.get(escaped, escaped)
    number = int(match[1], 16)
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF or (escaped[0] == "x" and number > 0x7F):
        raise FunctionError(_line(node), f"\\{escaped} is no character")
    return chr(number)
