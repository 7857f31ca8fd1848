"""Parse code into Elixir's quoted form: tree-sitter parses the text, and this module converts the result. Pure.

`validator.py` rejects valid Elixir that Sequin does not allow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tree_sitter
import tree_sitter_elixir

from userhooks.engine.functions.syntax import Dot, FunctionError, Node, Quoted
from userhooks.engine.functions.terms import atom

MAX_CODE_BYTES = 10_000
_MAX_DEPTH = 100
_MAX_DIGITS = 400
"""Maximum length of a number in digits: more than any float has before the decimal point."""
_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_elixir.language()))


def parse_code(code: str) -> tuple[Quoted, ...]:
    """Parse code into its top-level expressions; raises FunctionError with the line and the reason."""
    source = code.encode(errors="replace")
    if len(source) > MAX_CODE_BYTES:
        raise FunctionError(1, "too long, the maximum is 10 kilobytes", as_sequin=True)
    root = _PARSER.parse(source).root_node
    if root.has_error:
        raise _not_elixir(_first_error(root))
    reader = _Reader()
    return tuple(reader.read(node) for node in _children(root))


def _not_elixir(node: tree_sitter.Node, why: str = "this is not valid Elixir") -> FunctionError:
    line, column = node.start_point
    return FunctionError(line + 1, f"parse error at [line: {line + 1}, column: {column + 1}]: {why}", as_sequin=True)


def _line(node: tree_sitter.Node) -> int:
    return node.start_point[0] + 1


def _children(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    return [child for child in node.named_children if child.type != "comment"]


def _text(node: tree_sitter.Node) -> str:
    return (node.text or b"").decode(errors="replace")


def _first_error(root: tree_sitter.Node) -> tree_sitter.Node:
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            return node
        nodes.extend(child for child in reversed(node.children) if child.has_error or child.is_missing)
    return root


class _Reader:
    """Converts one syntax tree to the quoted form."""

    def __init__(self) -> None:
        self._depth = 0

    def read(self, node: tree_sitter.Node) -> Quoted:
        reader = _READERS.get(node.type)
        if reader is None:
            raise FunctionError(_line(node), f"`{_shown(node)}` is not supported")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise FunctionError(_line(node), "the code is nested too deeply")
        quoted = reader(self, node)
        self._depth -= 1
        return quoted

    def all(self, nodes: list[tree_sitter.Node]) -> tuple[Quoted, ...]:
        """Read the items of a list, tuple, or bitstring; trailing keywords become pairs."""
        items: list[Quoted] = []
        for node in nodes:
            if node.type == "keywords":
                items.extend(self._pairs(node))
            else:
                items.append(self.read(node))
        return tuple(items)

    def _arguments(self, node: tree_sitter.Node) -> tuple[Quoted, ...]:
        return tuple(list(self._pairs(child)) if child.type == "keywords" else self.read(child) for child in _children(node))

    def _pairs(self, keywords: tree_sitter.Node) -> Iterator[tuple[Any, Quoted]]:
        for key, value in map(_children, _children(keywords)):
            if key.type == "keyword":
                yield atom(_text(key).rstrip()[:-1]), self.read(value)
            else:
                yield atom(self._constant(key)), self.read(value)

    def _constant(self, node: tree_sitter.Node) -> str:
        parts = self.parts(node)
        if not all(isinstance(part, str) for part in parts):
            raise FunctionError(_line(node), f"`{_shown(node)}` is not supported: interpolation is not allowed here")
        return "".join(parts)

    def variable(self, node: tree_sitter.Node) -> Quoted:
        return Node(_text(node), _line(node), None)

    def alias(self, node: tree_sitter.Node) -> Quoted:
        return Node("__aliases__", _line(node), tuple(_text(node).split(".")))

    def block(self, node: tree_sitter.Node) -> Quoted:
        return self._body(_children(node), _line(node), braces=True)

    def _body(self, nodes: list[tree_sitter.Node], line: int, *, braces: bool = False) -> Quoted:
        if nodes and all(node.type == "stab_clause" for node in nodes):
            return [self._clause(node) for node in nodes]
        if len(nodes) == 1:
            return self.read(nodes[0])
        return Node("__block__", line, tuple(self.read(node) for node in nodes), braces)

    def _clause(self, node: tree_sitter.Node) -> Node:
        """Read `patterns -> body`, or `patterns when guard -> body`."""
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        patterns: list[Quoted] = []
        if left is not None and left.type == "binary_operator" and _operator(left) == "when":
            inner, guard = _children(left)
            patterns = [Node("when", _line(left), (*self._arguments(inner), self.read(guard)))]
        elif left is not None:
            patterns = list(self._arguments(left)) if left.type == "arguments" else [self.read(left)]
        body = self._body(_children(right) if right is not None else [], _line(node))
        return Node("->", _line(node), (patterns, body))

    def unary(self, node: tree_sitter.Node) -> Quoted:
        return Node(_operator(node), _line(node), tuple(self.read(child) for child in _children(node)))

    def binary(self, node: tree_sitter.Node) -> Quoted:
        name, line = _operator(node), _line(node)
        if name in ("and", "or", "&&", "||"):
            return Node(name, line, tuple(self.read(operand) for operand in _chain(node, name)))
        if name == "<>":
            return Node(name, line, tuple(self.read(operand) for operand in _joined(node)))
        left, right = _children(node)
        if name == "not in":
            return Node("not", line, (Node("in", line, (self.read(left), self.read(right))),))
        if name == "in" and left.type == "unary_operator" and _operator(left) == "not":
            return Node("not", line, (Node("in", line, (self.read(_children(left)[0]), self.read(right))),))
        return Node(name, line, (self.read(left), self.read(right)))

    def access(self, node: tree_sitter.Node) -> Quoted:
        container, key = _children(node)
        return Node(Dot(Node("__aliases__", _line(node), ("Access",)), "get"), _line(node), (self.read(container), self.read(key)))

    def call(self, node: tree_sitter.Node) -> Quoted:
        target, *rest = _children(node)
        arguments: tuple[Quoted, ...] = ()
        braces = False
        for part in rest:
            if part.type == "arguments":
                arguments += self._arguments(part)
                braces = True
            elif part.type == "do_block":
                arguments += (self._do(part),)
            else:
                raise FunctionError(_line(node), f"`{_shown(node)}` is not supported")
        if target.type != "dot":
            if target.type != "identifier":
                raise FunctionError(_line(node), f"`{_shown(node)}` is not supported")
            return Node(_text(target), _line(node), arguments, braces)
        container, *named = _children(target)
        if named and named[0].type not in ("identifier", "operator_identifier"):
            raise FunctionError(_line(node), f"`{_shown(node)}` is not supported")
        return Node(Dot(self.read(container), _text(named[0]) if named else None), _line(named[0] if named else node), arguments, braces)

    def _do(self, node: tree_sitter.Node) -> list[tuple[Any, Quoted]]:
        children = _children(node)
        body = [child for child in children if not child.type.endswith("_block")]
        sections = [child for child in children if child.type.endswith("_block")]
        return [
            (atom("do"), self._body(body, _line(node))),
            *[(atom(child.type.removesuffix("_block")), self._body(_children(child), _line(child))) for child in sections],
        ]

    def function(self, node: tree_sitter.Node) -> Quoted:
        return Node("fn", _line(node), tuple(self._clause(clause) for clause in _children(node)))

    def list_(self, node: tree_sitter.Node) -> Quoted:
        return list(self.all(_children(node)))

    def tuple_(self, node: tree_sitter.Node) -> Quoted:
        items = self.all(_children(node))
        return items if len(items) == 2 else Node("{}", _line(node), items)

    def map_(self, node: tree_sitter.Node) -> Quoted:
        line, pairs, struct = _line(node), (), None
        for part in _children(node):
            if part.type == "struct":
                struct = self.read(_children(part)[0])
            else:
                pairs = self._members(part)
        map_node = Node("%{}", line, pairs)
        return map_node if struct is None else Node("%", line, (struct, map_node))

    def _members(self, content: tree_sitter.Node) -> tuple[Quoted, ...]:
        members: list[Quoted] = []
        for item in _children(content):
            if item.type == "keywords":
                members.extend(self._pairs(item))
            elif item.type == "binary_operator" and _operator(item) == "=>":
                key, value = _children(item)
                if key.type == "binary_operator" and _operator(key) == "|":
                    members.append(Node("|", _line(item), ()))
                else:
                    members.append((self.read(key), self.read(value)))
            elif item.type == "binary_operator" and _operator(item) == "|":
                members.append(Node("|", _line(item), ()))
            else:
                raise _not_elixir(item)
        return tuple(members)

    def parts(self, node: tree_sitter.Node, *, raw: bool = False) -> list[Any]:
        """Read the contents of quotes: strings, and nodes for interpolated expressions."""
        start, end = node.child_by_field_name("quoted_start"), node.child_by_field_name("quoted_end")
        heredoc = start is not None and _text(start) in ('"""', "'''")
        indent = re.compile(rf"\n[ \t]{{0,{end.start_point[1] if end is not None else 0}}}")
        parts: list[Any] = []
        for child in node.children:
            if child.type == "interpolation":
                expression = self._body(_children(child), _line(child))
                text = Node(Dot(Node("__aliases__", _line(child), ("Kernel",)), "to_string"), _line(child), (expression,))
                parts.append(Node("::", _line(child), (text, Node("binary", _line(child), None))))
            elif child.type == "quoted_content":
                content = _text(child)
                parts.append(indent.sub("\n", content) if heredoc else content)
            elif child.type == "escape_sequence":
                parts.append(_text(child) if raw else _escape(child))
        if heredoc and parts and isinstance(parts[0], str):
            parts[0] = parts[0].removeprefix("\n")
        return parts

    def string(self, node: tree_sitter.Node) -> Quoted:
        parts = self.parts(node)
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
        return Node("<<>>", _line(node), tuple(parts))

    def charlist(self, node: tree_sitter.Node) -> Quoted:
        return list(map(ord, self._constant(node)))

    def sigil(self, node: tree_sitter.Node) -> Quoted:
        names = {child.type: _text(child) for child in _children(node) if child.type in ("sigil_name", "sigil_modifiers")}
        name = names["sigil_name"]
        parts = self.parts(node, raw=name == "r" or name.isupper())
        return Node(
            f"sigil_{name}", _line(node), (Node("<<>>", _line(node), tuple(parts)), list(map(ord, names.get("sigil_modifiers", ""))))
        )

    def bits(self, node: tree_sitter.Node) -> Quoted:
        return Node("<<>>", _line(node), self.all(_children(node)))

    def number(self, node: tree_sitter.Node) -> Quoted:
        digits = _text(node).replace("_", "")
        if len(digits) > _MAX_DIGITS:
            raise FunctionError(_line(node), f"a number of more than {_MAX_DIGITS} digits is too large")
        if node.type == "integer":
            return int(digits, 0) if digits[:2] in ("0x", "0b", "0o") else int(digits)
        number = float(digits)
        if math.isinf(number):
            raise _not_elixir(node, f"{digits} is too large for a float")
        return number

    def character(self, node: tree_sitter.Node) -> Quoted:
        text = _text(node)[1:]
        return ord(_unescaped(node, text[1:])) if text.startswith("\\") else ord(text)

    def quoted_atom(self, node: tree_sitter.Node) -> Quoted:
        return atom(self._constant(node))


_READERS: Mapping[str, Callable[[_Reader, tree_sitter.Node], Quoted]] = {
    "identifier": _Reader.variable,
    "operator_identifier": _Reader.variable,
    "alias": _Reader.alias,
    "block": _Reader.block,
    "unary_operator": _Reader.unary,
    "binary_operator": _Reader.binary,
    "access_call": _Reader.access,
    "call": _Reader.call,
    "anonymous_function": _Reader.function,
    "list": _Reader.list_,
    "tuple": _Reader.tuple_,
    "map": _Reader.map_,
    "string": _Reader.string,
    "charlist": _Reader.charlist,
    "sigil": _Reader.sigil,
    "bitstring": _Reader.bits,
    "integer": _Reader.number,
    "float": _Reader.number,
    "char": _Reader.character,
    "atom": lambda reader, node: atom(_text(node)[1:]),
    "quoted_atom": _Reader.quoted_atom,
    "boolean": lambda reader, node: atom(_text(node)),
    "nil": lambda reader, node: None,
}


def _shown(node: tree_sitter.Node) -> str:
    return (_text(node).splitlines() or [""])[0][:40]


def _operator(node: tree_sitter.Node) -> str:
    operator = node.child_by_field_name("operator")
    return " ".join(_text(operator).split()) if operator is not None else ""


def _chain(node: tree_sitter.Node, name: str) -> Iterator[tree_sitter.Node]:
    """Yield the operands of `a and b and c`, which parses as `(a and b) and c`.

    Reading them as one list keeps a long chain of operators from being rejected as nested too deeply.
    """
    operands = []
    while node.type == "binary_operator" and _operator(node) == name:
        node, right = _children(node)
        operands.append(right)
    operands.append(node)
    return reversed(operands)


def _joined(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """Yield the operands of `a <> b <> c`, which parses as `a <> (b <> c)`."""
    while node.type == "binary_operator" and _operator(node) == "<>":
        left, node = _children(node)
        yield left
    yield node


_ESCAPES = dict(zip("abdefnrstv0\n", ["\a", "\b", "\x7f", "\x1b", "\f", "\n", "\r", " ", "\t", "\v", "\0", ""], strict=True))
_CODEPOINT = re.compile(r"[xu]\{?([0-9A-Fa-f]+)\}?").fullmatch


def _escape(node: tree_sitter.Node) -> str:
    return _unescaped(node, _text(node)[1:])


def _unescaped(node: tree_sitter.Node, escaped: str) -> str:
    match = _CODEPOINT(escaped)
    if match is None:
        return _ESCAPES.get(escaped, escaped)
    number = int(match[1], 16)
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF or (escaped[0] == "x" and number > 0x7F):
        raise FunctionError(_line(node), f"\\{escaped} is not a valid character")
    return chr(number)
