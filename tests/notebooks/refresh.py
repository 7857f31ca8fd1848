"""Run the notebooks and store what they show.

    python -m tests.notebooks.refresh notebooks/*.ipynb

Each runs top to bottom in a kernel of its own, in the folder it lies in; an error in a cell ends the command and stores nothing
of that notebook.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.notebooks.normalise import normalise


def main(paths: list[Path]) -> None:
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
        path.write_text(nbformat.writes(normalise(notebook)) + "\n", encoding="utf-8")
        print(f"{path}: stored", flush=True)


if __name__ == "__main__":
    main([Path(one) for one in sys.argv[1:]])
