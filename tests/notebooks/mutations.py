"""Stored lines changed on purpose, to see that a comparison notices."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

import nbformat

from tests.notebooks.comparison import sanitized
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
    """Yield the cell once for each line that it printed, with the last word or number of that line changed.

    Words that the comparison replaces by a placeholder, such as a UUID, are passed over. A line that has no other word is left out.
    """
    for number in _prints(cell):
        text = cell.outputs[number].text
        lines = text.splitlines(keepends=True)
        for position, line in enumerate(lines):
            for word in reversed(list(_WORD.finditer(line))):
                other = str(int(word.group()) + 1) if word.group().isdecimal() else f"not{word.group()}"
                wrong = "".join([*lines[:position], line[: word.start()] + other + line[word.end() :], *lines[position + 1 :]])
                if sanitized(wrong) != sanitized(text):
                    result = copy.deepcopy(cell)
                    result.outputs[number].text = wrong
                    yield result
                    break


def _prints(cell: nbformat.NotebookNode) -> list[int]:
    return [number for number, output in enumerate(cell.outputs) if output.get("name") == "stdout" and _WORD.search(output.text)]
