"""Stored lines changed on purpose, to see that a comparison notices. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

import nbformat

from tests.notebooks.normalise import LIVE

_WORD = re.compile(r"[^\W_]+")


def fact_cells(notebook: nbformat.NotebookNode) -> list[int]:
    """The positions of the cells whose printed lines are compared."""
    return [
        position
        for position, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and LIVE not in cell.metadata.get("tags", []) and _prints(cell)
    ]


def changes(cell: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """Yield the cell once for each line that it printed, with the last word or number of that line changed."""
    for number in _prints(cell):
        lines = cell.outputs[number].text.splitlines(keepends=True)
        for position, line in enumerate(lines):
            words = list(_WORD.finditer(line))
            if words:
                last = words[-1]
                other = str(int(last.group()) + 1) if last.group().isdecimal() else f"not{last.group()}"
                result = copy.deepcopy(cell)
                wrong = line[: last.start()] + other + line[last.end() :]
                result.outputs[number].text = "".join([*lines[:position], wrong, *lines[position + 1 :]])
                yield result


def _prints(cell: nbformat.NotebookNode) -> list[int]:
    return [number for number, output in enumerate(cell.outputs) if output.get("name") == "stdout" and _WORD.search(output.text)]
