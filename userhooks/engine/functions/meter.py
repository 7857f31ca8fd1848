"""The bound on the work of one evaluation: steps, and the size of what is built. Pure.

The engine evaluates functions between everything else it does, so a function must never take long. A function that reaches the bound
fails, as one that raises does.
"""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions.terms import Raised

MAX_STEPS = 50_000
"""Steps of one evaluation: up to 20 ms"""
MAX_LENGTH = 4_000_000
"""Characters of one text that a function may build"""
MAX_BITS = 13_000
"""Bits of one integer: under the 4,300 digits that Python turns into text at once"""
_CHARACTERS_PER_STEP = 64


class Exhausted(Raised):
    """The bound is reached."""


class Meter:
    """Counts the steps of one evaluation down."""

    __slots__ = ("left",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        """Take steps; raises Exhausted when there are not so many left."""
        self.left -= steps
        if self.left < 0:
            raise Exhausted(f"the function does too much: it was stopped after {MAX_STEPS} steps")

    def text(self, characters: int) -> None:
        """Take the steps for reading or building a text of this length, before it is built."""
        if characters > MAX_LENGTH:
            raise Exhausted(f"the function builds too much: a text of more than {MAX_LENGTH} characters")
        self.spend(characters // _CHARACTERS_PER_STEP)

    def bits(self, bits: int) -> None:
        """Take the steps for an integer of this size, before it is computed."""
        if bits > MAX_BITS:
            raise Exhausted(f"the function builds too much: an integer of more than {MAX_BITS} bits")
        self.spend(bits // 1024)

    def digits(self, bits: int) -> None:
        """Take the steps for turning an integer of this size into text or back, which grow with the square of its digits."""
        self.bits(bits)
        self.spend(bits * bits // 1_000_000)

    def weigh(self, value: Any) -> None:
        """Take the steps for looking through the outermost level of a value."""
        kind = type(value)
        if kind is str or kind is bytes:
            self.left -= len(value) // _CHARACTERS_PER_STEP
        elif kind is list or kind is dict or kind is tuple:
            self.left -= len(value)
