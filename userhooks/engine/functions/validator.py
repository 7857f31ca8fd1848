"""Reject the code that Sequin rejects, with the same messages: only some forms, operators, and modules are allowed. Pure.

`compiler.py` rejects code that is allowed here but meaningless, such as an undefined variable.
"""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions.syntax import Dot, FunctionError, Node, Quoted, alias_name, line_of
from userhooks.engine.functions.terms import Atom, atom_name, is_atom

PARAMETERS = ("action", "record", "changes", "metadata")
_OPERATORS = frozenset(":: <<>> ++ + - * / == != === !== > >= < <= && || and or in not <> . |> | __block__ -> fn {} when".split())
_SIGILS = frozenset(f"sigil_{name}" for name in "C D N R S T U c r s w".split())
KERNEL = frozenset(
    """abs binary_part bit_size byte_size ceil div elem floor get_and_update_in get_in hd length make_ref map_size max min not pop_in
    put_elem put_in rem round self tl trunc tuple_size update_in to_string is_integer is_binary is_bitstring is_atom is_boolean is_float
    is_number is_list is_map is_map_key is_nil is_reference is_tuple is_exception is_struct is_function""".split()
)
_MODULES = frozenset("Map String Enum Date DateTime NaiveDateTime Decimal URI Base UUID JSON Integer Regex List".split())
_FORBIDDEN = {("String", "to_atom"), ("String", "to_existing_atom")}


def unwrap(code: tuple[Quoted, ...]) -> Quoted:
    """Return the body of `def transform(…) do … end`; raises FunctionError for any other form."""
    top = _refused(1, "Expecting only `def transform`, `def route` or `def filter` at the top level")
    if len(code) != 1 or not isinstance(code[0], Node) or not code[0].is_call("def", 2) or code[0].arguments is None:
        raise top
    head, block = code[0].arguments
    if not isinstance(head, Node) or head.name not in ("transform", "route", "filter"):
        raise top
    if not isinstance(block, list) or [key for key, _ in _pairs(block)] != [Atom("do")]:
        raise top
    written = [parameter.name if isinstance(parameter, Node) and parameter.is_variable else None for parameter in head.arguments or ()]
    names = [name.removeprefix("_") if isinstance(name, str) else name for name in written]
    if names != list(PARAMETERS) or any(str(name).startswith("__") for name in written):
        raise _refused(head.line, f"The parameter list `{', '.join(PARAMETERS)}` is required")
    return block[0][1]


def _pairs(block: list[Any]) -> list[tuple[Any, Any]]:
    return [node for node in block if isinstance(node, tuple)]


def _refused(line: int, message: str) -> FunctionError:
    return FunctionError(line, f"validation failed: {message}", as_sequin=True)


def _forbidden(line: int, name: str) -> FunctionError:
    return _refused(line, f"Forbidden function: {name}")


def is_literal(quoted: Quoted) -> bool:
    """Whether the code consists only of literals, including structs with literal fields."""
    if isinstance(quoted, Node):
        arguments = quoted.arguments or ()
        if quoted.name == "__aliases__":
            return True
        if quoted.name in ("%", "%{}", "{}"):
            return all(map(is_literal, arguments))
        return quoted.name in ("+", "-") and len(arguments) == 1 and type(arguments[0]) in (int, float)
    if isinstance(quoted, (list, tuple)):
        return all(map(is_literal, quoted))
    return True


def check(quoted: Quoted, line: int = 1) -> None:
    """Raise FunctionError for code that Sequin rejects."""
    if is_literal(quoted):
        return
    if isinstance(quoted, (list, tuple)):
        for node in quoted:
            check(node, line)
        return
    if isinstance(quoted, Node):
        _Check(quoted).run()


class _Check:
    """Validates one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._line = node.line
        self._arguments = node.arguments or ()

    def run(self) -> None:
        node, arguments = self._node, self._arguments
        name = node.name
        if node.is_variable:
            return
        if isinstance(name, Dot):
            self._dotted(name)
        elif name == "%{}":
            for pair in arguments:
                if not isinstance(pair, tuple):
                    raise _refused(self._line, "improper map literal")
                self._all(pair)
        elif name == "if" and len(arguments) == 2:
            self._all((arguments[0], *[value for _, value in _sections(arguments[1])]))
        elif name == "case" and len(arguments) == 2 and [key for key, _ in _sections(arguments[1])] == [Atom("do")]:
            self._all((arguments[0], arguments[1][0][1]))
        elif name == "cond" and len(arguments) == 1 and [key for key, _ in _sections(arguments[0])] == [Atom("do")]:
            self._all((arguments[0][0][1],))
        elif name == "with":
            self._with()
        elif name == "=" and len(arguments) == 2:
            _check_bound(arguments[0], self._line)
            self._all(arguments[1:])
        elif name in ("def", "defp"):
            raise _refused(self._line, "defining functions is not allowed")
        elif name == "defmodule":
            raise _refused(self._line, "defining modules is not allowed")
        elif name in _OPERATORS or name in _SIGILS or name in KERNEL or name == "match?" or name == "&":
            self._all(arguments)
        else:
            raise _forbidden(self._line, name)

    def _all(self, quoted: tuple[Quoted, ...]) -> None:
        for node in quoted:
            check(node, self._line)

    def _dotted(self, name: Dot) -> None:
        if name.name is None:
            check(name.left, self._line)
            self._all(self._arguments)
            return
        path = _path(self._node)
        if path is None:
            raise _refused(self._line, "no function clause matching in Sequin.Functions.MiniElixir.Validator.dedot/2")
        top, second = path[0], path[1]
        if top == "record":
            brackets = "".join(f'["{key}"]' for key in path[1:])
            raise _refused(self._line, f"`record` fields must be accessed with the [] operator: record{brackets}")
        module = top.removeprefix("Elixir.") if top.startswith("Elixir.") else None
        allowed = top in PARAMETERS or (
            len(path) == 2
            and (
                (module in _MODULES and (module, second) not in _FORBIDDEN)
                or (module == "Kernel" and second in KERNEL - {"not"})
                or (module == "Access" and second == "get")
            )
        )
        if not allowed:
            raise _forbidden(self._line, ".".join(path))
        if "__info__" in path:
            raise _refused(self._line, "__info__ is not allowed")
        self._all(self._arguments)

    def _with(self) -> None:
        *clauses, last = self._arguments or (None,)
        for clause in [*clauses, *([] if _is_sections(last) else [last])]:
            if isinstance(clause, Node) and clause.is_call("<-", 2) and clause.arguments is not None:
                _check_bound(clause.arguments[0], self._line)
                self._all(clause.arguments)
            else:
                check(clause, self._line)
        if _is_sections(last):
            self._all(tuple(value for key, value in last if key in (Atom("do"), Atom("else"))))


def _is_sections(quoted: Quoted) -> bool:
    return isinstance(quoted, list) and all(isinstance(node, tuple) and isinstance(node[0], Atom) for node in quoted)


def _sections(quoted: Quoted) -> list[tuple[Any, Quoted]]:
    return quoted if isinstance(quoted, list) and _is_sections(quoted) else []


def _path(node: Quoted) -> list[str] | None:
    """Return the names in `a.b.c`, with `Elixir.` in front of modules; None for code that does not start with a name."""
    if isinstance(node, Node):
        if isinstance(node.name, Dot) and node.name.name is not None:
            before = _path_of_left(node.name.left)
            return None if before is None else [*before, node.name.name]
        return [str(node.name)] if not isinstance(node.name, Dot) else None
    return [atom_name(node)] if is_atom(node) else None


def _path_of_left(left: Quoted) -> list[str] | None:
    alias = alias_name(left)
    if alias is not None:
        return [f"Elixir.{alias}"] if "." not in alias else ["__aliases__"]
    if isinstance(left, Node) and isinstance(left.name, Dot) and left.arguments:
        return None
    if isinstance(left, (list, tuple, str, int, float)) and not is_atom(left):
        return None
    return _path(left)


def _check_bound(pattern: Quoted, line: int) -> None:
    """Raise FunctionError if a pattern would rebind one of the function's arguments."""
    for name in bound_names(pattern):
        if name in PARAMETERS:
            raise _refused(line_of(pattern, line), f"can't assign to argument: {name}")


def bound_names(pattern: Quoted) -> list[str]:
    """Return the variables of a pattern, in order."""
    if isinstance(pattern, (list, tuple)):
        return [name for node in pattern for name in bound_names(node)]
    if not isinstance(pattern, Node) or pattern.name == "^":
        return []
    if pattern.arguments is None:
        return [str(pattern.name)] if not str(pattern.name).startswith("_") else []
    if pattern.name == "%{}":
        return [name for pair in pattern.arguments if isinstance(pair, tuple) for name in bound_names(pair[1])]
    if pattern.name in ("when", "::"):
        return bound_names(pattern.arguments[0])
    return [name for node in pattern.arguments for name in bound_names(node)]
