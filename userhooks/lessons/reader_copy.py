"""The reader's copy of a lesson, made from the stored notebook, and the hash that tells whether a reader changed it. Pure.

Stored notebooks have outputs, cells that only the tests need (tagged `check`), and solutions that the tests run (tagged `solution`).
`copies.py` reads and writes the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

CHECK = "check"
"""Tag of a code cell that only the tests need."""
SOLUTION = "solution"
"""Tag of the code cell that solves an exercise."""

_ATTEMPT = "# Write your own solution here.\n"
_LINK = re.compile(r"""\]\(\s*<?([^)>\s"#?]+)|\b(?:src|href)=["']([^"'#?]+)""")

Cell = dict[str, Any]


def reader_copy(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return a lesson as a reader gets it: without outputs and check cells, and with each solution folded into text.

    `notebook` is a notebook of nbformat 4 as a dict; it is not modified. A cell for the reader's own attempt precedes the solution.
    """
    cells: list[Cell] = []
    in_solution = False
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if CHECK in tags:
            continue
        if SOLUTION in tags:
            if not in_solution:
                cells.append(_attempt(cell))
            cells.append(_folded(cell))
        else:
            cells.append(_cleared(cell))
        in_solution = SOLUTION in tags
    return {**notebook, "cells": cells}


def source_of(cell: Mapping[str, Any]) -> str:
    """Return a cell's source, which a file may contain as a string or as a list of lines."""
    return "".join(cell["source"])


def content_hash(name: str, data: bytes) -> str:
    """Return a hash of what a reader writes in a file. Outputs, widget state, and empty cells of a notebook do not affect it."""
    if name.endswith(".ipynb"):
        try:
            content = [_content(cell) for cell in json.loads(data)["cells"] if source_of(cell).strip()]
        except (ValueError, KeyError, TypeError):
            pass  # not a notebook, so each of its bytes counts
        else:
            data = b"cells " + json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def linked_files(text: str) -> set[str]:
    """Return the names of files in the same folder that Markdown text links to or shows."""
    targets: Iterable[str] = (first or second for first, second in _LINK.findall(text))
    return {target for target in targets if "/" not in target and ":" not in target}


def _content(cell: Mapping[str, Any]) -> list[Any]:
    return [cell["cell_type"], source_of(cell), cell.get("attachments") or {}]


def _cleared(cell: Mapping[str, Any]) -> Cell:
    metadata = {name: value for name, value in cell["metadata"].items() if name != "tags"}
    if tags := [tag for tag in cell["metadata"].get("tags", []) if not tag.startswith("nbval-")]:
        metadata["tags"] = tags
    result = {**cell, "metadata": metadata}
    return {**result, "outputs": [], "execution_count": None} if cell["cell_type"] == "code" else result


def _attempt(solution: Mapping[str, Any]) -> Cell:
    attempt = {**_cleared({**solution, "metadata": {}}), "source": _ATTEMPT}
    return {**attempt, "id": f"{solution['id'][:50]}-attempt"} if "id" in solution else attempt


def _folded(solution: Mapping[str, Any]) -> Cell:
    code = source_of(solution).strip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    text = f"<details><summary>Show a solution</summary>\n\n{fence}python\n{code}\n{fence}\n\n</details>"
    identity = {"id": solution["id"]} if "id" in solution else {}
    return {**identity, "cell_type": "markdown", "metadata": {}, "source": text}
