"""Limit the work of one evaluation: its steps, and the size of the values that it builds. Pure.

The engine evaluates functions between its other work, so no function may take long. A function that reaches the limit fails as
if it had raised.
"""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions.terms import Raised

MAX_STEPS = 50_000
"""Steps allowed in one evaluation, which take up to 20 ms."""
MAX_LENGTH = 4_000_000
"""Maximum length of a string that a function may build, in characters."""
MAX_BITS = 13_000
"""Maximum size of an integer in bits, which keeps it below the 4,300 digits that Python converts to text."""
_CHARACTERS_PER_STEP = 64


class Exhausted(Raised):
    """The evaluation has reached the limit."""


class Meter:
    """Countdown of the steps of one evaluation."""

    __slots__ = ("left",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        """Spend steps; raises Exhausted if fewer are left."""
        self.left -= steps
        if self.left < 0:
            raise Exhausted(f"the function takes too long: it was stopped after {MAX_STEPS} steps")

    def text(self, characters: int) -> None:
        """Spend the steps for reading or building a string of this length; call this before building it."""
        if characters > MAX_LENGTH:
            raise Exhausted(f"the function builds a string of more than {MAX_LENGTH} characters")
        self.spend(characters // _CHARACTERS_PER_STEP)

    def bits(self, bits: int) -> None:
        """Spend the steps for an integer of this size; call this before computing it."""
        if bits > MAX_BITS:
            raise Exhausted(f"the function builds an integer of more than {MAX_BITS} bits")
        self.spend(bits // 1024)

    def digits(self, bits: int) -> None:
        """Spend the steps for converting an integer of this size to or from text. The work grows with the square of its length."""
        self.bits(bits)
        self.spend(bits * bits // 1_000_000)

    def weigh(self, value: Any) -> None:
        """Spend the steps for traversing the outermost level of a value, without checking the limit."""
        kind = type(value)
        if kind is str or kind is bytes:
            self.left -= len(value) // _CHARACTERS_PER_STEP
        elif kind is list or kind is dict or kind is tuple:
            self.left -= len(value)
