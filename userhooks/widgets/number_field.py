"""A number field that corrects invalid input and reports the correction."""

from __future__ import annotations

import math
from typing import Any

import ipywidgets
import traitlets


class NumberField(ipywidgets.FloatText):  # type: ignore[misc]  # ipywidgets is untyped
    """A text field for a number from `minimum` to `maximum`.

    An invalid number is changed to the nearest valid one, and `problem` is a sentence that says so, until a valid number is typed. This is
    not a bounded field of ipywidgets, because those change the number in the browser, so the kernel does not learn what was typed. If
    `whole` is set, only whole numbers are valid.
    """

    problem = traitlets.Unicode("")

    def __init__(self, label: str, value: float, minimum: float, maximum: float, *, whole: bool = False, width: str = "") -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.whole = whole
        self._changing = False
        super().__init__(
            value,
            description=label,
            style={"description_width": "initial"},
            layout={"width": width} if width else {},
            step=1 if whole else None,
        )
        self.observe(lambda change: self._check(change["new"]), "value")

    @property
    def number(self) -> int | float:
        """The number, as an integer if it is whole."""
        value: float = self.value
        return int(value) if value.is_integer() else value

    def _check(self, typed: float) -> None:
        if self._changing:
            return
        valid = self._nearest(typed)
        if valid == typed:
            self.problem = ""
            return
        self._changing = True
        try:
            self.value = valid
        finally:
            self._changing = False
        self.problem = self._sentence(typed, valid)

    def _nearest(self, typed: float) -> float:
        if math.isnan(typed):
            return self.minimum
        inside = min(max(typed, self.minimum), self.maximum)
        return round(inside) if self.whole else inside

    def _sentence(self, typed: float, valid: float) -> str:
        name: Any = self.description.partition(",")[0]  # without the unit
        whole = "a whole number " if self.whole and not float(typed).is_integer() else ""
        bounds = f"between {_text(self.minimum)} and {_text(self.maximum)}"
        return f"{name} must be {whole}{bounds}; {_text(typed)} was changed to {_text(valid)}."


def _text(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() and abs(number) < 1e15 else f"{number:g}"
