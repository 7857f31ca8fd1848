"""Elixir's quoted form: code as a tree, which the validator and the compiler read. Pure.

A literal represents itself: integers, floats, strings, atoms, lists, and two-element tuples. Everything else is a `Node`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Quoted: TypeAlias = Any
"""A `Node` or a literal."""


class FunctionError(Exception):
    """Code that cannot be used as a function.

    The text consists of the line, counted from 1, and the message. If `as_sequin` is true, it is only the message, in Sequin's wording.
    """

    def __init__(self, line: int, message: str, *, as_sequin: bool = False) -> None:
        super().__init__(message if as_sequin else f"line {line}: {message}")
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Dot:
    """The target of a call with a dot: `left.name`, or `left.()` if `name` is None."""

    left: Quoted
    name: str | None


@dataclass(frozen=True, slots=True)
class Node:
    """A variable (if `arguments` is None) or a call, including operators and special forms."""

    name: str | Dot
    line: int
    arguments: tuple[Quoted, ...] | None
    braces: bool = False
    """Whether the code has parentheses around the block, or after the name of a call without arguments."""

    @property
    def is_variable(self) -> bool:
        """Whether this is a variable, or a name that may still turn out to be a call."""
        return self.arguments is None

    def is_call(self, name: str, *counts: int) -> bool:
        """Whether this is a call of `name` with one of these argument counts, or any count if none is given."""
        return self.name == name and self.arguments is not None and (not counts or len(self.arguments) in counts)


def alias_name(quoted: Quoted) -> str | None:
    """Return the name of an alias like `String`; None for anything else."""
    if isinstance(quoted, Node) and quoted.name == "__aliases__" and quoted.arguments is not None:
        return ".".join(quoted.arguments)
    return None


def line_of(quoted: Quoted, default: int) -> int:
    """Return the line of a node, or the default for a literal."""
    return quoted.line if isinstance(quoted, Node) else default
