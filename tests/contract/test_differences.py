"""The contract tests' list of differences and DIFFERENCES.md, which gives the reasons, name the same recordings."""

from __future__ import annotations

import re
from pathlib import Path

from tests.contract.differences import API, WEBHOOKS

FILE = Path(__file__).parents[2] / "userhooks" / "engine" / "DIFFERENCES.md"


def named(heading: str) -> set[tuple[str, str]]:
    """Return the version and number of each recording in the second column of the table under a heading."""
    table = FILE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")]
    return {
        (version, number)
        for cell in cells
        for version, numbers in re.findall(r"`([\d.]+)` ([\d, ]+)", cell)
        for number in re.findall(r"\d+", numbers)
    }


def test_every_difference_from_a_recorded_answer_has_its_reason() -> None:
    assert named("Management API") == {(version, number) for version, numbers in API.items() for number in numbers}


def test_every_difference_from_a_recorded_webhook_has_its_reason() -> None:
    assert named("Webhooks") == {("0.14.6", name[:2]) for name in WEBHOOKS}
