"""The stored form of a notebook: numbered cells, tags as metadata, solutions folded, no widget ids; of live cells only pictures and text.

    python -m tests.notebooks.normalise [--check] notebooks/*.ipynb

Without `--check` the files are rewritten; with it, a file that is not in the stored form is named and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import nbformat

LIVE = "nbval-ignore-output"
"""Tag of cells whose output depends on the clock; it is kept for readers and not compared"""
SOLUTION = "solution"
"""Tag of the cell that solves the exercise; it is stored folded, and a click on its bar opens it"""
CHECK = "check"
"""Tag of a cell that only checks something for the tests; a reader's copy does not have it"""
_KEPT_OF_LIVE_CELLS = ("image/png", "text/plain")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy in the stored form; a notebook in that form is returned equal."""
    result = nbformat.from_dict({**notebook, "cells": []})
    result.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    )
    number = 0
    for position, original in enumerate(notebook.cells):
        cell = nbformat.from_dict(dict(original))
        cell.id = f"cell-{position:02}"
        tags = cell.metadata.get("tags", [])
        folded = {"jupyter": {"source_hidden": True}} if SOLUTION in tags else {}
        cell.metadata = nbformat.from_dict({**folded, **({"tags": tags} if tags else {})})
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = [out for out in (_output(o, LIVE in tags, number) for o in cell.outputs) if out is not None]
        result.cells.append(cell)
    return result


def _output(output: dict[str, Any], live: bool, number: int) -> dict[str, Any] | None:
    output = dict(output)
    if output["output_type"] == "execute_result":
        output["execution_count"] = number
    if "data" in output:
        # JupyterLab shows a figure as HTML; what is stored is the picture beside it.
        unwanted = (_WIDGET, "text/html") if "image/png" in output["data"] else (_WIDGET,)
        data = {kind: value for kind, value in output["data"].items() if kind not in unwanted}
        if live:
            if output["output_type"] == "display_data" and _WIDGET in output["data"]:
                return None  # a progress bar, whose text form stays at its beginning
            data = {kind: value for kind, value in data.items() if kind in _KEPT_OF_LIVE_CELLS}
        if not data:
            return None
        output["data"] = data
        output["metadata"] = {}
    elif live and output["output_type"] == "stream" and output["name"] == "stderr":
        return None
    return nbformat.from_dict(output)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true")
    arguments.add_argument("notebooks", nargs="+", type=Path)
    given = arguments.parse_args()
    wrong = 0
    for path in given.notebooks:
        text = path.read_text(encoding="utf-8")
        stored = nbformat.writes(normalise(nbformat.reads(text, as_version=4))) + "\n"
        if stored == text:
            continue
        if given.check:
            print(f"{path} is not in its stored form; run: make clean-notebooks", file=sys.stderr)
            wrong = 1
        else:
            path.write_text(stored, encoding="utf-8")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
