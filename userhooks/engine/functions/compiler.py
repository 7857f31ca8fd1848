"""Compile quoted code to expressions, resolving names to variables, arguments, and library functions. Pure.

Undefined variables and functions that are not in the library are rejected when a function is created, rather than when a message
fails. `validator.py` rejects valid Elixir that Sequin does not allow.

This module is long because each form of the language has its own method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from userhooks.engine.functions.expressions import (
    Anything,
    Apply,
    Argument,
    Binary,
    Bind,
    Block,
    Both,
    Case,
    Choice,
    Clause,
    Cond,
    Const,
    Expr,
    Invoke,
    Lambda,
    Local,
    Logic,
    Members,
    Pattern,
    Same,
    Segment,
    Sequence,
    With,
)
from userhooks.engine.functions.library import LIBRARY, STRUCTS
from userhooks.engine.functions.syntax import Dot, FunctionError, Node, Quoted, alias_name
from userhooks.engine.functions.terms import STRUCT, Atom
from userhooks.engine.functions.validator import KERNEL, PARAMETERS, is_literal

_UNDEFINED = "code failed to evaluate: nofile: cannot compile file (errors have been logged)"
_GUARDS = frozenset(
    """== != === !== < > <= >= and or not + - * / in is_integer is_binary is_bitstring is_atom is_boolean is_float is_number is_list is_map
    is_map_key is_nil is_tuple is_struct is_exception is_function abs binary_part bit_size byte_size ceil div elem floor hd length map_size
    rem round tl trunc tuple_size field list tuple map is_reference self ++""".split()
)
"""Operators and functions that are allowed in guards."""
_LOGIC = ("and", "or", "&&", "||")

Scope = dict[str, Expr]


def compile_body(body: Quoted) -> tuple[tuple[Expr, ...], int]:
    """Compile a function's body to its expressions and the number of its variables; raises FunctionError."""
    compiler = _Compiler()
    scope: Scope = {name: Argument(name) for name in PARAMETERS}  # even if the head writes them with an underscore
    expressions = body.arguments if isinstance(body, Node) and body.name == "__block__" else (body,)
    compiled = tuple(compiler.expression(node, scope) for node in expressions or ())
    return compiled or (Const(None),), compiler.variables


def _undefined(line: int, message: str) -> FunctionError:
    return FunctionError(line, f"{_UNDEFINED}: line {line}: {message}", as_sequin=True)


class _Compiler:
    """Compiles one function.

    This class is long because each form of the language has its own method.
    """

    def __init__(self) -> None:
        self.variables = 0
        self._size = 0
        self._captures: list[dict[int, int]] = []

    def _new(self) -> int:
        self.variables += 1
        return self.variables - 1

    def expression(self, quoted: Quoted, scope: Scope) -> Expr:
        """Compile an expression and add the variables that it binds to the scope."""
        self._size += 1
        if isinstance(quoted, list):
            return self._list(quoted, scope)
        if isinstance(quoted, tuple):
            return self._apply("tuple", quoted, scope, 0)
        if not isinstance(quoted, Node):
            return Const(quoted)
        if quoted.is_variable:
            return self._variable(quoted, scope)
        name, arguments = quoted.name, quoted.arguments or ()
        if isinstance(name, Dot):
            return self._dotted(quoted, name, arguments, scope)
        form = _FORMS.get(name)
        if form is not None:
            return form(self, quoted, scope)
        if name in _LOGIC:
            return self._logic(name, arguments, scope, quoted.line)
        return self._apply(name, arguments, scope, quoted.line)

    def _logic(self, name: str, arguments: tuple[Quoted, ...], scope: Scope, line: int) -> Expr:
        return Logic(name, tuple(self.expression(node, scope) for node in arguments), line)

    def _variable(self, node: Node, scope: Scope) -> Expr:
        variable = scope.get(str(node.name))
        if variable is None:
            raise _undefined(node.line, f"undefined variable `{node.name}`")
        return variable

    def _apply(self, name: str, arguments: tuple[Quoted, ...], scope: Scope, line: int) -> Expr:
        return self._call(name, tuple(self.expression(node, scope) for node in arguments), line)

    def _call(self, name: str, operands: tuple[Expr, ...], line: int) -> Expr:
        function = LIBRARY.get(name)
        if function is None or len(operands) < function.least or (function.most is not None and len(operands) > function.most):
            raise FunctionError(line, f"the function `{name}/{len(operands)}` does not exist or is not supported")
        return Apply(function, operands, line)

    def _dotted(self, node: Node, name: Dot, arguments: tuple[Quoted, ...], scope: Scope) -> Expr:
        if name.name is None:
            return Invoke(tuple(self.expression(node, scope) for node in (name.left, *arguments)), node.line)
        module = alias_name(name.left)
        if module is not None:
            full = name.name if module == "Kernel" else f"{module}.{name.name}"
            return self._apply(full, arguments, scope, node.line)
        if node.braces:
            raise FunctionError(node.line, f"`.{name.name}(…)` is not supported: only functions of a module can be called with a dot")
        return self._call("field", (self.expression(name.left, scope), Const(Atom(name.name))), node.line)

    def _list(self, items: list[Quoted], scope: Scope) -> Expr:
        if items and isinstance(items[-1], Node) and items[-1].is_call("|", 2):
            head, tail = items[-1].arguments or ()
            first = tuple(self.expression(node, scope) for node in (*items[:-1], head))
            return self._call("++", (self._call("list", first, items[-1].line), self.expression(tail, scope)), items[-1].line)
        return self._apply("list", tuple(items), scope, 0)

    def map(self, node: Node, scope: Scope) -> Expr:
        operands = [self.expression(part, scope) for pair in node.arguments or () for part in pair]
        return self._call("map", tuple(operands), node.line)

    def struct(self, node: Node, scope: Scope) -> Expr:
        name, members = node.arguments or ()
        module = alias_name(name) or ""
        if module not in STRUCTS:
            raise _undefined(node.line, f"{module}.__struct__/1 is undefined, cannot expand struct {module}")
        pairs = {key.name: self.expression(value, scope) for key, value in members.arguments or () if isinstance(key, Atom)}
        unknown = [key for key in pairs if key not in STRUCTS[module]]
        if unknown or len(pairs) < len(members.arguments or ()):
            raise _undefined(node.line, f"unknown key for struct {module}")
        operands: list[Expr] = [Const(STRUCT), Const(Atom(f"Elixir.{module}"))]
        for field, default in STRUCTS[module].items():
            operands += [Const(Atom(field)), pairs.get(field, Const(default))]
        return self._call("map", tuple(operands), node.line)

    def alias(self, node: Node, scope: Scope) -> Expr:
        return Const(Atom(f"Elixir.{alias_name(node)}"))

    def block(self, node: Node, scope: Scope) -> Expr:
        operands = tuple(self.expression(operand, scope) for operand in node.arguments or ())
        return Block(operands) if operands else Const(None)

    def bind(self, node: Node, scope: Scope) -> Expr:
        left, right = self._two(node)
        value = self.expression(right, scope)
        return Bind(self._pattern(left, scope, set(), node.line), value, node.line)

    def _two(self, node: Node) -> tuple[Quoted, Quoted]:
        if node.arguments is None or len(node.arguments) != 2:
            raise FunctionError(node.line, f"`{node.name}` requires two operands")
        return node.arguments[0], node.arguments[1]

    def pipe(self, node: Node, scope: Scope) -> Expr:
        left, right = self._two(node)
        if not isinstance(right, Node) or right.name in _FORMS or right.name == "__aliases__":
            raise FunctionError(node.line, "`|>` requires a function call on its right-hand side")
        return self.expression(Node(right.name, right.line, (left, *(right.arguments or ())), True), scope)

    def if_(self, node: Node, scope: Scope) -> Expr:
        """Compile `if … do … else … end` or `if …, do: …, else: …`; a missing `else` evaluates to nil."""
        sections = self._sections(node, 2, ("do", "else"))
        condition = self.expression((node.arguments or ())[0], scope)
        return Choice((condition, self.expression(sections["do"], {**scope}), self.expression(sections.get("else"), {**scope})))

    def _sections(self, node: Node, count: int, names: tuple[str, ...]) -> dict[str, Quoted]:
        """Return the sections (`do`, `else`) in the last argument of a form."""
        arguments = node.arguments or ()
        block = arguments[-1] if len(arguments) == count else None
        if isinstance(block, list) and all(isinstance(node, tuple) and isinstance(node[0], Atom) for node in block):
            sections = {key.name: value for key, value in block}
            if "do" in sections and set(sections) <= set(names) and len(sections) == len(block):
                return sections
        raise FunctionError(node.line, f"invalid use of `{node.name}`")

    def _clauses(self, quoted: Quoted, line: int) -> list[tuple[list[Quoted], Quoted, int]]:
        if not isinstance(quoted, list) or not quoted:
            raise _undefined(line, "expected -> clauses")
        clauses = []
        for clause in quoted:
            if not isinstance(clause, Node) or not clause.is_call("->", 2) or clause.arguments is None:
                raise _undefined(line, "expected -> clauses")
            patterns, body = clause.arguments
            clauses.append((patterns, body, clause.line))
        return clauses

    def case(self, node: Node, scope: Scope) -> Expr:
        sections = self._sections(node, 2, ("do",))
        subject = self.expression((node.arguments or ())[0], scope)
        return Case(subject, self._clause_list(sections["do"], scope, node.line, 1), node.line)

    def _clause_list(self, quoted: Quoted, scope: Scope, line: int, count: int | None) -> tuple[Clause, ...]:
        return tuple(
            self._clause(patterns, body, {**scope}, clause_line, count) for patterns, body, clause_line in self._clauses(quoted, line)
        )

    def _clause(self, patterns: list[Quoted], body: Quoted, scope: Scope, line: int, count: int | None) -> Clause:
        guard: Quoted = None
        guarded = len(patterns) == 1 and isinstance(patterns[0], Node) and patterns[0].name == "when"
        if guarded:
            *patterns, guard = patterns[0].arguments
        if count is not None and len(patterns) != count:
            raise _undefined(line, f"expected {count} pattern{'s' * (count != 1)} before ->")
        bound: set[str] = set()
        compiled = tuple(self._pattern(pattern, scope, bound, line) for pattern in patterns)
        condition = self._guard(guard, scope) if guarded else None
        return Clause(compiled, condition, self.expression(body, scope))

    def _guard(self, guard: Quoted, scope: Scope) -> Expr:
        _check_guard(guard)
        return self.expression(guard, {**scope})

    def cond(self, node: Node, scope: Scope) -> Expr:
        sections = self._sections(node, 1, ("do",))
        clauses = []
        for patterns, body, line in self._clauses(sections["do"], node.line):
            if len(patterns) != 1:
                raise _undefined(line, "expected one condition before ->")
            inner = {**scope}
            condition = self.expression(patterns[0], inner)
            clauses.append((condition, self.expression(body, inner)))
        return Cond(tuple(clauses), node.line)

    def with_(self, node: Node, scope: Scope) -> Expr:
        sections = self._sections(node, len(node.arguments or ()), ("do", "else"))
        inner = {**scope}
        steps: list[Expr | Clause] = []
        for step in (node.arguments or ())[:-1]:
            if isinstance(step, Node) and step.is_call("<-", 2) and step.arguments is not None:
                pattern, right = step.arguments
                value = self.expression(right, inner)
                guard: Quoted = None
                guarded = isinstance(pattern, Node) and pattern.is_call("when", 2)
                if guarded:
                    pattern, guard = pattern.arguments
                compiled = self._pattern(pattern, inner, set(), step.line)
                steps.append(Clause((compiled,), self._guard(guard, inner) if guarded else None, value))
            else:
                steps.append(self.expression(step, inner))
        body = self.expression(sections["do"], inner)
        otherwise = self._clause_list(sections["else"], scope, node.line, 1) if "else" in sections else ()
        return With(tuple(steps), body, otherwise, node.line)

    def function(self, node: Node, scope: Scope) -> Expr:
        outer_size, self._size = self._size, 0
        clauses = tuple(
            self._clause(patterns, body, {**scope}, clause_line, None)
            for patterns, body, clause_line in self._clauses(list(node.arguments or ()), node.line)
        )
        if len({len(clause.patterns) for clause in clauses}) > 1:
            raise _undefined(node.line, "cannot mix clauses with different arities in anonymous functions")
        function = Lambda(clauses, self._size, node.line)
        self._size += outer_size
        return function

    def capture(self, node: Node, scope: Scope) -> Expr:
        operand = node.arguments[0] if node.arguments else None
        if type(operand) is int:
            return self._placeholder(operand, node.line)
        if isinstance(operand, Node) and operand.is_call("/", 2):
            target, arity = self._two(operand)
            if (
                type(arity) is int
                and isinstance(target, Node)
                and not target.arguments
                and (target.is_variable or isinstance(target.name, Dot))
            ):
                return self._captured_name(target, arity, node.line)
        outer_size, self._size = self._size, 0
        self._captures.append({})
        body = self.expression(operand, scope)
        placeholders = self._captures.pop()
        if self._captures or sorted(placeholders) != list(range(1, len(placeholders) + 1)) or not placeholders:
            raise _undefined(node.line, "capture arguments &1, &2, … must be used without gaps, and captures cannot be nested")
        patterns = tuple(Anything(placeholders[number]) for number in sorted(placeholders))
        function = Lambda((Clause(patterns, None, body),), self._size, node.line)
        self._size += outer_size
        return function

    def _placeholder(self, number: int, line: int) -> Expr:
        if not self._captures or not 1 <= number <= 20:
            raise _undefined(line, f"capture argument &{number} must be used within the capture operator &")
        placeholders = self._captures[-1]
        if number not in placeholders:
            placeholders[number] = self._new()
        return Local(placeholders[number])

    def _captured_name(self, target: Node, arity: int, line: int) -> Expr:
        if not 0 <= arity <= 5:
            raise _undefined(line, "capturing functions with more than five arguments is not supported")
        numbers = [self._new() for _ in range(arity)]
        scope: Scope = {f"&{number}": Local(number) for number in numbers}
        arguments = tuple(Node(name, line, None) for name in scope)
        body = self.expression(Node(target.name, target.line, arguments, True), scope)
        return Lambda((Clause(tuple(map(Anything, numbers)), None, body),), 2, line)

    def binary(self, node: Node, scope: Scope) -> Expr:
        """Compile `<<…>>` or an interpolated string."""
        operands: list[Expr] = []
        for part in node.arguments or ():
            segment = self._segment(part, scope, node.line)
            if segment.kind == "binary" and segment.size is None:
                operands.append(self.expression(segment.content, scope))
            else:
                size = Const(None) if segment.size is None else self.expression(segment.size, scope)
                spec = Const((segment.kind, segment.signed, segment.little))
                operands.append(self._call("segment", (self.expression(segment.content, scope), size, spec), node.line))
        if all(isinstance(operand, Const) and isinstance(operand.value, str) for operand in operands):
            return Const("".join(operand.value for operand in operands if isinstance(operand, Const)))
        return self._call("<>", tuple(operands), node.line) if operands else Const("")

    def _segment(self, part: Quoted, scope: Scope, line: int) -> Segment:
        """Parse `content::kind-size(n)-signed-little`; by default, a string is a binary and anything else an 8-bit integer."""
        if not (isinstance(part, Node) and part.is_call("::", 2)):
            return Segment(part, "binary" if isinstance(part, str) else "integer")
        content, specification = self._two(part)
        kind, size, modifiers = "binary" if isinstance(content, str) else "integer", None, set()
        parts = [specification]
        while parts:
            node = parts.pop()
            if isinstance(node, Node) and node.is_call("-", 2):
                parts.extend(node.arguments or ())
            elif type(node) is int:
                size = node
            elif isinstance(node, Node) and node.is_call("size", 1) and node.arguments is not None:
                size = node.arguments[0]
            elif isinstance(node, Node) and node.name in ("binary", "bytes", "integer", "utf8"):
                kind = "binary" if node.name == "bytes" else str(node.name)
            elif isinstance(node, Node) and node.name in ("signed", "unsigned", "little", "big"):
                modifiers.add(node.name)
            else:
                raise FunctionError(line, "this type of binary segment is not supported; use integer, binary, or utf8, with a size")
        return Segment(content, kind, size, "signed" in modifiers, "little" in modifiers)

    def unary_or_binary(self, node: Node, scope: Scope) -> Expr:
        arguments = node.arguments or ()
        if len(arguments) == 1:
            operand = arguments[0]
            if type(operand) in (int, float):
                return Const(-operand if node.name == "-" else operand)
            return self._apply("negate" if node.name == "-" else "plus", arguments, scope, node.line)
        return self._apply(str(node.name), arguments, scope, node.line)

    def matches(self, node: Node, scope: Scope) -> Expr:
        """Compile `match?(pattern, value)`."""
        left, right = self._two(node)
        value = self.expression(right, scope)
        clause = self._clause([left], True, {**scope}, node.line, 1)
        return Case(value, (clause, Clause((Anything(),), None, Const(False))), node.line)

    def at_path(self, node: Node, scope: Scope) -> Expr:
        """Compile `put_in(a["b"].c, value)` and similar calls with a path written as code. Calls with a list of keys are ordinary calls."""
        name, arguments = str(node.name), node.arguments or ()
        if len(arguments) != (1 if name == "pop_in" else 2):
            return self._apply(name, arguments, scope, node.line)
        path: list[Expr] = []
        container = arguments[0]
        while isinstance(container, Node) and isinstance(dot := container.name, Dot):
            if alias_name(dot.left) == "Access" and dot.name == "get" and container.arguments and len(container.arguments) == 2:
                path.append(self.expression(container.arguments[1], scope))
                container = container.arguments[0]
            elif dot.name is not None and not container.arguments and alias_name(dot.left) is None:
                path.append(Const(Atom(dot.name)))
                container = dot.left
            else:
                break
        if not path:
            raise _undefined(node.line, f"{name} requires a path to the value to change, like map[key]")
        keys = self._call("list", tuple(reversed(path)), node.line)
        rest = tuple(self.expression(node, scope) for node in arguments[1:])
        return self._call(name, (self.expression(container, scope), keys, *rest), node.line)

    # --- patterns --------------------------------------------------------------------------------------------------------

    def _pattern(self, quoted: Quoted, scope: Scope, bound: set[str], line: int) -> Pattern:
        """Compile a pattern and add its variables to the scope; `bound` contains the names of the variables that it has bound so far."""
        self._size += 1
        if isinstance(quoted, (list, tuple)):
            return self._sequence(quoted, scope, bound, line)
        if not isinstance(quoted, Node):
            return Same(Const(quoted))
        if quoted.is_variable:
            return self._bound(str(quoted.name), scope, bound, quoted.line)
        name, arguments = quoted.name, quoted.arguments or ()
        if name == "{}":
            return self._sequence(arguments, scope, bound, line)
        if name == "^" and len(arguments) == 1 and isinstance(arguments[0], Node) and arguments[0].is_variable:
            return Same(self._variable(arguments[0], scope))
        if name == "=" and len(arguments) == 2:
            return Both(self._pattern(arguments[0], scope, bound, line), self._pattern(arguments[1], scope, bound, line))
        if name == "%{}":
            return self._members(arguments, scope, bound, line)
        if name == "%" and len(arguments) == 2 and alias_name(arguments[0]) in STRUCTS:
            struct_member = (Const(STRUCT), Same(Const(Atom(f"Elixir.{alias_name(arguments[0])}"))))
            return Members((struct_member, *self._members(arguments[1].arguments or (), scope, bound, line).pairs))
        if name == "<<>>" or name == "<>":
            return self._binary_pattern(name == "<>", arguments, scope, bound, line)
        if name == "__aliases__" or (name in ("+", "-") and is_literal(quoted)):
            return Same(self.expression(quoted, scope))
        if isinstance(name, str) and name in ("sigil_s", "sigil_S", "sigil_w", "sigil_c"):
            return Same(self.expression(quoted, scope))
        if name == "++" and len(arguments) == 2 and isinstance(arguments[0], list):
            first = tuple(self._pattern(item, scope, bound, line) for item in arguments[0])
            return Sequence(first, False, self._pattern(arguments[1], scope, bound, line))
        raise _undefined(quoted.line, "this is not a valid pattern")

    def _bound(self, name: str, scope: Scope, bound: set[str], line: int) -> Pattern:
        if name == "_":
            return Anything()
        previous = scope.get(name)
        if name in bound and isinstance(previous, Local):
            return Anything(previous.number, True)
        number = self._new()
        scope[name] = Local(number)
        bound.add(name)
        return Anything(number)

    def _sequence(self, items: Any, scope: Scope, bound: set[str], line: int) -> Pattern:
        if isinstance(items, list) and items and isinstance(items[-1], Node) and items[-1].is_call("|", 2):
            head, tail = self._two(items[-1])
            first = tuple(self._pattern(item, scope, bound, line) for item in (*items[:-1], head))
            return Sequence(first, False, self._pattern(tail, scope, bound, line))
        return Sequence(tuple(self._pattern(item, scope, bound, line) for item in items), isinstance(items, tuple), None)

    def _members(self, pairs: Any, scope: Scope, bound: set[str], line: int) -> Members:
        members = []
        for pair in pairs:
            if not isinstance(pair, tuple):
                raise _undefined(line, "this is not a valid pattern")
            key, value = pair
            pinned = isinstance(key, Node) and key.is_call("^", 1)
            if not pinned and not is_literal(key):
                raise _undefined(line, "cannot use a variable as map key inside a pattern")
            compiled_key = self.expression(key.arguments[0] if pinned else key, scope)
            members.append((compiled_key, self._pattern(value, scope, bound, line)))
        return Members(tuple(members))

    def _binary_pattern(self, joined: bool, parts: Any, scope: Scope, bound: set[str], line: int) -> Pattern:
        segments = []
        for i, part in enumerate(parts):
            if joined:
                last = i == len(parts) - 1
                if not last and not isinstance(part, str):
                    raise _undefined(line, "the left argument of <> operator inside a match should always be a literal binary")
                segments.append(
                    Segment(self._pattern(part, scope, bound, line), "binary", None if last else Const(len(str(part).encode())))
                )
                continue
            segment = self._segment(part, scope, line)
            size = None if segment.size is None else self.expression(segment.size, scope)
            if size is None and isinstance(segment.content, str) and segment.kind == "binary":
                size = Const(len(segment.content.encode()))
            if size is None and segment.kind == "binary" and i < len(parts) - 1:
                raise _undefined(line, "a binary field without size is only allowed at the end of a binary pattern")
            content = self._pattern(segment.content, scope, bound, line)
            segments.append(Segment(content, segment.kind, size, segment.signed, segment.little))
        return Binary(tuple(segments))


def _check_guard(guard: Quoted) -> None:
    """Raise FunctionError for code that is not allowed in guards."""
    if isinstance(guard, (list, tuple)):
        for node in guard:
            _check_guard(node)
    elif isinstance(guard, Node) and guard.arguments is not None:
        name = guard.name
        if isinstance(name, Dot):
            if alias_name(name.left) != "Kernel" and (alias_name(name.left) is not None or guard.arguments):
                raise _undefined(guard.line, f"cannot invoke remote function {alias_name(name.left)}.{name.name} inside guards")
        elif name not in _GUARDS and name not in ("%{}", "{}", "__aliases__") and (name in KERNEL or name in _FORMS or name in _LOGIC):
            raise _undefined(guard.line, f"cannot use {name} inside guards")
        for node in guard.arguments:
            _check_guard(node)


_FORMS: Mapping[str, Callable[[_Compiler, Node, Scope], Expr]] = {
    "__block__": _Compiler.block,
    "__aliases__": _Compiler.alias,
    "%{}": _Compiler.map,
    "%": _Compiler.struct,
    "{}": lambda compiler, node, scope: compiler._apply("tuple", node.arguments or (), scope, node.line),
    "<<>>": _Compiler.binary,
    "=": _Compiler.bind,
    "|>": _Compiler.pipe,
    "if": _Compiler.if_,
    "case": _Compiler.case,
    "cond": _Compiler.cond,
    "with": _Compiler.with_,
    "fn": _Compiler.function,
    "&": _Compiler.capture,
    "+": _Compiler.unary_or_binary,
    "-": _Compiler.unary_or_binary,
    "match?": _Compiler.matches,
    "put_in": _Compiler.at_path,
    "update_in": _Compiler.at_path,
    "pop_in": _Compiler.at_path,
    "get_and_update_in": _Compiler.at_path,
}
