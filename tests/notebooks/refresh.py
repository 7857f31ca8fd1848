"""Run notebooks and store what they show.

    python -m tests.notebooks.refresh notebooks/05_when_receivers_fail.ipynb …

Each runs top to bottom in a kernel of its own, on a stack that is new and has free ports, so that nothing of this machine's shows and
nobody is disturbed; in what is stored, an address has the port that a reader's stack has by default. An error in a cell ends the command
and stores nothing of that notebook.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.notebooks.normalise import normalise
from tests.notebooks.stack import own_stack
from userhooks.settings import Settings

USUAL_PORTS = Settings.from_env({}).ports


def main(paths: list[Path]) -> None:
    with own_stack() as stack:
        usual = {str(port): str(USUAL_PORTS[part]) for part, port in stack.ports.items()}
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs = []
            options = {"timeout": 120, "kernel_name": "python3", "resources": {"metadata": {"path": str(path.parent)}}}
            NotebookClient(notebook, **options).execute(env=stack.environment, stderr=subprocess.DEVNULL)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs = [nbformat.from_dict(with_usual_ports(output, usual)) for output in cell.outputs]
            path.write_text(nbformat.writes(normalise(notebook)) + "\n", encoding="utf-8")
            print(f"{path}: stored", flush=True)


def with_usual_ports(output: Any, usual: dict[str, str]) -> Any:
    """Return an output in which every local address with one of these ports has its usual one."""
    if isinstance(output, dict):
        return {key: with_usual_ports(value, usual) for key, value in output.items()}
    if isinstance(output, list):
        return [with_usual_ports(value, usual) for value in output]
    if isinstance(output, str):
        for port, default in usual.items():
            for host in ("127.0.0.1", "localhost"):
                output = output.replace(f"{host}:{port}", f"{host}:{default}")
    return output


if __name__ == "__main__":
    main([Path(one) for one in sys.argv[1:]])
