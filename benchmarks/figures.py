"""Results of the benchmarks: one line each, with the requirement, the goal, and the yardstick of the same run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One result.

    `beside` gives the yardstick and the ratio to it, or what the work cost. `met` is None if there is no requirement.
    """

    what: str
    value: str
    beside: str = ""
    required: str = ""
    goal: str = ""
    met: bool | None = None

    def line(self) -> str:
        """Return the figure as a line for the terminal."""
        bound = ", ".join(
            part for part in (f"required {self.required}" if self.required else "", f"goal {self.goal}" if self.goal else "") if part
        )
        verdict = {True: "met", False: "NOT MET", None: ""}[self.met]
        return "  ".join(
            part for part in (f"{self.what:58}", f"{self.value:>26}", f"[{bound}: {verdict}]" if bound else "", self.beside) if part
        )


def at_least(what: str, value: float, unit: str, required: float, goal: float | None = None, beside: str = "") -> Figure:
    """Return a figure that must be at least `required`."""
    target = "" if goal is None else f"{goal:,.0f}"
    return Figure(what, f"{value:,.0f} {unit}", beside, f"≥ {required:,.0f}", target, value >= required)


def at_most(what: str, value: float, unit: str, required: float, goal: float | None = None, beside: str = "", digits: int = 1) -> Figure:
    """Return a figure that must be at most `required`."""
    target = "" if goal is None else f"{goal:g}"
    return Figure(what, f"{value:,.{digits}f} {unit}", beside, f"≤ {required:g}", target, value <= required)


def markdown(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table."""
    head = "| what | measured | required | goal | comparison, in the same run |\n|---|---|---|---|---|"
    marks = {True: "", False: " **not met**", None: ""}
    lines = [f"| {f.what} | {f.value}{marks[f.met]} | {f.required} | {f.goal} | {f.beside} |" for f in figures]
    return "\n".join([head, *lines])


def cpu(engine: float | None, postgres: float | None, receiver: float | None) -> str:
    """Return the CPU time per message of the three programs as text."""
    parts = ((engine, "engine"), (postgres, "Postgres"), (receiver, "receiver"))
    return "CPU per message: " + ", ".join(f"{name} {value:.1f} µs" for value, name in parts if value is not None)
