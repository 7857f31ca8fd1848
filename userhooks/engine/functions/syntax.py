"""Code as a tree in Elixir's own quoted form, which the validator and the compiler read. Pure.

A literal stands for itself: int, float, str, atoms, lists, and tuples of two. Everything else is a `Node`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Quoted: TypeAlias = Any
"""A `Node` or a literal"""


class FunctionError(Exception):
    """A function's code cannot be used: the text says why as the server does; `line` counts from 1."""

    def __init__(self, line: int, message: str, *, as_sequin: bool = False) -> None:
        super().__init__(message if as_sequin else f"line {line}: {message}")
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Dot:
    """What a call names when it is not a plain name: `left.name`, or `left.()` if there is no name."""

    left: Quoted
    name: str | None


@dataclass(frozen=True, slots=True)
class Node:
    """A variable (`arguments` is None) or a call, operators and special forms among them."""

    name: str | Dot
    line: int
    arguments: tuple[Quoted, ...] | None
    braces: bool = False
    """whether a name without arguments was called with (), or a block written in them"""

    @property
    def is_variable(self) -> bool:
        """Whether this is a variable, or a name that has yet to become a call."""
        return self.arguments is None

    def is_call(self, name: str, *counts: int) -> bool:
        """Whether this is a call of the name with one of these numbers of arguments, with any by default."""
        return self.name == name and self.arguments is not None and (not counts or len(self.arguments) in counts)


def alias_name(quoted: Quoted) -> str | None:
    """Return the name of an alias like `String`; None for anything else."""
    if isinstance(quoted, Node) and quoted.name == "__aliases__" and quoted.arguments is not None:
        return ".".join(quoted.arguments)
    return None


def line_of(quoted: Quoted, default: int) -> int:
    """Return the line of a node, or the default for a literal."""
    return quoted.line if isinstance(quoted, Node) else default
